"""Which loop decodes a stage: the compiled one on a CPU, recorded steps on a GPU."""

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch

from musiclm.stages.decoding import SamplingConfig, generate_frames
from musiclm.stages.graph.decoder import GraphDecoder
from musiclm.stages.language_model import Codes, StageModel


@runtime_checkable
class Decoder(Protocol):
    """Samples the target codes of one stage."""

    model: StageModel
    """The stage."""

    @property
    def description(self) -> str:
        """What runs, in words."""
        ...

    def blocks(
        self,
        segments: Mapping[str, Codes],
        num_frames: int,
        *,
        sampling: SamplingConfig,
        generators: Sequence[torch.Generator],
        known_target: Codes | None = None,
    ) -> Iterator[Codes]:
        """New frames in order, some at a time; arguments as in `decoding.generate`."""
        ...


class TorchDecoder:
    """The reference: `decoding.generate_frames`.

    Args:
        model: The stage, in eval mode.
        reason: Why nothing faster runs.
    """

    def __init__(self, model: StageModel, reason: str) -> None:
        self.model = model
        self._reason = reason

    @property
    def description(self) -> str:
        """What runs, in words, and why."""
        return f"PyTorch ({self._reason})"

    def blocks(
        self,
        segments: Mapping[str, Codes],
        num_frames: int,
        *,
        sampling: SamplingConfig,
        generators: Sequence[torch.Generator],
        known_target: Codes | None = None,
    ) -> Iterator[Codes]:
        """New frames, one at a time."""
        frames = generate_frames(
            self.model,
            segments,
            num_frames,
            sampling=sampling,
            generators=generators,
            known_target=known_target,
        )
        for frame in frames:
            yield frame[:, :, None]


def why_not_compiled(model: StageModel) -> str | None:
    """Why the compiled loop cannot run a stage; None when it can."""
    if model.begin.device.type != "cpu":
        return f"the model is on {model.begin.device.type}"
    if model.begin.dtype != torch.float32:
        return f"the weights are {str(model.begin.dtype).removeprefix('torch.')}"
    sizes = model.config.transformer
    widths = (sizes.dim, sizes.num_heads * sizes.head_dim, sizes.head_dim, sizes.feed_forward_dim)
    if any(width % 4 for width in widths):
        return "a width is no multiple of 4"
    if importlib.util.find_spec("numba") is None:
        return 'numba is not installed; pip install "musiclm[fast]"'
    return None


def make_decoder(model: StageModel, *, num_threads: int = 1) -> Decoder:
    """The fastest decoder that can run a stage where its weights lie.

    A decoder may hold a copy of the weights: make another when they have changed.

    Args:
        model: The stage, in eval mode.
        num_threads: Threads that a batch may be shared among.
    """
    if model.begin.device.type == "cuda":
        return GraphDecoder(model)
    reason = why_not_compiled(model)
    if reason is not None:
        return TorchDecoder(model, reason)
    from musiclm.stages.native.decoder import NativeDecoder  # imports numba

    return NativeDecoder(model, num_threads=num_threads)
