"""What semantic tokens carry: music that shares them, beside music that shares the caption only.

The paper's study by ear (MusicLM, Section 5): with conditioning and semantic tokens fixed and the
acoustic ones drawn anew, rhythm and part of the melody stay; with conditioning alone fixed, both
vary. Here as numbers, for pairs of clips: `rhythm`, the correlation of their onset curves;
`melody`, the mean cosine of their pitch classes, frame by frame. Each caption gives one pair of
either kind that share a clip, so the differences are paired.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from musiclm.audio.waveform import Waveform
from musiclm.core.errors import AudioError, DataError
from musiclm.evaluation.distances import Interval, bootstrap_mean
from musiclm.evaluation.rhythm import constant_as_silence, onset_curve

_RATE_HZ = 11_025
_FFT_SIZE = 4096
_HOP_LENGTH = 1102
_LOW_HZ, _HIGH_HZ = 100.0, 2_100.0


@dataclass(frozen=True)
class InformationReport:
    """Similarities of pairs by measure (`rhythm`, `melody`), means over captions.

    Attributes:
        same_semantic: Of pairs that share conditioning and semantic tokens.
        same_caption: Of pairs that share conditioning only.
        difference: The first minus the second, caption by caption.
        num_captions: How many.
    """

    same_semantic: dict[str, float]
    same_caption: dict[str, float]
    difference: dict[str, Interval]
    num_captions: int


def compare_pairs(
    clips: Sequence[Waveform],
    same_semantic: Sequence[Waveform],
    same_caption: Sequence[Waveform],
    *,
    generator: np.random.Generator,
) -> InformationReport:
    """Compares each clip with its two relatives.

    Args:
        clips: One a caption.
        same_semantic: Of the same conditioning and semantic tokens as the clip at that place.
        same_caption: Of the same conditioning tokens.
        generator: Of the bootstrap.

    Raises:
        DataError: The numbers of clips differ, or there are fewer than two.
        AudioError: A clip is shorter than three seconds.
    """
    if not len(clips) == len(same_semantic) == len(same_caption) >= 2:
        raise DataError(
            f"{len(clips)} clips with {len(same_semantic)} and {len(same_caption)} relatives; at "
            "least two of each, and as many, are needed."
        )
    measures = {"rhythm": rhythm_similarity, "melody": melody_similarity}
    close = {n: _scores(f, clips, same_semantic) for n, f in measures.items()}
    loose = {n: _scores(f, clips, same_caption) for n, f in measures.items()}
    return InformationReport(
        same_semantic={name: float(values.mean()) for name, values in close.items()},
        same_caption={name: float(values.mean()) for name, values in loose.items()},
        difference={
            name: bootstrap_mean(close[name] - loose[name], generator=generator)
            for name in measures
        },
        num_captions=len(clips),
    )


def rhythm_similarity(one: Waveform, other: Waveform) -> float:
    """Correlation of the onset curves, each blurred by 50 ms; 0 where one has no onsets."""
    blur = np.hanning(11) / np.hanning(11).sum()
    curves = [np.convolve(onset_curve(clip), blur, mode="same") for clip in (one, other)]
    length = min(map(len, curves))
    first, second = (curve[:length] - curve[:length].mean() for curve in curves)
    scale = np.sqrt((first**2).sum() * (second**2).sum())
    return float((first * second).sum() / scale) if scale > 0 else 0.0


def melody_similarity(one: Waveform, other: Waveform) -> float:
    """Mean cosine of the pitch classes of frames (0.1 s) at the same time, each less its mean."""
    first, second = frame_chroma(one), frame_chroma(other)
    length = min(first.shape[1], second.shape[1])
    first, second = first[:, :length], second[:, :length]
    scales = np.linalg.norm(first, axis=0) * np.linalg.norm(second, axis=0)
    is_sounding = scales > 0
    if not is_sounding.any():
        return 0.0
    return float(((first * second).sum(axis=0)[is_sounding] / scales[is_sounding]).mean())


def frame_chroma(waveform: Waveform) -> Float[np.ndarray, "12 frames"]:
    """How far each pitch class stands out above the mean of all, ten frames a second.

    Raises:
        AudioError: The clip is shorter than one spectrum.
    """
    samples = constant_as_silence(waveform).resampled(_RATE_HZ).samples.float().cpu()
    if samples.shape[0] < _FFT_SIZE:
        raise AudioError(f"Melody needs {_FFT_SIZE / _RATE_HZ:.2f} s of audio or more.")
    spectrum = torch.stft(
        samples,
        _FFT_SIZE,
        _HOP_LENGTH,
        window=torch.hann_window(_FFT_SIZE),
        center=False,
        return_complex=True,
    ).abs()
    bins_hz = torch.arange(spectrum.shape[0]) * _RATE_HZ / _FFT_SIZE
    is_used = (bins_hz >= _LOW_HZ) & (bins_hz <= _HIGH_HZ)
    classes = (69 + 12 * torch.log2(bins_hz[is_used] / 440)).round().long() % 12
    chroma = torch.zeros(12, spectrum.shape[1]).index_add_(0, classes, spectrum[is_used].sqrt())
    return (chroma - chroma.mean(dim=0)).numpy()


def _scores(
    measure: Callable[[Waveform, Waveform], float],
    clips: Sequence[Waveform],
    others: Sequence[Waveform],
) -> Float[np.ndarray, " pairs"]:
    return np.array([measure(one, other) for one, other in zip(clips, others, strict=True)])
