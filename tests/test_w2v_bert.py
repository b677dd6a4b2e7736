"""w2v-BERT: masks, distractors, losses, features, learning, and the collapse alarm."""

import math
import warnings

import pytest
import torch
from torch.testing import assert_close

from musiclm.audio.spectrogram import LogMelConfig
from musiclm.core.errors import ConfigError
from musiclm.core.runtime import RandomStreams
from musiclm.layers.conformer import ConformerConfig
from musiclm.semantic.front_end import FrontEnd
from musiclm.semantic.gumbel import GumbelQuantizer
from musiclm.semantic.pretext import (
    PretextConfig,
    code_perplexity,
    contrastive_loss,
    diversity_loss,
    draw_distractors,
    draw_mask,
    prediction_loss,
)
from musiclm.semantic.w2v_bert import W2vBert
from musiclm.semantic.w2v_bert_config import W2vBertConfig
from musiclm.training.task import Batch, BatchSource, OptimizerConfig, StepContext
from musiclm.training.tasks.semantic import CollapseAlarmConfig, SemanticTask, SemanticTaskConfig

TINY = W2vBertConfig(
    spectrogram=LogMelConfig(num_mels=16),
    slow_spectrogram=LogMelConfig(
        window_length=2048, fft_size=2048, hop_length=960, num_mels=24, high_hz=6000
    ),
    front_end_channels=4,
    conformer=ConformerConfig(dim=32, num_heads=2, feed_forward_multiplier=2),
    num_contrastive_layers=1,
    num_prediction_layers=2,
    codebook_size=64,
    codebook_dim=16,
)
PRETEXT = PretextConfig()


def generator(*name: str | int) -> torch.Generator:
    return RandomStreams(3).generator(*name)


def melody(batch: int = 2, seconds: float = 4.0) -> torch.Tensor:
    """Random notes of 0.25 s."""
    times = torch.arange(int(seconds * 24_000)) / 24_000
    pitches = torch.randint(45, 80, (batch, math.ceil(seconds * 4)), generator=generator("notes"))
    hertz = 440 * 2 ** ((pitches[:, (times * 4).long()] - 69) / 12)
    return 0.2 * torch.sin(2 * math.pi * hertz * times)


def context(step: int, total: int = 100) -> StepContext:
    return StepContext(step, total, generator("step", step))


def test_masked_fraction_is_what_the_probabilities_say():
    mask = draw_mask(200, 250, PRETEXT, generator=generator("mask"))
    assert float(mask.float().mean()) == pytest.approx(1 - (1 - 0.065) ** 10, abs=0.02)
    assert int(mask.sum(dim=1).min()) >= PRETEXT.mask_span_frames


def test_masked_runs_are_at_least_a_span_and_draws_repeat():
    mask = draw_mask(1, 400, PRETEXT, generator=generator("mask"))
    assert torch.equal(mask, draw_mask(1, 400, PRETEXT, generator=generator("mask")))
    edges = torch.nn.functional.pad(mask[0].int(), (1, 1)).diff()
    starts, ends = (edges == 1).nonzero()[:, 0], (edges == -1).nonzero()[:, 0]
    inside = ends < 400
    assert int((ends - starts)[inside].min()) >= PRETEXT.mask_span_frames


def test_distractors_are_other_hidden_frames():
    mask = draw_mask(3, 60, PRETEXT, generator=generator("mask"))
    distractors = draw_distractors(mask, 50, generator=generator("distractors"))
    for row in range(3):
        places = mask[row].nonzero()[:, 0]
        drawn = distractors[row, places]
        assert bool(mask[row, drawn].all())
        assert not bool((drawn == places[:, None]).any())
        assert set(drawn.flatten().tolist()) == set(places.tolist())


def test_contrastive_loss_is_zero_for_perfect_and_high_for_opposite_answers():
    mask = torch.ones(1, 16, dtype=torch.bool)
    targets = torch.eye(16)[None]
    codes = torch.arange(16)[None]
    distractors = draw_distractors(mask, 30, generator=generator("distractors"))
    right = contrastive_loss(targets, targets, codes, mask, distractors, temperature=0.1)
    wrong = contrastive_loss(-targets, targets, codes, mask, distractors, temperature=0.1)
    assert float(right.loss) < 0.01
    assert float(right.accuracy) == 1
    assert float(wrong.loss) > 10
    same_code = contrastive_loss(
        -targets, targets, torch.zeros_like(codes), mask, distractors, temperature=0.1
    )
    assert float(same_code.loss) == 0  # every distractor is the truth: nothing to tell apart


