"""MusicNN: the checkpoint reader on bundles made here, the network, and the published weights."""

import math
import zipfile
from importlib.util import find_spec
from os import environ

import librosa
import numpy as np
import pytest
import torch
from torch import nn

from musiclm.audio.waveform import Waveform
from musiclm.core.errors import AudioError, CheckpointError, DependencyError
from musiclm.evaluation.musicnn import MusicNN, MusicNNConfig
from musiclm.evaluation.musicnn_weights import WHEEL_VARIABLE, read_musicnn_checkpoint
from musiclm.evaluation.tensor_bundle import read_tensor_bundle
from tests.support.tensor_bundle_writer import write_bundle

SMALL = MusicNNConfig(timbral_filters=3, temporal_filters=2, midend_filters=4)


def random_checkpoint(model: MusicNN, seed: int = 0) -> dict[str, np.ndarray]:
    """Variables as TensorFlow would name and shape them, with random values."""
    generator = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}
    num_features = 0
    counts = {"conv2d": 0, "batch_normalization": 0, "dense": 0}
    order = [model.input_norm, *model.frontend, *model.midend]
    layers = [layer for block in order for layer in block.modules()]
    for layer in [*layers, model.pooled_norm, model.hidden_norm, model.hidden, model.output]:
        if isinstance(layer, nn.Conv2d):
            kind, kernel = "conv2d", tuple(layer.weight.permute(2, 3, 1, 0).shape)
        elif isinstance(layer, nn.Linear):
            kind, kernel = "dense", tuple(layer.weight.T.shape)
        elif isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            kind, kernel, num_features = "batch_normalization", (), layer.num_features
        else:
            continue
        name = kind + (f"_{counts[kind]}" if counts[kind] else "")
        counts[kind] += 1
        if kernel:
            tensors[f"{name}/kernel"] = generator.standard_normal(kernel) * 0.1
            tensors[f"{name}/bias"] = generator.standard_normal(kernel[-1])
        else:
            for variable in ("gamma", "beta", "moving_mean", "moving_variance"):
                tensors[f"{name}/{variable}"] = generator.random(num_features) + 0.5
    return {name: value.astype(np.float32) for name, value in tensors.items()}


@pytest.fixture
def model() -> MusicNN:
    model = MusicNN(SMALL)
    model.load_tensorflow(random_checkpoint(model))
    return model.eval()


def noise(seconds: float, sample_rate_hz: int = 16_000) -> Waveform:
    generator = torch.Generator().manual_seed(1)
    samples = 0.1 * torch.randn(round(seconds * sample_rate_hz), generator=generator)
    return Waveform(samples, sample_rate_hz)


def test_bundle_reader_gives_back_what_was_written():
    generator = np.random.default_rng(0)
    tensors = {
        "dense/kernel": generator.standard_normal((3, 4)).astype(np.float32),
        "dense/kernel/Adam": generator.standard_normal((3, 4)).astype(np.float32),
        "dense_1/bias": generator.standard_normal(200).astype(np.float32),
        "step": np.array(5, dtype=np.int64),
    }
    read = read_tensor_bundle(*write_bundle(tensors))
    assert set(read) == set(tensors)
    for name, array in tensors.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


@pytest.mark.parametrize("kept", [0, 10, 60, -1])
def test_truncated_index_is_refused(kept):
    index, data = write_bundle({"a": np.ones(3, np.float32)})
    with pytest.raises(CheckpointError, match="no TensorFlow checkpoint index"):
        read_tensor_bundle(index[:kept], data)


def test_truncated_data_is_refused():
    index, data = write_bundle({"a": np.ones(3, np.float32)})
    with pytest.raises(CheckpointError, match=r"damaged.*12 are needed"):
        read_tensor_bundle(index, data[:-1])


def test_compressed_index_is_refused():
    index, data = write_bundle({"a": np.ones(300, np.float32)})
    end_of_root = len(index) - 48 - 5
    with pytest.raises(CheckpointError, match="compressed"):
        read_tensor_bundle(index[:end_of_root] + b"\1" + index[end_of_root + 1 :], data)


