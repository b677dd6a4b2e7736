"""Tempo and metre of a clip, from the periods of its onsets.

Conventions: tempo in quarter notes a minute; times in seconds. The onset curve is the rise of a
log-mel spectrogram, 100 frames a second; its autocorrelation has a peak at every period that the
music repeats with. Tempo is the period whose multiples are strong too, preferred near 100 a minute
(Ellis 2007's log-normal weight). Metre is told apart only as far as a few seconds let one hear it:
`binary` (2/4, 4/4) or `ternary` (3/4, 6/8, 9/8), whether beats are grouped or divided in threes.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float

from musiclm.audio.spectrogram import LogMel, LogMelConfig
from musiclm.audio.waveform import Waveform
from musiclm.core.errors import AudioError

_RATE_HZ = 16_000
_FRAME_RATE_HZ = 100
_LONGEST_SECONDS = 4.0
_LOWEST_BPM, _HIGHEST_BPM = 40.0, 200.0
_PREFERRED_BPM = 105.0
_OCTAVES_OF_PREFERENCE = 1.0
_LEAST_SECONDS = 3.0


@dataclass(frozen=True)
class Rhythm:
    """What is heard of a clip's rhythm.

    Attributes:
        tempo_bpm: The likeliest beat; 0 when there are no onsets.
        ternary: How much stronger groups of three are than groups of two: above 0 is ternary.
        clarity: Height of the beat's peak in the autocorrelation, from 0 (none) to 1.
    """

    tempo_bpm: float
    ternary: float
    clarity: float

    @property
    def metre(self) -> str:
        """`binary`, `ternary`, or nothing where there is no beat."""
        if not self.tempo_bpm:
            return ""
        return "ternary" if self.ternary > 0 else "binary"


def constant_as_silence(waveform: Waveform) -> Waveform:
    """The waveform, or silence if all its samples are the same: nobody hears a constant.

    Filters ring at its ends, which would pass for onsets and notes.
    """
    if bool((waveform.samples != waveform.samples[:1]).any()):
        return waveform
    return Waveform(torch.zeros_like(waveform.samples), waveform.sample_rate_hz)


def onset_curve(waveform: Waveform) -> Float[np.ndarray, " frames"]:
    """How much louder all bands get, frame by frame, less its mean over a second.

    Raises:
        AudioError: The clip is shorter than three seconds, in which no metre can be heard.
    """
    if waveform.duration_seconds < _LEAST_SECONDS:
        raise AudioError(
            f"Rhythm needs clips of {_LEAST_SECONDS:g} s or more; this one has "
            f"{waveform.duration_seconds:.2f} s."
        )
    samples = constant_as_silence(waveform).resampled(_RATE_HZ).samples.float().cpu()
    log_mel = _front_end()(samples[None])[0].numpy()
    rise = np.diff(log_mel, axis=1, prepend=log_mel[:, :1]).clip(min=0).mean(axis=0)
    second = np.ones(_FRAME_RATE_HZ) / _FRAME_RATE_HZ
    return (rise - np.convolve(rise, second, mode="same")).clip(min=0)


def autocorrelation(curve: Float[np.ndarray, " frames"]) -> Float[np.ndarray, " lags"]:
    """Similarity of a curve with itself `lag` frames later, unbiased, 1 at lag 0; up to 4 s."""
    num_lags = min(len(curve) - 1, round(_LONGEST_SECONDS * _FRAME_RATE_HZ))
    smooth = np.convolve(curve, np.hanning(7) / np.hanning(7).sum(), mode="same")
    centred = smooth - smooth.mean()
    spectrum = np.fft.rfft(centred, 2 * len(centred))
    products = np.fft.irfft(np.abs(spectrum) ** 2)[: num_lags + 1]
    if products[0] <= 1e-12:
        return np.zeros(num_lags + 1)
    return products / products[0] * len(curve) / (len(curve) - np.arange(num_lags + 1))


def rhythm(waveform: Waveform) -> Rhythm:
    """Tempo and metre of a clip.

    Raises:
        AudioError: The clip is shorter than three seconds.
    """
    similarity = autocorrelation(onset_curve(waveform))
    if not similarity.any():
        return Rhythm(0.0, 0.0, 0.0)
    tempos = np.exp(np.linspace(np.log(_LOWEST_BPM), np.log(_HIGHEST_BPM), 400))
    periods = 60 * _FRAME_RATE_HZ / tempos
    strengths = _at(similarity, periods)
    combed = strengths + 0.5 * _at(similarity, 2 * periods) + 0.25 * _at(similarity, 4 * periods)
    octaves = np.log2(tempos / _PREFERRED_BPM) / _OCTAVES_OF_PREFERENCE
    best = int((combed.clip(min=0) * np.exp(-0.5 * octaves**2)).argmax())
    period = periods[best]
    threes = max(_at(similarity, np.array([3 * period])).max(), _thirds(similarity, period))
    twos = max(_at(similarity, np.array([2 * period])).max(), _halves(similarity, period))
    return Rhythm(float(tempos[best]), float(threes - twos), float(strengths[best].clip(0, 1)))


def _thirds(similarity: Float[np.ndarray, " lags"], period: float) -> float:
    return float(_at(similarity, np.array([period / 3, 2 * period / 3])).mean())


def _halves(similarity: Float[np.ndarray, " lags"], period: float) -> float:
    return float(_at(similarity, np.array([period / 2, 3 * period / 2])).mean())


def _at(
    similarity: Float[np.ndarray, " lags"], lags: Float[np.ndarray, " asked"]
) -> Float[np.ndarray, " asked"]:
    """The autocorrelation between its lags; 0 beyond the last."""
    return np.interp(lags, np.arange(len(similarity)), similarity, right=0.0)


@lru_cache(maxsize=1)
def _front_end() -> LogMel:
    return LogMel(
        LogMelConfig(
            sample_rate_hz=_RATE_HZ,
            window_length=512,
            fft_size=512,
            hop_length=_RATE_HZ // _FRAME_RATE_HZ,
            num_mels=40,
            low_hz=60.0,
            high_hz=7_600.0,
            floor=1e-2,
        )
    )