def test_prediction_loss_counts_hidden_frames_only():
    mask = torch.tensor([[True, False, True]])
    codes = torch.tensor([[1, 0, 2]])
    logits = 50.0 * torch.eye(4)[torch.tensor([[1, 3, 2]])]
    output = prediction_loss(logits, codes, mask)
    assert float(output.loss) < 1e-6
    assert float(output.accuracy) == 1
    even = prediction_loss(torch.zeros(1, 3, 4), codes, mask)
    assert float(even.loss) == pytest.approx(math.log(4))


def test_diversity_and_perplexity_at_their_ends():
    assert float(diversity_loss(torch.full((2, 3, 8), 1 / 8))) == pytest.approx(0, abs=1e-4)
    assert float(diversity_loss(torch.eye(8)[:1].expand(2, 3, 8))) == pytest.approx(7 / 8)
    assert float(code_perplexity(torch.arange(8), 8)) == pytest.approx(8, rel=1e-4)
    assert float(code_perplexity(torch.zeros(8, dtype=torch.long), 8)) == pytest.approx(1)


def test_quantizer_without_noise_takes_the_likeliest_entry_and_passes_gradients():
    quantizer = GumbelQuantizer(8, 16, 4)
    features = torch.randn(2, 30, 8, generator=generator("features")).requires_grad_()
    output = quantizer(features, temperature=1.0, generator=None)
    assert_close(output.vectors, quantizer.codebook[output.codes], atol=1e-5, rtol=1e-5)
    output.vectors.square().sum().backward()
    assert features.grad is not None
    assert float(features.grad.abs().sum()) > 0
    assert float(code_perplexity(output.codes, 16)) > 6  # in use from the start


class Crops(BatchSource):
    def batch(self, step: int, microbatch: int) -> Batch:
        return {"samples": melody(2, 2.0) * (1 + step)}

    def validation_batches(self) -> list[Batch]:
        return []


def test_prototypes_are_settled_once_and_do_not_collapse():
    task = SemanticTask(SemanticTaskConfig(w2v_bert=TINY.model_copy(update={"targets": "spectra"})))
    batch = {"samples": melody(4, 2.0)}
    with pytest.raises(ConfigError, match="start_targets"):
        task.loss("w2v_bert", batch, context(0))
    model = task.model
    assert isinstance(model, W2vBert)
    task.start_targets(Crops(), seed=1)
    first = task.loss("w2v_bert", batch, context(0))
    assert float(first.metrics["perplexity"]) > 10
    first.loss.backward()
    assert model.quantizer.codebook.grad is not None
    model.start_targets(torch.zeros(4, 48_000), generator=generator("again"))
    assert torch.equal(first.loss, task.loss("w2v_bert", batch, context(0)).loss)
    louder = task.loss("w2v_bert", {"samples": 2 * batch["samples"]}, context(0))
    change = louder.metrics["perplexity"] / first.metrics["perplexity"]
    assert float(change) == pytest.approx(1, abs=0.3)


