"""A memorization report on disk, so that a report that is made again generates nothing again."""

from pathlib import Path
from typing import Literal

from musiclm.core.config import Config
from musiclm.core.errors import ConfigError
from musiclm.core.files import write_text_whole
from musiclm.evaluation.memorization import MemorizationReport


class _Kept(Config):
    """A report, and what it was made from."""

    format_version: Literal[1] = 1
    """Of the file."""
    key: str
    """A hash of the model, the examples and the config."""
    report: MemorizationReport
    """The curves."""


def write_memorization(path: Path, key: str, report: MemorizationReport) -> None:
    """Keeps a report.

    Args:
        path: A .json file.
        key: A hash of all that decided the report.
        report: The report.
    """
    write_text_whole(path, _Kept(key=key, report=report).to_json() + "\n")


def read_memorization(path: Path, key: str) -> MemorizationReport | None:
    """The report that was kept; None if there is none, a broken one, or one of something else."""
    if not path.is_file():
        return None
    try:
        kept = _Kept.from_json(path.read_text(encoding="utf-8"))
    except (ConfigError, OSError, UnicodeDecodeError):
        return None
    return kept.report if kept.key == key else None
