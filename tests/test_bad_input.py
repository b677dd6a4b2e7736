"""Bad input: one helpful line for what cannot be read or written, and never half a file."""

import resource
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file
from torch import nn

from musiclm.audio.waveform import Waveform
from musiclm.core.errors import AudioError, CheckpointError, MusicLMError
from musiclm.core.files import write_text_whole, written_whole
from musiclm.core.pretrained import load_weights, read_config_json, save_weights

RATE_HZ = 24_000


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(5)


@pytest.fixture
def noise(generator) -> np.ndarray:
    return (0.1 * generator.standard_normal(RATE_HZ)).astype(np.float32)


@contextmanager
def disk_full_after(num_bytes: int) -> Generator[None]:
    """Files of this process cannot grow beyond `num_bytes`: the system refuses the write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def assert_helpful(message: str) -> None:
    """One line that ends with what to do."""
    assert "\n" not in message
    assert len(message) < 400
    assert message.endswith(".")


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
@pytest.mark.parametrize("kept_bytes", [0, 10, 40])
def test_a_file_cut_in_its_header_is_refused(tmp_path, noise, suffix, kept_bytes):
    path = tmp_path / f"cut.{suffix}"
    soundfile.write(path, noise, RATE_HZ)
    path.write_bytes(path.read_bytes()[:kept_bytes])
    with pytest.raises(AudioError, match="Give WAV, FLAC, OGG or MP3") as caught:
        Waveform.read(path)
    assert_helpful(str(caught.value))


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "raw", "txt"])
def test_random_bytes_are_refused(tmp_path, generator, suffix):
    path = tmp_path / f"random.{suffix}"
    path.write_bytes(generator.bytes(5_000))
    with pytest.raises(AudioError, match="Give WAV, FLAC, OGG or MP3") as caught:
        Waveform.read(path)
    assert_helpful(str(caught.value))


def test_a_damaged_flac_is_refused(tmp_path, noise, generator):
    path = tmp_path / "damaged.flac"
    soundfile.write(path, noise, RATE_HZ)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = generator.bytes(len(content) - len(content) // 2)
    path.write_bytes(content)
    with pytest.raises(AudioError, match="Cannot read"):
        Waveform.read(path)


def test_a_wav_cut_in_its_samples_gives_what_is_there(tmp_path, noise):
    path = tmp_path / "cut.wav"
    soundfile.write(path, noise, RATE_HZ)
    path.write_bytes(path.read_bytes()[: 44 + 2 * 1_000])
    waveform = Waveform.read(path)
    assert waveform.num_samples == 1_000
    np.testing.assert_allclose(waveform.samples.numpy(), noise[:1_000], atol=2e-4)


@pytest.mark.parametrize("name", ["nothing.wav", ".", "n" * 300 + ".wav"])
def test_what_is_no_file_is_refused(tmp_path, name):
    with pytest.raises(AudioError) as caught:
        Waveform.read(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_no_samples_are_refused(tmp_path):
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, np.float32), RATE_HZ)
    with pytest.raises(AudioError, match="holds no audio"):
        Waveform.read(tmp_path / "empty.wav")


def test_one_sample_is_read_but_cannot_be_resampled_away(tmp_path):
    soundfile.write(tmp_path / "one.wav", np.array([0.5], np.float32), 192_000)
    assert Waveform.read(tmp_path / "one.wav").samples.tolist() == pytest.approx([0.5], abs=1e-4)
    with pytest.raises(AudioError, match="1 samples at 192000 Hz are less than one"):
        Waveform.read(tmp_path / "one.wav", sample_rate_hz=RATE_HZ)


def test_eight_bits_are_read(tmp_path, noise):
    soundfile.write(tmp_path / "eight.wav", noise, RATE_HZ, subtype="PCM_U8")
    read = Waveform.read(tmp_path / "eight.wav").samples.numpy()
    np.testing.assert_allclose(read, noise, atol=1 / 127)


def test_192_khz_is_read_and_resampled(tmp_path):
    times = np.arange(19_200) / 192_000
    sine = (0.5 * np.sin(2 * np.pi * 1_000 * times)).astype(np.float32)
    soundfile.write(tmp_path / "fast.wav", sine, 192_000)
    read = Waveform.read(tmp_path / "fast.wav", sample_rate_hz=RATE_HZ)
    assert read.num_samples == 2_400
    expected = 0.5 * np.sin(2 * np.pi * 1_000 * np.arange(2_400) / RATE_HZ)
    np.testing.assert_allclose(read.samples.numpy()[200:-200], expected[200:-200], atol=1e-3)


def test_six_channels_are_mixed(tmp_path, noise):
    channels = np.stack([noise * scale for scale in (1, 0, 0, 0.5, 0, 0)], axis=1)
    soundfile.write(tmp_path / "six.wav", channels, RATE_HZ)
    read = Waveform.read(tmp_path / "six.wav").samples.numpy()
    np.testing.assert_allclose(read, noise * 0.25, atol=2e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_samples_that_are_no_sound_are_refused(tmp_path, noise, value):
    noise[17] = value
    soundfile.write(tmp_path / "broken.wav", np.stack([noise] * 6, 1), RATE_HZ, subtype="FLOAT")
    with pytest.raises(AudioError, match="holds NaN, infinite or absurd samples"):
        Waveform.read(tmp_path / "broken.wav")


@pytest.mark.parametrize("start_seconds", [-1.0, float("nan"), float("inf")])
def test_impossible_starts_are_refused(tmp_path, noise, start_seconds):
    soundfile.write(tmp_path / "a.wav", noise, RATE_HZ)
    with pytest.raises(AudioError, match="The piece starts at"):
        Waveform.read(tmp_path / "a.wav", start_seconds=start_seconds)


@pytest.mark.parametrize("duration_seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_durations_are_refused(tmp_path, noise, duration_seconds):
    soundfile.write(tmp_path / "a.wav", noise, RATE_HZ)
    with pytest.raises(AudioError, match="s long; give more than 0"):
        Waveform.read(tmp_path / "a.wav", duration_seconds=duration_seconds)


def test_a_start_beyond_the_end_is_refused(tmp_path, noise):
    soundfile.write(tmp_path / "a.wav", noise, RATE_HZ)
    with pytest.raises(AudioError, match="holds no audio from 5 s on"):
        Waveform.read(tmp_path / "a.wav", start_seconds=5.0)


def test_what_is_no_waveform_is_not_written(tmp_path):
    sound = Waveform(torch.zeros(100), RATE_HZ)
    with pytest.raises(AudioError, match=r"use a \.wav, \.flac or \.ogg name"):
        sound.write(tmp_path / "a.mp4")
    with pytest.raises(AudioError, match="NaN or infinite"):
        Waveform(torch.full((100,), torch.nan), RATE_HZ).write(tmp_path / "a.wav")
    with pytest.raises(AudioError, match="Sample rate 10 Hz"):
        Waveform(torch.zeros(100), 10)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
@pytest.mark.parametrize("existed", [False, True])
def test_a_full_disk_leaves_no_half_of_audio(tmp_path, noise, suffix, existed):
    path = tmp_path / f"music.{suffix}"
    if existed:
        path.write_bytes(b"before")
    with (
        disk_full_after(4_000),
        pytest.raises(MusicLMError, match="Nothing was left behind") as caught,
    ):
        Waveform(torch.from_numpy(noise), RATE_HZ).write(path)
    assert_helpful(str(caught.value))
    assert [entry.name for entry in tmp_path.iterdir()] == ([path.name] if existed else [])
    assert not existed or path.read_bytes() == b"before"


def test_a_full_disk_leaves_no_half_of_weights_or_text(tmp_path):
    with disk_full_after(4_000):
        with pytest.raises(MusicLMError, match="Nothing was left behind"):
            save_weights(nn.Linear(100, 100), tmp_path / "w.safetensors", config_json="{}")
        with pytest.raises(MusicLMError, match="Nothing was left behind"):
            write_text_whole(tmp_path / "a.txt", "many words " * 1_000)
    assert not list(tmp_path.iterdir())


def test_an_interrupt_leaves_nothing(tmp_path):
    def write_and_stop(temporary: Path) -> None:
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), written_whole(tmp_path / "a.txt") as temporary:
        write_and_stop(temporary)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(MusicLMError, match="Cannot write"):
        write_text_whole(tmp_path / "file" / "a.txt", "")
    with pytest.raises(MusicLMError, match="Cannot write"):
        write_text_whole(tmp_path / "folder.txt", "")
    assert {entry.name for entry in tmp_path.iterdir()} == {"file", "folder.txt"}


@pytest.fixture
def weights(tmp_path) -> Path:
    path = tmp_path / "w.safetensors"
    save_weights(nn.Linear(8, 8), path, config_json='{"a": 1}')
    return path


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="No weights at"):
        load_weights(nn.Linear(8, 8), tmp_path / "nothing.safetensors")
    with pytest.raises(CheckpointError, match="No weights at"):
        read_config_json(tmp_path)


@pytest.mark.parametrize("kept_bytes", [0, 4, 8, 100, -1])
def test_truncated_weights_are_refused(weights, kept_bytes):
    weights.write_bytes(weights.read_bytes()[:kept_bytes])
    with pytest.raises(CheckpointError, match="not a readable safetensors file") as caught:
        load_weights(nn.Linear(8, 8), weights)
    assert_helpful(str(caught.value))


def test_weights_of_another_program_are_refused(tmp_path, generator):
    save_file({"weight": torch.zeros(8, 8)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="not written by musiclm"):
        load_weights(nn.Linear(8, 8), tmp_path / "foreign.safetensors")
    (tmp_path / "pickle.safetensors").write_bytes(generator.bytes(1_000))
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_weights(nn.Linear(8, 8), tmp_path / "pickle.safetensors")


def test_weights_of_another_model_are_refused_and_change_nothing(weights):
    wider, unbiased = nn.Linear(8, 9), nn.Linear(8, 8, bias=False)
    before = wider.weight.clone()
    with pytest.raises(CheckpointError, match=r"'weight' is \[8, 8\], the config says \[9, 8\]"):
        load_weights(wider, weights)
    with pytest.raises(CheckpointError, match="holds 'bias'"):
        load_weights(unbiased, weights)
    with pytest.raises(CheckpointError, match=r"lacks '0\.weight'"):
        load_weights(nn.Sequential(nn.Linear(8, 8)), weights)
    assert torch.equal(wider.weight, before)
