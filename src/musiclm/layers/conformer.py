"""Conformer: self-attention for the far, depthwise convolution for the near (Gulati 2020).

Legend: `batch`, `frames` (time steps), `dim` (model width), `heads`.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from musiclm.core.config import Config


class ConformerConfig(Config):
    """One conformer block; the defaults are w2v-BERT XL's (Chung 2021, Table 1)."""

    dim: int = Field(default=1024, gt=0)
    """Model width."""
    num_heads: int = Field(default=8, gt=0)
    """Attention heads; they divide the width into even parts."""
    feed_forward_multiplier: int = Field(default=4, gt=0)
    """Width of the feed-forward layers, in model widths."""
    conv_kernel_frames: int = Field(default=5, gt=0)
    """Frames the depthwise convolution sees; odd, so that it has a middle."""
    is_causal: bool = False
    """Whether attention and convolution see the past and the present only."""

    @model_validator(mode="after")
    def _check(self) -> "ConformerConfig":
        if self.dim % (2 * self.num_heads):
            raise ValueError("dim must be a multiple of twice num_heads")
        if self.conv_kernel_frames % 2 == 0:
            raise ValueError("conv_kernel_frames must be odd")
        return self


def rotate(
    heads: Float[Tensor, "batch heads frames dim"], base: float = 10_000.0
) -> Float[Tensor, "batch heads frames dim"]:
    """Rotary positions (Su 2021): only the distance of two frames reaches their product."""
    half = heads.shape[-1] // 2
    exponents = torch.arange(half, device=heads.device, dtype=torch.float32) / half
    frames = torch.arange(heads.shape[-2], device=heads.device, dtype=torch.float32)
    angles = frames[:, None] * base**-exponents
    cosines, sines = angles.cos().to(heads.dtype), angles.sin().to(heads.dtype)
    first, second = heads[..., :half], heads[..., half:]
    return torch.cat([first * cosines - second * sines, first * sines + second * cosines], dim=-1)


class FeedForward(nn.Module):
    """Layer norm, widen, SiLU, narrow; the block adds half of it."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        hidden = config.feed_forward_multiplier * config.dim
        self.norm = nn.LayerNorm(config.dim)
        self.widen = nn.Linear(config.dim, hidden)
        self.narrow = nn.Linear(hidden, config.dim)

    def forward(
        self, frames: Float[Tensor, "batch frames dim"]
    ) -> Float[Tensor, "batch frames dim"]:
        """The correction to add."""
        return self.narrow(functional.silu(self.widen(self.norm(frames))))


class SelfAttention(nn.Module):
    """Layer norm and multi-head self-attention with rotary positions."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.config = config
        self.norm = nn.LayerNorm(config.dim)
        self.project_in = nn.Linear(config.dim, 3 * config.dim)
        self.project_out = nn.Linear(config.dim, config.dim)

    def forward(
        self, frames: Float[Tensor, "batch frames dim"]
    ) -> Float[Tensor, "batch frames dim"]:
        """The correction to add."""
        queries, keys, values = rearrange(
            self.project_in(self.norm(frames)),
            "batch frames (three heads dim) -> three batch heads frames dim",
            three=3,
            heads=self.config.num_heads,
        )
        mixed = functional.scaled_dot_product_attention(
            rotate(queries), rotate(keys), values, is_causal=self.config.is_causal
        )
        return self.project_out(
            rearrange(mixed, "batch heads frames dim -> batch frames (heads dim)")
        )


class ConvolutionModule(nn.Module):
    """Layer norm, gate, depthwise convolution, layer norm, SiLU, projection.

    The published module normalises with batch statistics; layer norm keeps a clip's features
    independent of what it shares a batch with.
    """

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        around = config.conv_kernel_frames - 1
        self.padding = (around, 0) if config.is_causal else (around // 2, around // 2)
        self.norm = nn.LayerNorm(config.dim)
        self.gate = nn.Linear(config.dim, 2 * config.dim)
        self.depthwise = nn.Conv1d(
            config.dim, config.dim, config.conv_kernel_frames, groups=config.dim
        )
        self.norm_after = nn.LayerNorm(config.dim)
        self.project_out = nn.Linear(config.dim, config.dim)

    def forward(
        self, frames: Float[Tensor, "batch frames dim"]
    ) -> Float[Tensor, "batch frames dim"]:
        """The correction to add."""
        gated = functional.glu(self.gate(self.norm(frames)), dim=-1)
        padded = functional.pad(
            rearrange(gated, "batch frames dim -> batch dim frames"), self.padding
        )
        near = rearrange(self.depthwise(padded), "batch dim frames -> batch frames dim")
        return self.project_out(functional.silu(self.norm_after(near)))


class ConformerBlock(nn.Module):
    """Half feed-forward, attention, convolution, half feed-forward, layer norm (Gulati 2020)."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.config = config
        self.feed_forward_before = FeedForward(config)
        self.attention = SelfAttention(config)
        self.convolution = ConvolutionModule(config)
        self.feed_forward_after = FeedForward(config)
        self.norm = nn.LayerNorm(config.dim)

    def forward(
        self, frames: Float[Tensor, "batch frames dim"]
    ) -> Float[Tensor, "batch frames dim"]:
        """The block's output, as many frames as it got."""
        frames = frames + 0.5 * self.feed_forward_before(frames)
        frames = frames + self.attention(frames)
        frames = frames + self.convolution(frames)
        frames = frames + 0.5 * self.feed_forward_after(frames)
        return self.norm(frames)
