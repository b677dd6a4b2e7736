"""Audio: waveforms that survive files and resampling, loudness, and mel front ends as librosa's."""

import math

import librosa
import numpy as np
import pyloudnorm
import pytest
import torch
from pydantic import ValidationError

from musiclm.audio.spectrogram import (
    LogMel,
    LogMelConfig,
    hz_to_mel,
    mel_filterbank,
    mel_to_hz,
)
from musiclm.audio.waveform import Waveform
from musiclm.core.errors import AudioError

RATE_HZ = 24_000


def noise(num_samples: int, seed: int = 0, scale: float = 0.1) -> torch.Tensor:
    return scale * torch.randn(num_samples, generator=torch.Generator().manual_seed(seed))


def sine(frequency_hz: float, num_samples: int, sample_rate_hz: int = RATE_HZ) -> torch.Tensor:
    times = torch.arange(num_samples, dtype=torch.float64) / sample_rate_hz
    return 0.5 * torch.sin(2 * math.pi * frequency_hz * times).float()


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".WAV"])
def test_written_audio_comes_back_within_half_a_step(tmp_path, suffix):
    original = Waveform(noise(5_000), RATE_HZ)
    original.write(tmp_path / f"a{suffix}")
    read = Waveform.read(tmp_path / f"a{suffix}")
    assert read.sample_rate_hz == RATE_HZ
    torch.testing.assert_close(read.samples, original.samples, atol=1.01 / 32768, rtol=0)


def test_ogg_comes_back_about_the_same(tmp_path):
    original = Waveform(sine(440, RATE_HZ), RATE_HZ)
    original.write(tmp_path / "a.ogg")
    read = Waveform.read(tmp_path / "a.ogg")
    assert read.num_samples == original.num_samples
    assert (read.samples - original.samples).square().mean().sqrt() < 0.02


def test_audio_above_full_scale_is_clipped_not_wrapped(tmp_path):
    Waveform(torch.tensor([2.0, -2.0, 0.0]), RATE_HZ).write(tmp_path / "a.wav")
    assert Waveform.read(tmp_path / "a.wav").samples.tolist() == pytest.approx([1, -1, 0], abs=1e-4)


def test_a_piece_equals_that_part_of_the_whole(tmp_path):
    Waveform(noise(RATE_HZ), RATE_HZ).write(tmp_path / "a.wav")
    whole = Waveform.read(tmp_path / "a.wav")
    piece = Waveform.read(tmp_path / "a.wav", start_seconds=0.25, duration_seconds=0.5)
    assert torch.equal(piece.samples, whole.samples[6_000:18_000])


def test_resampling_keeps_pitch_level_and_duration():
    resampled = Waveform(sine(1_000, 44_100, 44_100), 44_100).resampled(RATE_HZ)
    assert resampled.num_samples == RATE_HZ
    middle = slice(500, -500)
    torch.testing.assert_close(
        resampled.samples[middle], sine(1_000, RATE_HZ)[middle], atol=1e-3, rtol=0
    )


def test_resampling_removes_what_the_new_rate_cannot_hold():
    resampled = Waveform(sine(15_000, 48_000, 48_000), 48_000).resampled(RATE_HZ)
    assert resampled.samples[2_000:-2_000].abs().max() < 1e-3


def test_crop_pads_with_silence():
    cropped = Waveform(torch.ones(10), RATE_HZ).crop(8, 5)
    assert cropped.samples.tolist() == [1, 1, 0, 0, 0]


def test_peaks_are_only_lowered():
    assert Waveform(torch.tensor([2.0, -4.0]), RATE_HZ).peak_normalised(0.5).samples.tolist() == [
        0.25,
        -0.5,
    ]
    quiet = Waveform(torch.tensor([0.1]), RATE_HZ)
    assert torch.equal(quiet.peak_normalised().samples, quiet.samples)