def test_wheel_folder_and_variable_lead_to_the_same_weights(tmp_path, monkeypatch):
    index, data = write_bundle({"a": np.arange(3, dtype=np.float32)})
    folder = tmp_path / "musicnn" / "MTT_musicnn"
    folder.mkdir(parents=True)
    (folder / ".index").write_bytes(index)
    (folder / ".data-00000-of-00001").write_bytes(data)
    wheel = tmp_path / "musicnn.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in (".index", ".data-00000-of-00001"):
            archive.write(folder / name, f"musicnn/MTT_musicnn/{name}")
    monkeypatch.setenv(WHEEL_VARIABLE, str(wheel))
    for place in (wheel, tmp_path / "musicnn", None):
        read = read_musicnn_checkpoint("MTT_musicnn", place)
        np.testing.assert_array_equal(read["a"], [0, 1, 2])
    with pytest.raises(CheckpointError, match="no readable MSD_musicnn"):
        read_musicnn_checkpoint("MSD_musicnn")


def test_missing_weights_say_how_to_get_them(tmp_path):
    with pytest.raises(DependencyError, match="pip install --no-deps musicnn=="):
        read_musicnn_checkpoint("MTT_musicnn", tmp_path / "nothing.whl")


def test_foreign_weights_are_refused():
    model = MusicNN(SMALL)
    tensors = random_checkpoint(model)
    with pytest.raises(CheckpointError, match="'dense/kernel' is"):
        model.load_tensorflow({**tensors, "dense/kernel": np.zeros((2, 2), np.float32)})
    with pytest.raises(CheckpointError, match="lacks 'conv2d/kernel'"):
        model.load_tensorflow({"other": np.zeros(1, np.float32)})


def test_front_end_equals_librosa():
    waveform = noise(1.0)
    power = librosa.feature.melspectrogram(
        y=waveform.samples.numpy(), sr=16_000, n_fft=512, hop_length=256, n_mels=96
    )
    ours = MusicNN(SMALL).log_mel(waveform.samples.unsqueeze(0))[0]
    np.testing.assert_allclose(ours.numpy(), np.log10(10_000 * power.T + 1), atol=1e-4)


def test_windows_are_whole_and_side_by_side(model):
    output = model.analyse(noise(10.0))
    assert output.tag_logits.shape == (3, 50)
    assert output.embeddings.shape == (3, 200)
    assert output.clip_tag_probabilities.shape == (50,)
    first = model.analyse(noise(10.0).crop(0, 5 * 16_000))
    torch.testing.assert_close(first.embeddings[0], output.embeddings[0], atol=1e-4, rtol=1e-4)


def test_batch_equals_singles(model):
    frames = torch.rand(3, 187, 96, generator=torch.Generator().manual_seed(0))
    whole = model(frames)
    single = torch.cat([model(frame.unsqueeze(0)).tag_logits for frame in frames])
    torch.testing.assert_close(whole.tag_logits, single, atol=1e-4, rtol=1e-4)


def test_too_short_a_clip_is_refused(model):
    with pytest.raises(AudioError, match=r"2\.00 s; it needs clips of 2\.99 s"):
        model.analyse(noise(2.0))


def weights_are_at_hand() -> bool:
    return find_spec("musicnn") is not None or WHEEL_VARIABLE in environ


@pytest.mark.skipif(not weights_are_at_hand(), reason="the musicnn wheel is not at hand")
def test_published_weights_know_noise_from_a_plucked_note():
    tagger = MusicNN.from_pretrained()
    times = torch.arange(48_000) / 16_000
    pluck = torch.zeros_like(times)
    for harmonic in range(1, 12):
        decay = torch.exp(-(times % 0.5) * 3 * math.sqrt(harmonic))
        pluck += 0.15 / harmonic * torch.sin(2 * torch.pi * 196 * harmonic * times) * decay
    heard = tagger.analyse(Waveform(pluck, 16_000)).clip_tag_probabilities
    noisy = tagger.analyse(noise(3.0)).clip_tag_probabilities
    guitar, weird = tagger.tags.index("guitar"), tagger.tags.index("weird")
    assert heard[guitar] > noisy[guitar]
    assert noisy[weird] > heard[weird]
