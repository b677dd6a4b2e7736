"""Workspace: what the steps of one batch size read and write, and those steps, recorded."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from musiclm.layers.attention import KVCache
from musiclm.stages.decoding import SamplingConfig, Start
from musiclm.stages.graph.recording import WARM_UPS, Recorder, Step
from musiclm.stages.graph.step import Kernels, Network, StepState, decode_step, network_of
from musiclm.stages.language_model import StageModel


@dataclass(frozen=True)
class Room:
    """What a workspace has room for."""

    batch_size: int
    """Samples."""
    num_copies: int
    """How often the batch comes again, for guidance."""
    num_positions: int
    """Prefixes and steps; a whole number of buckets."""
    bucket: int
    """Attention reads the filled positions rounded up to a multiple of this."""
    chunk_steps: int
    """Steps whose noise lies ready at once; at least `WARM_UPS`."""

    def holds(self, asked: "Room") -> bool:
        """Whether a request that asks for this room can be served."""
        is_same = (self.batch_size, self.num_copies) == (asked.batch_size, asked.num_copies)
        return is_same and self.num_positions >= asked.num_positions


class Workspace:
    """Memory for one request at a time, used again by the next.

    Args:
        model: The stage.
        room: How much memory.
        kernels: What a step is made of.
        record: What makes a step fast.
    """

    def __init__(
        self, model: StageModel, room: Room, *, kernels: Kernels, record: Recorder
    ) -> None:
        assert room.chunk_steps >= WARM_UPS
        self.room = room
        self._model = model
        self._kernels = kernels
        self._record = record
        self._recorded: dict[tuple[int, int | None], Step] = {}
        self._network, self._cache, self._state = _allocate(model, room)
        shape = self._state.noise.shape
        is_on_gpu = self._state.noise.device.type == "cuda"
        with torch.inference_mode(mode=False):
            # Two, so that one can be filled while the other is still on its way.
            self._host_noise = [torch.zeros(shape, pin_memory=is_on_gpu) for _ in range(2)]

    @torch.inference_mode(mode=False)
    @torch.no_grad()
    def begin(
        self,
        start: Start,
        sampling: SamplingConfig,
        is_said: Bool[Tensor, "steps columns"],
    ) -> None:
        """Records the steps that a request takes, then reads what is known of it.

        Raises:
            RuntimeError: A step could not be recorded.
        """
        state, num_steps = self._state, start.steps.shape[2]
        self._top_k = sampling.top_k
        if self._top_k is not None and self._top_k >= state.noise.shape[3]:
            self._top_k = None
        for step in range(start.first_step, num_steps):
            self._step_of(start.first_position + step)
        state.steps[:, :, :num_steps] = start.steps
        state.is_said[:num_steps] = is_said.to(state.is_said.device)
        if state.aligned is not None and start.aligned is not None:
            state.aligned[:, :num_steps] = start.aligned
        state.pending.copy_(start.inputs[:, -1])
        is_greedy = sampling.temperature == 0
        state.inverse_temperature.fill_(1 if is_greedy else 1 / sampling.temperature)
        state.scales.copy_(torch.tensor(start.scales))
        state.noise.zero_()
        state.step.fill_(start.first_step)
        state.position.fill_(start.first_position + start.first_step)
        self._cache.length = 0
        if start.inputs.shape[1] > 1:
            self._model.transformer.prefill(start.inputs[:, :-1], self._cache)

    def write_noise(
        self,
        noise: Float[Tensor, "batch said entries"],
        is_said: Bool[Tensor, "steps columns"],
        *,
        chunk: int,
    ) -> None:
        """Lays the noise of the codes that a chunk says in their places, on the host.

        Every other chunk may be written while the one before it is being decoded.
        """
        self._host_noise[chunk % 2][:, : len(is_said)][:, is_said] = noise

    @torch.inference_mode(mode=False)
    @torch.no_grad()
    def advance(self, positions: range, *, chunk: int | None) -> None:
        """Says the codes of some steps: queued on a GPU, without waiting for one.

        Args:
            positions: Where the steps are.
            chunk: Whose noise they take; None for no noise.
        """
        if chunk is not None:
            self._state.noise.copy_(self._host_noise[chunk % 2], non_blocking=True)
        self._state.tick.zero_()
        for position in positions:
            self._step_of(position)()

    def said(self, num_steps: int) -> Int[Tensor, "batch columns steps"]:
        """The ids of the first steps, on the host: waits for those that are queued."""
        return self._state.steps[:, :, :num_steps].cpu()

    def _step_of(self, position: int) -> Step:
        """The step that reads as many positions as are filled, rounded up; recorded when new."""
        bucket = self.room.bucket
        num_keys, top_k = -(-(position + 1) // bucket) * bucket, self._top_k
        if (num_keys, top_k) not in self._recorded:
            for counter in (self._state.step, self._state.position, self._state.tick):
                counter.zero_()

            def step() -> None:
                decode_step(self._network, self._state, self._kernels, num_keys, top_k)

            self._recorded[num_keys, top_k] = self._record(step)
        return self._recorded[num_keys, top_k]


@torch.inference_mode(mode=False)  # whoever comes later may write to it without that mode
@torch.no_grad()
def _allocate(model: StageModel, room: Room) -> tuple[Network, KVCache, StepState]:
    network = network_of(model, room.num_positions)
    num_rows = room.batch_size * (1 + room.num_copies)
    num_columns, size = model.pattern.num_columns, model.layout.target.spec.codebook_size
    cache = model.transformer.new_cache(num_rows, room.num_positions)
    for memory in (*cache.keys, *cache.values):
        memory.zero_()  # what is hidden is multiplied by zero, so it must be numbers
    begin = model.begin
    has_aligned = any(segment.aligned for segment in model.layout.prefixes)
    aligned = begin.new_zeros(num_rows, room.num_positions, len(begin)) if has_aligned else None

    def whole(*shape: int) -> Tensor:
        return begin.new_zeros(shape, dtype=torch.long)

    def real(*shape: int) -> Tensor:
        return begin.new_zeros(shape, dtype=torch.float32)

    state = StepState(
        keys=tuple(cache.keys),
        values=tuple(cache.values),
        pending=begin.new_zeros(num_rows, len(begin)),
        steps=whole(room.batch_size, num_columns, room.num_positions),
        is_said=whole(room.num_positions, num_columns).bool(),
        aligned=aligned,
        noise=real(room.batch_size, room.chunk_steps, num_columns, size),
        step=whole(1),
        position=whole(1),
        tick=whole(1),
        scales=real(room.num_copies),
        inverse_temperature=real(1),
    )
    return network, cache, state
