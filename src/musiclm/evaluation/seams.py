"""Seams: is the join of two windows heard? Spectral flux and level there against elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from musiclm.audio.spectrogram import LogMel, LogMelConfig
from musiclm.audio.waveform import Waveform

_REACH_SECONDS = 0.06
_LEVEL_SECONDS = 0.25


@dataclass(frozen=True)
class SeamReport:
    """Medians at the seams over those of all other moments; about 1 when nothing is heard.

    Attributes:
        flux_ratio: Of the spectral flux (rise of the log-mel spectrum from frame to frame).
        level_ratio: Of the step in level (dB) from the quarter second before to that after.
        flux_percentile: Mean share of other moments whose flux is below a seam's; 0.5 is typical.
        level_percentile: The same for the step in level.
        num_seams: How many seams there were.
    """

    flux_ratio: float
    level_ratio: float
    flux_percentile: float
    level_percentile: float
    num_seams: int


def measure_seams(waveform: Waveform, seam_seconds: Sequence[float]) -> SeamReport:
    """Compares the moments of the seams with all others that are not near one.

    Args:
        waveform: The music.
        seam_seconds: Where windows join; those too near an end are left out.
    """
    rate = waveform.sample_rate_hz
    hop = rate // 100
    config = LogMelConfig(sample_rate_hz=rate, hop_length=hop, high_hz=0.45 * rate)
    log_mel = LogMel(config)(waveform.samples[None].float())[0]
    flux = log_mel.diff(dim=1).clamp(min=0).mean(dim=0)
    reach = max(round(_REACH_SECONDS * 100), 1)
    peaks = flux.unfold(0, 2 * reach + 1, 1).amax(dim=1)  # centred on frame + reach
    power = waveform.samples.float().square()
    power = power[: len(power) // hop * hop].reshape(-1, hop).mean(dim=1)
    span = round(_LEVEL_SECONDS * 100)
    levels = 10 * torch.log10(power.unfold(0, span, 1).mean(dim=1) + 1e-8)
    steps = (levels[span:] - levels[:-span]).abs()  # centred on index + span
    count = len(flux)
    seams = [round(second * 100) for second in seam_seconds]
    seams = [seam for seam in seams if span <= seam < count - span]
    is_other = torch.ones(count, dtype=torch.bool)
    for seam in seams:
        is_other[max(seam - span, 0) : seam + span] = False
    is_other[:span] = is_other[count - span :] = False
    others = is_other.nonzero()[:, 0]
    if not seams or not len(others):
        return SeamReport(1.0, 1.0, 0.5, 0.5, 0)
    at = torch.tensor(seams)
    seam_flux, other_flux = peaks[at - reach], peaks[others - reach]
    seam_steps, other_steps = steps[at - span], steps[others - span]
    return SeamReport(
        flux_ratio=float(seam_flux.median() / other_flux.median().clamp(min=1e-6)),
        level_ratio=float(seam_steps.median() / other_steps.median().clamp(min=1e-6)),
        flux_percentile=_mean_rank(seam_flux, other_flux),
        level_percentile=_mean_rank(seam_steps, other_steps),
        num_seams=len(seams),
    )


def _mean_rank(seams: Float[Tensor, " seams"], others: Float[Tensor, " others"]) -> float:
    """Mean share of the other moments that lie below a seam."""
    return float((others[None] < seams[:, None]).float().mean())
