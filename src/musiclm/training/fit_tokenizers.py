"""Fits what tokenizers have beside their trained weights: semantic centroids, MuLan's codebooks."""

from collections.abc import Generator
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from musiclm.conditioning.conditioner import Conditioner, ConditionerConfig
from musiclm.conditioning.mulan import MuLan
from musiclm.conditioning.tokenizer import ConditioningTokenizerConfig
from musiclm.core.config import Config
from musiclm.core.errors import DataError
from musiclm.core.runtime import RandomStreams, Runtime
from musiclm.semantic.tokenizer import SemanticTokenizer, SemanticTokenizerConfig
from musiclm.semantic.w2v_bert import W2vBert
from musiclm.training.fit import KMeansFit, ResidualFit, fit_kmeans, fit_residual_quantizer
from musiclm.training.prefetch import Prefetcher
from musiclm.training.task import Batch, BatchSource


class FitConfig(Config):
    """How much audio is listened to, and how long k-means runs."""

    num_batches: int = Field(default=200, gt=0)
    """Training batches of crops that are read."""
    max_vectors: int = Field(default=300_000, gt=0)
    """Frames (semantic) kept for k-means: a random choice when there are more."""
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


@dataclass(frozen=True)
class ConditionerFit:
    """A conditioner ready for use, and how well its quantizer fits.

    `agreement` is, for each level, how often a caption and the audio it describes get the same
    code, over the crops that have one.
    """

    conditioner: Conditioner
    residual: ResidualFit
    num_crops: int
    agreement: tuple[float, ...]


@torch.no_grad()
def fit_semantic_tokenizer(
    model: W2vBert,
    config: SemanticTokenizerConfig,
    source: BatchSource,
    fit_config: FitConfig,
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


@torch.no_grad()
def fit_conditioner(
    mulan: MuLan,
    config: ConditioningTokenizerConfig,
    source: BatchSource,
    fit_config: FitConfig,
    *,
    runtime: Runtime,
) -> ConditionerFit:
    """Codebooks of training crops' audio embeddings (MusicLM, Section 3.1), and the text shift.

    Args:
        mulan: A trained MuLan.
        config: Its quantizer.
        source: Gives batches with `samples` and `clips`; captions for tests are left out.
        fit_config: How many of them.
        runtime: Where the embeddings are computed.

    Raises:
        DataError: No crop has a caption.
    """
    whole = ConditionerConfig(mulan=mulan.config, tokenizer=config)
    conditioner = Conditioner(whole).to(runtime.device).eval()
    conditioner.mulan.load_state_dict(mulan.state_dict())
    generator = RandomStreams(fit_config.seed).generator("fit mulan")
    audio: list[Tensor] = []
    captioned: list[Tensor] = []
    texts: list[str] = []
    for batch in _batches(source, fit_config.num_batches, runtime):
        embeddings = conditioner.mulan.embed_audio(batch["samples"]).float()
        audio.append(embeddings)
        for clip, embedding in zip(batch["clips"], embeddings, strict=True):
            wordings = [caption.text for caption in clip.captions if not caption.is_held_out]
            if wordings:
                draw = int(torch.randint(len(wordings), (1,), generator=generator))
                texts.append(wordings[draw])
                captioned.append(embedding)
    embeddings = torch.cat(audio)
    tokenizer = conditioner.tokenizer
    residual = fit_residual_quantizer(
        embeddings.cpu(),
        tokenizer.quantizer,
        seed=fit_config.seed,
        num_epochs=fit_config.num_epochs,
    )
    if not texts:
        raise DataError("No crop has a caption, so the shift from text to audio is unknown.")
    spoken = torch.cat(
        [conditioner.mulan.embed_text(texts[i : i + 64]) for i in range(0, len(texts), 64)]
    )
    tokenizer.learn_text_shift(spoken, embeddings)
    levels = config.quantizer.num_quantizers
    heard = tokenizer.tokenize(torch.stack(captioned), num_levels=levels)
    read = tokenizer.tokenize_text(spoken, num_levels=levels)
    agreement = (heard == read).float().mean(dim=(0, 2)).tolist()
    return ConditionerFit(conditioner, residual, len(embeddings), tuple(agreement))


def _batches(source: BatchSource, count: int, runtime: Runtime) -> Generator[Batch]:
    """The first training batches, each drawn while the one before is in use."""
    with Prefetcher(source, device=runtime.device, microbatches=1, total_steps=count) as prefetcher:
        for step in range(count):
            yield prefetcher.microbatches(step, 0)[0]
