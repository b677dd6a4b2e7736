"""`musiclm study`: make a blind listening study, serve its page, and see what it shows."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from musiclm.core.errors import DataError
from musiclm.core.files import write_text_whole
from musiclm.evaluation.listening.results import StudyResult, study_result
from musiclm.evaluation.listening.server import StudyServer
from musiclm.evaluation.listening.store import AnswerStore, answers_csv
from musiclm.evaluation.listening.study import read_study, study_of_folders
from musiclm.evaluation.plan import PLAN_NAME, read_plan


def create_study(  # noqa: PLR0913  (each is an option of the command)
    folder: tyro.conf.Positional[Path],
    systems: tyro.conf.Positional[tuple[str, ...]],
    *,
    kind: Literal["ab", "mushra"] = "ab",
    captions: Path | None = None,
    reference: str = "",
    trials: int = 20,
    seed: int = 0,
) -> None:
    """Make a study of folders of clips; files of the same name were made for the same caption.

    Args:
        folder: Where the study and its answers go.
        systems: NAME=FOLDER, two or more.
        kind: ab compares two clips on a 5-point scale; mushra scores all of them from 0 to 100.
        captions: A .json of captions by file name; by default those of the first folder's plan.
        reference: The name of the real audio, if it is among them.
        trials: Trials of one listener.
        seed: Of the order.
    """
    folders: dict[str, Path] = {}
    for system in systems:
        name, sign, path = system.partition("=")
        if not (name and sign and path):
            raise DataError(f"{system!r} is not NAME=FOLDER, such as musiclm=work/clips.")
        folders[name] = Path(path)
    if len(folders) < 2:
        raise DataError("A study compares at least two systems: NAME=FOLDER NAME=FOLDER ...")
    study = study_of_folders(
        folders,
        _captions(captions, next(iter(folders.values()))),
        kind=kind,
        reference=reference,
        trials_per_listener=trials,
        seed=seed,
    )
    study.write(folder)
    Console().print(f"{len(study.items)} items in {folder}. Next: musiclm study serve {folder}")


def serve_study(
    folder: tyro.conf.Positional[Path], *, host: str = "127.0.0.1", port: int = 8765
) -> None:
    """Serve the page until interrupted; answers are kept as they come.

    Args:
        folder: The study.
        host: 0.0.0.0 lets other machines in; put a server with encryption in front of it.
        port: Where to listen.
    """
    with StudyServer(folder, host=host, port=port) as server:
        Console().print(f"Listeners go to {server.url} (stop with Ctrl-C)")
        server.serve_forever()


def study_results(
    folder: tyro.conf.Positional[Path],
    *,
    csv: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
    report: Path | None = None,
    seed: int = 0,
) -> None:
    """Print wins, preferences and their significance.

    Args:
        folder: The study.
        csv: Where to write every answer as comma-separated values.
        report: Where to write the figures as .json.
        seed: Of the bootstrap intervals.
    """
    study = read_study(folder)
    answers = AnswerStore(folder, study).answers()
    if csv is not None:
        write_text_whole(csv, answers_csv(answers))
    result = study_result(study, answers, generator=np.random.default_rng(seed))
    if report is not None:
        write_text_whole(report, json.dumps(asdict(result), indent=2) + "\n")
    for table in _tables(result):
        Console().print(table)


def _captions(path: Path | None, folder: Path) -> dict[str, str]:
    if path is not None:
        try:
            loaded = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"Cannot read captions from {path} ({error}).") from error
        if not isinstance(loaded, dict):
            raise DataError(f'{path} must hold an object: {{"0000": "a caption", ...}}.')
        return {str(name): str(text) for name, text in loaded.items()}  # pyright: ignore[reportUnknownVariableType]  # JSON has no type
    if (folder / PLAN_NAME).is_file():
        plan = read_plan(folder)
        return {f"{number:04d}": clip.prompt for number, clip in enumerate(plan.asked)}
    return {}


def _tables(result: StudyResult) -> tuple[Table, Table]:
    score = "wins [95 %]" if result.kind == "ab" else "mean score [95 %]"
    left_out = f", {result.num_left_out} left out" if result.num_left_out else ""
    conditions = Table(
        "condition",
        score,
        "trials",
        title=f"{result.num_answers} answers of {result.num_listeners} listeners{left_out}",
    )
    for row in result.conditions:
        interval = row.score
        if result.kind == "ab":
            text = f"{row.num_wins} ({interval.mean:.0%} [{interval.low:.0%}, {interval.high:.0%}])"
        else:
            text = f"{interval.mean:.1f} [{interval.low:.1f}, {interval.high:.1f}]"
        conditions.add_row(row.condition, text, str(row.num_trials))
    pairs = Table("first", "second", "first : ties : second", "preference [95 %]", "p (Bonferroni)")
    for pair in result.pairs:
        mean = pair.preference
        pairs.add_row(
            pair.first,
            pair.second,
            f"{pair.num_first} : {pair.num_ties} : {pair.num_second}",
            "-" if mean is None else f"{mean.mean:+.2f} [{mean.low:+.2f}, {mean.high:+.2f}]",
            f"{pair.p_value:.2g}",
        )
    return conditions, pairs
