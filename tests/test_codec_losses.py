"""The codec's losses and its task: zero for equals, right gradients, steps that learn."""

import math

import pytest
import torch

from musiclm.codec.discriminators import DiscriminatorConfig, Discriminators
from musiclm.codec.losses import (
    MelLoss,
    MelLossConfig,
    StftLoss,
    StftLossConfig,
    _Magnitude,
    _magnitudes,
    adversarial_loss,
    discriminator_loss,
    feature_loss,
    log_mel_distance_db,
)
from musiclm.codec.soundstream import SoundStreamConfig
from musiclm.codec.spectral import SpectralConfig
from musiclm.core.runtime import RandomStreams
from musiclm.quantization.residual import QuantizerConfig
from musiclm.training.task import StepContext
from musiclm.training.tasks.codec import CodecTaskConfig, build_codec_task

TINY_CODEC = SoundStreamConfig(
    spectral=SpectralConfig(
        latent_dim=8, encoder_dim=16, encoder_blocks=1, decoder_dim=16, decoder_blocks=1
    ),
    quantizer=QuantizerConfig(num_quantizers=3, codebook_size=16, codebook_dim=8),
)
TINY_DISCRIMINATORS = DiscriminatorConfig(
    wave_channels=4, wave_max_channels=16, wave_downsamplings=(1, 2), stft_channels=2
)


def noise(*name, samples=9_600):
    return 0.1 * torch.randn(2, samples, generator=RandomStreams(0).generator(*name))


@pytest.mark.parametrize("loss", [MelLoss(MelLossConfig()), StftLoss(StftLossConfig())])
def test_equals_lose_nothing_and_louder_errors_lose_more(loss):
    target = noise("target")
    assert float(loss(target, target)) < 2e-3
    small, large = target + 0.1 * noise("error"), target + noise("error")
    assert 2e-3 < float(loss(target, small)) < float(loss(target, large))


def test_excess_may_count_less_than_lack():
    target = noise("target")
    even, uneven = (StftLoss(StftLossConfig(excess_weight=weight)) for weight in (1.0, 0.25))
    assert float(even(target, 0.5 * target)) == pytest.approx(float(uneven(target, 0.5 * target)))
    # Twice the amplitude is log 2 too much in every bin; only the logarithm's part is weighted.
    saved = float(even(target, 2 * target)) - float(uneven(target, 2 * target))
    assert saved == pytest.approx(0.75 * 0.5 * math.log(2), rel=0.02)


def test_magnitudes_are_those_of_the_stft_and_their_gradient_is_right():
    window = torch.hann_window(64)
    ours = _magnitudes(noise("stft", samples=960), window)
    spectrum = torch.stft(
        noise("stft", samples=960), 64, 16, window=window, pad_mode="constant", return_complex=True
    )
    theirs = spectrum.abs().transpose(1, 2) / math.sqrt(32)
    assert torch.allclose(ours, theirs, atol=2e-5)
    frames = noise("frames", samples=16).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda value: _Magnitude.apply(value, 1e-5), (frames,))


def test_log_mel_distance_of_a_gain_is_the_gain():
    samples = noise("gain", samples=24_000)
    distance = log_mel_distance_db(samples, samples * 10 ** (-6 / 20))
    assert torch.allclose(distance, torch.full((2,), 6.0), atol=0.05)


def test_hinge_losses():
    certain_real, certain_fake = [torch.full((1, 1, 5), 2.0)], [torch.full((1, 1, 5), -2.0)]
    assert float(discriminator_loss(certain_real, certain_fake)) == 0
    assert float(discriminator_loss(certain_fake, certain_real)) == 6
    assert float(adversarial_loss(certain_real)) == 0
    assert float(adversarial_loss(certain_fake)) == 3
    features = [[torch.ones(2, 3), torch.zeros(2, 3)]]
    assert float(feature_loss(features, [[torch.zeros(2, 3), torch.zeros(2, 3)]])) == 0.5


def test_published_discriminators():
    discriminators = Discriminators(DiscriminatorConfig())
    judgement = discriminators(noise("real", samples=4_800))
    assert len(judgement.logits) == 4
    assert judgement.logits[0].shape[1] == 1
    assert judgement.logits[0].shape[3] == 1  # one track in time
    assert judgement.logits[1].shape[-1] == math.ceil(4_800 / 256)
    assert [len(features) for features in judgement.features] == [7, 6, 6, 6]


def context(progress, name="step"):
    return StepContext(int(progress * 1_000), 1_000, RandomStreams(0).generator(name))


def config(**changes):
    return CodecTaskConfig(
        codec=TINY_CODEC, discriminators=TINY_DISCRIMINATORS, stft_weight=1.0, **changes
    )


def test_the_task_brings_its_parts_in_one_after_the_other():
    task = build_codec_task(config(quantizer_start=0.3, discriminator_start=0.6))
    batch = {"samples": noise("batch")}
    assert list(task.optimizers) == ["generator", "discriminator"]
    task.model.eval()
    assert list(task.validation_metrics(batch)) == ["log_mel_db_unquantized"]
    task.model.train()
    early = task.loss("generator", batch, context(0.0))
    assert set(early.metrics) == {"mel", "stft"}
    later = task.loss("generator", batch, context(0.4))
    assert {"commitment", "batch_perplexity"} <= set(later.metrics)
    step = context(0.7)
    late = task.loss("generator", batch, step)
    assert {"adversarial", "feature"} <= set(late.metrics)
    judged = task.loss("discriminator", batch, step)
    judged.loss.backward()
    assert "discriminator" in judged.metrics
    assert all(p.grad is not None for p in task.trained_modules["discriminators"].parameters())


def test_the_discriminator_waits_with_a_loss_that_changes_nothing():
    task = build_codec_task(config(discriminator_start=0.5))
    idle = task.loss("discriminator", {"samples": noise("batch")}, context(0.1))
    idle.loss.backward()
    gradients = [p.grad for p in task.trained_modules["discriminators"].parameters()]
    assert all(bool((gradient == 0).all()) for gradient in gradients)


def test_a_few_steps_learn():
    with RandomStreams(0).layers_draw_from("init"):
        task = build_codec_task(config(discriminator_start=1.0))
    assert list(task.optimizers) == ["generator"]
    batch = {"samples": noise("batch", samples=4_800)}
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=5e-3)
    losses = []
    for step in range(25):
        output = task.loss("generator", batch, context(0.5, f"step {step}"))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(float(output.loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_validation_reports_every_level():
    task = build_codec_task(config(discriminator_start=1.0))
    batch = {"samples": noise("batch")}
    task.loss("generator", batch, context(0.5))
    task.model.eval()
    metrics = task.validation_metrics(batch)
    assert {"log_mel_db_3_levels", "level_gain_1", "level_gain_3"} <= set(metrics)
    assert sum(metrics[f"level_gain_{level}"] for level in (1, 2, 3)) <= 1
    sounds = task.validation_samples(batch)
    assert {"0_original", "1_levels_3"} <= set(sounds)
    usage = task.after_step(context(0.5))
    assert usage["perplexity_level_1"] <= 16 + 1e-3
