import math
from itertools import product

import numpy as np
import pytest
import soundfile
import torch
from torch.nn import functional

from musiclm.audio.spectrogram import LogMel, LogMelConfig
from musiclm.conditioning.audio_tower import AudioTowerConfig, SpecAugmentConfig
from musiclm.conditioning.conditioner import Conditioner, ConditionerConfig
from musiclm.conditioning.mulan import MuLan, MuLanConfig, collapsed_loss, contrastive_loss
from musiclm.conditioning.resnet import ResNetConfig
from musiclm.conditioning.text_tower import TextTowerConfig
from musiclm.conditioning.tokenizer import ConditioningTokenizerConfig
from musiclm.conditioning.word_pieces import SPECIAL_PIECES
from musiclm.core.errors import DataError
from musiclm.core.runtime import RandomStreams
from musiclm.data.manifest import Caption, Clip, Corpus, Split, write_manifest
from musiclm.data.pairs import LogMelStore, PairSource, PairSourceConfig
from musiclm.quantization.residual import QuantizerConfig
from musiclm.training.conditioner import embed_clip, embed_pairs, fit_conditioner
from musiclm.training.task import OptimizerConfig, StepContext
from musiclm.training.tasks.mulan import MuLanTask, MuLanTaskConfig

MEL = LogMelConfig(num_mels=16)
PITCHES = {"low": 200, "middle": 700, "high": 2000, "top": 6000}
FORMS = (("a", " tone"), ("sound of", " pitch"))
WORDS = (*PITCHES, "tone", "quiet", "sound", "a", "of", "pitch")


@pytest.fixture
def mulan():
    resnet = ResNetConfig(
        block="separable",
        stem_width=8,
        stem_kernel=3,
        has_max_pool=False,
        stage_widths=(8, 16),
        stage_blocks=(1, 1),
    )
    audio = AudioTowerConfig(
        log_mel=MEL,
        window_frames=50,
        stride_frames=10,
        resnet=resnet,
        embedding_dim=16,
        spec_augment=SpecAugmentConfig(max_frames=5, max_mels=1),
    )
    text = TextTowerConfig(
        vocabulary=(*SPECIAL_PIECES, *WORDS),
        hidden_dim=16,
        num_layers=2,
        num_heads=2,
        feedforward_dim=32,
        max_positions=8,
        embedding_dim=16,
        dropout=0.0,
    )
    with RandomStreams(0).layers_draw_from("mulan"):
        return MuLan(MuLanConfig(audio=audio, text=text)).eval()


def tone(frequency_hz, seconds):
    time = np.arange(int(24_000 * seconds)) / 24_000
    return (0.3 * np.sin(2 * np.pi * frequency_hz * time)).astype(np.float32)


@pytest.fixture
def corpus(tmp_path):
    clips = []
    splits: tuple[Split, ...] = ("train", "validation")
    for index, (split, word) in enumerate(product(splits, PITCHES)):
        soundfile.write(tmp_path / f"{index}.wav", tone(PITCHES[word], 1), 24_000)
        captions = (
            Caption(text=f"a {word} tone", kind="tags"),
            Caption(text=f"sound of {word} pitch", kind="sentence"),
            Caption(text=f"quiet {word}", kind="prose", is_held_out=True),
        )
        clip = Clip(
            clip_id=f"c/{index}",
            path=f"{index}.wav",
            split=split,
            duration_seconds=1.0,
            sample_rate_hz=24_000,
            captions=captions,
        )
        clips.append(clip)
    write_manifest(tmp_path, clips)
    return Corpus.open(tmp_path)


@pytest.fixture
def source(corpus, tmp_path):
    store = LogMelStore(corpus, tmp_path / "log_mels", MEL)
    return PairSource(store, PairSourceConfig(batch_size=8, crop_frames=50), seed=5)


def test_one_window_equals_the_clip_and_windows_are_the_crops(mulan):
    samples = torch.randn(2, 240 * 80, generator=RandomStreams(0).generator("audio"))
    windows = mulan.embed_windows(samples)
    assert windows.shape == (2, 4, 16)
    torch.testing.assert_close(windows.norm(dim=-1), torch.ones(2, 4))
    mean = functional.normalize(windows.mean(dim=1), dim=-1)
    torch.testing.assert_close(mulan.embed_audio(samples), mean)
    first = samples[:, : 240 * 50]
    torch.testing.assert_close(mulan.embed_windows(first)[:, 0], mulan.embed_audio(first))
    single = mulan.embed_audio(samples[:1])
    torch.testing.assert_close(mulan.embed_audio(samples)[:1], single, atol=1e-5, rtol=0)


