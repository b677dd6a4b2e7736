"""Pitch: how periodic a sound is, and at what frequency, by autocorrelation; no model needed."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from musiclm.audio.waveform import Waveform

_RATE_HZ = 12_000
_HOP = 240
_WINDOW = 1_200
_LOW_HZ = 65.0
_HIGH_HZ = 2_000.0


@dataclass(frozen=True)
class PitchTrack:
    """What sounds in each frame of 20 ms.

    Attributes:
        levels: Root mean square.
        clarity: How alike the sound is to itself one period later; 1 is perfectly periodic.
        pitches: MIDI number of that period.
        flatness: Geometric over arithmetic mean of the power spectrum; 1 is white noise.
    """

    levels: Float[Tensor, " frames"]
    clarity: Float[Tensor, " frames"]
    pitches: Float[Tensor, " frames"]
    flatness: Float[Tensor, " frames"]

    frame_seconds = _HOP / _RATE_HZ


def track_pitch(waveform: Waveform) -> PitchTrack:
    """The track of a waveform of any rate; windows of 100 ms, 65 to 2,000 Hz."""
    samples = waveform.resampled(_RATE_HZ).samples.float()
    samples = functional.pad(samples, (_WINDOW // 2, _WINDOW))
    frames = samples.unfold(0, _WINDOW, _HOP)
    frames = frames - frames.mean(dim=1, keepdim=True)
    levels = frames.square().mean(dim=1).sqrt()
    tapered = frames * torch.hann_window(_WINDOW)
    power = torch.fft.rfft(tapered, 4 * 1024).abs().square()
    likeness = torch.fft.irfft(power)
    window_power = torch.fft.rfft(torch.hann_window(_WINDOW), 4 * 1024).abs().square()
    window_likeness = torch.fft.irfft(window_power)
    first, last = int(_RATE_HZ / _HIGH_HZ), int(_RATE_HZ / _LOW_HZ)
    share = likeness[:, : last + 2] / likeness[:, :1].clamp(min=1e-9)
    share = share / (window_likeness[: last + 2] / window_likeness[0])
    inner = share[:, first : last + 1]
    is_peak = (inner >= share[:, first - 1 : last]) & (inner > share[:, first + 1 : last + 2])
    peaks = torch.where(is_peak, inner, torch.zeros(()))
    # The shortest of the periods that are nearly as good as the best: its multiples are as good.
    best = peaks.amax(dim=1, keepdim=True)
    lag = (peaks >= 0.9 * best).int().argmax(dim=1)
    clarity = peaks.gather(1, lag[:, None])[:, 0].clamp(0, 1)
    hz = _RATE_HZ / (lag + first).float()
    band = power[:, 8:].clamp(min=1e-12)
    flatness = band.log().mean(dim=1).exp() / band.mean(dim=1)
    return PitchTrack(levels, clarity, 69 + 12 * torch.log2(hz / 440), flatness)
