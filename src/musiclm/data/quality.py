"""Quality: what is wrong with a piece of audio, and which pieces are the same."""

from collections.abc import Sequence
from itertools import pairwise

import torch

from musiclm.audio.waveform import Waveform

_SILENT_DB = -60.0
_FINGERPRINT_BANDS = 32


def quality_flags(wave: Waveform, *, min_seconds: float = 1.0) -> tuple[str, ...]:
    """Names every fault of a waveform; none for usable audio.

    Returns:
        Of `not finite`, `too short`, `silent`, `mostly silent`, `clipped`, `offset`.
    """
    samples = wave.samples
    if not bool(torch.isfinite(samples).all()):
        return ("not finite",)
    flags: list[str] = []
    if wave.duration_seconds < min_seconds:
        flags.append("too short")
    if wave.num_samples == 0 or _level_db(samples) < _SILENT_DB:
        return (*flags, "silent")
    block = wave.sample_rate_hz // 10
    whole = samples[: wave.num_samples // block * block].reshape(-1, block)
    if whole.shape[0] and float((whole.square().mean(1) < 1e-6).float().mean()) > 0.7:
        flags.append("mostly silent")
    # Clipping shows as runs of samples that stand still at the extreme.
    peak = samples.abs().max()
    at_peak = samples.abs() >= peak * 0.9999
    runs = (at_peak[2:] & at_peak[1:-1] & at_peak[:-2]).sum()
    if float(peak) > 0.9 and int(runs) > wave.num_samples // 5_000:
        flags.append("clipped")
    if float(samples.mean().abs()) > 0.05:
        flags.append("offset")
    return tuple(flags)


def _level_db(samples: torch.Tensor) -> float:
    return float(10 * torch.log10(samples.double().square().mean() + 1e-20))


def fingerprint(wave: Waveform) -> bytes:
    """A coarse picture of the spectrum's ups and downs over time; equal for equal recordings.

    Loudness does not matter: each bit says whether a band grew against its neighbour between two
    of 64 stretches of the recording.
    """
    count = 64
    length = max(wave.num_samples // count, 1024)
    samples = wave.samples[: length * count]
    padded = torch.nn.functional.pad(samples, (0, length * count - samples.shape[0]))
    frames = padded.reshape(count, length)[:, :1024] * torch.hann_window(1024)
    power = torch.fft.rfft(frames).abs().square()[:, 1:]
    edges = torch.logspace(0, 9, _FINGERPRINT_BANDS + 1, base=2).round().long()
    edges = torch.maximum(edges, torch.arange(_FINGERPRINT_BANDS + 1))
    bands = torch.stack(
        [power[:, a : max(int(b), int(a) + 1)].sum(1) for a, b in pairwise(edges)]
    ).T
    change = (bands[:, 1:] - bands[:, :-1]).diff(dim=0)
    # Changes near nothing would only tell the noise, which conversions alter.
    bits = (change > 1e-3 * bands.max()).flatten().to(torch.uint8)
    bits = torch.nn.functional.pad(bits, (0, -bits.shape[0] % 8)).reshape(-1, 8)
    weights = 2 ** torch.arange(8, dtype=torch.uint8)
    return bytes((bits * weights).sum(1).tolist())


def duplicates(prints: Sequence[bytes], *, max_difference: float = 0.06) -> list[tuple[int, int]]:
    """Pairs of fingerprints that differ in few bits: the later index first, then the earlier.

    Each index is reported at most once, against the first it repeats.
    """
    if not prints:
        return []
    bits = torch.tensor([list(p) for p in prints], dtype=torch.uint8)
    bits = ((bits[:, :, None] >> torch.arange(8, dtype=torch.uint8)) & 1).flatten(1).float() * 2 - 1
    pairs: list[tuple[int, int]] = []
    for index in range(1, bits.shape[0]):
        agreement = bits[:index] @ bits[index] / bits.shape[1]
        best = int(agreement.argmax())
        if (1 - float(agreement[best])) / 2 <= max_difference:
            pairs.append((index, best))
    return pairs
