"""`musiclm fit`: centroids of the semantic tokens, codebooks of the MuLan tokens."""

from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console

from musiclm.conditioning.conditioner import Conditioner, ConditionerConfig
from musiclm.conditioning.mulan import MuLan, MuLanConfig
from musiclm.core.errors import ConfigError
from musiclm.core.pretrained import load_weights, read_config_json
from musiclm.core.runtime import Runtime
from musiclm.data.clips import CropSource, CropSourceConfig
from musiclm.data.manifest import Corpus
from musiclm.data.pairs import LogMelStore, PairSource, PairSourceConfig
from musiclm.recipes.registry import load_recipe
from musiclm.semantic.w2v_bert import W2vBert, W2vBertConfig
from musiclm.training.conditioner import embed_pairs, fit_conditioner
from musiclm.training.semantic_tokenizer import SemanticFitConfig, fit_semantic_tokenizer

RecipeName = Literal["tiny", "mini", "paper"]


def fit_semantic(  # noqa: PLR0913  (each is an option of the command)
    corpus: tyro.conf.Positional[Path],
    *,
    weights: Path,
    output: Path,
    recipe: RecipeName = "mini",
    num_batches: int = 200,
    batch: int = 8,
    crop_seconds: float = 10.0,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Fit the semantic centroids: k-means on a layer of a trained w2v-BERT.

    Args:
        corpus: A folder that `musiclm prepare` made.
        weights: The trained w2v-BERT: last.safetensors of its run folder.
        output: The .safetensors file to write, such as MODEL/semantic.safetensors.
        recipe: Which layer and how many centroids: those of tiny, mini or paper.
        num_batches: Batches of crops to listen to.
        batch: Crops in a batch.
        crop_seconds: Length of a crop.
        seed: Of the crops and of k-means.
        device: auto, cpu or cuda.
    """
    _check_output(output)
    opened, runtime = Corpus.open(corpus), Runtime.choose(device)
    model = W2vBert(W2vBertConfig.from_json(read_config_json(weights)))
    load_weights(model, weights)
    crops = CropSourceConfig(
        crop_seconds=crop_seconds, batch_size=batch, sample_rate_hz=model.config.sample_rate_hz
    )
    fit = fit_semantic_tokenizer(
        model,
        load_recipe(recipe).semantic_tokenizer,
        CropSource(opened, crops, seed=seed),
        SemanticFitConfig(num_batches=num_batches, seed=seed),
        runtime=runtime,
    )
    fit.tokenizer.save(output)
    Console(stderr=True).print(
        f"{output}: {len(fit.kmeans.centroids)} centroids, {fit.num_frames} frames, perplexity "
        f"{fit.kmeans.perplexity:.0f}, distortion {fit.kmeans.distortion:.3f}"
    )


def fit_mulan(  # noqa: PLR0913  (each is an option of the command)
    corpus: tyro.conf.Positional[Path],
    *,
    weights: Path,
    output: Path,
    recipe: RecipeName = "mini",
    log_mels: Path | None = None,
    num_pairs: int = 2048,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Fit the MuLan codebooks on audio, and the shift that brings texts there.

    Args:
        corpus: A folder that `musiclm prepare` made.
        weights: The trained MuLan: last.safetensors of its run folder.
        output: The .safetensors file to write, such as MODEL/mulan.safetensors.
        recipe: How many levels: those of tiny, mini or paper.
        log_mels: Where log-mels are kept once computed; by default CORPUS/log_mels.
        num_pairs: Pairs of audio and caption behind the shift.
        seed: Of the pairs and of k-means.
        device: auto, cpu or cuda.
    """
    _check_output(output)
    opened, runtime = Corpus.open(corpus), Runtime.choose(device)
    mulan = MuLan(MuLanConfig.from_json(read_config_json(weights)))
    load_weights(mulan, weights)
    tokenizer = load_recipe(recipe).conditioning_tokenizer
    conditioner = Conditioner(ConditionerConfig(mulan=mulan.config, tokenizer=tokenizer)).eval()
    conditioner.mulan.load_state_dict(mulan.state_dict())
    conditioner.to(runtime.device)
    audio = mulan.config.audio
    store = LogMelStore(opened, log_mels or corpus / "log_mels", audio.log_mel)
    settings = PairSourceConfig(batch_size=64, crop_frames=audio.window_frames)
    source = PairSource(store, settings, seed=seed)
    batches = [source.batch(step, 0) for step in range(max(num_pairs // 64, 1))]
    pairs = embed_pairs(conditioner.mulan, batches)
    fit = fit_conditioner(conditioner, store, pairs, seed=seed)
    conditioner.save(output)
    console = Console(stderr=True)
    console.print(f"{output}: fitted on {len(opened.split('train').clips)} clips")
    for level, left in enumerate(fit.distortions, start=1):
        console.print(f"level {level:>2}: {left:.3f} of the audio embedding is left")


def _check_output(output: Path) -> None:
    if output.suffix != ".safetensors":
        raise ConfigError(f"Output {output.name!r} must end in .safetensors.")
