"""`musiclm prepare musiccaps`: the published captions and a user's own clips to a corpus."""

from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console
from rich.progress import Progress

from musiclm.core.files import write_text_whole
from musiclm.data.corpora.musiccaps import corpus_from_musiccaps


def prepare_musiccaps(
    captions: tyro.conf.Positional[Path],
    clips: tyro.conf.Positional[Path],
    dest: tyro.conf.Positional[Path],
    *,
    audio_format: Literal["flac", "wav"] = "flac",
) -> None:
    """Makes a corpus of MusicCaps from its CSV and a folder of clips named by YouTube id.

    Rows without audio are listed in missing.txt. Run again, it converts only what is new.

    Args:
        captions: musiccaps-public.csv, as its authors publish it.
        clips: Folder of WAV, FLAC, OGG or MP3 files, at any depth.
        dest: Folder of the corpus.
        audio_format: Kind of audio file.
    """
    console = Console()
    with Progress(console=console) as bar:
        task = bar.add_task("reading clips", total=None)
        result = corpus_from_musiccaps(
            captions,
            clips,
            dest,
            audio_format=audio_format,
            on_row=lambda done, total: bar.update(task, completed=done, total=total),
        )
    write_text_whole(dest / "missing.txt", "".join(f"{ytid}\n" for ytid in result.missing))
    for ytid, reason in result.unusable.items():
        console.print(f"left out {ytid}: {reason}", highlight=False, markup=False)
    console.print(
        f"{dest}: {len(result.corpus.clips)} clips; {len(result.missing)} rows have no audio "
        "(missing.txt)"
    )
