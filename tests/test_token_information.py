"""The token study: identity, unrelated music, transposition, sizes."""

import numpy as np
import pytest
import torch

from musiclm.audio.waveform import Waveform
from musiclm.core.errors import DataError
from musiclm.evaluation.token_information import (
    compare_pairs,
    melody_similarity,
    rhythm_similarity,
)

RATE = 12_000


def tune(seed: int, timbre: float = 0.3, seconds: float = 6.0) -> Waveform:
    """Random notes at random times; the timbre is how loud the second partial is."""
    draw = np.random.default_rng(seed)
    samples = torch.zeros(round(seconds * RATE))
    onset = 0.1
    while onset < seconds - 0.5:
        pitch = 60 + int(draw.integers(0, 12))
        hz = 440 * 2 ** ((pitch - 69) / 12)
        times = torch.arange(round(0.45 * RATE)) / RATE
        note = torch.sin(2 * torch.pi * hz * times) + timbre * torch.sin(4 * torch.pi * hz * times)
        start = round(onset * RATE)
        samples[start : start + len(note)] += 0.2 * note * torch.exp(-4 * times)
        onset += float(draw.choice([0.2, 0.3, 0.5, 0.7]))
    return Waveform(samples, RATE)


def test_a_clip_is_like_itself_and_like_itself_in_another_timbre():
    one, other = tune(1), tune(1, timbre=0.9)
    assert rhythm_similarity(one, one) == pytest.approx(1)
    assert melody_similarity(one, one) == pytest.approx(1)
    assert rhythm_similarity(one, other) > 0.8
    assert melody_similarity(one, other) > 0.8


def test_unrelated_clips_are_not_alike():
    pairs = [(tune(seed), tune(seed + 50)) for seed in range(6)]
    assert abs(np.mean([rhythm_similarity(*pair) for pair in pairs])) < 0.3
    assert abs(np.mean([melody_similarity(*pair) for pair in pairs])) < 0.3


def test_the_difference_shows_what_is_shared():
    clips = [tune(seed) for seed in range(5)]
    same_notes = [tune(seed, timbre=0.8) for seed in range(5)]
    others = [tune(seed + 50) for seed in range(5)]
    report = compare_pairs(clips, same_notes, others, generator=np.random.default_rng(0))
    assert all(report.difference[name].low > 0.3 for name in ("rhythm", "melody"))
    nothing = compare_pairs(clips, others, others, generator=np.random.default_rng(0))
    assert all(interval.mean == 0 for interval in nothing.difference.values())
    with pytest.raises(DataError, match="at least two of each"):
        compare_pairs(clips[:1], same_notes[:1], others[:1], generator=np.random.default_rng(0))


def test_silence_is_like_nothing():
    silence = Waveform(torch.zeros(5 * RATE), RATE)
    assert rhythm_similarity(silence, tune(1)) == 0
    assert melody_similarity(silence, tune(1)) == 0
