"""`musiclm fit`: centroids of the semantic tokens, codebooks of MuLan and melody tokens."""

from pathlib import Path

import tyro
from rich.console import Console

from musiclm.core.runtime import Runtime
from musiclm.recipes.components import fit_mulan as run_fit_mulan
from musiclm.recipes.components import fit_semantic as run_fit_semantic
from musiclm.recipes.melody import fit_melody as run_fit_melody
from musiclm.recipes.registry import RecipeName, load_recipe


def fit_semantic(
    corpus: tyro.conf.Positional[Path],
    *,
    weights: Path,
    output: Path,
    recipe: RecipeName = "mini",
    device: str = "auto",
) -> None:
    """Fit the semantic centroids: k-means on a layer of a trained w2v-BERT.

    Args:
        corpus: A folder that `musiclm prepare` made.
        weights: The trained w2v-BERT: last.safetensors of its run folder.
        output: The .safetensors file to write, such as MODEL/semantic.safetensors.
        recipe: Which layer, how many centroids, how much audio: those of tiny, mini or paper.
        device: auto, cpu or cuda.
    """
    runtime = Runtime.choose(device)
    fit = run_fit_semantic(load_recipe(recipe), corpus, weights, output, runtime=runtime)
    Console(stderr=True).print(
        f"{output}: {len(fit.kmeans.centroids)} centroids, {fit.num_frames} frames, perplexity "
        f"{fit.kmeans.perplexity:.0f}, distortion {fit.kmeans.distortion:.3f}"
    )


def fit_mulan(
    corpus: tyro.conf.Positional[Path],
    *,
    weights: Path,
    output: Path,
    recipe: RecipeName = "mini",
    device: str = "auto",
) -> None:
    """Fit the MuLan codebooks on audio, and the shift that brings texts there.

    Args:
        corpus: A folder that `musiclm prepare` made.
        weights: The trained MuLan: last.safetensors of its run folder.
        output: The .safetensors file to write, such as MODEL/mulan.safetensors.
        recipe: How many levels: those of tiny, mini or paper.
        device: auto, cpu or cuda.
    """
    runtime = Runtime.choose(device)
    fit = run_fit_mulan(load_recipe(recipe), corpus, weights, output, runtime=runtime)
    console = Console(stderr=True)
    for level, left in enumerate(fit.distortions, start=1):
        console.print(f"level {level:>2}: {left:.3f} of the audio embedding is left")
    console.print(f"{output} written")


def fit_melody(
    corpus: tyro.conf.Positional[Path],
    *,
    weights: Path,
    output: Path,
    recipe: RecipeName = "mini",
    device: str = "auto",
) -> None:
    """Fit the codebooks of melody tokens on what a trained melody embedder hears.

    Args:
        corpus: A corpus with notes (`musiclm prepare rendered`).
        weights: The trained embedder: last.safetensors of its run folder.
        output: The .safetensors file to write, such as MODEL/melody.safetensors.
        recipe: Whose melody part: tiny, mini or paper.
        device: auto, cpu or cuda.
    """
    runtime = Runtime.choose(device)
    fit = run_fit_melody(load_recipe(recipe), corpus, weights, output, runtime=runtime)
    left = ", ".join(f"{value:.3f}" for value in fit.distortions)
    Console(stderr=True).print(f"{output}: {left} of the contours is left after each level")
