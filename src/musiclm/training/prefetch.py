"""Prefetch: the next microbatch is drawn in one background thread while the device computes."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from musiclm.training.task import Batch, BatchSource


def to_device(value: Any, device: torch.device) -> Any:
    """The same structure with its tensors on the device (asynchronously from pinned memory)."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {name: to_device(item, device) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_device(item, device) for item in value]
    return value


def _pinned(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.pin_memory()
    if isinstance(value, Mapping):
        return {name: _pinned(item) for name, item in value.items()}
    return value


class Prefetcher:
    """Hands out the microbatches of a step and starts on the next one meanwhile.

    After a rollback the run goes on with other microbatches (`attempt`), because the old ones would
    lead to the same failure.
    """

    def __init__(
        self, source: BatchSource, *, device: torch.device, microbatches: int, total_steps: int
    ) -> None:
        self._source = source
        self._device = device
        self._microbatches = microbatches
        self._total_steps = total_steps
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._next: tuple[tuple[int, int], Future[Batch]] | None = None

    def microbatches(self, step: int, attempt: int) -> list[Batch]:
        """The microbatches of a step, on the device."""
        first = attempt * self._microbatches
        batches: list[Batch] = []
        for index in range(first, first + self._microbatches):
            batch = self._take((step, index))
            is_last = index == first + self._microbatches - 1
            self._start((step + 1, first) if is_last else (step, index + 1))
            batches.append(to_device(batch, self._device))
        return batches

    def _draw(self, key: tuple[int, int]) -> Batch:
        batch = self._source.batch(*key)
        return _pinned(batch) if self._device.type == "cuda" else batch

    def _take(self, key: tuple[int, int]) -> Batch:
        if self._next is None or self._next[0] != key:
            return self._executor.submit(self._draw, key).result()
        return self._next[1].result()

    def _start(self, key: tuple[int, int]) -> None:
        is_wanted = key[0] < self._total_steps
        self._next = (key, self._executor.submit(self._draw, key)) if is_wanted else None

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)
