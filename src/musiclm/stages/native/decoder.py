"""Decoding with the compiled loop: the codes of `stages.decoding`, in a tenth of the time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from musiclm.stages.decoding import SamplingConfig, Start, gumbel_noise, prepare, said_codes
from musiclm.stages.language_model import Codes, StageModel
from musiclm.stages.native.arrays import Array, Cache, Choice, Network, Progress, Target
from musiclm.stages.native.kernels import UNROLL, decode_steps, read_positions
from musiclm.stages.native.packing import (
    Precision,
    exact_precision,
    new_cache,
    pack_network,
    pack_target,
)

Made = TypeVar("Made")
_CHUNK_STEPS = 32
_CHUNK_NOISE = 2**21
_PREFILL_POSITIONS = 64


class NativeDecoder:
    """A stage's weights, packed for the compiled loop.

    It holds a copy: make another when the model's weights have changed.

    Args:
        model: The stage.
        precision: How matrices are held; by default as 8-bit integers where that loses nothing
            (models stored so), in float32 otherwise. Sums are always float32.
        num_threads: Samples of a batch are shared among so many threads.
    """

    def __init__(
        self, model: StageModel, *, precision: Precision | None = None, num_threads: int = 1
    ) -> None:
        self.model = model
        self.num_threads = num_threads
        self.precision: Precision = precision or exact_precision(model)
        self._network = pack_network(model, self.precision)
        self._target = pack_target(model, self.precision)

    @property
    def description(self) -> str:
        """What runs, in words."""
        return f"compiled loop, {self.precision} weights"

    def blocks(
        self,
        segments: Mapping[str, Codes],
        num_frames: int,
        *,
        sampling: SamplingConfig,
        generators: Sequence[torch.Generator],
        known_target: Codes | None = None,
    ) -> Iterator[Codes]:
        """New frames in order, several at a time; arguments as in `decoding.generate`."""
        start = prepare(
            self.model,
            segments,
            num_frames,
            batch_size=len(generators),
            sampling=sampling,
            known_target=known_target,
        )
        pattern, num_steps = self.model.pattern, start.steps.shape[2]
        shares = _shares(len(generators), self.num_threads)
        chunk = self._chunk_steps(len(generators))
        frame = start.num_known
        loops = self._together(partial(self._begin, start, sampling=sampling), shares)
        for first in range(start.first_step, num_steps, chunk):
            stop = min(first + chunk, num_steps)
            shared = [generators[share] for share in shares]
            said = self._together(partial(_advance, first, stop), loops, shared)
            steps = torch.from_numpy(np.concatenate(said))
            completed = [pattern.completed_frame(step) for step in range(first, stop)]
            new = sum(number is not None and number >= frame for number in completed)
            if new:
                yield said_codes(self.model, steps, frame, new)
                frame += new

    @torch.inference_mode()
    def states(self, inputs: Tensor) -> Tensor:
        """What the transformer makes of embedded positions [batch, positions, dim]."""
        batch_size, num_positions, _ = inputs.shape
        cache = new_cache(self.model, batch_size, num_positions)
        rows = inputs.float().numpy()
        return torch.from_numpy(read_positions(self._network, cache, rows, 0))

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        """Threads that live as long as the decoder.

        A pool for each call would end where its generator does: for one that is left half-used, in
        the midst of the garbage collector, which may have interrupted the start of a thread.
        """
        return ThreadPoolExecutor(self.num_threads, thread_name_prefix="decoder")

    def _together(self, job: Callable[..., Made], *inputs: Sequence[Any]) -> list[Made]:
        """The job for each input, side by side when there are several."""
        run = map if len(inputs[0]) == 1 else self._pool.map
        return list(run(job, *inputs))

    def _begin(self, start: Start, share: slice, *, sampling: SamplingConfig) -> "_Loop":
        """Reads the known positions of a share of the samples."""
        rows = _rows_of(share, start)
        inputs = np.ascontiguousarray(start.inputs[rows].float().numpy())
        cache = new_cache(self.model, len(rows), start.num_positions)
        num_known = inputs.shape[1] - 1
        for row in range(len(rows)):
            cache_of_row = cache._replace(
                keys=cache.keys[row : row + 1], values=cache.values[row : row + 1]
            )
            for first in range(0, num_known, _PREFILL_POSITIONS):
                piece = inputs[row, first : min(first + _PREFILL_POSITIONS, num_known)][None]
                read_positions(self._network, cache_of_row, piece, first)
        none = start.inputs.new_zeros(len(rows), 0, inputs.shape[2])
        aligned = none if start.aligned is None else start.aligned[rows]
        pattern, num_steps = self.model.pattern, start.steps.shape[2]
        num_frames = num_steps if pattern.num_columns == 1 else num_steps - pattern.num_columns + 1
        if pattern.num_columns == 1:
            num_frames //= pattern.spec.num_quantizers
        levels = [pattern.levels_at(step, num_frames, start.num_known) for step in range(num_steps)]
        progress = Progress(
            steps=start.steps[share].numpy().copy(),
            levels=np.array([(said.start, said.stop) for said in levels], np.int64),
            aligned=np.ascontiguousarray(aligned.float().numpy()),
            pending=np.ascontiguousarray(inputs[:, -1]),
        )
        return _Loop(
            self._network,
            self._target,
            cache,
            progress,
            sampling,
            np.array(start.scales, np.float32),
            start.first_position,
        )

    def _chunk_steps(self, batch_size: int) -> int:
        """Steps between two looks at the result: few enough for their noise to stay small."""
        size = self._target.codebook_size * self.model.pattern.num_columns * batch_size
        return max(1, min(_CHUNK_STEPS, _CHUNK_NOISE // size))


@dataclass(frozen=True)
class _Loop:
    """The loop of some of the samples of a batch."""

    network: Network
    target: Target
    cache: Cache
    progress: Progress
    sampling: SamplingConfig
    scales: Array
    first_position: int

    def advance(self, first: int, stop: int, generators: Sequence[torch.Generator]) -> Array:
        """Says the codes of some steps; gives the ids of all steps."""
        temperature = self.sampling.temperature
        num_levels = 0
        if temperature > 0:
            spans = self.progress.levels[first:stop]
            num_levels = int((spans[:, 1] - spans[:, 0]).sum())
        noise = gumbel_noise((num_levels, self.target.codebook_size), generators)
        choice = Choice(
            inverse_temperature=np.float32(1 / temperature if temperature > 0 else 0),
            top_k=self.sampling.top_k or 0,
            scales=self.scales,
        )
        span = (first, stop, self.first_position)
        decode_steps(
            self.network, self.cache, self.target, self.progress, noise.numpy(), choice, span
        )
        return self.progress.steps


def _advance(first: int, stop: int, loop: _Loop, generators: Sequence[torch.Generator]) -> Array:
    return loop.advance(first, stop, generators)


def _shares(batch_size: int, num_threads: int) -> list[slice]:
    """The samples of each thread: whole groups of four where there are enough of them."""
    num_shares = max(1, min(num_threads, batch_size))
    size = -(-batch_size // num_shares)
    if size > UNROLL:
        size = -(-size // UNROLL) * UNROLL
    return [slice(first, min(first + size, batch_size)) for first in range(0, batch_size, size)]


def _rows_of(share: slice, start: Start) -> list[int]:
    """Rows of the batch, and with guidance those of its copies."""
    batch_size = start.steps.shape[0]
    samples = range(share.start, share.stop)
    return [
        first + sample
        for first in range(0, start.inputs.shape[0], batch_size)
        for sample in samples
    ]
