"""`musiclm reproduce`: the paper's tables in miniature, and which of its findings hold here."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console

from musiclm.audio.waveform import Waveform
from musiclm.baselines.token_study import OtherSeed, ResampledAcoustic
from musiclm.cli.evaluate import progress_bar
from musiclm.cli.evaluate_memorization import memorization_of
from musiclm.cli.held_out import ModelParts
from musiclm.cli.judges import JudgeFiles, codec_treatment, open_judges
from musiclm.cli.reproduction import Reproduction, document_of
from musiclm.cli.reproduction_study import REAL, read_results, write_real_clips, write_study
from musiclm.cli.systems import MusicLMSystem, OtherSystems, open_systems
from musiclm.core.errors import DataError
from musiclm.core.files import write_text_whole
from musiclm.data.manifest import Corpus
from musiclm.data.token_store import read_header, shard_paths
from musiclm.evaluation.analysis import AnalysisCache, ProgressReport
from musiclm.evaluation.curves import memorization_picture, write_figure
from musiclm.evaluation.memorization import MemorizationConfig, MemorizationReport
from musiclm.evaluation.memorization_file import read_memorization, write_memorization
from musiclm.evaluation.plan import EvaluationPlan, plan_evaluation
from musiclm.evaluation.suite import evaluate_systems, noise_treatment
from musiclm.evaluation.systems import fill_folder, read_folder
from musiclm.evaluation.token_information import InformationReport, compare_pairs
from musiclm.generation.musiclm import MusicLM


def reproduce(  # noqa: PLR0913  (each is an option of the command)
    output: tyro.conf.Positional[Path],
    *,
    corpus: Path,
    test_corpus: Path | None = None,
    tokens: Path | None = None,
    model: str | None = None,
    systems: OtherSystems = OtherSystems(),  # noqa: B008  (a frozen value)
    judges: JudgeFiles = JudgeFiles(),  # noqa: B008  (a frozen value)
    num_captions: int = 200,
    num_study: int = 24,
    num_examples: int = 200,
    batch: int = 8,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Run the paper's evaluation and write report.json, report.md and report.html.

    Stopped and started again, it goes on where it was; started again after a listening study was
    answered (`musiclm study serve OUTPUT/study`), it adds what listeners said.

    Args:
        output: Folder of the report, the clips, and a listening study of them.
        corpus: The corpus the model was trained on: retrieval plays it.
        test_corpus: Whose test split asks and is compared with; that of `corpus` by default.
        tokens: The token store the stages were trained on, for memorization.
        model: A model folder or hub id; the bundled model by default.
        systems: Further systems; what is absent is told as not measured.
        judges: Further judges.
        num_captions: Captions that every system gets.
        num_study: Captions of the token study.
        num_examples: Training and held-out clips of the memorization analysis.
        batch: Clips generated at once.
        seed: Chooses captions, pieces and draws.
        device: auto, cpu or cuda.
    """
    if num_captions < 2 or num_study < 2:
        raise DataError(f"{num_captions} captions, {num_study} studied; at least 2 are needed.")
    if tokens is not None:
        read_header(tokens)  # a wrong name is told now, not in an hour
    opened = Corpus.open(corpus)
    tested = opened if test_corpus is None else Corpus.open(test_corpus)
    musiclm = MusicLM.from_pretrained(model, device=device)
    plan = plan_evaluation(tested, num_clips=num_captions, seed=seed)
    compared = open_systems(musiclm, opened, systems)
    treatments = {"codec": codec_treatment(musiclm), "noise at 0 dB": noise_treatment(0.0, seed)}
    judging = open_judges(musiclm, judges, musiclm.runtime, treatments)
    folders = {system.name: output / "clips" / _slug(system.name) for system in compared}
    heard = {**folders, REAL: output / "clips" / REAL}
    with progress_bar() as say:
        for system in compared:
            fill_folder(system, plan, folders[system.name], batch=batch, on_progress=say)
        scores = evaluate_systems(
            plan,
            tested,
            {name: _reader(plan, folder) for name, folder in folders.items()},
            judging,
            cache=AnalysisCache(output / "cache"),
            on_progress=say,
        )
        information = _token_study(musiclm, plan, folders, output, num_study, batch, say)
    memorization, reason = _memorization(
        model, musiclm.sha256, tokens, num_examples, device, output
    )
    write_real_clips(plan, tested, heard[REAL])
    study = write_study(plan, heard, output / "study")
    result = Reproduction(
        musiclm.config.name,
        musiclm.sha256,
        plan,
        scores,
        information,
        memorization,
        reason,
        read_results(output / "study", study),
        num_captions,
    )
    _write(result, heard, output)
    console = Console()
    late = [name for name in heard if name not in study.conditions]
    if late:
        console.print(
            f"The study in {output / 'study'} has answers and stays as it was, without "
            f"{', '.join(late)}. For a new one move it away and start this again."
        )
    console.print(f"{output / 'report.html'}: done")


