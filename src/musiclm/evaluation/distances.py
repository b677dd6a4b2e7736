"""Distances between sets and pairs of audio: FAD, KLD, and bootstrap intervals of a mean.

Conventions: everything in float64; embeddings are `[frames, dim]`, one row a window of audio, all
windows of all clips together; class scores are logits `[clips, classes]`; KLD in nats.

Metrics: the Fréchet audio distance (Kilgour et al. 2019) between Gaussians fitted to embeddings,
biased upwards for few frames, so only values of the same number of frames compare; the
Kullback-Leibler divergence KL(reference || generated) between class distributions, mean over pairs
(MusicLM, Section 4.4, leaves the direction open; AudioGen's is taken).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float

from musiclm.core.errors import DataError

Squashing = Literal["softmax", "sigmoid"]
Direction = Literal["reference || generated", "generated || reference"]


class TooFewWindowsError(DataError):
    """A covariance of full rank needs more windows than the embedding has dimensions."""


@dataclass(frozen=True)
class GaussianStatistics:
    """Mean and covariance of a set of embeddings."""

    mean: Float[np.ndarray, " dim"]
    covariance: Float[np.ndarray, "dim dim"]
    num_frames: int

    @classmethod
    def fit(cls, embeddings: Float[np.ndarray, "frames dim"]) -> "GaussianStatistics":
        """The sample mean and unbiased covariance.

        Raises:
            TooFewWindowsError: Too few frames for a covariance of full rank.
            DataError: Values that are not finite.
        """
        num_frames, dim = embeddings.shape
        if num_frames <= dim:
            raise TooFewWindowsError(
                f"FAD over {dim}-d embeddings needs more than {dim} windows; got {num_frames}. "
                "Give more clips, or longer ones."
            )
        if not np.isfinite(embeddings).all():
            raise DataError("The embeddings hold NaN or infinite values; the audio is broken.")
        exact = embeddings.astype(np.float64)
        return cls(exact.mean(axis=0), np.cov(exact, rowvar=False).reshape(dim, dim), num_frames)

    @cached_property
    def root(self) -> Float[np.ndarray, "dim dim"]:
        """The symmetric square root of the covariance; a reference's is taken once."""
        return _symmetric_root(self.covariance)


@dataclass(frozen=True)
class Interval:
    """A mean and its bootstrap confidence interval."""

    mean: float
    low: float
    high: float


def frechet_distance(one: GaussianStatistics, other: GaussianStatistics) -> float:
    """`|m1 - m2|^2 + tr(C1 + C2 - 2 sqrt(C1 C2))`, never negative.

    `tr sqrt(C1 C2)` is taken as the sum of square roots of the eigenvalues of the symmetric
    `C2^(1/2) C1 C2^(1/2)`, which has no complex part and no trouble with near-singular matrices.
    """
    if one.mean.shape != other.mean.shape:
        raise DataError(
            f"The embeddings have {one.mean.size} and {other.mean.size} dimensions; "
            "take both from the same model."
        )
    eigenvalues = np.linalg.eigvalsh(other.root @ one.covariance @ other.root)
    root_trace = np.sqrt(eigenvalues.clip(min=0)).sum()
    difference = one.mean - other.mean
    traces = np.trace(one.covariance) + np.trace(other.covariance)
    return max(0.0, float(difference @ difference + traces - 2 * root_trace))


def frechet_audio_distance(
    generated: Float[np.ndarray, "generated_frames dim"],
    reference: Float[np.ndarray, "reference_frames dim"],
) -> float:
    """FAD between two sets of embeddings; 0 for the same set.

    Raises:
        DataError: A set has too few frames, or values that are not finite.
    """
    return frechet_distance(GaussianStatistics.fit(generated), GaussianStatistics.fit(reference))


def kl_divergences(
    reference_logits: Float[np.ndarray, "clips classes"],
    generated_logits: Float[np.ndarray, "other_clips other_classes"],
    *,
    squashing: Squashing = "softmax",
    direction: Direction = "reference || generated",
) -> Float[np.ndarray, " clips"]:
    """The divergence of each pair's class distributions, in nats.

    Args:
        reference_logits: Of the real clips.
        generated_logits: Of the clips made for the same captions.
        squashing: `softmax` reads the classes as one choice (AudioGen, audiocraft); `sigmoid` as so
            many independent ones, whose divergences are added.
        direction: KL(reference || generated) is large where the reference has a class that the
            generated clip lacks; the other way round, where a class was made up.

    Raises:
        DataError: There are not as many clips, or classes, on both sides.
    """
    if reference_logits.shape != generated_logits.shape:
        raise DataError(
            f"KLD compares pairs; the sides are {list(reference_logits.shape)} and "
            f"{list(generated_logits.shape)} (clips, classes)."
        )
    one, other = reference_logits.astype(np.float64), generated_logits.astype(np.float64)
    if direction == "generated || reference":
        one, other = other, one
    if squashing == "softmax":
        one, other = _log_softmax(one), _log_softmax(other)
        return (np.exp(one) * (one - other)).sum(axis=1)
    pairs = [(_log_sigmoid(sign * one), _log_sigmoid(sign * other)) for sign in (1, -1)]
    return np.sum([(np.exp(p) * (p - q)).sum(axis=1) for p, q in pairs], axis=0)


def bootstrap_mean(
    values: Float[np.ndarray, " clips"],
    *,
    generator: np.random.Generator,
    confidence: float = 0.95,
    num_resamples: int = 10_000,
) -> Interval:
    """The mean of independent values and its percentile bootstrap interval.

    Raises:
        DataError: There are fewer than two values.
    """
    if values.size < 2:
        raise DataError(f"An interval needs at least 2 clips; got {values.size}.")
    weights = generator.multinomial(
        values.size, np.full(values.size, 1 / values.size), size=num_resamples
    )
    means = weights @ values.astype(np.float64) / values.size
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(values.mean(dtype=np.float64)), float(low), float(high))


def _symmetric_root(matrix: Float[np.ndarray, "dim dim"]) -> Float[np.ndarray, "dim dim"]:
    eigenvalues, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(eigenvalues.clip(min=0))) @ vectors.T


def _log_sigmoid(logits: Float[np.ndarray, "clips classes"]) -> Float[np.ndarray, "clips classes"]:
    return -np.logaddexp(0.0, -logits)


def _log_softmax(logits: Float[np.ndarray, "clips classes"]) -> Float[np.ndarray, "clips classes"]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
