"""Progress of a run for the eyes: the bar with time left and losses, and the clock behind it."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Clock:
    """The time a run has taken and the time this call may take."""

    def __init__(self, elapsed_seconds: float, max_minutes: float) -> None:
        self._before = elapsed_seconds
        self._start = time.monotonic()
        self._limit = max_minutes * 60 or float("inf")

    @property
    def elapsed_seconds(self) -> float:
        """Time of the whole run so far, over all resumed parts."""
        return self._before + time.monotonic() - self._start

    @property
    def is_up(self) -> bool:
        """Whether this call has used its time."""
        return time.monotonic() - self._start >= self._limit


@contextmanager
def progress_bar(
    is_shown: bool, name: str, num_steps: int, step: int
) -> Generator[Callable[[int, dict[str, float]], None]]:
    """Shows steps, time taken, time left and the losses on stderr.

    Gives a function to call with the step and the latest figures.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[losses]}"),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not is_shown) as progress:
        bar = progress.add_task(name, total=num_steps, completed=step, losses="")

        def report(step: int, means: dict[str, float]) -> None:
            progress.update(bar, completed=step)
            losses = {k: v for k, v in means.items() if k.startswith("loss/")}
            if losses:
                progress.update(bar, losses=" ".join(f"{k} {v:.4g}" for k, v in losses.items()))

        yield report
