"""Retrieval: how well texts find their music in a joint space, and how well tokens agree."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from musiclm.core.errors import DataError


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


@dataclass(frozen=True)
class RetrievalReport:
    """Text-to-audio retrieval among `num_pairs` pairs.

    Attributes:
        recall_at_1: Share of texts whose own audio is the closest of all.
        recall_at_10: Share of texts whose own audio is among the ten closest.
        median_rank: Median place of the own audio; 1 is best.
        similarity_gain: Mean cosine of right pairs minus that of all wrong pairs of the same text.
        num_pairs: Size of the pool.
    """

    recall_at_1: Estimate
    recall_at_10: Estimate
    median_rank: Estimate
    similarity_gain: Estimate
    num_pairs: int


@dataclass(frozen=True)
class AgreementReport:
    """How often text and audio get the same code, by level.

    Attributes:
        right: Share of right pairs with the same code.
        shuffled: Share of wrong pairs with the same code: what chance gives.
        gain: Their difference.
    """

    right: tuple[float, ...]
    shuffled: tuple[float, ...]
    gain: tuple[Estimate, ...]

    @property
    def num_levels_that_help(self) -> int:
        """Levels before the first whose gain may be zero (95 % interval); at least one."""
        for level, gain in enumerate(self.gain):
            if gain.low <= 0:
                return max(level, 1)
        return len(self.gain)


def ranks(
    text: Float[Tensor, "pairs dim"], audio: Float[Tensor, "pairs dim"]
) -> Int[Tensor, " pairs"]:
    """The place of each text's own audio, from 1; ties count against it."""
    scores = text @ audio.T
    return (scores >= scores.diagonal()[:, None]).sum(dim=1)


def retrieval(
    text: Float[Tensor, "pairs dim"],
    audio: Float[Tensor, "pairs dim"],
    *,
    generator: torch.Generator,
    num_resamples: int = 1000,
) -> RetrievalReport:
    """Scores unit vectors of texts against those of their audio.

    The intervals resample the texts (the queries) and keep the pool as it is.

    Args:
        text: One vector a text.
        audio: The vector of the audio each text belongs to, in the same order.
        generator: Draws the bootstrap samples (CPU).
        num_resamples: Bootstrap samples.

    Raises:
        DataError: There is no pair.
    """
    if not len(text):
        raise DataError("There are no pairs of text and audio to rank. Give at least one.")
    places = ranks(text, audio).cpu().double()
    scores = (text @ audio.T).cpu().double()
    count = len(scores)
    own = scores.diagonal()
    gain = own - (scores.sum(dim=1) - own) / max(count - 1, 1)
    rows = torch.randint(0, count, (num_resamples, count), generator=generator)
    return RetrievalReport(
        _mean_estimate((places <= 1).double(), rows),
        _mean_estimate((places <= 10).double(), rows),
        _estimate(places.quantile(0.5), places[rows].quantile(0.5, dim=1)),
        _mean_estimate(gain, rows),
        count,
    )


def token_agreement(
    text_codes: Int[Tensor, "batch quantizers frames"],
    audio_codes: Int[Tensor, "batch quantizers frames"],
) -> Float[Tensor, " quantizers"]:
    """Share of pairs whose text and audio get the same code, by level."""
    return (text_codes == audio_codes).double().mean(dim=(0, 2))


def agreement_report(
    text_codes: Int[Tensor, "batch quantizers frames"],
    audio_codes: Int[Tensor, "batch quantizers frames"],
    *,
    generator: torch.Generator,
    num_resamples: int = 1000,
) -> AgreementReport:
    """Token agreement of right pairs beside that of all wrong pairs, with bootstrap intervals."""
    text, audio = text_codes.cpu(), audio_codes.cpu()
    count = len(text)
    rows = torch.randint(0, count, (num_resamples, count), generator=generator)
    right: list[float] = []
    shuffled: list[float] = []
    gain: list[Estimate] = []
    for level in range(text.shape[1]):
        same = (text[:, None, level] == audio[None, :, level]).double().mean(dim=2)
        own = same.diagonal()
        others = (same.sum(dim=1) - own) / max(count - 1, 1)
        right.append(float(own.mean()))
        shuffled.append(float(others.mean()))
        gain.append(_mean_estimate(own - others, rows))
    return AgreementReport(tuple(right), tuple(shuffled), tuple(gain))


def _mean_estimate(values: Tensor, rows: Tensor) -> Estimate:
    return _estimate(values.mean(), values[rows].mean(dim=1))


def _estimate(value: Tensor, resampled: Tensor) -> Estimate:
    return Estimate(
        float(value), float(resampled.quantile(0.025)), float(resampled.quantile(0.975))
    )