def test_loss_equals_the_formula():
    streams = RandomStreams(2)
    audio, text = (
        functional.normalize(torch.randn(5, 16, generator=streams.generator(name)), dim=1)
        for name in ("audio", "text")
    )
    temperature = torch.tensor(0.2)
    expected = 0.0
    for i in range(5):
        negatives = sum(
            math.exp(audio[i] @ text[j] / 0.2) + math.exp(audio[j] @ text[i] / 0.2)
            for j in range(5)
            if j != i
        )
        expected -= math.log(math.exp(audio[i] @ text[i] / 0.2) / negatives) / 5
    assert float(contrastive_loss(audio, text, temperature)) == pytest.approx(expected, rel=1e-5)


def test_embeddings_that_are_all_alike_have_the_collapsed_loss():
    same = functional.normalize(torch.ones(7, 16), dim=1)
    loss = contrastive_loss(same, same, torch.tensor(0.1))
    assert float(loss) == pytest.approx(collapsed_loss(7), rel=1e-5)
    assert float(contrastive_loss(torch.eye(7), torch.eye(7), torch.tensor(0.1))) < 0


def test_temperature_starts_as_configured_and_is_bounded(mulan):
    assert mulan.temperature.item() == pytest.approx(0.1)
    with torch.no_grad():
        mulan.log_temperature.fill_(-20.0)
    assert mulan.temperature.item() == pytest.approx(0.02)


def test_batches_are_a_function_of_the_step_and_hold_no_clip_twice(source):
    one, two = source.batch(3, 0), source.batch(3, 0)
    assert one["texts"] == two["texts"]
    torch.testing.assert_close(one["log_mel"], two["log_mel"])
    assert sorted(one["clip_ids"]) == ["c/0", "c/1", "c/2", "c/3"]
    texts = {text for step in range(30) for text in source.batch(step, 0)["texts"]}
    assert texts == {f"{how} {word}{end}" for word in PITCHES for how, end in FORMS}


def test_held_out_wordings_come_only_when_asked_for(source):
    (batch,) = source.fixed_batches("validation", 10, is_held_out=True)
    assert batch["texts"] == [f"quiet {word}" for word in PITCHES]
    (batch,) = source.validation_batches()
    assert batch["texts"] == [
        "a low tone",
        "sound of middle pitch",
        "a high tone",
        "sound of top pitch",
    ]


def test_log_mels_are_stored_once_and_refuse_another_front_end(corpus, source, tmp_path):
    clip = corpus.clips[0]
    crop = source.store.crop(clip, 0.5, 50)
    samples = torch.from_numpy(tone(200, 1))[None]
    expected = LogMel(MEL)(samples)[0, :, 25:75]
    torch.testing.assert_close(crop, expected, atol=0.01, rtol=1e-3)
    looped = source.store.crop(clip, 0.0, 150)
    torch.testing.assert_close(looped[:, 100:], looped[:, :50])
    with pytest.raises(DataError, match="another front end"):
        LogMelStore(corpus, tmp_path / "log_mels", LogMelConfig(num_mels=20))


def test_a_corpus_without_captions_is_refused(corpus, tmp_path):
    bare = Corpus(corpus.folder, tuple(c.model_copy(update={"captions": ()}) for c in corpus.clips))
    store = LogMelStore(bare, tmp_path / "log_mels", MEL)
    with pytest.raises(DataError, match="captioned"):
        PairSource(store, PairSourceConfig(), seed=0)


