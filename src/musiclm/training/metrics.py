"""Metrics of a run: averages between two log lines, `metrics.jsonl`, TensorBoard when installed."""

import importlib.util
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from musiclm.core.files import write_text_whole

METRICS_NAME = "metrics.jsonl"
Figures = Mapping[str, Tensor | float]


def mean_of(rows: list[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each figure over the rows that have it, in order of first appearance."""
    columns: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    return {name: math.fsum(values) / len(values) for name, values in columns.items()}


def to_floats(rows: list[Figures]) -> list[dict[str, float]]:
    """Figures as numbers, with one transfer from each device for all of them."""
    by_device: dict[torch.device, list[Tensor]] = {}
    for row in rows:
        for value in row.values():
            if isinstance(value, Tensor):
                by_device.setdefault(value.device, []).append(value.detach().double().reshape(()))
    numbers = {device: iter(torch.stack(tensors).tolist()) for device, tensors in by_device.items()}
    return [
        {
            name: next(numbers[value.device]) if isinstance(value, Tensor) else float(value)
            for name, value in row.items()
        }
        for row in rows
    ]


class MetricsLog:
    """Appends lines to `metrics.jsonl` and, when it is installed, events for TensorBoard.

    Each line is `{"step", "split", "elapsed_seconds", "metrics": {...}}`. Figures of single steps
    wait on the device until `take_pending`, so that logging does not stall it.
    """

    def __init__(self, run_folder: Path, *, from_step: int) -> None:
        self._path = run_folder / METRICS_NAME
        self._events: Any = None
        self._pending: list[tuple[int, Figures]] = []
        self._folder = run_folder
        self.rewind(from_step)

    def rewind(self, step: int) -> None:
        """Forgets everything after `step`: the lines, the events and the figures in waiting."""
        self._pending.clear()
        self._last_time = time.monotonic()
        lines: list[str] = []
        if self._path.is_file():
            for line in self._path.read_text(encoding="utf-8").splitlines():
                try:
                    if json.loads(line)["step"] <= step:
                        lines.append(line + "\n")
                except json.JSONDecodeError:
                    break  # the last line of a run that was killed while it wrote
        write_text_whole(self._path, "".join(lines))
        self.close()
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter  # an optional dependency

            self._events = SummaryWriter(str(self._folder / "events"), purge_step=step + 1)

    def add(self, step: int, figures: Figures) -> None:
        """Keeps the figures of one step for the next line."""
        self._pending.append((step, figures))

    def take_pending(self) -> tuple[dict[str, float], int | None]:
        """The mean of the figures since the last call, and the first step that is not finite.

        A loss or gradient norm that is infinite or NaN counts; other figures may be anything.
        """
        steps = [step for step, _ in self._pending]
        rows = to_floats([figures for _, figures in self._pending])
        self._pending.clear()
        for step, row in zip(steps, rows, strict=True):
            watched = [v for name, v in row.items() if name.startswith(("loss/", "gradient_norm/"))]
            if not all(map(math.isfinite, watched)):
                return row, step
        now = time.monotonic()
        means = mean_of(list(rows))
        if rows:
            means["steps_per_second"] = len(rows) / max(now - self._last_time, 1e-9)
        self._last_time = now
        return means, None

    def write(
        self,
        step: int,
        split: Literal["train", "validation"],
        metrics: Mapping[str, float],
        elapsed_seconds: float,
    ) -> None:
        """Writes one line."""
        if not metrics:
            return
        row = {
            "step": step,
            "split": split,
            "elapsed_seconds": round(elapsed_seconds, 1),
            "metrics": dict(metrics),
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self._events is not None:
            for name, value in metrics.items():
                self._events.add_scalar(f"{split}/{name}", value, step)

    def ignore_pause(self) -> None:
        """Leaves the time since the last line out of the next speed (validation, saving)."""
        self._last_time = time.monotonic() if not self._pending else self._last_time

    def close(self) -> None:
        """Closes the events file."""
        if self._events is not None:
            self._events.close()
            self._events = None
