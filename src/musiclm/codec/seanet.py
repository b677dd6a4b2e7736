"""SoundStream's own backbone: a causal SEANet without normalisation (Section III-A, III-B)."""

from dataclasses import dataclass
from math import prod
from typing import Protocol, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from musiclm.core.config import Config
from musiclm.layers.convolution import CausalConv1d, CausalConvTranspose1d, ConvState


class SeanetConfig(Config):
    """The published shape, with MusicLM's total stride of 480."""

    channels: int = Field(default=32, gt=0)
    """Channels at the sample rate; they double at each down-sampling."""
    strides: tuple[int, ...] = (3, 4, 5, 8)
    """Down-sampling factors of the encoder, up-sampling ones of the decoder in reverse."""
    dilations: tuple[int, ...] = (1, 3, 9)
    """One residual unit for each in every block."""
    kernel_size: int = Field(default=7, gt=0)
    """Of the first and last convolutions and of the residual units."""
    latent_dim: int = Field(default=128, gt=0)
    """Width of the latents; equals the quantizer's `codebook_dim`."""

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return prod(self.strides)


class ResidualUnit(nn.Module):
    """A dilated convolution and a pointwise one, ELU before each, added to the input."""

    def __init__(self, channels: int, kernel_size: int, dilation: int) -> None:
        super().__init__()
        self.dilated = CausalConv1d(channels, channels, kernel_size, dilation=dilation)
        self.pointwise = nn.Conv1d(channels, channels, 1)

    def initial_state(self, like: Float[Tensor, "batch ..."]) -> ConvState:
        """The state before the first piece."""
        return self.dilated.initial_state(like)

    def stream(
        self, piece: Float[Tensor, "batch channels frames"], state: ConvState
    ) -> tuple[Float[Tensor, "batch channels frames"], ConvState]:
        """Runs the next piece."""
        hidden, state = self.dilated.stream(functional.elu(piece), state)
        return piece + self.pointwise(functional.elu(hidden)), state


class EluConv(nn.Module):
    """ELU, then a convolution or a transposed one."""

    def __init__(self, conv: CausalConv1d | CausalConvTranspose1d) -> None:
        super().__init__()
        self.conv = conv

    def initial_state(self, like: Float[Tensor, "batch ..."]) -> ConvState:
        """The state before the first piece."""
        return self.conv.initial_state(like)

    def stream(
        self, piece: Float[Tensor, "batch channels frames"], state: ConvState
    ) -> tuple[Float[Tensor, "batch out_channels out_frames"], ConvState]:
        """Runs the next piece."""
        return self.conv.stream(functional.elu(piece), state)


Layer = CausalConv1d | ResidualUnit | EluConv


@dataclass(frozen=True)
class SeanetState:
    """Samples that wait for their frame to fill (encoder only) and the state of each layer."""

    samples: Float[Tensor, "batch samples"]
    layers: tuple[ConvState, ...]


@runtime_checkable
class LayerRunner(Protocol):
    """Runs all layers of an encoder or a decoder; its states are its own."""

    def initial_state(self, like: Float[Tensor, "batch ..."]) -> tuple[ConvState, ...]:
        """The states before the first piece."""
        ...

    def stream(
        self, piece: Float[Tensor, "batch channels frames"], states: tuple[ConvState, ...]
    ) -> tuple[Float[Tensor, "batch out_channels out_frames"], tuple[ConvState, ...]]:
        """Runs the next piece."""
        ...


class _PlainLayers:
    """The layers as PyTorch runs them: the reference, and the only way with gradients."""

    def __init__(self, modules: nn.ModuleList) -> None:
        self._layers = [module for module in modules if isinstance(module, Layer)]

    def initial_state(self, like: Float[Tensor, "batch ..."]) -> tuple[ConvState, ...]:
        """The states before the first piece."""
        return tuple(layer.initial_state(like) for layer in self._layers)

    def stream(
        self, piece: Float[Tensor, "batch channels frames"], states: tuple[ConvState, ...]
    ) -> tuple[Float[Tensor, "batch out_channels out_frames"], tuple[ConvState, ...]]:
        """Runs the next piece."""
        following: list[ConvState] = []
        for layer, state in zip(self._layers, states, strict=True):
            piece, state = layer.stream(piece, ConvState(state.past.to(piece)))
            following.append(state)
        return piece, tuple(following)


