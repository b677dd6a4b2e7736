"""Voices: a melody as a hum, a whistle or a plain instrument, synthesised with numpy alone.

Pitch and loudness are curves at 200 Hz; the sound is a sum of partials whose strengths follow them
(a glottal source through the formants of a vowel, for hums), with breath, room and microphone
noise. A second of sound takes a few milliseconds.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from numpy.typing import NDArray

from musiclm.core.errors import ConfigError
from musiclm.data.melody.line import Line, SingerErrors, performed

VoiceKind = Literal["hum", "whistle", "instrument"]
VOICE_KINDS: tuple[VoiceKind, ...] = get_args(VoiceKind)
_CONTROL_HZ = 200
_MAX_PARTIALS = 24
_BLOCK_TICKS = 64
_RANGES = {"hum": (45.0, 66.0), "whistle": (76.0, 92.0), "instrument": (50.0, 84.0)}
# Formants (Hz) of vowels and of a closed mouth: rough averages of adult speakers.
_FORMANTS = (
    (270, 1000, 2300), (300, 2300, 3000), (500, 1800, 2500), (730, 1100, 2450), (570, 850, 2400),
    (320, 800, 2250), (250, 1100, 2200),
)  # fmt: skip
Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Curves:
    """How a voice moves, at 200 Hz.

    Attributes:
        pitches: MIDI numbers.
        levels: Amplitude, 0 to 1.
        onset_seconds: Time since the newest note began.
        note: Index of the newest note.
    """

    pitches: Float[ndarray, " ticks"]
    levels: Float[ndarray, " ticks"]
    onset_seconds: Float[ndarray, " ticks"]
    note: NDArray[np.int64]


def sing(
    draw: np.random.Generator,
    line: Line,
    duration_seconds: float,
    kind: VoiceKind,
    sample_rate_hz: int,
    *,
    errors: SingerErrors | None = None,
) -> Samples:
    """A melody in one voice, moved by octaves into its range.

    Args:
        draw: Chooses the voice's character, its errors, its room and its noise.
        line: What is performed.
        duration_seconds: Length of the sound; later notes are left out.
        kind: Who performs it.
        sample_rate_hz: Of the samples; a multiple of 200.
        errors: How far hums and whistles stray; instruments play what is written.

    Raises:
        ConfigError: The rate is another one.
    """
    if sample_rate_hz < _CONTROL_HZ or sample_rate_hz % _CONTROL_HZ:
        raise ConfigError(f"Voices sing at multiples of {_CONTROL_HZ} Hz, not at {sample_rate_hz}.")
    num_samples = round(duration_seconds * sample_rate_hz)
    low, high = _RANGES[kind]
    spread = draw.uniform(0, max(high - low - 12.0, 0.1))
    line = line.moved_into(low + spread, low + spread + 12.0)
    if kind != "instrument":
        line = performed(draw, line, errors or SingerErrors())
        line = line.transposed(draw.uniform(-0.3, 0.3))
    if not line.num_notes:
        return np.zeros(num_samples, np.float32)
    curves = _curves(draw, line, duration_seconds, kind)
    hz = 440.0 * 2 ** ((curves.pitches - 69) / 12)
    strengths = _strengths(draw, curves, hz, kind, sample_rate_hz)
    voiced = _partials(hz, strengths, num_samples, sample_rate_hz)
    voiced += _breath(draw, curves, num_samples, kind, sample_rate_hz)
    return in_place(draw, voiced, sample_rate_hz)


def in_place(draw: np.random.Generator, samples: Samples, sample_rate_hz: int) -> Samples:
    """A dry sound as a microphone in a room hears it: an echoing tail, hiss, some gain."""
    if draw.random() < 0.7:
        length = int(draw.uniform(0.08, 0.4) * sample_rate_hz)
        tail = draw.standard_normal(length) * np.exp(-6.0 * np.arange(length) / length)
        tail = (tail * draw.uniform(0.05, 0.35) / np.sqrt(np.sum(tail**2))).astype(np.float32)
        size = 1 << (len(samples) + length - 1).bit_length()
        wet = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(tail, size), size)
        samples = samples + wet[: len(samples)].astype(np.float32)
    power = float(np.mean(samples**2)) + 1e-9
    noise = draw.standard_normal(len(samples), dtype=np.float32)
    noise *= np.float32(np.sqrt(power) * 10 ** (-draw.uniform(12, 50) / 20))
    samples = samples + noise
    peak = float(np.abs(samples).max()) + 1e-9
    return (samples * np.float32(10 ** (-draw.uniform(1, 20) / 20) / peak)).astype(np.float32)


def _curves(
    draw: np.random.Generator, line: Line, duration_seconds: float, kind: VoiceKind
) -> Curves:
    """Glides between notes, scoops into them, vibrato; attack, decay and release."""
    ticks = (np.arange(int(duration_seconds * _CONTROL_HZ) + 2)) / _CONTROL_HZ
    note = np.maximum(np.searchsorted(line.starts, ticks, side="right") - 1, 0)
    since = ticks - line.starts[note]
    is_sung = kind != "instrument"
    pitches = line.pitches[note]
    glide = int(draw.uniform(4, 18)) if is_sung else 1
    window = np.hanning(glide + 2)
    padded = np.pad(pitches, (len(window) // 2, (len(window) - 1) // 2), mode="edge")
    pitches = np.convolve(padded, window / window.sum(), mode="valid")
    if is_sung:
        pitches = pitches - draw.uniform(0, 1.0) * np.exp(-np.maximum(since, 0) / 0.05)
        pitches += np.interp(
            ticks,
            np.arange(0, ticks[-1] + 1, 0.5),
            0.12 * draw.standard_normal(len(np.arange(0, ticks[-1] + 1, 0.5))),
        )
    depth = draw.uniform(0.0, 0.5) if draw.random() < 0.6 else 0.0
    swell = np.clip((since - 0.15) / 0.3, 0, 1)
    pitches = pitches + depth * swell * np.sin(
        2 * np.pi * draw.uniform(4.5, 6.5) * ticks + draw.uniform(0, 6)
    )
    attack = draw.uniform(0.004, 0.02) if kind == "instrument" else draw.uniform(0.015, 0.06)
    release = draw.uniform(0.02, 0.12)
    past = np.maximum(ticks - line.ends[note], 0)
    levels = np.where(since >= 0, 1 - np.exp(-np.maximum(since, 0) / attack), 0.0)
    levels = levels * np.exp(-past / release)
    if kind == "instrument" and draw.random() < 0.6:
        levels = levels * np.exp(-np.maximum(since, 0) / draw.uniform(0.15, 1.2))
    strength = draw.uniform(0.6, 1.0, line.num_notes)
    return Curves(pitches, levels * strength[note], since, note)


def _strengths(
    draw: np.random.Generator,
    curves: Curves,
    hz: Float[ndarray, " ticks"],
    kind: VoiceKind,
    sample_rate_hz: int,
) -> Float[ndarray, "partials ticks"]:
    """The amplitude of each partial over time; none above nine tenths of the band."""
    lowest = float(np.quantile(hz, 0.1))
    count = int(np.clip(0.45 * sample_rate_hz / lowest, 2, _MAX_PARTIALS))
    numbers = np.arange(1, count + 1)[:, None]
    if kind == "whistle":
        spectrum = np.where(numbers == 1, 1.0, draw.uniform(0.0, 0.08) / numbers**2)
        strengths = np.broadcast_to(spectrum, (count, len(hz)))
    elif kind == "hum":
        strengths = numbers ** -draw.uniform(0.7, 1.6) * _vowels(draw, curves, numbers * hz)
    else:
        tilt = draw.uniform(0.6, 2.6)
        even = draw.uniform(0.1, 1.0) if draw.random() < 0.4 else 1.0
        spectrum = numbers**-tilt * np.where(numbers % 2 == 0, even, 1.0)
        spectrum = spectrum * np.exp(0.5 * draw.standard_normal(spectrum.shape))
        damping = draw.uniform(0.0, 0.6) * np.maximum(curves.onset_seconds, 0)
        strengths = spectrum * np.exp(-numbers * damping)
    in_band = np.clip((0.48 * sample_rate_hz - numbers * hz) / (0.05 * sample_rate_hz), 0, 1)
    return strengths * in_band * curves.levels


def _vowels(
    draw: np.random.Generator, curves: Curves, hz: Float[ndarray, "partials ticks"]
) -> Float[ndarray, "partials ticks"]:
    """The formants' gain at each partial; a voice keeps one vowel or sings another each note."""
    chosen = np.full(int(curves.note.max()) + 1, int(draw.integers(len(_FORMANTS))))
    if draw.random() < 0.4:
        chosen = draw.integers(len(_FORMANTS), size=len(chosen))
    size = draw.uniform(0.85, 1.2)
    gains = np.full(hz.shape, 0.02)
    for formant, strength in zip(range(3), (1.0, 0.5, 0.25), strict=True):
        centres = size * np.array([vowel[formant] for vowel in _FORMANTS])[chosen[curves.note]]
        width = 60 + 0.08 * centres
        gains = gains + strength / (1 + ((hz - centres) / width) ** 2)
    return gains


