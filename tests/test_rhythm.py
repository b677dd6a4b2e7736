"""Tempo and metre on clicks whose beat is known; silence and short clips."""

import pytest
import torch

from musiclm.audio.waveform import Waveform
from musiclm.core.errors import AudioError
from musiclm.evaluation.rhythm import autocorrelation, onset_curve, rhythm

RATE = 16_000


def clicks(beat_seconds: float, accents: tuple[float, ...], seconds: float = 10.0) -> Waveform:
    """Short noise bursts, one a beat, whose loudness goes round the accents."""
    samples = torch.zeros(int(seconds * RATE))
    burst = torch.randn(800, generator=torch.Generator().manual_seed(0))
    burst = burst * torch.linspace(1, 0, 800) ** 2
    number, start = 0, 0
    while start + 800 < len(samples):
        samples[start : start + 800] += 0.5 * accents[number % len(accents)] * burst
        number += 1
        start = round(number * beat_seconds * RATE)
    return Waveform(samples, RATE)


@pytest.mark.parametrize("tempo_bpm", [72, 96, 120, 144])
def test_the_tempo_of_even_clicks_is_found(tempo_bpm):
    heard = rhythm(clicks(60 / tempo_bpm, (1.0,)))
    assert heard.tempo_bpm == pytest.approx(tempo_bpm, rel=0.02)
    assert heard.clarity > 0.5


def test_tempo_does_not_depend_on_level_or_rate():
    clip = clicks(0.5, (1.0, 0.6))
    quiet = Waveform(0.3 * clip.samples, RATE)
    assert rhythm(quiet).tempo_bpm == pytest.approx(rhythm(clip).tempo_bpm, rel=0.03)
    assert rhythm(clip.resampled(24_000)).tempo_bpm == pytest.approx(120, rel=0.03)


@pytest.mark.parametrize("tempo_bpm", [84, 110])
def test_groups_of_three_and_of_two_are_told_apart(tempo_bpm):
    three = rhythm(clicks(60 / tempo_bpm, (1.0, 0.2, 0.2)))
    two = rhythm(clicks(60 / tempo_bpm, (1.0, 0.2, 0.5, 0.2)))
    assert three.ternary > two.ternary
    assert (three.metre, two.metre) == ("ternary", "binary")


def test_silence_has_no_beat():
    silent = rhythm(Waveform(torch.zeros(5 * RATE), RATE))
    assert (silent.tempo_bpm, silent.clarity, silent.metre) == (0.0, 0.0, "")


def test_autocorrelation_starts_at_one_and_peaks_at_the_period():
    similarity = autocorrelation(onset_curve(clicks(0.4, (1.0,))))
    assert similarity[0] == pytest.approx(1)
    assert 20 + similarity[20:60].argmax() == pytest.approx(40, abs=1)


def test_short_clips_are_refused():
    with pytest.raises(AudioError, match="3 s or more"):
        rhythm(Waveform(torch.zeros(RATE), RATE))
