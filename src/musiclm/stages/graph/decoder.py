"""Decoding with recorded steps: the codes of `stages.decoding`; steps ask the host nothing."""

import importlib.util
import logging
import shutil
from collections import deque
from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from musiclm.stages.decoding import (
    SamplingConfig,
    Start,
    generate_frames,
    gumbel_noise,
    prepare,
    said_codes,
)
from musiclm.stages.graph.recording import WARM_UPS, Recorder, recorder_for
from musiclm.stages.graph.step import PLAIN, fused_kernels
from musiclm.stages.graph.workspace import Room, Workspace
from musiclm.stages.language_model import Codes, StageModel

_logger = logging.getLogger(__name__)
_BUCKET = 128
_CHUNK_STEPS = 32
_CHUNK_NOISE = 2**21
_LARGE_MODEL = 100_000_000


class GraphDecoder:
    """A stage whose steps are recorded once and replayed.

    It reads the model's own weights. Memory and recorded steps are kept for the next request of
    the same batch size. What cannot be recorded is decoded by `decoding.generate_frames`.

    Args:
        model: The stage, in eval mode.
        is_fused: Whether steps are compiled with `torch.compile` first; by default where it pays,
            see `why_not_fused`.
        record: What records steps; by default CUDA graphs on a GPU, nothing elsewhere.
        bucket: Attention reads the filled positions rounded up to a multiple of this; each
            multiple is a step of its own to record.
    """

    def __init__(
        self,
        model: StageModel,
        *,
        is_fused: bool | None = None,
        record: Recorder | None = None,
        bucket: int = _BUCKET,
    ) -> None:
        self.model = model
        self._is_fused = why_not_fused(model) is None if is_fused is None else is_fused
        self._record = record or recorder_for(model.begin.device)
        self._bucket = bucket
        self._idle: deque[Workspace] = deque(maxlen=1)
        self._failure = ""

    @property
    def description(self) -> str:
        """What runs, in words."""
        if self._failure:
            return f"PyTorch (its steps could not be recorded: {self._failure})"
        kind = str(self.model.begin.dtype).removeprefix("torch.")
        return f"recorded{' and compiled' if self._is_fused else ''} steps, {kind} weights"

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
        is_said = self._is_said(start, num_frames)
        workspace = self._begun_workspace(start, sampling, is_said)
        if workspace is None:
            for frame in generate_frames(
                self.model,
                segments,
                num_frames,
                sampling=sampling,
                generators=generators,
                known_target=known_target,
            ):
                yield frame[:, :, None]
            return
        try:
            yield from self._run(workspace, start, sampling, generators, is_said)
        finally:
            self._idle.append(workspace)

    def _run(
        self,
        workspace: Workspace,
        start: Start,
        sampling: SamplingConfig,
        generators: Sequence[torch.Generator],
        is_said: Bool[Tensor, "steps columns"],
    ) -> Iterator[Codes]:
        """The loop: queues a chunk of steps, draws the next one's noise, reads what was said."""
        num_steps, size = len(is_said), workspace.room.chunk_steps
        firsts = range(start.first_step, num_steps, size)
        frame = start.num_known

        def draw(chunk: int) -> None:
            if chunk < len(firsts) and sampling.temperature > 0:
                said = is_said[firsts[chunk] : firsts[chunk] + size]
                entries = self.model.layout.target.spec.codebook_size
                noise = gumbel_noise((int(said.sum()), entries), generators)
                workspace.write_noise(noise, said, chunk=chunk)

        draw(0)
        for chunk, first in enumerate(firsts):
            stop = min(first + size, num_steps)
            positions = range(start.first_position + first, start.first_position + stop)
            workspace.advance(positions, chunk=chunk if sampling.temperature > 0 else None)
            draw(chunk + 1)  # while the device is busy
            steps = workspace.said(num_steps)
            completed = [self.model.pattern.completed_frame(step) for step in range(first, stop)]
            new = sum(number is not None and number >= frame for number in completed)
            if new:
                yield said_codes(self.model, steps, frame, new)
                frame += new

    def _begun_workspace(
        self, start: Start, sampling: SamplingConfig, is_said: Tensor
    ) -> Workspace | None:
        """A workspace that nobody uses, with the request in it; None when steps cannot be recorded.

        Without compiled steps it is tried again before giving up.
        """
        while not self._failure:
            try:
                workspace = self._workspace(self._room(start))
                workspace.begin(start, sampling, is_said)
            except torch.cuda.OutOfMemoryError:
                raise
            except RuntimeError as error:
                reason = str(error).strip().partition("\n")[0]
                if self._is_fused:
                    _logger.warning("Steps are not compiled: %s", reason)
                    self._is_fused = False
                else:
                    _logger.warning("Steps are not recorded, the PyTorch loop runs: %s", reason)
                    self._failure = reason
            else:
                return workspace
        return None

    def _workspace(self, asked: Room) -> Workspace:
        if self._idle:
            try:
                idle = self._idle.pop()
            except IndexError:  # another thread took it
                idle = None
            if idle is not None and idle.room.holds(asked):
                return idle
        kernels = fused_kernels() if self._is_fused else PLAIN
        return Workspace(self.model, asked, kernels=kernels, record=self._record)

    def _room(self, start: Start) -> Room:
        """Room for a request, and for any other of the longest window the stage is trained on."""
        config, bucket, batch_size = self.model.config, self._bucket, start.steps.shape[0]
        usual = config.layout.num_positions(config.window_seconds)
        num_positions = -(-max(usual, start.num_positions) // bucket) * bucket
        noise = config.layout.target.spec.codebook_size * self.model.pattern.num_columns
        return Room(
            batch_size=batch_size,
            num_copies=len(start.scales),
            num_positions=num_positions,
            bucket=bucket,
            chunk_steps=max(WARM_UPS, min(_CHUNK_STEPS, _CHUNK_NOISE // (noise * batch_size))),
        )

    def _is_said(self, start: Start, num_frames: int) -> Bool[Tensor, "steps columns"]:
        """The codes that each step has to say, on the host."""
        pattern, num_steps = self.model.pattern, start.steps.shape[2]
        is_said = torch.zeros(num_steps, pattern.num_columns, dtype=torch.bool)
        for step in range(num_steps):
            levels = pattern.levels_at(step, num_frames, start.num_known)
            if pattern.num_columns > 1:
                is_said[step, levels.start : levels.stop] = True
            else:
                is_said[step] = bool(levels)
        return is_said


def why_not_fused(model: StageModel) -> str | None:
    """Why steps are not compiled before they are recorded; None when they are.

    Compiling takes a minute. It pays for large models, whose steps last as long as reading the
    weights does; in small ones the kernels are short whoever wrote them.
    """
    if model.begin.device.type != "cuda":
        return f"the model is on {model.begin.device.type}"
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    if num_parameters < _LARGE_MODEL:
        return f"it has only {num_parameters / 1e6:.0f} million parameters"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        return "there is no C compiler"
    return None
