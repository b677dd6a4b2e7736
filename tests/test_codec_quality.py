"""Codec quality: same input scores best, empty input is handled, known triples hold."""

import importlib.util
import math
import shutil

import numpy as np
import pytest
import torch

from musiclm.audio.waveform import Waveform
from musiclm.codec.losses import log_mel_distance_db
from musiclm.evaluation.codec_quality import NoteListener, note_f1, opus_round_trip, si_sdr_db

RATE = 24_000


def tone(*frequencies_hz, seconds=1.5):
    time = torch.arange(round(RATE * seconds)) / RATE
    partials = [
        torch.sin(2 * math.pi * frequency * harmonic * time) / harmonic**1.5
        for frequency in frequencies_hz
        for harmonic in range(1, 6)
    ]
    return Waveform(0.2 * torch.stack(partials).sum(dim=0), RATE)


def test_note_f1_triples():
    reference = np.zeros((10, 88), np.float32)
    reference[:5, 40] = 0.9
    assert note_f1(reference, reference) == 1.0
    assert note_f1(np.zeros((10, 88), np.float32), np.zeros((9, 88), np.float32)) == 1.0
    assert note_f1(reference, np.zeros_like(reference)) == 0.0
    half = reference.copy()
    half[5:10, 40] = 0.9
    assert math.isclose(note_f1(reference, half), 2 / 3)


def test_si_sdr_ignores_scale_and_counts_noise():
    """The same, a copy that is quieter, noise 20 dB below, an upside-down copy, and silences."""
    generator = torch.Generator().manual_seed(0)
    sound, hiss = 0.1 * torch.randn(2, 48_000, generator=generator)
    assert si_sdr_db(sound, sound) == 100
    assert si_sdr_db(sound, 0.3 * sound) > 90
    assert si_sdr_db(sound, sound + 0.1 * hiss) == pytest.approx(20, abs=0.2)
    assert si_sdr_db(sound, -0.5 * sound + 0.05 * hiss) == pytest.approx(20, abs=0.2)
    silence = torch.zeros(100)
    assert si_sdr_db(silence, silence) == 100
    assert si_sdr_db(silence, hiss[:100]) == si_sdr_db(hiss[:100], silence) == -100


def test_stored_si_sdr():
    """Target 2 of the reference, rest orthogonal to it: 10 log10(4 * 4 / 4)."""
    reference = torch.tensor([1.0, -1.0, 1.0, -1.0])
    estimate = 2 * reference + torch.tensor([1.0, 1.0, -1.0, -1.0])
    assert si_sdr_db(reference, estimate) == pytest.approx(6.020599913279624, rel=1e-12)


@pytest.mark.skipif(
    importlib.util.find_spec("basic_pitch") is None, reason="basic-pitch is not installed"
)
def test_the_listener_hears_the_notes_that_sound():
    pytest.importorskip("onnxruntime")
    listener = NoteListener()
    chord = tone(220.0, 329.63)
    posteriors = listener.posteriors(chord)
    assert posteriors.shape == (chord.resampled(22_050).num_samples // 256, 88)
    loudest = set(np.argsort(posteriors.mean(axis=0))[-2:] + 21)
    assert loudest == {57, 64}
    assert listener.note_f1(chord, chord) == 1.0
    assert listener.note_f1(chord, tone(233.08, 369.99)) < 0.3


@pytest.mark.skipif(shutil.which("opusenc") is None, reason="opus-tools is not installed")
def test_opus_gets_better_with_bits():
    chord = tone(220.0, 329.63)
    distances = []
    for bitrate_kbps in (6, 64):
        decoded = opus_round_trip(chord, bitrate_kbps)
        assert decoded.num_samples == chord.num_samples
        distances.append(float(log_mel_distance_db(chord.samples[None], decoded.samples[None])))
    assert distances[1] < distances[0]
