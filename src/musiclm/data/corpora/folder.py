"""Folder: a directory of audio files, with captions where there are any, to a corpus.

Captions are looked for in `metadata.csv` or `metadata.jsonl` (columns `file_name` and `caption`,
`captions` or `text`) at the top of the folder, and beside each file in a `.txt` (one a line) or
`.json` of the same name.
"""

import csv
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from musiclm.audio.waveform import Waveform
from musiclm.core.config import Config
from musiclm.core.errors import AudioError, DataError
from musiclm.data.manifest import Caption, Clip, Corpus, Split, write_manifest
from musiclm.data.quality import duplicates, fingerprint, quality_flags

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
_CAPTION_FIELDS = ("caption", "captions", "text")


class FolderSettings(Config):
    """How a folder of audio becomes a corpus."""

    sample_rate_hz: int = Field(default=24_000, gt=0)
    """Rate of the corpus's audio."""
    audio_format: Literal["flac", "wav"] = "flac"
    """Kind of audio file; both are 16-bit."""
    split_by: Literal["parent", "file"] = "parent"
    """What is never divided between splits: the files of one folder (an artist, an album), or
    each file by itself."""
    min_seconds: float = Field(default=1.0, gt=0)
    """Shorter files are left out."""
    licence: str = ""
    """Terms of the recordings, written to every clip."""


@dataclass(frozen=True)
class LeftOut:
    """A file that was not used, and why, in one line."""

    path: Path
    reason: str


@dataclass(frozen=True)
class FolderResult:
    """The corpus made, and what was left out of it."""

    corpus: Corpus
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True)
class _Kept:
    """A converted file: its clip, and the fingerprint that finds copies of it."""

    source: Path
    clip: Clip
    print: bytes


def split_of(group: str) -> Split:
    """90 % of groups train, 5 % validate, 5 % test, by a fixed hash of the group's name."""
    digest = hashlib.blake2b(f"folder/{group}".encode(), digest_size=8).digest()
    fraction = int.from_bytes(digest, "little") / 2**64
    return "train" if fraction < 0.9 else "validation" if fraction < 0.95 else "test"


def corpus_from_folder(
    source: Path,
    dest: Path,
    settings: FolderSettings,
    *,
    on_file: Callable[[int, int], None] = lambda _done, _total: None,
) -> FolderResult:
    """Checks, converts and lists every audio file below `source`.

    Files that were converted before and have not changed since are not converted again.

    Args:
        source: Where the audio files are, at any depth.
        dest: Folder of the corpus.
        settings: How to convert and split.
        on_file: Told how many files are done, and how many there are.

    Raises:
        DataError: `source` is no folder, or holds nothing usable; or its metadata is malformed.
    """
    if not source.is_dir():
        raise DataError(f"{source} is no folder. Give a folder of WAV, FLAC, OGG or MP3 files.")
    if dest.resolve() == source.resolve():
        raise DataError(f"Source and destination are both {source}. Choose another destination.")
    files = _audio_files(source, dest)
    captions = _metadata(source)
    kept: list[_Kept] = []
    left_out: list[LeftOut] = []
    for number, path in enumerate(files, start=1):
        try:
            texts = [
                *captions.get(path.relative_to(source).as_posix(), ()),
                *_captions_beside(path),
            ]
            kept.append(_converted(path, source, dest, settings, texts))
        except (AudioError, DataError) as error:
            left_out.append(LeftOut(path, str(error)))
        on_file(number, len(files))
    for later, earlier in reversed(duplicates([item.print for item in kept])):
        reason = f"It is the same recording as {kept[earlier].source}."
        left_out.append(LeftOut(kept.pop(later).source, reason))
    if not kept:
        why = f" The first problem: {left_out[0].reason}" if left_out else ""
        raise DataError(
            f"{source} holds no usable audio ({len(files)} files found). "
            f"Give WAV, FLAC, OGG or MP3 files.{why}"
        )
    clips = tuple(item.clip for item in kept)
    write_manifest(dest, clips)
    return FolderResult(Corpus(dest, clips), tuple(sorted(left_out, key=lambda item: item.path)))