def test_two_losses_give_the_gradients_of_one(mulan, source):
    task = MuLanTask(mulan.train(), MuLanTaskConfig())
    batch = source.batch(0, 0)
    generator = RandomStreams(0).generator("step")
    context = StepContext(0, 10, generator)
    optimizers = task.optimizers
    found = {}
    for name, (_, parameters) in optimizers.items():
        loss = task.loss(name, batch, context).loss
        torch.autograd.backward(loss, inputs=parameters)
        found |= {id(p): p.grad.clone() for p in parameters if p.grad is not None}
        with torch.no_grad():
            for parameter in parameters:
                parameter.add_(0.0)  # bumps the version, as an optimizer does
        mulan.zero_grad()
    audio = mulan.audio_tower(batch["log_mel"], generator=RandomStreams(0).generator("step"))
    text = mulan.text_tower.embed(batch["texts"])
    contrastive_loss(audio, text, mulan.temperature).backward()
    for name, parameter in mulan.named_parameters():
        torch.testing.assert_close(found[id(parameter)], parameter.grad, msg=name)
    groups = [id(p) for _, parameters in optimizers.values() for p in parameters]
    assert sorted(groups) == sorted(id(p) for p in mulan.parameters())


def test_frozen_layers_do_not_move(mulan):
    task = MuLanTask(mulan, MuLanTaskConfig(num_frozen_text_layers=1))
    trained = {id(p) for p in task.optimizers["text"][1]}
    assert trained == {id(p) for p in mulan.text_tower.layers[1].parameters()}
    everything = MuLanTask(mulan, MuLanTaskConfig(num_frozen_text_layers=2))
    assert list(everything.optimizers) == ["new"]


def test_resting_text_layers_get_no_gradient_and_read_as_in_use(mulan, source):
    task = MuLanTask(mulan.train(), MuLanTaskConfig(text_rest_fraction=0.5))
    batch = source.batch(0, 0)
    early = StepContext(4, 10, RandomStreams(0).generator("step"))
    late = StepContext(5, 10, RandomStreams(0).generator("step"))
    resting = task.loss("new", batch, early).loss
    torch.testing.assert_close(resting, task.loss("new", batch, late).loss)
    assert not task.loss("text", batch, early).loss.requires_grad
    assert task.loss("text", batch, late).loss.requires_grad
    assert mulan.text_tower.training


def test_training_tells_two_sounds_apart(mulan, source):
    settings = OptimizerConfig(learning_rate=2e-3)
    task = MuLanTask(mulan.train(), MuLanTaskConfig(optimizer=settings, text_optimizer=settings))
    optimizers = {
        name: torch.optim.AdamW(parameters, lr=config.learning_rate)
        for name, (config, parameters) in task.optimizers.items()
    }
    for step in range(120):
        batch = source.batch(step, 0)
        context = StepContext(step, 120, RandomStreams(0).generator("step", step))
        for name, (_, parameters) in task.optimizers.items():
            torch.autograd.backward(task.loss(name, batch, context).loss, inputs=parameters)
            optimizers[name].step()
            optimizers[name].zero_grad()
        task.after_step(context)
    mulan.eval()
    with torch.no_grad():
        figures = task.validation_metrics(source.validation_batches()[0])
    assert figures["recall_at_1"] == 1.0
    assert figures["loss"] < 0.3 * collapsed_loss(4)
    assert figures["similarity_gain"] > 0.1


def test_stored_log_mels_embed_as_the_audio_does(mulan, source):
    clip = source.store.corpus.clips[0]
    stored = embed_clip(mulan, source.store, clip)
    audio = torch.from_numpy(tone(PITCHES["low"], 1))[None]
    assert stored.shape == (6, 16)
    with torch.no_grad():
        expected = mulan.embed_windows(audio)[0]
    assert (stored * expected).sum(dim=1).min() > 0.999


def test_fitting_brings_codebooks_and_texts_to_the_audio(mulan, source):
    quantizer = QuantizerConfig(num_quantizers=2, codebook_size=4, codebook_dim=16)
    config = ConditionerConfig(
        mulan=mulan.config,
        tokenizer=ConditioningTokenizerConfig(quantizer=quantizer, num_levels=1),
    )
    conditioner = Conditioner(config).eval()
    conditioner.mulan.load_state_dict(mulan.state_dict())
    pairs = embed_pairs(mulan, [source.batch(step, 0) for step in range(3)])
    assert pairs.audio.shape == pairs.text.shape == (12, 16)
    fit = fit_conditioner(conditioner, source.store, pairs, seed=0)
    assert fit.distortions[1] < fit.distortions[0] < 0.5
    shift = pairs.audio.mean(dim=0) - pairs.text.mean(dim=0)
    torch.testing.assert_close(conditioner.tokenizer.text_shift, shift)
    with pytest.raises(DataError, match="no pairs"):
        embed_pairs(mulan, [])
