"""`musiclm build`: every part of a model, trained in order from a corpus or from nothing."""

from pathlib import Path

from rich.console import Console

from musiclm.cli.prepare import prepare_rendered
from musiclm.core.runtime import Runtime
from musiclm.data.manifest import MANIFEST_NAME
from musiclm.recipes.pipeline import build_model
from musiclm.recipes.registry import RecipeName, load_recipe


def build(  # noqa: PLR0913  (each is an option of the command)
    *,
    output: Path,
    work: Path,
    recipe: RecipeName = "mini",
    corpus: Path | None = None,
    jobs: int = 2,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Train every part of a model; stopped and started again, it goes on where it was.

    Args:
        output: The model folder to fill.
        work: Where the corpus, run folders and tokens go.
        recipe: tiny, mini or paper.
        corpus: A prepared corpus; by default the recipe's hours of rendered music.
        jobs: Processes that render.
        seed: Of the rendered music.
        device: auto, cpu or cuda.
    """
    console = Console(stderr=True)
    loaded = load_recipe(recipe)
    if corpus is None:
        corpus = work / "corpus"
        if not (corpus / MANIFEST_NAME).is_file():
            prepare_rendered(corpus, hours=loaded.corpus_hours, seed=seed, jobs=jobs)
    runtime = Runtime.choose(device)
    build_model(loaded, corpus, work, output, runtime=runtime, say=console.print)
