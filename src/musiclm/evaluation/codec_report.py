"""The codec's figures on held-out clips in one pass: depths, each level, codebooks, Opus beside.

Conventions: an error is the standard error of a mean over clips. The gain of a level is the drop
in log-mel distance that it brings to the same clip, in decibels.
"""

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from musiclm.audio.waveform import Waveform
from musiclm.codec.losses import log_mel_distance_db
from musiclm.codec.soundstream import SoundStream
from musiclm.core.errors import AudioError, DataError
from musiclm.evaluation.codec_quality import (
    NoteListener,
    Posteriors,
    note_f1,
    opus_round_trip,
    si_sdr_db,
)
from musiclm.evaluation.stage_metrics import unigram_entropy_nats
from musiclm.evaluation.visqol import Visqol


@dataclass(frozen=True)
class CodecJudges:
    """What scores audio; None leaves that figure out.

    Attributes:
        listener: Hears notes.
        visqol: Estimates heard quality.
        num_visqol_clips: ViSQOL is slow: only the first so many clips are given to it.
    """

    listener: NoteListener | None
    visqol: Visqol | None
    num_visqol_clips: int = 20


@dataclass(frozen=True)
class Mean:
    """A mean over clips, its standard error (None of one clip) and the number of clips."""

    value: float
    error: float | None
    num_clips: int


@dataclass(frozen=True)
class CodingReport:
    """One way of coding; None where there was no judge.

    Attributes:
        bitrate_kbps: Of the codes; what Opus was asked for.
        note_f1: Of the notes heard in the reconstruction; 1 is best.
        visqol: Mean opinion score, at most about 4.73.
        log_mel_db: Log-mel distance; 0 is best.
        si_sdr_db: Signal-to-distortion ratio; more is nearer, below 0 where phases differ.
    """

    bitrate_kbps: float
    note_f1: Mean | None
    visqol: Mean | None
    log_mel_db: Mean
    si_sdr_db: Mean


@dataclass(frozen=True)
class LevelReport:
    """One level of the codec.

    Attributes:
        level: From 1.
        log_mel_db: Distance with this and all levels before it.
        gain_db: What the level takes off the distance of the levels before it; None of level 1.
        perplexity: Of the level's codes.
    """

    level: int
    log_mel_db: Mean
    gain_db: Mean | None
    perplexity: float


@dataclass(frozen=True)
class CodecReport:
    """All figures; `codings` is keyed by `12 levels`, `Opus 6` and the like."""

    num_clips: int
    codebook_size: int
    codings: Mapping[str, CodingReport]
    levels: Sequence[LevelReport]

    @property
    def does_each_level_help(self) -> bool:
        """Whether the gain of every level is above zero."""
        return all(level.gain_db.value > 0 for level in self.levels if level.gain_db)


@torch.no_grad()
def report_on_codec(
    codec: SoundStream,
    clips: Iterable[Waveform],
    judges: CodecJudges,
    *,
    num_levels: Sequence[int] = (12, 8, 4),
    opus_kbps: Sequence[int] = (6, 12, 24),
) -> CodecReport:
    """Scores a codec at several depths and Opus at several bitrates on the same clips.

    Depths beyond the codec's own are left out.

    Raises:
        DataError: There is no clip.
        DependencyError: Opus is asked for and not installed.
    """
    depth = codec.config.quantizer.num_quantizers
    size = codec.config.quantizer.codebook_size
    chosen = [count for count in num_levels if count <= depth]
    scores = {name: _Scores() for name in _names(chosen, opus_kbps)}
    distances: list[list[float]] = [[] for _ in range(depth)]
    codes: list[Tensor] = []
    for clip in clips:
        original = clip.resampled(codec.sample_rate_hz)
        found, decoded = _decoded_by_level(codec, original)
        codes.append(found)
        for level, estimate in enumerate(decoded):
            distances[level].append(_distance(original, estimate))
        wanted = judges.listener.posteriors(original) if judges.listener else None
        estimates = [decoded[count - 1] for count in chosen]
        estimates += [opus_round_trip(original, kbps) for kbps in opus_kbps]
        for score, one in zip(scores.values(), estimates, strict=True):
            score.add(original, wanted, one, judges)
    if not codes:
        raise DataError("There is no clip to measure the codec with.")
    full_kbps = codec.config.bitrate_bps / 1000
    rates = [*(full_kbps * count / depth for count in chosen), *opus_kbps]
    perplexities = unigram_entropy_nats(torch.cat(codes, dim=2), size).exp().tolist()
    return CodecReport(
        num_clips=len(codes),
        codebook_size=size,
        codings={
            name: score.report(rate)
            for (name, score), rate in zip(scores.items(), rates, strict=True)
        },
        levels=_level_reports(distances, perplexities),
    )


class _Scores:
    """The scores of one way of coding, clip by clip."""

    def __init__(self) -> None:
        self.notes: list[float] = []
        self.opinions: list[float] = []
        self.distances: list[float] = []
        self.ratios: list[float] = []

    def add(
        self,
        original: Waveform,
        wanted: Posteriors | None,
        estimate: Waveform,
        judges: CodecJudges,
    ) -> None:
        if judges.listener is not None and wanted is not None:
            self.notes.append(note_f1(wanted, judges.listener.posteriors(estimate)))
        if judges.visqol is not None and len(self.distances) < judges.num_visqol_clips:
            with contextlib.suppress(AudioError):  # Silent, or shorter than a second.
                self.opinions.append(judges.visqol.score(original, estimate))
        self.distances.append(_distance(original, estimate))
        self.ratios.append(si_sdr_db(original.samples, estimate.samples))

    def report(self, bitrate_kbps: float) -> CodingReport:
        notes, opinions = (_mean(v) if v else None for v in (self.notes, self.opinions))
        return CodingReport(
            bitrate_kbps, notes, opinions, _mean(self.distances), _mean(self.ratios)
        )


def _decoded_by_level(codec: SoundStream, original: Waveform) -> tuple[Tensor, list[Waveform]]:
    """The codes, and the audio of the first 1, 2, ... levels."""
    device = next(codec.parameters()).device
    codes = codec.encode(original.samples[None].to(device))
    decoded: list[Waveform] = []
    for count in range(1, codes.shape[1] + 1):
        samples = codec.decode(codes[:, :count])[0, : original.num_samples]
        decoded.append(Waveform(samples.float().cpu(), codec.sample_rate_hz))
    return codes.cpu(), decoded


def _distance(original: Waveform, estimate: Waveform) -> float:
    return float(log_mel_distance_db(original.samples[None], estimate.samples[None]))


def _level_reports(
    distances: Sequence[Sequence[float]], perplexities: Sequence[float]
) -> list[LevelReport]:
    reports: list[LevelReport] = []
    for index, (these, perplexity) in enumerate(zip(distances, perplexities, strict=True)):
        gain = None
        if index:
            before = distances[index - 1]
            gain = _mean([old - new for old, new in zip(before, these, strict=True)])
        reports.append(LevelReport(index + 1, _mean(these), gain, perplexity))
    return reports


def _mean(values: Sequence[float]) -> Mean:
    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return Mean(mean, None, count)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return Mean(mean, math.sqrt(variance / count), count)


def _names(num_levels: Sequence[int], opus_kbps: Sequence[int]) -> list[str]:
    return [*(f"{count} levels" for count in num_levels), *(f"Opus {rate}" for rate in opus_kbps)]
