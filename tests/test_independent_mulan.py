"""The independent judge: its features, its training, and that it judges as it was trained."""

from importlib.util import find_spec
from os import environ

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from musiclm.audio.waveform import Waveform
from musiclm.cli.judges import MuLanJudge, load_judge
from musiclm.cli.main import main
from musiclm.conditioning.text_tower import TextTowerConfig
from musiclm.conditioning.word_pieces import SPECIAL_PIECES
from musiclm.core.errors import AudioError, CheckpointError, ConfigError, DataError
from musiclm.core.pretrained import save_weights
from musiclm.core.runtime import RandomStreams, Runtime
from musiclm.data.manifest import Caption, Corpus, write_manifest
from musiclm.data.pairs import training_captions
from musiclm.evaluation.independent_mulan import (
    FeatureTowerConfig,
    IndependentJudge,
    IndependentMuLan,
    IndependentMuLanConfig,
)
from musiclm.evaluation.musicnn_features import (
    MusicNNFeatures,
    MusicNNFeaturesConfig,
    MusicNNFeatureStore,
    repeated,
)
from musiclm.evaluation.musicnn_weights import WHEEL_VARIABLE
from musiclm.recipes.judge import judge_run
from musiclm.recipes.registry import load_recipe
from musiclm.training.trainer import train
from tests.support.bundle import write_random_bundle
from tests.support.corpus import write_corpus

CPU = torch.device("cpu")
needs_musicnn = pytest.mark.skipif(
    find_spec("musicnn") is None and WHEEL_VARIABLE not in environ,
    reason="the musicnn wheel is not at hand",
)