def _audio_files(source: Path, dest: Path) -> list[Path]:
    inside = dest.resolve()
    return sorted(
        path
        for path in source.rglob("*")
        if path.suffix.lower() in AUDIO_SUFFIXES
        and path.is_file()
        and not path.resolve().is_relative_to(inside)
    )


def _converted(
    path: Path, source: Path, dest: Path, settings: FolderSettings, texts: Iterable[str]
) -> _Kept:
    """Converts one file, or finds it converted.

    Raises:
        AudioError: It cannot be read.
        DataError: It can be read but not used.
    """
    relative = path.relative_to(source)
    clip_id = hashlib.blake2b(relative.as_posix().encode(), digest_size=6).hexdigest()
    target = Path("audio") / f"{clip_id}.{settings.audio_format}"
    is_there = (dest / target).is_file() and (dest / target).stat().st_mtime >= path.stat().st_mtime
    wave = Waveform.read(
        dest / target if is_there else path, sample_rate_hz=settings.sample_rate_hz
    )
    flags = quality_flags(wave, min_seconds=settings.min_seconds)
    if flags:
        raise DataError(f"It is {', '.join(flags)} ({wave.duration_seconds:.2f} s).")
    if not is_there:
        wave.write(dest / target)
    group = relative.parent.as_posix() if settings.split_by == "parent" else relative.as_posix()
    # Files at the top have no folder in common that says anything.
    group = relative.as_posix() if group == "." else group
    clip = Clip(
        clip_id=clip_id,
        path=target.as_posix(),
        duration_seconds=wave.duration_seconds,
        sample_rate_hz=wave.sample_rate_hz,
        split=split_of(group),
        captions=tuple(_caption(text) for text in dict.fromkeys(map(str.strip, texts)) if text),
        source=relative.as_posix(),
        licence=settings.licence,
    )
    return _Kept(path, clip, fingerprint(wave))


def _caption(text: str) -> Caption:
    """A given caption; what kind it is shows from its punctuation."""
    sentences = text.count(". ") + text.endswith(".")
    if sentences > 1:
        return Caption(text=text, kind="prose")
    return Caption(text=text, kind="tags" if "," in text and sentences == 0 else "sentence")


def _captions_beside(path: Path) -> list[str]:
    """Captions in a text or JSON file of the same name."""
    texts: list[str] = []
    text_path, json_path = path.with_suffix(".txt"), path.with_suffix(".json")
    try:
        if text_path.is_file():
            texts += text_path.read_text(encoding="utf-8").splitlines()
        if json_path.is_file():
            texts += _texts_of(json.loads(json_path.read_text(encoding="utf-8")))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"Its caption file is not readable ({error}).") from error
    return texts


def _texts_of(value: object) -> list[str]:
    """Captions in whatever shape JSON gives them: a text, a list, or an object with a field."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for item in value for text in _texts_of(item)]  # pyright: ignore[reportUnknownVariableType]  # JSON has no type
    if isinstance(value, dict):
        return [
            text for name in _CAPTION_FIELDS if name in value for text in _texts_of(value[name])
        ]  # pyright: ignore[reportUnknownArgumentType]  # JSON has no type
    return []


def _metadata(source: Path) -> dict[str, list[str]]:
    """Captions by file name from `metadata.csv` or `metadata.jsonl`."""
    rows: list[dict[str, object]] = []
    csv_path, jsonl_path = source / "metadata.csv", source / "metadata.jsonl"
    try:
        if csv_path.is_file():
            with csv_path.open(encoding="utf-8-sig", newline="") as file:
                rows += [dict[str, object](row) for row in csv.DictReader(file)]
        if jsonl_path.is_file():
            lines = jsonl_path.read_text(encoding="utf-8").splitlines()
            rows += [json.loads(line) for line in lines if line.strip()]
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise DataError(f"The metadata of {source} is not readable ({error}). Mend it.") from error
    captions: dict[str, list[str]] = {}
    for row in rows:
        name = row.get("file_name")
        if not isinstance(name, str):
            raise DataError(
                f"The metadata of {source} has a row without `file_name`. Needed are the columns "
                "file_name and caption."
            )
        captions.setdefault(name, []).extend(_texts_of(row))
    return captions
