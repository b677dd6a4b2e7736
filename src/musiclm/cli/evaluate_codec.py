"""`musiclm evaluate codec`: notes, spectra and heard quality after the codec, Opus beside it."""

import shutil
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from musiclm.audio.waveform import Waveform
from musiclm.cli.held_out import ModelParts, held_out_split, middle, spread, write_report
from musiclm.core.errors import DependencyError
from musiclm.data.manifest import Corpus
from musiclm.evaluation.codec_quality import NoteListener
from musiclm.evaluation.codec_report import CodecJudges, CodecReport, Mean, report_on_codec
from musiclm.evaluation.visqol import Visqol


def evaluate_codec(  # noqa: PLR0913  (each is an option of the command)
    source: tyro.conf.Positional[str | None] = None,
    *,
    corpus: Path,
    report: Path = Path("evaluation-codec.json"),
    num_clips: int = 50,
    num_visqol_clips: int = 20,
    clip_seconds: float = 10.0,
    device: str = "auto",
) -> None:
    """Score a codec on held-out clips, level by level, beside Opus at 6, 12 and 24 kbps.

    Args:
        source: A model folder or hub id; only its codec.safetensors is needed.
        corpus: The corpus whose test split is coded (validation if there is none).
        report: The .json file to write.
        num_clips: How many clips, spread evenly.
        num_visqol_clips: ViSQOL, which is slow, hears only the first so many.
        clip_seconds: The middle of each clip, so long.
        device: auto, cpu or cuda.
    """
    parts = ModelParts(source, device)
    opened = Corpus.open(corpus)
    split = held_out_split(opened)
    chosen = spread(opened.split(split).clips, num_clips)
    codec = parts.codec

    def clips() -> Iterator[Waveform]:
        for clip in track(chosen, "coding", console=Console(stderr=True)):
            yield middle(opened, clip, seconds=clip_seconds, sample_rate_hz=codec.sample_rate_hz)

    judges = CodecJudges(_listener(), _visqol(), num_visqol_clips)
    has_opus = shutil.which("opusenc") is not None and shutil.which("opusdec") is not None
    figures = report_on_codec(codec, clips(), judges, opus_kbps=(6, 12, 24) if has_opus else ())
    missing = {
        "note_f1": judges.listener is None,
        "visqol": judges.visqol is None,
        "opus": not has_opus,
    }
    document = {
        **parts.described("codec"),
        "corpus": str(corpus),
        "split": split,
        "clip_seconds": clip_seconds,
        "not_installed": [name for name, is_missing in missing.items() if is_missing],
        "does_each_level_help": figures.does_each_level_help,
        **asdict(figures),
    }
    write_report(report, "codec", document)
    for table in _tables(figures, split):
        Console().print(table)


def _listener() -> NoteListener | None:
    try:
        return NoteListener()
    except DependencyError as error:
        warnings.warn(f"Note F1 is left out. {error}", stacklevel=2)
        return None


def _visqol() -> Visqol | None:
    try:
        return Visqol()
    except DependencyError as error:
        warnings.warn(f"ViSQOL is left out. {error}", stacklevel=2)
        return None


def _tables(figures: CodecReport, split: str) -> tuple[Table, Table]:
    codings = Table(
        "coding",
        "kbps",
        "note F1",
        "ViSQOL",
        "log-mel distance (dB)",
        "SI-SDR (dB)",
        title=f"{figures.num_clips} {split} clips",
    )
    for name, coding in figures.codings.items():
        codings.add_row(
            name,
            f"{coding.bitrate_kbps:.1f}",
            _shown(coding.note_f1, 3),
            _shown(coding.visqol, 2),
            _shown(coding.log_mel_db, 2),
            _shown(coding.si_sdr_db, 1),
        )
    levels = Table("level", "log-mel distance (dB)", "gain (dB)", "codebook perplexity")
    for level in figures.levels:
        levels.add_row(
            str(level.level),
            _shown(level.log_mel_db, 2),
            _shown(level.gain_db, 3) if level.gain_db else "",
            f"{level.perplexity:.0f} of {figures.codebook_size}",
        )
    return codings, levels


def _shown(mean: Mean | None, digits: int) -> str:
    if mean is None:
        return "not installed"
    error = "" if mean.error is None else f" ± {mean.error:.{digits}f}"
    return f"{mean.value:.{digits}f}{error}"