@pytest.fixture
def space():
    text = TextTowerConfig(
        vocabulary=(*SPECIAL_PIECES, "flute", "piano"),
        hidden_dim=16,
        num_layers=1,
        num_heads=2,
        feedforward_dim=32,
    )
    config = IndependentMuLanConfig(tower=FeatureTowerConfig(hidden_dim=8), text=text)
    with RandomStreams(0).layers_draw_from("judge"):
        return IndependentMuLan(config).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A corpus of nine clips with wordings of their own, six each."""
    folder = write_corpus(tmp_path_factory.mktemp("judge") / "corpus", num_clips=9, seconds=10.0)
    clips = []
    for clip in Corpus.open(folder).clips:
        texts = [f"{clip.labels.lead}, take {clip.clip_id} {number}" for number in range(6)]
        captions = tuple(Caption(text=text, kind="tags") for text in texts)
        clips.append(clip.model_copy(update={"captions": captions}))
    write_manifest(folder, clips)
    return folder


def noise(num_samples: int, batch: int = 2) -> torch.Tensor:
    return 0.1 * torch.randn(batch, num_samples, generator=torch.Generator().manual_seed(3))


def stretches(space, batch: int, windows: int) -> torch.Tensor:
    dim = space.config.features.dim
    return torch.rand(batch, windows, dim, generator=torch.Generator().manual_seed(1))


class StoppingSource:
    """Another source that is interrupted at step 3."""

    def __init__(self, source):
        self.source = source

    def batch(self, step, microbatch):
        if step == 3:
            raise KeyboardInterrupt
        return self.source.batch(step, microbatch)

    def validation_batches(self):
        return self.source.validation_batches()


def run(folder, run_folder, *, is_stopped=False, is_resumed=False):
    """One training by the tiny recipe; gives its result."""
    runtime = Runtime.choose("cpu", 1)
    made = judge_run(load_recipe("tiny"), folder, runtime=runtime, is_resumed=is_resumed)
    config = made.trainer.model_copy(update={"checkpoint_every": 2})
    return train(
        made.task,
        StoppingSource(made.source) if is_stopped else made.source,
        config,
        run_folder,
        runtime=runtime,
        show_progress=False,
    )


def test_batch_equals_singles_and_vectors_have_unit_length(space):
    features = stretches(space, 3, 5)
    with torch.no_grad():
        together = space.embed_features(features)
        singles = torch.cat([space.embed_features(row[None]) for row in features])
    torch.testing.assert_close(together, singles)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(3))


def test_a_clip_of_one_stretch_is_embedded_as_in_training(space):
    features = stretches(space, 2, 3)
    with torch.no_grad():
        heard = space.embed_heard(features, generator=None)
        torch.testing.assert_close(space.embed_features(features), heard)
        longer = torch.cat([features, features], dim=1)  # every stretch holds the same windows
        torch.testing.assert_close(space.embed_features(longer), heard)


def test_standardised_inputs_do_not_know_the_scale_of_the_features(space):
    features = stretches(space, 6, 3)
    with torch.no_grad():
        space.audio_tower.standardise(features)
        plain = space.embed_heard(features)
        space.audio_tower.standardise(40 * features - 7)
        torch.testing.assert_close(space.embed_heard(40 * features - 7), plain)


def test_audio_that_is_too_short_is_repeated():
    samples = noise(1000)
    longer = repeated(samples, 2500)
    assert longer.shape == (2, 2500)
    torch.testing.assert_close(longer[:, 1000:2000], samples)
    assert repeated(samples, 400) is samples
    with pytest.raises(AudioError, match="0 samples"):
        repeated(noise(0), 400)


def test_a_file_of_another_model_is_one_helpful_line(space, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(torch.nn.Linear(2, 2), path, config_json="{}")
    with pytest.raises(CheckpointError, match="holds no space of music and text"):
        load_judge(path, device=CPU)
    save_weights(torch.nn.Linear(2, 2), path, config_json=space.config.to_json())
    with pytest.raises(CheckpointError, match="another model's weights"):
        load_judge(path, device=CPU)
    with pytest.raises(ConfigError, match="same embedding_dim"):
        IndependentMuLanConfig.from_json(
            space.config.to_json().replace('"embedding_dim": 128', '"embedding_dim": 64', 1)
        )


def test_another_mulan_still_judges(tmp_path, unchecked):
    bundle = write_random_bundle(tmp_path / "model", has_melody=False)
    judge = load_judge(bundle / "mulan.safetensors", device=CPU)
    assert isinstance(judge, MuLanJudge)
    assert judge.embed_audio(noise(24_000, batch=1)).shape == (1, 128)


@needs_musicnn
def test_kept_features_are_those_computed_afresh(folder, tmp_path):
    corpus = Corpus.open(folder)
    features = MusicNNFeatures(MusicNNFeaturesConfig())
    store = MusicNNFeatureStore(corpus, tmp_path / "kept", features)
    clip = corpus.clips[0]
    store.add(corpus.clips[:2])
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()}
    length = features.config.num_samples
    waveform = corpus.audio(clip, sample_rate_hz=features.sample_rate_hz)
    first = (waveform.num_samples - length) // 2
    afresh = features(waveform.samples[None, first : first + length])[0]
    kept = store.crop(clip, 0.5, 3)
    assert kept.shape == (3, features.config.dim) == (3, 1706)
    assert torch.cosine_similarity(kept, afresh).min() > 0.999
    store.add(corpus.clips[:3])
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    with pytest.raises(DataError, match="4 windows were asked for"):
        store.crop(clip, 0.5, 4)
    exact = MusicNNFeatures(MusicNNFeaturesConfig(use_bf16=False))
    with pytest.raises(DataError, match="other MusicNN features"):
        MusicNNFeatureStore(corpus, tmp_path / "kept", exact)
    rows = exact(waveform.samples[None, first : first + length])[0]
    assert torch.cosine_similarity(afresh, rows).min() > 0.999


@needs_musicnn
def test_features_of_a_batch_are_those_of_singles():
    features = MusicNNFeatures(MusicNNFeaturesConfig(use_bf16=False))
    samples = noise(features.config.num_samples + 100_000)
    together = features(samples)
    assert together.shape == (2, 5, 1706)
    singles = torch.cat([features(row[None]) for row in samples])
    torch.testing.assert_close(together, singles, atol=1e-3, rtol=1e-3)
    assert features(samples[:, :16_000]).shape == (2, 3, 1706)


@needs_musicnn
def test_only_the_odd_half_of_the_wordings_is_learned(folder):
    corpus = Corpus.open(folder)
    made = judge_run(load_recipe("tiny"), folder, runtime=Runtime.choose("cpu", 1))
    texts = {text for step in range(30) for text in made.source.batch(step, 0)["texts"]}
    train_clips = corpus.split("train").clips
    odd = {c.text for clip in train_clips for c in training_captions(clip, "odd")}
    assert texts <= odd
    assert len(texts) > len(odd) / 2  # 30 batches need not draw every one
    assert not texts & {c.text for clip in train_clips for c in training_captions(clip, "even")}
    assert made.source.batch(2, 0)["features"].shape[1:] == (3, 1706)


@needs_musicnn
def test_a_resumed_run_is_the_unbroken_one_and_the_judge_is_what_was_trained(folder, tmp_path):
    whole = run(folder, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(folder, tmp_path / "broken", is_stopped=True)
    resumed = run(folder, tmp_path / "broken", is_resumed=True)
    assert resumed.step == whole.step == 4
    assert resumed.validation == whole.validation
    weights = [tmp_path / name / "last.safetensors" for name in ("whole", "broken")]
    expected, actual = map(load_file, weights)
    assert expected.keys() == actual.keys()
    assert all(torch.equal(tensor, actual[name]) for name, tensor in expected.items())
    assert weights[0].stat().st_size < 2**20  # MusicNN is not copied

    judge = load_judge(weights[0], device=CPU)
    assert isinstance(judge, IndependentJudge)
    texts = ["a flute plays alone", "solo piano, simple tune"]
    corpus = Corpus.open(folder)
    audio = corpus.audio(corpus.clips[0], sample_rate_hz=judge.sample_rate_hz).samples[None]
    heard, read = judge.embed_audio(audio), judge.embed_text(texts)
    assert heard.shape == (1, 128)
    again = load_judge(weights[1], device=CPU)
    np.testing.assert_array_equal(again.embed_audio(audio), heard)
    np.testing.assert_array_equal(again.embed_text(texts), read)
    clip = Waveform(audio[0], judge.sample_rate_hz).crop(0, 40_000)
    assert judge.embed_audio(clip.samples[None]).norm() == pytest.approx(1)


@needs_musicnn
def test_the_command_trains_a_judge(folder, tmp_path, capsys):
    options = ("--recipe", "tiny", "--run-folder", str(tmp_path), "--device", "cpu")
    main(["train", "mulan-judge", str(folder), *options])
    assert "4/4 steps, finished" in capsys.readouterr().err
    assert load_judge(tmp_path / "last.safetensors", device=CPU).sample_rate_hz == 16_000
