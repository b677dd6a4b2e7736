"""The key of a clip: its pitch classes compared with the profiles of all keys.

Conventions: keys are a tonic (0 is C, 11 is B) and `major` or `minor`; dorian counts as minor and
mixolydian as major, whose third they have. The score between two keys is MIREX's: 1 for the same,
0.5 for a fifth apart, 0.3 for the relative, 0.2 for the parallel key.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float

from musiclm.audio.waveform import Waveform
from musiclm.core.errors import AudioError, DataError
from musiclm.evaluation.rhythm import constant_as_silence

_RATE_HZ = 11_025
_FFT_SIZE = 4096
_LOWEST_PITCH, _HIGHEST_PITCH = 33, 96  # A1 to C7, as MIDI numbers
_LETTERS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_MODES = {"major": "major", "mixolydian": "major", "minor": "minor", "dorian": "minor"}
# Temperley 1999, "What's key for key?", pitch classes from the tonic up.
_PROFILES = {
    "major": (5.0, 2.0, 3.5, 2.0, 4.5, 4.0, 2.0, 4.5, 2.0, 3.5, 1.5, 4.0),
    "minor": (5.0, 2.0, 3.5, 4.5, 2.0, 4.0, 2.0, 4.5, 3.5, 2.0, 1.5, 4.0),
}


@dataclass(frozen=True)
class Key:
    """A tonic and a mode."""

    tonic: int
    mode: str

    @classmethod
    def parse(cls, tonic: str, mode: str) -> "Key":
        """Reads names such as `Bb` and `dorian`.

        Raises:
            DataError: There is no such tonic or mode.
        """
        match = re.fullmatch(r"([A-G])([#b♯♭]?)", tonic.strip().capitalize())
        if match is None or mode not in _MODES:
            raise DataError(
                f"{tonic} {mode} is no key. Give a letter from A to G, with # or b if need be, and "
                f"one of {', '.join(_MODES)}."
            )
        shift = {"": 0, "#": 1, "♯": 1, "b": -1, "♭": -1}[match[2]]
        return cls((_LETTERS[match[1]] + shift) % 12, _MODES[mode])


def chroma(waveform: Waveform) -> Float[np.ndarray, " 12"]:
    """How much of each pitch class sounds, C first; sums to 1, or all 0 in silence.

    Every semitone from A1 to C7 takes the spectrum's magnitudes within a third of a semitone,
    compressed so that loud notes do not drown the rest.

    Raises:
        AudioError: The clip is shorter than one spectrum.
    """
    samples = constant_as_silence(waveform).resampled(_RATE_HZ).samples.float().cpu()
    if samples.shape[0] < _FFT_SIZE:
        raise AudioError(
            f"A key needs {_FFT_SIZE / _RATE_HZ:.2f} s of audio or more; this clip has "
            f"{waveform.duration_seconds:.2f} s."
        )
    spectrum = torch.stft(
        samples,
        _FFT_SIZE,
        _FFT_SIZE // 4,
        window=torch.hann_window(_FFT_SIZE),
        center=False,
        return_complex=True,
    ).abs()
    notes = (_note_filters() @ spectrum.numpy()) ** 0.5
    notes = (notes - np.median(notes, axis=0)).clip(min=0)
    pitches = np.arange(_LOWEST_PITCH, _HIGHEST_PITCH + 1)
    sums = np.array([notes[pitches % 12 == number].sum() for number in range(12)])
    return sums / sums.sum() if sums.sum() > 1e-6 else np.zeros(12)


def key_of(waveform: Waveform) -> Key | None:
    """The key whose profile correlates best with the clip; None in silence.

    Raises:
        AudioError: The clip is shorter than one spectrum.
    """
    heard = chroma(waveform)
    if not heard.any():
        return None
    keys = [Key(tonic, mode) for mode in _PROFILES for tonic in range(12)]
    scores = [np.corrcoef(heard, np.roll(_PROFILES[key.mode], key.tonic))[0, 1] for key in keys]
    return keys[int(np.argmax(scores))]


def key_score(asked: Key, heard: Key | None) -> float:
    """MIREX's score of a heard key: 1, 0.5 (a fifth up or down), 0.3, 0.2 or 0."""
    if heard is None:
        return 0.0
    if heard == asked:
        return 1.0
    interval = (heard.tonic - asked.tonic) % 12
    if heard.mode == asked.mode:
        return 0.5 if interval in (5, 7) else 0.0
    if interval == 0:
        return 0.2
    relative = 9 if asked.mode == "major" else 3
    return 0.3 if interval == relative else 0.0


@lru_cache(maxsize=1)
def _note_filters() -> Float[np.ndarray, "notes bins"]:
    pitches = np.arange(_LOWEST_PITCH, _HIGHEST_PITCH + 1)
    bins_hz = np.arange(_FFT_SIZE // 2 + 1) * _RATE_HZ / _FFT_SIZE
    bin_pitches = 69 + 12 * np.log2(bins_hz.clip(min=1) / 440)
    distance = np.abs(bin_pitches[None] - pitches[:, None])
    # Low notes are narrower than a bin: those take the nearest bins by a wider slope.
    width = np.maximum(0.35, 12 * np.log2(1 + 0.75 * _RATE_HZ / _FFT_SIZE / _hz(pitches)))[:, None]
    filters = (1 - distance / width).clip(min=0)
    return filters / filters.sum(axis=1, keepdims=True).clip(min=1e-9)


def _hz(pitches: Float[np.ndarray, " notes"] | np.ndarray) -> np.ndarray:
    return 440 * 2 ** ((pitches - 69) / 12)
