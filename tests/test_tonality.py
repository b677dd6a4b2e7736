"""Keys: scales are recognised in every transposition, the score is MIREX's, bad names are told."""

import numpy as np
import pytest
import torch

from musiclm.audio.waveform import Waveform
from musiclm.core.errors import AudioError, DataError
from musiclm.evaluation.tonality import Key, chroma, key_of, key_score

RATE = 16_000
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 11)}


def melody(tonic: int, mode: str) -> Waveform:
    """Up and down the scale from the tonic, which with the fifth sounds through."""
    steps = [*SCALES[mode], 12, *reversed(SCALES[mode])]
    times = torch.arange(RATE // 3) / RATE
    notes: list[torch.Tensor] = []
    for step in steps:
        sounding = {60 + tonic + step: 1.0, 48 + tonic: 0.7, 55 + tonic: 0.4}
        waves = [
            weight
            * torch.sin(2 * torch.pi * 440 * 2 ** ((pitch - 69) / 12) * partial * times)
            / partial**2
            for pitch, weight in sounding.items()
            for partial in (1, 2, 3)
        ]
        notes.append(torch.stack(waves).sum(dim=0))
    return Waveform(0.1 * torch.cat(notes), RATE)


@pytest.mark.parametrize("mode", ["major", "minor"])
@pytest.mark.parametrize("tonic", [0, 3, 7, 10])
def test_scales_are_recognised(tonic, mode):
    assert key_of(melody(tonic, mode)) == Key(tonic, mode)


def test_chroma_turns_with_the_pitch():
    low, high = chroma(melody(0, "major")), chroma(melody(2, "major"))
    assert low.sum() == pytest.approx(1)
    assert np.corrcoef(np.roll(low, 2), high)[0, 1] > 0.95


def test_silence_has_no_key():
    assert key_of(Waveform(torch.zeros(2 * RATE), RATE)) is None
    with pytest.raises(AudioError, match="A key needs"):
        key_of(Waveform(torch.zeros(1_000), RATE))


def test_scores_are_mirex():
    c_major = Key.parse("C", "major")
    expected = {
        ("C", "major"): 1.0,
        ("G", "major"): 0.5,
        ("F", "major"): 0.5,
        ("A", "minor"): 0.3,
        ("C", "minor"): 0.2,
        ("D", "major"): 0.0,
        ("E", "minor"): 0.0,
    }
    assert {name: key_score(c_major, Key.parse(*name)) for name in expected} == expected
    assert key_score(Key.parse("A", "minor"), c_major) == 0.3
    assert key_score(c_major, None) == 0.0


def test_names_of_keys():
    assert Key.parse("Bb", "dorian") == Key.parse("A#", "minor") == Key(10, "minor")
    assert Key.parse("Cb", "mixolydian") == Key(11, "major")
    for name in (("H", "major"), ("C", "lydian")):
        with pytest.raises(DataError, match="is no key"):
            Key.parse(*name)