def _partials(
    hz: Float[ndarray, " ticks"],
    strengths: Float[ndarray, "partials ticks"],
    num_samples: int,
    sample_rate_hz: int,
) -> Samples:
    """The sum of partials, by Clenshaw's recurrence: no sine but the fundamental's is taken.

    Block by block, so that the arrays of the recurrence stay in the processor's cache.
    """
    count, size = _num_ticks(num_samples, sample_rate_hz)
    phase = 2 * np.pi * np.cumsum(_between_ticks(hz, count, size)) / sample_rate_hz
    phase = np.mod(phase, 2 * np.pi).astype(np.float32).reshape(count, size)
    share = np.arange(size, dtype=np.float32) / np.float32(size)
    towards = np.stack([1 - share, share])
    ends = np.stack([strengths[:, :count], strengths[:, 1 : count + 1]], axis=2).astype(np.float32)
    result = np.empty((count, size), np.float32)
    for first in range(0, count, _BLOCK_TICKS):
        block = slice(first, first + _BLOCK_TICKS)
        twice_cosine = 2 * np.cos(phase[block])
        latest, before, following = (np.zeros_like(twice_cosine) for _ in range(3))
        for weights in (ends[:, block] @ towards)[::-1]:
            np.multiply(twice_cosine, latest, out=following)
            following -= before
            following += weights
            latest, before, following = following, latest, before
        result[block] = latest * np.sin(phase[block])
    return result.reshape(-1)[:num_samples]


