"""Pitch: how periodic a sound is, at what frequency, whether tones last; no model needed."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from musiclm.audio.waveform import Waveform

_RATE_HZ = 12_000
_HOP = 240
_WINDOW = 1_200
_BLOCK_FRAMES = 1_000
_LOW_HZ = 65.0
_HIGH_HZ = 2_000.0
_LONG_WINDOW = 2_400
_LONG_HOP = 600
_FLOOR_BINS = 64


@dataclass(frozen=True)
class PitchTrack:
    """What sounds in each frame of 20 ms.

    Attributes:
        levels: Root mean square.
        clarity: How alike the sound is to itself one period later; 1 is perfectly periodic.
        pitches: MIDI number of that period.
    """

    levels: Float[Tensor, " frames"]
    clarity: Float[Tensor, " frames"]
    pitches: Float[Tensor, " frames"]

    frame_seconds = _HOP / _RATE_HZ


def track_pitch(waveform: Waveform) -> PitchTrack:
    """The track of a waveform of any rate; windows of 100 ms, 65 to 2,000 Hz."""
    samples = waveform.resampled(_RATE_HZ).samples.float()
    samples = functional.pad(samples, (_WINDOW // 2, _WINDOW))
    blocks = samples.unfold(0, _WINDOW, _HOP).split(_BLOCK_FRAMES)  # an hour fits into memory
    tracks = [_track_frames(block) for block in blocks]
    return PitchTrack(
        torch.cat([track.levels for track in tracks]),
        torch.cat([track.clarity for track in tracks]),
        torch.cat([track.pitches for track in tracks]),
    )


def _track_frames(frames: Float[Tensor, "frames samples"]) -> PitchTrack:
    """The track of windows, one by one."""
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
    return PitchTrack(levels, clarity, 69 + 12 * torch.log2(hz / 440))


def held_tones(waveform: Waveform) -> float:
    """Share of the power that lies in tones which last for 50 ms, however many sound at once.

    A tone is a bin of the spectrum (100 to 4,000 Hz, windows of 200 ms) ten times as strong as the
    median of those around it, and about as strong one frame later. Noise of any colour has none,
    strokes and speech have few, music of several instruments has many: their common period is none
    that autocorrelation finds. Frames 20 dB below the loudest are left out.
    """
    samples = functional.pad(
        waveform.resampled(_RATE_HZ).samples.float(), (_LONG_HOP, _LONG_WINDOW)
    )
    frames = samples.unfold(0, _LONG_WINDOW, _LONG_HOP)
    levels = frames.square().mean(dim=1).sqrt()
    size = 4 * 1024
    power = torch.fft.rfft(frames * torch.hann_window(_LONG_WINDOW), size).abs().square()
    first = round(100 * size / _RATE_HZ)
    count = round(3_900 * size / _RATE_HZ) // _FLOOR_BINS
    blocks = power[:, first : first + count * _FLOOR_BINS].unflatten(1, (count, _FLOOR_BINS))
    is_tone = (blocks > 10 * blocks.median(dim=2, keepdim=True).values).flatten(1)
    power = blocks.flatten(1)
    before, after = power[:-1], power[1:]
    is_held = is_tone[:-1] & is_tone[1:] & (after < 4 * before) & (before < 4 * after)
    shares = (after * is_held).sum(dim=1) / after.sum(dim=1).clamp(min=1e-12)
    is_loud = levels[1:] > 0.1 * torch.quantile(levels, 0.95)
    return float(shares[is_loud].mean()) if bool(is_loud.any()) else 0.0
