"""`musiclm fit`: centroids of the semantic tokens, codebooks of the MuLan tokens."""

from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console

from musiclm.conditioning.mulan import MuLan, MuLanConfig
from musiclm.core.errors import ConfigError
from musiclm.core.pretrained import load_weights, read_config_json
from musiclm.core.runtime import Runtime
from musiclm.data.clips import CropSource, CropSourceConfig
from musiclm.data.manifest import Corpus
from musiclm.recipes.registry import load_recipe
from musiclm.semantic.w2v_bert import W2vBert, W2vBertConfig
from musiclm.training.fit_tokenizers import (
    ConditionerFit,
    FitConfig,
    SemanticFit,
    fit_conditioner,
    fit_semantic_tokenizer,
)


def fit(  # noqa: PLR0913  (each is an option of the command)
    component: tyro.conf.Positional[Literal["semantic", "mulan"]],
    corpus: tyro.conf.Positional[Path],
    *,
    weights: Path,
    output: Path,
    recipe: Literal["tiny", "mini", "paper"] = "mini",
    num_batches: int = 200,
    batch: int = 8,
    crop_seconds: float = 10.0,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Fit a tokenizer on a trained model and write both to one file.

    Args:
        component: semantic (k-means on w2v-BERT) or mulan (residual codebooks).
        corpus: A folder that `musiclm prepare` made.
        weights: The trained model: last.safetensors or best.safetensors of its run folder.
        output: The .safetensors file to write: MODEL/semantic.safetensors or mulan.safetensors.
        recipe: Which layer, how many centroids and levels: those of tiny, mini or paper.
        num_batches: Batches of crops to listen to.
        batch: Crops in a batch.
        crop_seconds: Length of a crop.
        seed: Of the crops and of k-means.
        device: auto, cpu or cuda.
    """
    if output.suffix != ".safetensors":
        raise ConfigError(f"Output {output.name!r} must end in .safetensors.")
    loaded, runtime = load_recipe(recipe), Runtime.choose(device)
    settings = FitConfig(num_batches=num_batches, seed=seed)
    config_json = read_config_json(weights)
    model: W2vBert | MuLan
    if component == "semantic":
        model = W2vBert(W2vBertConfig.from_json(config_json))
        rate = model.config.sample_rate_hz
    else:
        model = MuLan(MuLanConfig.from_json(config_json))
        rate = model.sample_rate_hz
    load_weights(model, weights)
    crops = CropSourceConfig(crop_seconds=crop_seconds, batch_size=batch, sample_rate_hz=rate)
    source = CropSource(Corpus.open(corpus), crops, seed=seed)
    if isinstance(model, W2vBert):
        semantic = fit_semantic_tokenizer(
            model, loaded.semantic_tokenizer, source, settings, runtime=runtime
        )
        semantic.tokenizer.save(output)
        _report_semantic(output, semantic)
    else:
        conditioner = fit_conditioner(
            model, loaded.conditioning_tokenizer, source, settings, runtime=runtime
        )
        conditioner.conditioner.save(output)
        _report_conditioner(output, conditioner)


def _report_semantic(output: Path, fit: SemanticFit) -> None:
    Console(stderr=True).print(
        f"{output}: {len(fit.kmeans.centroids)} centroids, {fit.num_frames} frames, perplexity "
        f"{fit.kmeans.perplexity:.0f}, distortion {fit.kmeans.distortion:.3f}"
    )


def _report_conditioner(output: Path, fit: ConditionerFit) -> None:
    console = Console(stderr=True)
    console.print(f"{output}: fitted on {fit.num_crops} crops")
    levels = zip(fit.residual.distortions, fit.agreement, strict=True)
    for level, (left, same) in enumerate(levels, start=1):
        console.print(f"level {level:>2}: {left:.3f} left, text and audio agree {same:.1%}")
