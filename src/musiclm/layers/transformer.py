"""A decoder-only transformer: pre-norm RMSNorm, gated GELU, no biases, cached decoding.

Axes: `batch`; `positions` of the sequence; `dim`, the width of the model.
"""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from musiclm.core.config import Config
from musiclm.core.errors import ConfigError
from musiclm.layers.attention import (
    Attention,
    KVCache,
    PositionSignal,
    RelativeBias,
    RotaryPositions,
)

NORM_EPSILON = 1e-6


class TransformerConfig(Config):
    """The sizes of a transformer."""

    dim: int = Field(gt=0)
    """Width of the residual stream."""
    num_layers: int = Field(gt=0)
    """Blocks of attention and feed-forward."""
    num_heads: int = Field(gt=0)
    """Attention heads a block."""
    head_dim: int = Field(gt=0)
    """Width of one head; even for rotary positions."""
    feed_forward_dim: int = Field(gt=0)
    """Inner width of the gated feed-forward."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout of the inputs and of each block's outputs and inner activations."""
    attention_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout of the attention weights; above 0 it forbids the fast kernels of most devices."""
    positions: Literal["rotary", "relative_bias"] = "rotary"
    """Rotary positions, or T5's bias (32 buckets, distances up to 128, shared by all layers)."""

    @model_validator(mode="after")
    def _check(self) -> "TransformerConfig":
        if self.positions == "rotary" and self.head_dim % 2:
            raise ConfigError(f"head_dim is {self.head_dim}; rotary positions need an even one.")
        return self


class FeedForward(nn.Module):
    """Gated GELU: `W_out (gelu(W_gate x) * W_value x)`, as in T5 1.1."""

    def __init__(self, dim: int, inner_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.project_in = nn.Linear(dim, 2 * inner_dim, bias=False)
        self.project_out = nn.Linear(inner_dim, dim, bias=False)

    def forward(self, states: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Each position by itself."""
        gate, value = self.project_in(states).chunk(2, dim=-1)
        inner = functional.gelu(gate, approximate="tanh") * value
        return self.project_out(functional.dropout(inner, self.dropout, self.training))


class Block(nn.Module):
    """Attention and feed-forward, each normalized first and added to the stream."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.attention_norm = nn.RMSNorm(config.dim, eps=NORM_EPSILON)
        self.attention = Attention(
            config.dim, config.num_heads, config.head_dim, config.attention_dropout
        )
        self.feed_forward_norm = nn.RMSNorm(config.dim, eps=NORM_EPSILON)
        self.feed_forward = FeedForward(config.dim, config.feed_forward_dim, config.dropout)

    def forward(
        self,
        states: Float[Tensor, "batch positions dim"],
        signal: PositionSignal,
        cache: KVCache | None = None,
        layer: int = 0,
    ) -> Float[Tensor, "batch positions dim"]:
        """One block; `layer` is its place in the cache."""
        attended = self.attention(self.attention_norm(states), signal, cache, layer)
        states = states + functional.dropout(attended, self.dropout, self.training)
        thought = self.feed_forward(self.feed_forward_norm(states))
        return states + functional.dropout(thought, self.dropout, self.training)


class Transformer(nn.Module):
    """A causal transformer over embedded positions (MusicLM, Section 4.1; sizes by config).

    Weights start as in T5 1.1: every product with a variance of one over its fan-in.

    Args:
        config: Sizes and kind of positions.
        generator: Draws the first weights; the default generator when there is none.
    """

    def __init__(
        self, config: TransformerConfig, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.positions: RotaryPositions | RelativeBias = (
            RotaryPositions(config.head_dim)
            if config.positions == "rotary"
            else RelativeBias(config.num_heads)
        )
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.dim, eps=NORM_EPSILON)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5, generator=generator)

    def forward(
        self, inputs: Float[Tensor, "batch positions dim"]
    ) -> Float[Tensor, "batch positions dim"]:
        """Normalized states of a whole sequence; each sees itself and its past."""
        num_positions = inputs.shape[1]
        table = self.positions.table(num_positions)
        return self._run(inputs, self.positions.signal(table, 0, num_positions), None)

    def new_cache(self, batch_size: int, num_positions: int) -> KVCache:
        """An empty cache with room for `num_positions`, on the model's device and of its type."""
        weight = self.norm.weight
        shape = (batch_size, self.config.num_heads, num_positions, self.config.head_dim)
        layers = range(self.config.num_layers)
        return KVCache(
            keys=[weight.new_empty(shape) for _ in layers],
            values=[weight.new_empty(shape) for _ in layers],
            table=self.positions.table(num_positions),
        )

    def prefill(
        self, inputs: Float[Tensor, "batch positions dim"], cache: KVCache
    ) -> Float[Tensor, "batch positions dim"]:
        """Reads positions after those the cache holds, adds them to it, gives their states."""
        room = cache.num_positions
        assert cache.length + inputs.shape[1] <= room, f"the cache holds {room} positions"
        signal = self.positions.signal(cache.table, cache.length, inputs.shape[1])
        states = self._run(inputs, signal, cache)
        cache.length += inputs.shape[1]
        return states

    def decode_step(
        self, inputs: Float[Tensor, "batch 1 dim"], cache: KVCache
    ) -> Float[Tensor, "batch 1 dim"]:
        """Reads one position after those the cache holds, adds it to it, gives its state."""
        return self.prefill(inputs, cache)

    def _run(self, inputs: Tensor, signal: PositionSignal, cache: KVCache | None) -> Tensor:
        states = functional.dropout(inputs, self.config.dropout, self.training)
        for layer, block in enumerate(self.blocks):
            states = block(states, signal, cache, layer)
        return self.norm(states)