def test_loudness_is_what_was_asked():
    normalised = Waveform(noise(3 * RATE_HZ, scale=0.02), RATE_HZ).loudness_normalised(-20.0)
    measured = pyloudnorm.Meter(RATE_HZ).integrated_loudness(normalised.samples.double().numpy())
    assert measured == pytest.approx(-20.0, abs=0.1)


@pytest.mark.parametrize("num_samples", [0, 1, 100, RATE_HZ])
def test_silence_and_snippets_survive_loudness(num_samples):
    silent = Waveform(torch.zeros(num_samples), RATE_HZ).loudness_normalised()
    assert torch.equal(silent.samples, torch.zeros(num_samples))


def test_a_waveform_is_mono():
    with pytest.raises((AudioError, TypeError), match=r"mono|samples"):
        Waveform(torch.zeros(2, 10), RATE_HZ)


@pytest.mark.parametrize(
    ("rate_hz", "fft_size", "num_mels", "low_hz", "high_hz"),
    [(16_000, 512, 96, 0.0, 8_000.0), (24_000, 1024, 80, 30.0, 11_500.0)],
)
def test_filters_equal_librosa(rate_hz, fft_size, num_mels, low_hz, high_hz):
    theirs = librosa.filters.mel(
        sr=rate_hz, n_fft=fft_size, n_mels=num_mels, fmin=low_hz, fmax=high_hz
    )
    ours = mel_filterbank(rate_hz, fft_size, num_mels, low_hz, high_hz).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-7)


def test_mel_scale_equals_librosa_and_inverts():
    frequencies = torch.tensor([0.0, 100.0, 999.0, 1_000.0, 4_000.0, 11_000.0], dtype=torch.float64)
    mels = hz_to_mel(frequencies)
    np.testing.assert_allclose(mels.numpy(), librosa.hz_to_mel(frequencies.numpy()), rtol=1e-9)
    torch.testing.assert_close(mel_to_hz(mels), frequencies)


def test_log_mel_equals_librosa_on_the_same_padding():
    config = LogMelConfig()
    samples = noise(4_800)
    left = (config.fft_size - config.hop_length) // 2
    padded = np.pad(samples.numpy(), (left, config.fft_size - config.hop_length - left))
    magnitudes = librosa.feature.melspectrogram(
        y=padded,
        sr=config.sample_rate_hz,
        n_fft=config.fft_size,
        win_length=config.window_length,
        hop_length=config.hop_length,
        n_mels=config.num_mels,
        fmin=config.low_hz,
        fmax=config.high_hz,
        power=1.0,
        center=False,
    )
    ours = LogMel(config)(samples.unsqueeze(0))[0].numpy()
    assert ours.shape == (80, 20)
    np.testing.assert_allclose(ours, np.log(magnitudes.clip(config.floor)), atol=1e-4)


def test_log_mel_of_a_batch_equals_singles_and_drops_half_hops():
    log_mel = LogMel(LogMelConfig())
    samples = noise(3 * 2_500).reshape(3, 2_500)
    whole = log_mel(samples)
    assert whole.shape == (3, 80, 10)
    for row, single in zip(whole, samples, strict=True):
        torch.testing.assert_close(row, log_mel(single.unsqueeze(0))[0], atol=1e-5, rtol=0)


def test_a_frame_is_centred_on_its_hop():
    log_mel = LogMel(LogMelConfig())
    click = torch.zeros(1, 4_800)
    click[0, 10 * 240 + 120] = 1.0
    energy = log_mel(click)[0].exp().sum(dim=0)
    assert energy.argmax() == 10
    torch.testing.assert_close(energy[9], energy[11], rtol=0.02, atol=0)


def test_impossible_front_ends_are_refused():
    with pytest.raises(ValidationError, match="at least window_length"):
        LogMelConfig(fft_size=512)
    with pytest.raises(ValidationError, match="low_hz < high_hz"):
        LogMelConfig(high_hz=13_000.0)
