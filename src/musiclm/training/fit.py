"""Fitting without gradients: k-means centroids of features, residual codebooks of embeddings."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from musiclm.core.errors import DataError, DependencyError
from musiclm.core.runtime import RandomStreams
from musiclm.quantization.residual import ResidualVectorQuantizer

try:
    from sklearn.cluster import MiniBatchKMeans
except ImportError as error:
    raise DependencyError(
        "Fitting needs scikit-learn, which is not installed. Run: pip install 'musiclm[train]'."
    ) from error

_SMALLEST_DEVIATION = 1e-5


@dataclass(frozen=True)
class KMeansFit:
    """Centroids of standardised features, and how to standardise.

    Attributes:
        mean: Of each dimension; subtracted first.
        deviation: Standard deviation of each dimension; divided by next.
        centroids: In standardised units.
        perplexity: `exp(entropy)` of how often each centroid is the nearest; at most their number.
        distortion: Mean squared distance to the nearest centroid over the mean squared norm.
    """

    mean: Float[Tensor, " dim"]
    deviation: Float[Tensor, " dim"]
    centroids: Float[Tensor, "clusters dim"]
    perplexity: float
    distortion: float


@dataclass(frozen=True)
class ResidualFit:
    """How well a residual quantizer fits what it was fitted on.

    Attributes:
        distortions: After each level, the mean squared residual over the mean squared norm.
        perplexities: `exp(entropy)` of each level's codes.
    """

    distortions: tuple[float, ...]
    perplexities: tuple[float, ...]


def fit_kmeans(
    features: Float[Tensor, "num dim"], num_clusters: int, *, seed: int, num_epochs: int = 20
) -> KMeansFit:
    """Standardises features per dimension and finds their k-means centroids.

    Mini-batch k-means with k-means++ starts (AudioLM, Section III-B: k-means on w2v-BERT
    features that were normalised to mean 0 and variance 1).

    Args:
        features: One row a frame.
        num_clusters: How many centroids.
        seed: The same seed and features give the same centroids.
        num_epochs: Passes over the features at most; it stops early when nothing moves.

    Raises:
        DataError: There are fewer rows than centroids, or some are not finite.
    """
    if len(features) < num_clusters:
        raise DataError(
            f"{num_clusters} clusters need at least as many frames; there are {len(features)}. "
            "Fit on more audio, or with fewer clusters."
        )
    if not bool(torch.isfinite(features).all()):
        raise DataError("Some features are not finite: the model that made them has diverged.")
    features = features.float().cpu()
    mean = features.mean(dim=0)
    deviation = features.std(dim=0, correction=0).clamp(min=_SMALLEST_DEVIATION)
    standardised = (features - mean) / deviation
    centroids = _kmeans(standardised, num_clusters, seed=seed, num_epochs=num_epochs)
    codes = _nearest(standardised, centroids)
    left = (standardised - centroids[codes]).square().sum()
    distortion = float(left / standardised.square().sum().clamp(min=1e-12))
    return KMeansFit(mean, deviation, centroids, _perplexity(codes, num_clusters), distortion)


@torch.no_grad()
def fit_residual_quantizer(
    embeddings: Float[Tensor, "num dim"],
    quantizer: ResidualVectorQuantizer,
    *,
    seed: int,
    num_epochs: int = 20,
) -> ResidualFit:
    """Sets the codebooks of a quantizer level by level to k-means centroids of what is left over.

    With fewer embeddings than codes the embeddings themselves, repeated, become the codebook.

    Raises:
        DataError: There are no embeddings, or some are not finite.
    """
    if not len(embeddings) or not bool(torch.isfinite(embeddings).all()):
        raise DataError(
            f"Cannot fit on {len(embeddings)} embeddings, or on some that are not finite."
        )
    streams = RandomStreams(seed)
    residual = embeddings.float().cpu()
    total = residual.square().sum().clamp(min=1e-12)
    distortions: list[float] = []
    perplexities: list[float] = []
    for index, level in enumerate(quantizer.quantizers):
        size = level.config.codebook_size
        level_seed = streams.generator("residual", index).initial_seed() % 2**31
        distinct = torch.unique(residual, dim=0)
        if len(distinct) <= size:
            centroids = distinct
        else:
            centroids = _kmeans(residual, size, seed=level_seed, num_epochs=num_epochs)
        codebook = centroids[torch.arange(size) % len(centroids)]
        codes = _nearest(residual, centroids)
        level.codebook.copy_(codebook)
        level.cluster_size.copy_(torch.bincount(codes, minlength=size))
        level.initialised.fill_(True)
        residual = residual - centroids[codes]
        distortions.append(float(residual.square().sum() / total))
        perplexities.append(_perplexity(codes, size))
    return ResidualFit(tuple(distortions), tuple(perplexities))


def _kmeans(rows: Tensor, num_clusters: int, *, seed: int, num_epochs: int) -> Tensor:
    model = MiniBatchKMeans(
        num_clusters,
        init="k-means++",
        max_iter=num_epochs,
        batch_size=max(4096, 4 * num_clusters),
        max_no_improvement=20,
        random_state=seed % 2**31,
    )
    model.fit(rows.numpy().astype(np.float32, copy=False))
    return torch.from_numpy(np.ascontiguousarray(model.cluster_centers_, np.float32))


def _nearest(rows: Tensor, centroids: Tensor) -> Tensor:
    half_norms = 0.5 * centroids.square().sum(dim=1)
    return torch.cat([(p @ centroids.T - half_norms).argmax(dim=1) for p in rows.split(16_384)])


def _perplexity(codes: Tensor, num_codes: int) -> float:
    share = torch.bincount(codes, minlength=num_codes).double() / len(codes)
    return math.exp(-float(torch.xlogy(share, share).sum()))
