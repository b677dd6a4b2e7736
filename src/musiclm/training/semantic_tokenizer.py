"""Fitting the semantic tokenizer: a trained w2v-BERT's features to centroids."""

from collections.abc import Generator
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from musiclm.core.config import Config
from musiclm.core.runtime import RandomStreams, Runtime
from musiclm.semantic.tokenizer import SemanticTokenizer, SemanticTokenizerConfig
from musiclm.semantic.w2v_bert import W2vBert
from musiclm.training.fit import KMeansFit, fit_kmeans
from musiclm.training.prefetch import Prefetcher
from musiclm.training.task import Batch, BatchSource


class SemanticFitConfig(Config):
    """How much audio is listened to, and how long k-means runs."""

    num_batches: int = Field(default=200, gt=0)
    """Training batches of crops that are read."""
    max_vectors: int = Field(default=300_000, gt=0)
    """Frames kept for k-means: a random choice when there are more."""
    num_epochs: int = Field(default=20, gt=0)
    """Passes of k-means over them at most."""
    seed: int = 0
    """Names every draw."""


@dataclass(frozen=True)
class SemanticFit:
    """A semantic tokenizer ready for use, and how well its centroids fit."""

    tokenizer: SemanticTokenizer
    kmeans: KMeansFit
    num_frames: int


@torch.no_grad()
def fit_semantic_tokenizer(
    model: W2vBert,
    config: SemanticTokenizerConfig,
    source: BatchSource,
    fit_config: SemanticFitConfig,
    *,
    runtime: Runtime,
) -> SemanticFit:
    """Centroids of the chosen layer's features over training crops (MusicLM, Section 3.1).

    Args:
        model: A trained w2v-BERT.
        config: Which of its layers, and how many centroids.
        source: Gives batches with `samples`.
        fit_config: How many of them.
        runtime: Where the features are computed.
    """
    tokenizer = SemanticTokenizer.from_w2v_bert(model, config).to(runtime.device).eval()
    generator = RandomStreams(fit_config.seed).generator("fit semantic")
    kept_per_batch = -(-fit_config.max_vectors // fit_config.num_batches)
    rows: list[Tensor] = []
    for batch in _batches(source, fit_config.num_batches, runtime):
        features = tokenizer.features(batch["samples"]).transpose(1, 2).flatten(0, 1).float().cpu()
        chosen = torch.randperm(len(features), generator=generator)[:kept_per_batch]
        rows.append(features[chosen])
    features = torch.cat(rows)
    fit = fit_kmeans(
        features, config.num_clusters, seed=fit_config.seed, num_epochs=fit_config.num_epochs
    )
    tokenizer.fill(
        *(tensor.to(runtime.device) for tensor in (fit.mean, fit.deviation, fit.centroids))
    )
    return SemanticFit(tokenizer, fit, len(features))


def _batches(source: BatchSource, count: int, runtime: Runtime) -> Generator[Batch]:
    """The first training batches, each drawn while the one before is in use."""
    with Prefetcher(source, device=runtime.device, microbatches=1, total_steps=count) as prefetcher:
        for step in range(count):
            yield prefetcher.microbatches(step, 0)[0]
