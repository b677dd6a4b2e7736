"""The verb `prepare`: makes a corpus from rendered scores, or from a folder of audio files."""

from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from musiclm.core.errors import DependencyError
from musiclm.data.corpora.folder import FolderSettings, corpus_from_folder
from musiclm.data.manifest import Corpus, Split
from musiclm.data.rendered.corpus import Progress as RenderProgress
from musiclm.data.rendered.corpus import RenderSettings, render_corpus
from musiclm.data.rendered.synthesizer import (
    HELD_OUT_SOUNDFONTS,
    find_soundfont,
    train_soundfont,
)


def prepare_rendered(  # noqa: PLR0913  (one argument an option)
    dest: tyro.conf.Positional[Path],
    *,
    hours: float = 1.0,
    seed: int = 0,
    jobs: int = 1,
    soundfont: Path | None = None,
    game_midi: Path | None = None,
    audio_format: Literal["flac", "wav"] = "flac",
    splits: tuple[Split, ...] = ("train", "validation", "test"),
) -> None:
    """Renders public-domain tunes with an arranger of our own into a captioned corpus.

    Runs again on the same folder to continue or to lengthen a corpus.

    Args:
        dest: Folder of the corpus.
        hours: Hours of audio in all.
        seed: Clip i depends on the seed and i only.
        jobs: Processes that render side by side.
        soundfont: The .sf2 or .sf3 file for training clips; FluidR3_GM is looked for by default.
        game_midi: A WAD file, or a folder of WAD or MIDI files, to mix in as one clip in sixteen.
        audio_format: Kind of audio file.
        splits: Only clips of these; `--splits test` makes a large corpus to evaluate on.
    """
    if soundfont is not None and not soundfont.is_file():
        raise DependencyError(f"No soundfont at {soundfont}. Give an .sf2 or .sf3 file.")
    font = soundfont or train_soundfont()
    held_out = find_soundfont(HELD_OUT_SOUNDFONTS)
    console = Console()
    if held_out is None:
        console.print(
            "The soundfont kept for tests (MuseScore_General) was not found: all clips use "
            f"{font.stem}. Debian: apt install musescore-general-soundfont-small"
        )
    settings = RenderSettings(
        seed=seed,
        audio_format=audio_format,
        soundfont=str(font),
        held_out_soundfont=str(held_out) if held_out else "",
        game_midi=str(game_midi) if game_midi else "",
        splits=splits,
    )
    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("reading the tune books", total=hours, state="")

        def report(state: RenderProgress) -> None:
            bar.update(
                task,
                description="rendering",
                completed=state.seconds_done / 3600,
                state=f"{state.clips} clips, {state.seconds_done / 3600:.2f} h",
            )

        corpus = render_corpus(dest, settings, hours, jobs=jobs, on_progress=report)
    _print_summary(console, corpus)


def prepare_folder(
    source: tyro.conf.Positional[Path],
    dest: tyro.conf.Positional[Path],
    *,
    split_by: Literal["parent", "file"] = "parent",
    audio_format: Literal["flac", "wav"] = "flac",
    licence: str = "",
) -> None:
    """Makes a corpus from a folder of audio files, with captions where there are any.

    Captions come from metadata.csv or metadata.jsonl (file_name, caption) at the top of the
    folder, or from a .txt or .json beside each file. Run again, it converts only what is new.

    Args:
        source: Folder of WAV, FLAC, OGG or MP3 files, at any depth.
        dest: Folder of the corpus.
        split_by: What is never divided between splits: the files of one folder, or each file.
        audio_format: Kind of audio file.
        licence: Terms of the recordings, written to every clip.
    """
    console = Console()
    settings = FolderSettings(split_by=split_by, audio_format=audio_format, licence=licence)
    with Progress(console=console) as bar:
        task = bar.add_task("reading audio", total=None)
        result = corpus_from_folder(
            source,
            dest,
            settings,
            on_file=lambda done, total: bar.update(task, completed=done, total=total),
        )
    for item in result.left_out:
        console.print(f"left out {item.path}: {item.reason}", highlight=False, markup=False)
    _print_summary(console, result.corpus)


def _print_summary(console: Console, corpus: Corpus) -> None:
    splits = ", ".join(
        f"{len(corpus.split(name).clips)} {name}" for name in ("train", "validation", "test")
    )
    console.print(
        f"{corpus.folder}: {len(corpus.clips)} clips, {corpus.duration_hours:.2f} h ({splits})"
    )