class _Seanet(nn.Module):
    """What encoder and decoder share: layers, and who runs them."""

    def __init__(self, config: SeanetConfig, layers: list[Layer]) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(layers)
        self.fast: LayerRunner | None = None
        """Runs the layers where no gradient is wanted; see `SoundStream.for_inference`."""

    def train(self, mode: bool = True) -> "_Seanet":
        """As of any module; training ends fast running, whose weights would grow old."""
        if mode:
            self.fast = None
        return super().train(mode)

    @property
    def _runner(self) -> LayerRunner:
        if self.fast is None or torch.is_grad_enabled():
            return _PlainLayers(self.layers)
        return self.fast


class SeanetEncoder(_Seanet):
    """Samples to latents."""

    def __init__(self, config: SeanetConfig) -> None:
        channels = config.channels
        layers: list[Layer] = [CausalConv1d(1, channels, config.kernel_size)]
        for stride in config.strides:
            layers.extend(_units(channels, config))
            down = CausalConv1d(channels, 2 * channels, 2 * stride, stride=stride)
            layers.append(EluConv(down))
            channels *= 2
        layers.append(EluConv(CausalConv1d(channels, config.latent_dim, 3)))
        super().__init__(config, layers)

    def initial_state(self, like: Float[Tensor, "batch ..."]) -> SeanetState:
        """Silence before the audio."""
        return SeanetState(like.new_zeros(like.shape[0], 0), self._runner.initial_state(like))

    def forward(self, samples: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch dim frames"]:
        """Latents of whole audio; a last incomplete frame is filled with silence."""
        return self.stream(samples, self.initial_state(samples), is_last=True)[0]

    def stream(
        self,
        samples: Float[Tensor, "batch samples"],
        state: SeanetState,
        *,
        is_last: bool = False,
    ) -> tuple[Float[Tensor, "batch dim frames"], SeanetState]:
        """Latents of the frames that the next samples complete; `is_last` fills the last one."""
        hop_length = self.config.hop_length
        known = torch.cat([state.samples, samples], dim=-1)
        if is_last:
            known = functional.pad(known, (0, -known.shape[-1] % hop_length))
        ready = known.shape[-1] // hop_length * hop_length
        if ready == 0:
            latents = known.new_zeros(known.shape[0], self.config.latent_dim, 0)
            return latents, SeanetState(known, state.layers)
        hidden = rearrange(known[..., :ready], "batch samples -> batch 1 samples")
        latents, layers = self._runner.stream(hidden, state.layers)
        return latents, SeanetState(known[..., ready:], layers)


class SeanetDecoder(_Seanet):
    """Latents to samples: the encoder's mirror."""

    def __init__(self, config: SeanetConfig) -> None:
        channels = config.channels * 2 ** len(config.strides)
        layers: list[Layer] = [CausalConv1d(config.latent_dim, channels, config.kernel_size)]
        for stride in reversed(config.strides):
            layers.append(EluConv(CausalConvTranspose1d(channels, channels // 2, stride=stride)))
            channels //= 2
            layers.extend(_units(channels, config))
        layers.append(EluConv(CausalConv1d(channels, 1, config.kernel_size)))
        super().__init__(config, layers)

    def initial_state(
        self, like: Float[Tensor, "batch ..."], first_frame: Int[Tensor, " batch"] | None = None
    ) -> SeanetState:
        """Silence before the audio; the network does not count frames."""
        del first_frame
        return SeanetState(like.new_zeros(like.shape[0], 0), self._runner.initial_state(like))

    def forward(
        self,
        latents: Float[Tensor, "batch dim frames"],
        first_frame: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch samples"]:
        """Audio of whole latents."""
        return self.stream(latents, self.initial_state(latents, first_frame))[0]

    def stream(
        self, latents: Float[Tensor, "batch dim frames"], state: SeanetState
    ) -> tuple[Float[Tensor, "batch samples"], SeanetState]:
        """Audio of the next latents."""
        hidden, layers = self._runner.stream(latents, state.layers)
        samples = rearrange(hidden, "batch 1 samples -> batch samples")
        return samples.float(), SeanetState(state.samples, layers)


def _units(channels: int, config: SeanetConfig) -> list[Layer]:
    return [ResidualUnit(channels, config.kernel_size, dilation) for dilation in config.dilations]