def _breath(
    draw: np.random.Generator,
    curves: Curves,
    num_samples: int,
    kind: VoiceKind,
    sample_rate_hz: int,
) -> Samples:
    """Air that is heard beside the tone."""
    if kind == "instrument":
        return np.zeros(num_samples, np.float32)
    noise = draw.standard_normal(num_samples + 1, dtype=np.float32)
    noise = noise[1:] - np.float32(0.8) * noise[:-1]
    share = 10 ** (-draw.uniform(20, 45) / 20)
    count, size = _num_ticks(num_samples, sample_rate_hz)
    levels = _between_ticks((curves.levels * share).astype(np.float32), count, size)
    return (noise * levels.reshape(-1)[:num_samples]).astype(np.float32)


def _num_ticks(num_samples: int, sample_rate_hz: int) -> tuple[int, int]:
    """How many ticks cover the samples, and the samples of each."""
    size = sample_rate_hz // _CONTROL_HZ
    return -(-num_samples // size), size


def _between_ticks(
    curve: Float[ndarray, " ticks"], count: int, size: int
) -> Float[ndarray, "count size"]:
    """Straight lines from each of the first `count` ticks to the next one."""
    share = (np.arange(size) / size).astype(curve.dtype)
    return curve[:count, None] + (curve[1 : count + 1] - curve[:count])[:, None] * share
