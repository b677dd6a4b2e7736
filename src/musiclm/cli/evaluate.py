"""`musiclm evaluate generations`: clips from held-out captions, scored against real audio."""

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from musiclm.audio.waveform import Waveform
from musiclm.cli.judges import JudgeFiles, codec_treatment, open_judges
from musiclm.cli.pieces import AskedPiece, Report, make_missing
from musiclm.core.errors import DataError
from musiclm.core.files import write_text_whole
from musiclm.core.runtime import Runtime
from musiclm.data.manifest import Corpus, Split
from musiclm.evaluation.analysis import AnalysisCache, Treatment
from musiclm.evaluation.distances import Interval
from musiclm.evaluation.plan import PLAN_NAME, EvaluationPlan, plan_evaluation, read_plan
from musiclm.evaluation.suite import (
    GENERATED,
    EvaluationReport,
    evaluate_systems,
    noise_treatment,
)
from musiclm.generation.musiclm import MusicLM
from musiclm.generation.prompt import GenerationSettings, Temperatures
from musiclm.generation.record import GenerationRecord


def evaluate(  # noqa: PLR0913  (each is an option of the command)
    source: tyro.conf.Positional[str | None] = None,
    *,
    corpus: Path,
    report: Path = Path("evaluation.json"),
    clips: Path | None = None,
    judge: str | None = None,
    judges: JudgeFiles = JudgeFiles(),  # noqa: B008  (a frozen value)
    num_clips: int = 200,
    split: Split = "test",
    guidance: float | None = None,
    coarse_guidance: float | None = None,
    temperatures: tuple[float, float, float] | None = None,
    levels: int | None = None,
    batch: int = 8,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Score a model: clips of 10 s from held-out captions against held-out audio.

    Stopped and started again, it goes on where it was.

    Args:
        source: A model folder or hub id (the bundled model by default), or a folder of clips that
            an earlier run made, which is then only scored.
        corpus: The corpus whose held-out clips are asked for and compared with.
        report: The .json file to write.
        clips: Where generated clips are kept; by default a folder beside the report.
        judge: The model whose MuLan compares captions and clips; the scored model by default.
        judges: A user's own judges.
        num_clips: How many captions.
        split: Choose settings on validation; score them once, on test.
        guidance: As `musiclm generate` takes it; the model's own by default.
        coarse_guidance: That of the coarse stage, if it is another.
        levels: As `musiclm generate` takes it; the model's own by default.
        temperatures: Of the semantic, coarse and fine stage; the model's own by default.
        batch: Clips generated at once.
        seed: Chooses captions and pieces.
        device: auto, cpu or cuda.
    """
    if num_clips < 2 or batch < 1:
        raise DataError(f"{num_clips} clips, {batch} at once; at least 2 and 1 are needed.")
    opened = Corpus.open(corpus)
    is_made = source is not None and (Path(source) / PLAN_NAME).is_file()
    model = None if is_made else MusicLM.from_pretrained(source, device=device)
    judging = MusicLM.from_pretrained(judge, device=device) if judge else model
    treatments: dict[str, Treatment] = {"noise at 0 dB": noise_treatment(0.0, seed)}
    if judging is not None:
        treatments["codec"] = codec_treatment(judging)
    listening = open_judges(judging, judges, Runtime.choose(device), treatments)
    with progress_bar() as say:
        if model is None:
            folder = Path(str(source))
            plan = read_plan(folder)
        else:
            folder = clips or report.with_name(f"{report.stem}-clips")
            plan = plan_evaluation(opened, num_clips=num_clips, seed=seed, split=split)
            plan.write(folder)
            settings = GenerationSettings(
                duration_seconds=plan.clip_seconds,
                guidance=guidance,
                coarse_guidance=coarse_guidance,
                num_levels=levels,
                temperatures=None
                if temperatures is None
                else Temperatures(
                    semantic=temperatures[0], coarse=temperatures[1], fine=temperatures[2]
                ),
            )
            generate_missing(model, plan, folder, settings, batch=batch, say=say)
        figures = evaluate_systems(
            plan,
            opened,
            {GENERATED: lambda: read_clips(plan, folder)},
            listening,
            cache=AnalysisCache(report.with_name(f"{report.stem}-cache")),
            on_progress=say,
        )
    record = GenerationRecord.read(plan.clip_path(folder, 0).with_suffix(".json"))
    document = {
        "format_version": 2,
        "model_name": record.model_name,
        "model_sha256": record.model_sha256,
        "corpus": str(corpus),
        "settings": record.settings.model_dump(mode="json"),
        **asdict(figures),
    }
    write_text_whole(report, json.dumps(document, indent=2) + "\n")
    Console().print(figures_table(figures))


def generate_missing(
    musiclm: MusicLM,
    plan: EvaluationPlan,
    folder: Path,
    settings: GenerationSettings,
    *,
    batch: int,
    say: Report,
) -> None:
    """Generates what the folder lacks, each clip a .wav and its record.

    Raises:
        PromptError: The folder holds clips of another model.
        DataError: The folder holds clips of other settings.
    """
    pieces = [
        AskedPiece(plan.clip_path(folder, number), asked.prompt, asked.seed)
        for number, asked in enumerate(plan.asked)
    ]
    make_missing(musiclm, pieces, settings, batch=batch, say=say)


def read_clips(plan: EvaluationPlan, folder: Path) -> Iterator[Waveform]:
    """The generated clips in the plan's order, one at a time."""
    for number in range(len(plan.asked)):
        yield Waveform.read(plan.clip_path(folder, number))


@contextmanager
def progress_bar() -> Generator[Report, None, None]:
    """One bar a row, with the time left."""
    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks = {"": bar.add_task("", visible=False)}

        def say(row: str, done: int, total: int) -> None:
            if row not in tasks:
                tasks[row] = bar.add_task(row, total=total)
            bar.update(tasks[row], completed=done)

        yield say


def figures_table(figures: EvaluationReport) -> Table:
    """The figures, a line each."""
    title = f"{figures.num_clips} clips of {_lengths(figures)}"
    table = Table("figure", "row", "value", title=title)
    embedders = list(dict.fromkeys(name for row in figures.rows.values() for name in row.fad))
    for row, scores in figures.rows.items():
        for embedder in embedders:
            fad = scores.fad.get(embedder)
            value = "too few windows" if fad is None else f"{fad.fad:.4g}"
            if fad is not None and fad.fad_infinity is not None:
                value += f" (inf {fad.fad_infinity:.4g})"
            table.add_row(f"{embedder}-FAD", row, value)
    for embedder, why in figures.too_few_windows.items():
        table.add_row(f"{embedder}-FAD", "all", f"too few windows: {why}")
    for row, kld in _divergences(figures).items():
        table.add_row(
            f"{figures.class_judge}-KLD (nats)", row, f"{kld.mean:.3f}, {_between(kld, '.3f')}"
        )
    for row, scores in figures.rows.items():
        for space, similarity in scores.similarity.items():
            gap = similarity.difference
            table.add_row(
                f"{space}, right - shuffled",
                row,
                f"{gap.mean:+.3f}, {_between(gap, '+.3f')} (right {similarity.right:.3f}, "
                f"R@10 {scores.retrieval[space].recall_at_10.value:.1%})",
            )
        for attribute, score in scores.adherence.items():
            table.add_row(
                f"asked {attribute} heard",
                row,
                f"{score.rate:.1%} of {score.num_clips} (chance {score.chance:.1%}; gain "
                f"{score.gain.mean:+.1%}, {_between(score.gain, '+.1%')})",
            )
        if (agreement := scores.instruments) is not None:
            table.add_row(
                "lead instrument heard",
                row,
                f"{agreement.rate:.1%} of {agreement.num_clips} "
                f"({agreement.times_chance:.1f} x chance {agreement.chance:.1%})",
            )
    return table


def _lengths(figures: EvaluationReport) -> str:
    """To a tenth of a second where a user's own clips have any length."""
    if figures.seconds_between is None:
        return f"{figures.clip_seconds:g} s"
    shortest, longest = (f"{round(seconds, 1):g}" for seconds in figures.seconds_between)
    return f"{shortest} s" if shortest == longest else f"{shortest} to {longest} s"


def _divergences(figures: EvaluationReport) -> dict[str, Interval]:
    found = {row: scores.kld for row, scores in figures.rows.items() if scores.kld is not None}
    if figures.shuffled_kld is not None:
        found["real, shuffled"] = figures.shuffled_kld
    return found


def _between(interval: Interval, style: str) -> str:
    return f"95 % {interval.low:{style}} to {interval.high:{style}}"
