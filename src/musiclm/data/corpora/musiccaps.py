"""MusicCaps: the published captions and a user's own folder of clips, named by id, to a corpus.

The captions (Agostinelli et al. 2023, CC BY-SA 4.0) are a CSV of 5,521 ten-second pieces of YouTube
videos; the audio is not published. Clips that a user has are looked for as `YTID.wav` (or .flac,
.ogg, .mp3), with `-START` or `_START` (and an end) behind the id where a file holds one piece only.
Rows of AudioSet's evaluation half are the test split, the rest is for training. Without audio, the
same CSV serves as captions (`captions.py`).
"""

import ast
import csv
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from musiclm.audio.waveform import Waveform
from musiclm.core.config import Config
from musiclm.core.errors import AudioError, DataError
from musiclm.data.corpora.folder import AUDIO_SUFFIXES
from musiclm.data.manifest import Caption, Clip, Corpus, Labels, write_manifest

COLUMNS = (
    "ytid", "start_s", "end_s", "audioset_positive_labels", "aspect_list", "caption", "author_id",
    "is_balanced_subset", "is_audioset_eval",
)  # fmt: skip
LICENCE = "captions: MusicCaps, CC BY-SA 4.0; audio: as its owners say"
_STORED_RATE_HZ = 24_000


class MusicCapsRow(Config):
    """One line of the published file."""

    ytid: str = Field(min_length=1)
    """YouTube id."""
    start_s: float = Field(ge=0)
    """Start of the piece in the video."""
    end_s: float = Field(gt=0)
    """Its end."""
    audioset_positive_labels: tuple[str, ...]
    """AudioSet's class ids."""
    aspect_list: tuple[str, ...]
    """Short descriptions."""
    caption: str = Field(min_length=1)
    """Several sentences."""
    author_id: int
    """Who wrote them."""
    is_balanced_subset: bool
    """In the 1,000 clips balanced by genre."""
    is_audioset_eval: bool
    """In AudioSet's evaluation half."""


@dataclass(frozen=True)
class MusicCapsResult:
    """The corpus made, rows without audio, and clips that cannot be used, with the reason."""

    corpus: Corpus
    missing: tuple[str, ...]
    unusable: dict[str, str]


def read_musiccaps(path: Path) -> list[MusicCapsRow]:
    """The rows of the published CSV.

    Raises:
        DataError: The file is missing, lacks a column, or a row is malformed.
    """
    if not path.is_file():
        raise DataError(f"No MusicCaps file at {path}. Give the published musiccaps-public.csv.")
    rows: list[MusicCapsRow] = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        lacking = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if lacking:
            raise DataError(f"{path} is not MusicCaps: it has no column {lacking[0]!r}.")
        for number, row in enumerate(reader, start=2):
            try:
                labels = [label for label in row["audioset_positive_labels"].split(",") if label]
                aspects = ast.literal_eval(row["aspect_list"])
                parsed = {**row, "audioset_positive_labels": labels, "aspect_list": aspects}
                rows.append(MusicCapsRow.model_validate(parsed))
            except (ValidationError, ValueError, SyntaxError, AttributeError) as error:
                reason = str(error).splitlines()[0]
                raise DataError(f"{path}, row {number} is malformed ({reason}).") from error
    return rows


def corpus_from_musiccaps(
    captions: Path,
    clips: Path,
    dest: Path,
    *,
    audio_format: Literal["flac", "wav"] = "flac",
    on_row: Callable[[int, int], None] = lambda _done, _total: None,
) -> MusicCapsResult:
    """Makes a corpus of the rows whose audio is there, and says which are not.

    A file much longer than its piece is taken for the whole video and cut. Rows that were converted
    before are not converted again.

    Args:
        captions: The published CSV.
        clips: The folder of audio, at any depth.
        dest: Folder of the corpus.
        audio_format: Kind of audio file.
        on_row: Told how many rows are done, and how many there are.

    Raises:
        DataError: The CSV is malformed, there is no such folder, or no row has usable audio.
    """
    rows = read_musiccaps(captions)
    if not clips.is_dir():
        raise DataError(f"{clips} is no folder. Give the folder of clips named by YouTube id.")
    found = files_by_id(clips, {row.ytid for row in rows})
    made: list[Clip] = []
    missing: list[str] = []
    unusable: dict[str, str] = {}
    for number, row in enumerate(rows, start=1):
        path = found.get(row.ytid)
        if path is None:
            missing.append(row.ytid)
        else:
            try:
                made.append(_clip(row, path, dest, audio_format))
            except AudioError as error:
                unusable[row.ytid] = str(error)
        on_row(number, len(rows))
    if not made:
        raise DataError(
            f"{clips} holds no audio of the {len(rows)} rows of {captions.name}. Name the files by "
            "their YouTube id, such as -0Gj8-vB1q4.wav."
        )
    write_manifest(dest, made)
    return MusicCapsResult(Corpus(dest, tuple(made)), tuple(missing), unusable)


def files_by_id(folder: Path, ids: set[str]) -> dict[str, Path]:
    """The audio file of each id, at any depth; ids themselves may hold dashes and underscores.

    A name may go on behind its id, as `-0Gj8-vB1q4_30_40.wav` does.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in AUDIO_SUFFIXES or not path.is_file():
            continue
        stem = path.stem
        bare = re.sub(r"([-_]\d+(\.\d+)?){1,2}$", "", stem)
        for name in (stem, bare, stem[:11]):
            if name in ids:
                found.setdefault(name, path)
                break
    return found


def _clip(row: MusicCapsRow, path: Path, dest: Path, audio_format: str) -> Clip:
    name = Path("audio") / f"{row.ytid}.{audio_format}"
    if not (dest / name).is_file():
        whole = Waveform.read(path, sample_rate_hz=_STORED_RATE_HZ)
        seconds = row.end_s - row.start_s
        if whole.duration_seconds > 1.5 * seconds and whole.duration_seconds >= row.end_s - 0.5:
            first = round(row.start_s * _STORED_RATE_HZ)
            whole = whole.crop(first, round(seconds * _STORED_RATE_HZ))
        whole.write(dest / name)
    kept = Waveform.read(dest / name)
    aspects = ", ".join(row.aspect_list)
    texts = [Caption(text=row.caption, kind="prose")]
    if aspects:
        texts.append(Caption(text=aspects, kind="tags"))
    return Clip(
        clip_id=row.ytid,
        path=name.as_posix(),
        duration_seconds=kept.duration_seconds,
        sample_rate_hz=kept.sample_rate_hz,
        split="test" if row.is_audioset_eval else "train",
        captions=tuple(texts),
        labels=Labels(melody_cluster=row.ytid),
        source=f"MusicCaps {row.ytid} {row.start_s:g}-{row.end_s:g} s",
        licence=LICENCE,
    )
