"""Caption files: lists of prompts in the shapes people keep them in.

- `.txt`: one caption a line;
- `.csv`: a column `caption` (or `captions`, `text`, `prompt`), and if there is one an id in `ytid`,
  `id` or `file_name`; MusicCaps' published file is one;
- `.json`, `.jsonl`: strings, or objects with such fields.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from musiclm.core.errors import DataError

_TEXT_FIELDS = ("caption", "captions", "text", "prompt")
_ID_FIELDS = ("ytid", "id", "clip_id", "file_name")


@dataclass(frozen=True)
class CaptionRow:
    """A caption and the id of what it describes (its number where the file has none)."""

    row_id: str
    text: str


def read_captions(path: Path) -> list[CaptionRow]:
    """The captions of a file, in order; empty ones are left out.

    Raises:
        DataError: The file is missing, of an unknown kind, malformed, or holds no caption.
    """
    if not path.is_file():
        raise DataError(f"No caption file at {path}. Give a .txt, .csv, .json or .jsonl file.")
    try:
        rows = list(_rows(path))
    except (UnicodeDecodeError, ValueError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as captions ({error}).") from error
    captions = [
        CaptionRow(row_id or f"{number:04d}", " ".join(text.split()))
        for number, (row_id, text) in enumerate(rows)
        if text.strip()
    ]
    if not captions:
        raise DataError(f"{path} holds no captions. Give one a line, or a column named caption.")
    return captions


def _rows(path: Path) -> Iterable[tuple[str, str]]:
    text = path.read_text(encoding="utf-8-sig")
    suffix = path.suffix.lower()
    if suffix == ".txt":
        return [("", line) for line in text.splitlines()]
    if suffix == ".csv":
        return [_row(path, row) for row in csv.DictReader(io.StringIO(text, newline=""))]
    if suffix == ".jsonl":
        return [_row(path, json.loads(line)) for line in text.splitlines() if line.strip()]
    if suffix == ".json":
        return [_row(path, row) for row in json.loads(text)]
    raise DataError(f"{path.name} is no caption file: give .txt, .csv, .json or .jsonl.")


def _row(path: Path, row: object) -> tuple[str, str]:
    if isinstance(row, str):
        return "", row
    if isinstance(row, Mapping):
        for name in _TEXT_FIELDS:
            if isinstance(row.get(name), str):
                found = next((str(row[key]) for key in _ID_FIELDS if row.get(key)), "")
                return found, str(row[name])
    raise DataError(f"{path} has a row without a caption; name the column or field `caption`.")
