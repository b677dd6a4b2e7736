"""`musiclm evaluate SYSTEM_OR_FOLDER --captions FILE`: any captions, any system, or its clips."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean

import tyro
from rich.console import Console

from musiclm.audio.waveform import Waveform
from musiclm.cli.evaluate import figures_table, progress_bar
from musiclm.cli.judges import JudgeFiles, codec_treatment, open_judges
from musiclm.cli.systems import (
    MusicLMSystem,
    OtherSystems,
    baseline_named,
    clips_by_name,
    open_baseline,
    without,
)
from musiclm.core.errors import DataError
from musiclm.core.files import write_text_whole
from musiclm.data.corpora.captions import read_captions
from musiclm.data.manifest import Corpus
from musiclm.evaluation.analysis import TAGGER, AnalysisCache
from musiclm.evaluation.plan import plan_for_captions
from musiclm.evaluation.reference import reference_rows, reference_statistics
from musiclm.evaluation.suite import evaluate_systems
from musiclm.evaluation.systems import System, fill_folder, read_folder
from musiclm.generation.bundle import CONFIG_NAME
from musiclm.generation.musiclm import MusicLM


def evaluate_captions(  # noqa: PLR0913  (each is an option of the command)
    source: tyro.conf.Positional[str | None] = None,
    *,
    captions: Path,
    report: Path = Path("evaluation.json"),
    reference: Path | None = None,
    corpus: Path | None = None,
    systems: OtherSystems = OtherSystems(),  # noqa: B008  (a frozen value)
    judges: JudgeFiles = JudgeFiles(),  # noqa: B008  (a frozen value)
    model: str | None = None,
    num_captions: int = 200,
    seconds: float = 10.0,
    batch: int = 8,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Score a system on captions alone: how well its clips fit the words.

    Without the captions' own audio there is no KLD; `musiclm evaluate generations` has it.

    Args:
        source: A model folder or hub id (the bundled model by default) or a baseline (retrieval,
            no-semantic-stage, spectrogram-diffusion, riffusion), whose clips are generated beside
            the report; or a folder of clips named by a caption's id or number (0000.wav). A folder
            that is there comes before a baseline of its name.
        captions: A .txt, .csv (MusicCaps' too), .json or .jsonl file.
        report: The .json file to write.
        reference: A folder of audio that FAD compares with; what was heard is kept. Half of it
            against the other half is the floor, the same after the codec the best to be had.
        corpus: The training clips that retrieval plays.
        systems: Files of the other baselines; only those of the one that is scored are read.
        judges: A user's own judges.
        model: The model whose MuLan judges a baseline or a folder of clips, and whose stages the
            ablation keeps; the bundled one by default.
        num_captions: At most so many, from the start of the file.
        seconds: Length of a clip that is made; a folder's clips are heard whole.
        batch: Clips generated at once.
        seed: Of the generations, the intervals and the halves of the reference.
        device: auto, cpu or cuda.
    """
    rows = read_captions(captions)[:num_captions]
    plan = plan_for_captions([row.text for row in rows], clip_seconds=seconds, seed=seed)
    is_clips = source is not None and Path(source).is_dir()
    is_clips = is_clips and not (Path(str(source)) / CONFIG_NAME).is_file()
    baseline = baseline_named(source)
    missing: list[str] = []
    lengths: list[float] = []
    musiclm = MusicLM.from_pretrained(model if is_clips or baseline else source, device=device)
    system: System = MusicLMSystem(musiclm)
    if baseline is not None:
        training = None if corpus is None else Corpus.open(corpus)
        system = open_baseline(baseline, musiclm, training, systems)
    opened = open_judges(musiclm, judges, musiclm.runtime, {"codec": codec_treatment(musiclm)})
    with progress_bar() as say:
        if is_clips:
            found = clips_by_name(Path(str(source)), [row.row_id for row in rows])
            kept = [number for number, row in enumerate(rows) if row.row_id in found]
            missing = [row.row_id for row in rows if row.row_id not in found]
            plan = without(plan, kept)
            lengths = [
                Waveform.read(found[rows[number].row_id]).duration_seconds for number in kept
            ]
            name = Path(str(source)).name
            paths = [found[rows[number].row_id] for number in kept]
            heard = {name: lambda: (Waveform.read(path) for path in paths)}
        else:
            folder = report.with_name(f"{report.stem}-clips")
            fill_folder(system, plan, folder, batch=batch, on_progress=say)
            heard = {system.name: lambda: read_folder(plan, folder)}
        if len(plan.asked) < 2:
            raise DataError(f"There are clips for {len(plan.asked)} captions; 2 are needed.")
        kept_in = report.with_name(f"{report.stem}-cache")
        cache = AnalysisCache(kept_in)
        compared = reference_statistics(reference, opened, kept_in) if reference else None
        figures = evaluate_systems(
            plan,
            None,
            heard,
            opened,
            reference=compared,
            cache=cache,
            on_progress=say,
        )
        if reference is not None:
            floor = reference_rows(reference, opened, seed=seed, cache=cache, on_progress=say)
            figures = replace(figures, rows={**figures.rows, **floor})
    if compared is not None:
        heard_by = [TAGGER, *(embedder.name for embedder in opened.embedders)]
        lacking = {
            name: f"too little audio in {reference}" for name in heard_by if name not in compared
        }
        figures = replace(figures, too_few_windows={**figures.too_few_windows, **lacking})
    if lengths:
        between = min(lengths), max(lengths)
        figures = replace(figures, clip_seconds=fmean(lengths), seconds_between=between)
    document = {
        "format_version": 1,
        "captions": str(captions),
        "missing_clips": missing,
        "judge_model": musiclm.config.name,
        **asdict(figures),
    }
    write_text_whole(report, json.dumps(document, indent=2) + "\n")
    console = Console()
    if missing:
        console.print(f"{len(missing)} captions have no clip: {', '.join(missing[:8])} ...")
    console.print(figures_table(figures))
