"""Token patterns: in which order a stage says the codes of its target.

A pattern turns codes into `steps`: at each step the model says `columns` codes at once.
`flatten` says one code a step, time-major (AudioLM, Sec. III); `delay` says every level at once,
level k shifted by k frames, so that a level still hears those below it.

Codes run from 0 to `codebook_size - 1`; `codebook_size` itself means "absent". Steps hold ids of
the joint table of all levels: `level * codebook_size + code`, and `pad_id` where nothing is said.
"""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional

from musiclm.tokens.sequence import flatten, restore
from musiclm.tokens.spec import TokenSpec

PatternName = Literal["flatten", "delay"]


def joint_ids(
    codes: Int[Tensor, "batch quantizers frames"], spec: TokenSpec
) -> Int[Tensor, "batch quantizers frames"]:
    """Ids in the joint table of all levels; absent codes get the last id, the pad."""
    levels = torch.arange(spec.num_quantizers, device=codes.device)[:, None]
    pad_id = spec.num_quantizers * spec.codebook_size
    return torch.where(codes == spec.codebook_size, pad_id, codes + levels * spec.codebook_size)


class Pattern(ABC):
    """An order of saying the codes of a target, step by step."""

    def __init__(self, spec: TokenSpec, num_columns: int) -> None:
        self.spec = spec
        """The codes it arranges."""
        self.num_columns = num_columns
        """Codes said in one step."""
        self.pad_id = spec.num_quantizers * spec.codebook_size
        """The id that stands where nothing is said."""

    @abstractmethod
    def num_steps(self, num_frames: int) -> int:
        """Steps that say `num_frames` frames."""

    @abstractmethod
    def num_known_steps(self, num_frames: int) -> int:
        """Leading steps that are wholly known when the first `num_frames` frames are."""

    @abstractmethod
    def frame_of(self, step: int) -> int:
        """The newest frame said at a step (past the end of the piece at the last delayed steps)."""

    @abstractmethod
    def levels_at(self, step: int, num_frames: int, num_known: int = 0) -> range:
        """Levels that a step has to say: neither pads nor codes of the `num_known` first frames."""

    @abstractmethod
    def completed_frame(self, step: int) -> int | None:
        """The frame whose last code is said at a step, if there is one."""

    @abstractmethod
    def apply(
        self, codes: Int[Tensor, "batch quantizers frames"]
    ) -> Int[Tensor, "batch columns steps"]:
        """Codes to steps."""

    @abstractmethod
    def revert(
        self, steps: Int[Tensor, "batch columns steps"]
    ) -> Int[Tensor, "batch quantizers frames"]:
        """Steps to codes: the inverse of `apply`."""


class Flatten(Pattern):
    """One code a step, all levels of a frame before the next frame."""

    def __init__(self, spec: TokenSpec) -> None:
        super().__init__(spec, num_columns=1)

    def num_steps(self, num_frames: int) -> int:
        """One a code."""
        return num_frames * self.spec.num_quantizers

    def num_known_steps(self, num_frames: int) -> int:
        """All steps of the known frames."""
        return num_frames * self.spec.num_quantizers

    def frame_of(self, step: int) -> int:
        """The frame that the step's code belongs to."""
        return step // self.spec.num_quantizers

    def levels_at(self, step: int, num_frames: int, num_known: int = 0) -> range:
        """The step's one level, unless its frame is known or past the end."""
        level = step % self.spec.num_quantizers
        return range(level, level + (num_known <= self.frame_of(step) < num_frames))

    def completed_frame(self, step: int) -> int | None:
        """The step's frame, at its last level."""
        frame, level = divmod(step, self.spec.num_quantizers)
        return frame if level == self.spec.num_quantizers - 1 else None

    def apply(
        self, codes: Int[Tensor, "batch quantizers frames"]
    ) -> Int[Tensor, "batch columns steps"]:
        """Time-major ids, one column."""
        is_absent = codes == self.spec.codebook_size
        levels = torch.arange(self.spec.num_quantizers, device=codes.device)[:, None]
        offsets = levels * self.spec.codebook_size
        present = torch.where(is_absent, self.pad_id - offsets, codes)
        return flatten(present, self.spec)[:, None]

    def revert(
        self, steps: Int[Tensor, "batch columns steps"]
    ) -> Int[Tensor, "batch quantizers frames"]:
        """The codes, absent ones included."""
        is_pad = (steps == self.pad_id).reshape(steps.shape[0], -1, self.spec.num_quantizers)
        codes = restore(steps[:, 0], self.spec)
        return torch.where(is_pad.transpose(1, 2), self.spec.codebook_size, codes)


class Delay(Pattern):
    """All levels at once, level k of the frame k steps ago (the delay pattern)."""

    def __init__(self, spec: TokenSpec) -> None:
        super().__init__(spec, num_columns=spec.num_quantizers)

    def num_steps(self, num_frames: int) -> int:
        """One a frame, and one more for each level but the first."""
        return num_frames + self.spec.num_quantizers - 1

    def num_known_steps(self, num_frames: int) -> int:
        """One a known frame; the deeper levels of the last known frames come in later steps."""
        return num_frames

    def frame_of(self, step: int) -> int:
        """The frame whose first level is said."""
        return step

    def levels_at(self, step: int, num_frames: int, num_known: int = 0) -> range:
        """Levels whose frame has begun, has not ended and is not known."""
        first = max(0, step - num_frames + 1)
        return range(first, max(first, min(self.spec.num_quantizers, step - num_known + 1)))

    def completed_frame(self, step: int) -> int | None:
        """The frame of the last level, once that has begun."""
        frame = step - self.spec.num_quantizers + 1
        return frame if frame >= 0 else None

    def apply(
        self, codes: Int[Tensor, "batch quantizers frames"]
    ) -> Int[Tensor, "batch columns steps"]:
        """Ids with level k shifted by k steps; pads before and after."""
        last = self.spec.num_quantizers - 1
        ids = joint_ids(codes, self.spec)
        rows = [
            functional.pad(ids[:, level], (level, last - level), value=self.pad_id)
            for level in range(self.spec.num_quantizers)
        ]
        return torch.stack(rows, dim=1)

    def revert(
        self, steps: Int[Tensor, "batch columns steps"]
    ) -> Int[Tensor, "batch quantizers frames"]:
        """The codes, absent ones included."""
        num_frames = steps.shape[2] - self.spec.num_quantizers + 1
        size = self.spec.codebook_size
        rows: list[Tensor] = []
        for level in range(self.spec.num_quantizers):
            ids = steps[:, level, level : level + num_frames]
            rows.append(torch.where(ids == self.pad_id, size, ids - level * size))
        return torch.stack(rows, dim=1)


def make_pattern(name: PatternName, spec: TokenSpec) -> Pattern:
    """The pattern called `name` over codes of `spec`."""
    return Flatten(spec) if name == "flatten" else Delay(spec)
