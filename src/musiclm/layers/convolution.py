"""Causal convolutions that run whole or piece by piece with the same result.

Whole inputs go through `forward`; pieces go through `stream`, which takes the state the piece
before left behind and gives the next one. States are plain values, never hidden in the module.
Legend: `[batch, channels, frames]`.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class ConvState:
    """What a causal layer remembers between pieces.

    Attributes:
        past: For a convolution, its last inputs; for a transposed one, the outputs begun but not
            yet complete.
    """

    past: Float[Tensor, "batch channels context"]


class CausalConv1d(nn.Module):
    """A convolution that sees no future; `stride * n` inputs give exactly `n` outputs."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.context = (kernel_size - 1) * dilation - (stride - 1)
        if self.context < 0:
            raise ValueError(f"kernel_size {kernel_size} is shorter than stride {stride}")
        self.conv = nn.Conv1d(
            in_channels, out_channels, kernel_size, stride, dilation=dilation, groups=groups
        )

    def initial_state(self, like: Float[Tensor, "batch ..."]) -> ConvState:
        """The state before the first piece: silence, on the device and in the type of `like`."""
        return ConvState(like.new_zeros(like.shape[0], self.conv.in_channels, self.context))

    def forward(
        self, inputs: Float[Tensor, "batch channels frames"]
    ) -> Float[Tensor, "batch out_channels out_frames"]:
        """Convolves a whole input."""
        return self.conv(functional.pad(inputs, (self.context, 0)))

    def stream(
        self, piece: Float[Tensor, "batch channels frames"], state: ConvState
    ) -> tuple[Float[Tensor, "batch out_channels out_frames"], ConvState]:
        """Convolves the next piece, a whole number of strides long."""
        extended = torch.cat([state.past, piece], dim=-1)
        past = extended[..., extended.shape[-1] - self.context :]
        return self.conv(extended), ConvState(past)


class CausalConvTranspose1d(nn.Module):
    """An up-sampling convolution; `n` inputs give exactly `stride * n` outputs."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        """The kernel is twice the stride, so that each output hears two inputs."""
        super().__init__()
        self.stride = stride
        self.conv = nn.ConvTranspose1d(in_channels, out_channels, 2 * stride, stride, bias=False)
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def initial_state(self, like: Float[Tensor, "batch ..."]) -> ConvState:
        """The state before the first piece."""
        return ConvState(like.new_zeros(like.shape[0], self.conv.out_channels, self.stride))

    def forward(
        self, inputs: Float[Tensor, "batch channels frames"]
    ) -> Float[Tensor, "batch out_channels out_frames"]:
        """Up-samples a whole input."""
        return self.conv(inputs)[..., : -self.stride] + self.bias[:, None]

    def stream(
        self, piece: Float[Tensor, "batch channels frames"], state: ConvState
    ) -> tuple[Float[Tensor, "batch out_channels out_frames"], ConvState]:
        """Up-samples the next piece."""
        outputs = self.conv(piece)
        begun = functional.pad(state.past, (0, outputs.shape[-1] - self.stride))
        outputs = outputs + begun
        ready, past = outputs[..., : -self.stride], outputs[..., -self.stride :]
        return ready + self.bias[:, None], ConvState(past)


class ConvNextBlock(nn.Module):
    """A causal ConvNeXt block: depthwise convolution, layer norm, two-layer perceptron, residual.

    As in Vocos (Siuzdak 2023), without down-sampling; the branch starts small (`gamma`).
    """

    def __init__(
        self, dim: int, *, kernel_size: int = 7, expansion: int = 3, initial_gamma: float = 0.3
    ) -> None:
        super().__init__()
        self.depthwise = CausalConv1d(dim, dim, kernel_size, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, expansion * dim)
        self.contract = nn.Linear(expansion * dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), initial_gamma))

    def initial_state(self, like: Float[Tensor, "batch ..."]) -> ConvState:
        """The state before the first piece."""
        return self.depthwise.initial_state(like)

    def forward(
        self, inputs: Float[Tensor, "batch dim frames"]
    ) -> Float[Tensor, "batch dim frames"]:
        """Runs a whole input."""
        return inputs + self._pointwise(self.depthwise(inputs))

    def stream(
        self, piece: Float[Tensor, "batch dim frames"], state: ConvState
    ) -> tuple[Float[Tensor, "batch dim frames"], ConvState]:
        """Runs the next piece."""
        mixed, state = self.depthwise.stream(piece, state)
        return piece + self._pointwise(mixed), state

    def _pointwise(self, mixed: Tensor) -> Tensor:
        hidden = self.norm(rearrange(mixed, "batch dim frames -> batch frames dim"))
        hidden = (
            self.contract(functional.gelu(self.expand(hidden), approximate="tanh")) * self.gamma
        )
        return rearrange(hidden, "batch frames dim -> batch dim frames")
