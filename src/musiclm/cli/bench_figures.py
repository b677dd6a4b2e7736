"""Figures of a benchmark: medians of several runs, ratios, and what may not get worse."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from musiclm.core.config import Config
from musiclm.core.errors import DataError, MusicLMError


class Figure(Config):
    """One thing that was measured."""

    name: str
    """What, of which system, in which precision."""
    unit: str
    """Of the values."""
    values: tuple[float, ...] = ()
    """One a run; none when it was not measured."""
    note: str = ""
    """What the figure leaves out, or why there is none."""

    @property
    def median(self) -> float | None:
        """The middle value."""
        return statistics.median(self.values) if self.values else None


class Ratio(Config):
    """A figure over another one of the same run: it says the same on machines of any speed."""

    name: str
    """What over what."""
    value: float
    """Of the medians."""
    better: Literal["higher", "lower"]
    """Which way is an improvement."""


class Report(Config):
    """All that one run measured."""

    machine: str
    """Processor, threads, versions."""
    figures: tuple[Figure, ...]
    """In the order of the table."""
    ratios: tuple[Ratio, ...]
    """Of these figures."""


class StoredRatios(Config):
    """What `make bench-check` holds a run against; written by `--store-ratios`, never by hand."""

    machine: str
    """Where they were measured."""
    ratios: tuple[Ratio, ...]
    """As measured."""

    @classmethod
    def read(cls, path: Path) -> "StoredRatios":
        """Reads what `--store-ratios` wrote.

        Raises:
            DataError: There is no such file.
        """
        if not path.is_file():
            raise DataError(f"No ratios at {path}. Measure them: musiclm bench --store-ratios.")
        return cls.from_json(path.read_text(encoding="utf-8"))


def timed(
    action: Callable[[], object], runs: int, *, patience_seconds: float = math.inf
) -> tuple[float, ...]:
    """Seconds of each of some runs, after one that is not counted.

    No run begins after `patience_seconds`; when the first alone takes longer, it is what counts.
    """
    first = _seconds_of(action)
    if first > patience_seconds:
        return (first,)
    seconds: list[float] = []
    while len(seconds) < runs and (not seconds or first + sum(seconds) < patience_seconds):
        seconds.append(_seconds_of(action))
    return tuple(seconds)


def _seconds_of(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def ratio_of(
    name: str, over: Figure, under: Figure, better: Literal["higher", "lower"]
) -> list[Ratio]:
    """The ratio of two figures; none when one of them was not measured."""
    if not over.median or not under.median:
        return []
    return [Ratio(name=name, value=over.median / under.median, better=better)]


def check_ratios(measured: Sequence[Ratio], stored: StoredRatios, tolerance: float) -> None:
    """Refuses ratios that are worse than the stored ones by more than the tolerance.

    Raises:
        MusicLMError: At least one is, or none of the stored ones was measured.
    """
    found = {ratio.name: ratio.value for ratio in measured}
    worse: list[str] = []
    for ratio in stored.ratios:
        value = found.get(ratio.name)
        if value is None:
            continue
        loss = ratio.value / value if ratio.better == "higher" else value / ratio.value
        if loss > 1 + tolerance:
            worse.append(f"{ratio.name} is {value:.3g}, was {ratio.value:.3g}")
    if not any(ratio.name in found for ratio in stored.ratios):
        raise MusicLMError("None of the stored ratios was measured: nothing was checked.")
    if worse:
        raise MusicLMError(f"Slower than before: {'; '.join(worse)}.")
