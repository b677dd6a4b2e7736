"""Mixing: stems to one finished clip (balance, room, fades, loudness)."""

import numpy as np
import torch
from numpy.typing import NDArray

from musiclm.audio.waveform import Waveform
from musiclm.data.rendered.synthesizer import SAMPLE_RATE_HZ

Samples = NDArray[np.float32]
_DECAY_SECONDS = {"room": 0.5, "hall": 1.7}
_WET_DB = {"room": -15.0, "hall": -11.0}
_LOUDNESS_LUFS = {"soft": -19.0, "medium": -16.5, "loud": -15.0}


def balanced(lead: Samples, rest: Samples, lead_above_db: float) -> Samples:
    """Adds two stems so that the lead, where it plays, is louder than the rest by so many dB."""
    if not rest.any():
        return lead
    block = SAMPLE_RATE_HZ // 10
    whole = len(lead) // block * block
    power = (lead[:whole].reshape(-1, block) ** 2).mean(axis=1)
    is_playing = power > 0.02 * power.max(initial=1e-12)
    behind = (rest[:whole].reshape(-1, block) ** 2).mean(axis=1)[is_playing].mean()
    gain = 10 ** (lead_above_db / 20) * np.sqrt(behind / max(power[is_playing].mean(), 1e-12))
    return lead * np.float32(np.clip(gain, 0.2, 6.0)) + rest


def in_room(samples: Samples, room: str, index: int) -> Samples:
    """Adds the reverberation of a room or hall: decaying noise, darker as it dies away."""
    if room not in _DECAY_SECONDS:
        return samples
    decay = _DECAY_SECONDS[room]
    draw = np.random.default_rng([5, index % 8])
    length = int(decay * SAMPLE_RATE_HZ)
    time = np.arange(length) / SAMPLE_RATE_HZ
    noise = draw.standard_normal(length)
    smooth = np.convolve(noise, np.full(6, 1 / 6), mode="same")
    share = np.exp(-4 * time / decay)
    response = (noise * share + smooth * 2 * (1 - share)) * 10 ** (-3 * time / decay)
    response[: int(0.012 * SAMPLE_RATE_HZ)] = 0
    response *= 10 ** (_WET_DB[room] / 20) / np.sqrt(np.sum(response**2))
    return samples + _convolved(samples, response.astype(np.float32))


def _convolved(samples: Samples, response: Samples) -> Samples:
    """Overlap-add convolution, cut to the length of `samples`."""
    size = 1 << (2 * len(response) - 1).bit_length()
    step = size - len(response) + 1
    count = -(-len(samples) // step)
    blocks = np.zeros((count, step), dtype=np.float32)
    blocks.reshape(-1)[: len(samples)] = samples
    spectrum = np.fft.rfft(blocks, size) * np.fft.rfft(response, size)
    pieces = np.fft.irfft(spectrum, size).astype(np.float32)
    result = np.zeros((count - 1) * step + size, dtype=np.float32)
    for index, piece in enumerate(pieces):
        result[index * step : index * step + size] += piece
    return result[: len(samples)]


def finished(samples: Samples, dynamics: str, fade_seconds: float) -> Waveform:
    """Takes out the offset, fades the ends and sets the loudness for the dynamics."""
    samples = samples - samples.mean()
    count = min(int(fade_seconds * SAMPLE_RATE_HZ), len(samples))
    samples[len(samples) - count :] *= np.linspace(1, 0, count, dtype=np.float32) ** 2
    start = min(240, len(samples))
    samples[:start] *= np.linspace(0, 1, start, dtype=np.float32)
    wave = Waveform(torch.from_numpy(np.ascontiguousarray(samples, np.float32)), SAMPLE_RATE_HZ)
    return wave.loudness_normalised(_LOUDNESS_LUFS[dynamics])