def _token_study(  # noqa: PLR0913  (what is compared, and where it goes)
    musiclm: MusicLM,
    plan: EvaluationPlan,
    folders: Mapping[str, Path],
    output: Path,
    num_study: int,
    batch: int,
    say: ProgressReport,
) -> InformationReport:
    """Relatives of the first clips, made and compared."""
    first = plan.model_copy(update={"asked": plan.asked[:num_study]})
    clips: dict[str, list[Waveform]] = {}
    for system in (ResampledAcoustic(musiclm), OtherSeed(musiclm)):
        folder = output / "clips" / _slug(system.name)
        fill_folder(system, first, folder, batch=batch, on_progress=say)
        clips[system.name] = list(read_folder(first, folder))
    return compare_pairs(
        list(read_folder(first, folders[MusicLMSystem.name])),
        clips[ResampledAcoustic.name],
        clips[OtherSeed.name],
        generator=np.random.default_rng(plan.seed),
    )


def _memorization(
    model: str | None,
    model_sha256: str,
    tokens: Path | None,
    num_examples: int,
    device: str,
    output: Path,
) -> tuple[MemorizationReport | None, str]:
    """The curves, or why there are none: a small store must not cost the rest of the report."""
    if tokens is None:
        return None, "No token store was given (--tokens)."
    config = MemorizationConfig()
    shards = [f"{path.name} {path.stat().st_size}" for path in shard_paths(tokens)]
    made_from = [model_sha256, read_header(tokens).to_json(), *shards, num_examples]
    key = hashlib.sha256(f"{made_from}/{config.to_json()}".encode()).hexdigest()
    path = output / "cache" / "memorization.json"
    kept = read_memorization(path, key)
    if kept is not None:
        return kept, ""
    try:
        found = memorization_of(ModelParts(model, device), tokens, num_examples, config)
    except DataError as error:
        return None, str(error)
    write_memorization(path, key, found)
    return found, ""


def _write(result: Reproduction, folders: Mapping[str, Path], output: Path) -> None:
    document = document_of(result, {n: _reader(result.plan, f) for n, f in folders.items()})
    if result.memorization is not None:
        write_figure(memorization_picture(result.memorization), output / "memorization.png")
    figures = {
        "format_version": 1,
        "model_name": result.model_name,
        "model_sha256": result.model_sha256,
        "scores": asdict(result.scores),
        "token_information": asdict(result.information),
        "memorization": asdict(result.memorization) if result.memorization else None,
        "listening": asdict(result.study) if result.study else None,
        "findings": [asdict(found) | {"verdict": found.verdict} for found in result.findings],
    }
    write_text_whole(output / "report.json", json.dumps(figures, indent=2) + "\n")
    write_text_whole(output / "report.md", document.markdown())
    write_text_whole(output / "report.html", document.html())


def _reader(plan: EvaluationPlan, folder: Path) -> Callable[[], Iterator[Waveform]]:
    return lambda: read_folder(plan, folder)


def _slug(name: str) -> str:
    return name.replace(" ", "-")
