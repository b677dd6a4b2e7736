"""`musiclm train`: one component of a recipe, on a corpus or a token store."""

from pathlib import Path

import tyro
from rich.console import Console

from musiclm.core.runtime import Runtime
from musiclm.recipes.components import ComponentName, component_run
from musiclm.recipes.judge import JudgeComponent, judge_run
from musiclm.recipes.melody import MelodyComponent, melody_run
from musiclm.recipes.registry import RecipeName, load_recipe
from musiclm.training.run_state import checkpoint_folder
from musiclm.training.trainer import LAST_NAME
from musiclm.training.trainer import train as run_training


def train(  # noqa: PLR0913  (each is an option of the command)
    component: tyro.conf.Positional[ComponentName | MelodyComponent | JudgeComponent],
    corpus: tyro.conf.Positional[Path],
    *,
    recipe: RecipeName = "mini",
    run_folder: Path,
    model: Path | None = None,
    start_from: Path | None = None,
    num_steps: int | None = None,
    max_minutes: float | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> None:
    """Train one component; the same command goes on where an earlier one stopped.

    Args:
        component: What to train; codec-decoder lets the decoder of the model's codec learn on
            while the codes stay what they are; melody is the embedder of tunes, melody-stage and
            melody-coarse-stage the model's first two stages learning to follow them; mulan-judge is
            no part of a model, but an independent space of music and text for the evaluation.
        corpus: A corpus (`musiclm prepare`); for the stages, a token store (`musiclm tokenize`).
        recipe: Sizes, losses and schedule: tiny, mini or paper.
        run_folder: Where checkpoints, metrics, samples and weights go.
        model: The folder with the parts trained before; stages that read conditioning need it.
        start_from: Weights to begin with (fine-tuning), as another run wrote them.
        num_steps: Updates of the whole run; the recipe's number by default.
        max_minutes: Stop cleanly after this time; 0 for no limit.
        device: auto, cpu or cuda.
        threads: CPU threads; as many as there are by default.
    """
    runtime = Runtime.choose(device, threads)
    loaded, is_resumed = load_recipe(recipe), checkpoint_folder(run_folder) is not None
    if component == "melody" or component == "melody-stage" or component == "melody-coarse-stage":
        run = melody_run(
            loaded, component, corpus, model, start_from=start_from, is_resumed=is_resumed
        )
    elif component == "mulan-judge":
        run = judge_run(
            loaded, corpus, runtime=runtime, start_from=start_from, is_resumed=is_resumed
        )
    else:
        run = component_run(
            loaded, component, corpus, model, start_from=start_from, is_resumed=is_resumed
        )
    changes = {"num_steps": num_steps, "max_minutes": max_minutes}
    given = {name: value for name, value in changes.items() if value is not None}
    config = type(run.trainer).model_validate(run.trainer.model_dump() | given)
    result = run_training(run.task, run.source, config, run_folder, runtime=runtime)
    console = Console(stderr=True)
    figures = ", ".join(f"{name} {value:.4g}" for name, value in result.validation.items())
    state = "finished" if result.is_finished else "stopped; the same command goes on"
    console.print(f"{component}: {result.step}/{config.num_steps} steps, {state}")
    if figures:
        console.print(f"validation: {figures}")
    console.print(f"weights: {run_folder / LAST_NAME}")