def test_a_calibrated_front_end_varies_alike_in_every_direction():
    front_end = FrontEnd(TINY)
    spectra = front_end.read(melody(8))
    variances: list[torch.Tensor] = []
    for _ in range(2):
        frames = front_end.embed(spectra).flatten(0, 1).detach()
        variances.append(torch.linalg.eigvalsh(torch.cov(frames.T)).flip(0))
        front_end.calibrate(spectra)
    before, after = (spread[0] / spread[len(spread) // 2] for spread in variances)
    assert float(after) < 0.3 * float(before)


def test_spectral_targets_teach_the_blocks_within_a_few_steps():
    pretext = PretextConfig(
        contrastive_weight=0.3, prediction_weight=0.3, spectrum_weight=3.0, diversity_weight=0.0
    )
    model_config = TINY.model_copy(update={"targets": "spectra"})
    task = SemanticTask(
        SemanticTaskConfig(w2v_bert=model_config, pretext=pretext, target_batches=4)
    )
    task.start_targets(Crops(), seed=1)
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=5e-3)
    errors: list[float] = []
    for step in range(40):
        output = task.loss("w2v_bert", Crops().batch(0, step), context(step))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        errors.append(float(output.metrics["seen_spectrum_error"]))
    assert errors[-1] < 0.8 * errors[0]


@pytest.mark.parametrize("slow", [True, False])
def test_features_have_a_frame_every_40_ms_and_do_not_depend_on_the_batch(slow: bool):
    config = TINY if slow else TINY.model_copy(update={"slow_spectrogram": None})
    model = W2vBert(config).eval()
    samples = melody(seconds=1.99)
    together = model.features(samples, 1)
    assert together.shape == (2, 32, 49)
    alone = torch.cat([model.features(each[None], 1) for each in samples])
    assert_close(together, alone, atol=1e-5, rtol=1e-4)
    assert_close(model.encoder(samples), model.features(samples, 2))
    with pytest.raises(ConfigError, match="choose 0 to 2"):
        model.features(samples, 3)


def test_hidden_frames_do_not_reach_the_guess():
    """Changing audio under the mask alone changes the targets but not the context."""
    model = W2vBert(TINY.model_copy(update={"slow_spectrogram": None}))
    mask = torch.zeros(1, 50, dtype=torch.bool)
    mask[:, 20:30] = True
    samples = melody(1, 2.0)
    changed = samples.clone()
    changed[:, 22 * 960 : 28 * 960] = 0
    first, second = (
        model(each, mask, temperature=1.0, generator=generator("same"))
        for each in (samples, changed)
    )
    assert_close(first.logits, second.logits, atol=1e-4, rtol=1e-4)
    assert bool((first.targets.codes != second.targets.codes)[mask].any())


def test_overfitting_one_batch_lowers_the_contrastive_loss():
    optimizer_config = OptimizerConfig(learning_rate=5e-3)
    task = SemanticTask(SemanticTaskConfig(w2v_bert=TINY, optimizer=optimizer_config))
    _, parameters = task.optimizers["w2v_bert"]
    optimizer = torch.optim.AdamW(parameters, lr=optimizer_config.learning_rate)
    batch = {"samples": melody(2, 2.0)}
    losses: list[float] = []
    for step in range(40):
        same_draws = StepContext(step, 40, generator("draws"))
        output = task.loss("w2v_bert", batch, same_draws)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(float(output.metrics["contrastive_loss"]))
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_losses_are_finite_and_repeat_under_bf16_autocast():
    task = SemanticTask(SemanticTaskConfig(w2v_bert=TINY))
    batch = {"samples": torch.cat([melody(1), torch.zeros(1, 96_000)])}
    task.model.eval()
    losses: list[torch.Tensor] = []
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            losses.append(task.loss("w2v_bert", batch, context(1)).loss.detach())
    assert math.isfinite(float(losses[0]))
    assert torch.equal(losses[0], losses[1])
    with torch.no_grad():
        figures = task.validation_metrics(batch)
        assert figures == task.validation_metrics(batch)
    assert {"loss", "prediction_accuracy", "perplexity"} <= set(figures)


def test_temperature_falls_from_first_to_last():
    task = SemanticTask(SemanticTaskConfig(w2v_bert=TINY))
    assert task.temperature(0.0) == pytest.approx(2)
    assert task.temperature(0.5) == pytest.approx(1)
    assert task.temperature(1.0) == pytest.approx(0.5)


def test_alarm_warns_once_after_patience_and_only_for_a_low_perplexity():
    alarm = CollapseAlarmConfig(perplexity=60, after_steps=2, patience_steps=3)
    task = SemanticTask(SemanticTaskConfig(w2v_bert=TINY, alarm=alarm))
    silence = {"samples": torch.zeros(1, 24_000)}
    for step in range(4):
        task.loss("w2v_bert", silence, context(step))
        assert task.after_step(context(step)).get("codebook_collapsed", 0) == 0
    with pytest.warns(RuntimeWarning, match="collapsed.*diversity_weight"):
        assert task.after_step(context(4)) == {"codebook_collapsed": 1.0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert task.after_step(context(5)) == {"codebook_collapsed": 1.0}
    lenient = alarm.model_copy(update={"perplexity": 1.01, "patience_steps": 1})
    task = SemanticTask(SemanticTaskConfig(w2v_bert=TINY, alarm=lenient))
    task.loss("w2v_bert", {"samples": melody(4)}, context(9))
    assert task.after_step(context(9)) == {"codebook_collapsed": 0.0}


def test_the_published_size_has_about_600m_parameters():
    with torch.device("meta"):
        model = W2vBert(W2vBertConfig())
    assert sum(each.numel() for each in model.parameters()) == pytest.approx(600e6, rel=0.03)
