"""Causal self-attention with a key-value cache, and its two position signals.

Axes: `batch`; `positions` of a sequence, of which `queries` ask and `keys` answer; `dim`, the width
of the model; `heads`; `head_dim`; `distances`, from 0 (itself) back into the past.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class PositionSignal:
    """What one pass tells every layer about positions."""

    rotation: Float[Tensor, "2 queries 1 1 head_dim"] | None
    """Cosine and signed sine that turn queries and keys (rotary positions)."""
    bias: Float[Tensor, "1 heads queries keys"] | None
    """Added to the attention logits; minus infinity hides the future."""
    is_causal: bool
    """Whether attention has to hide the future itself, because `bias` does not."""


@dataclass
class KVCache:
    """Keys and values of the positions read so far, in memory allocated once."""

    keys: list[Float[Tensor, "batch heads positions head_dim"]]
    """One tensor a layer; only the first `length` positions are filled."""
    values: list[Float[Tensor, "batch heads positions head_dim"]]
    """As `keys`."""
    table: Tensor
    """The position table of all `positions`, computed once."""
    length: int = 0
    """Positions that are filled."""

    @property
    def num_positions(self) -> int:
        """Positions there is room for."""
        return self.keys[0].shape[2]

    def append(
        self,
        layer: int,
        keys: Float[Tensor, "batch heads queries head_dim"],
        values: Float[Tensor, "batch heads queries head_dim"],
    ) -> tuple[
        Float[Tensor, "batch heads keys head_dim"], Float[Tensor, "batch heads keys head_dim"]
    ]:
        """Stores new positions of one layer and gives back all that is filled, new ones included.

        `length` moves on only when every layer has appended (the transformer does that).
        """
        end = self.length + keys.shape[2]
        self.keys[layer][:, :, self.length : end] = keys
        self.values[layer][:, :, self.length : end] = values
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]


class RotaryPositions(nn.Module):
    """Rotary positions: queries and keys are turned by angles that grow with the position."""

    def __init__(self, head_dim: int, base: float = 10_000.0) -> None:
        super().__init__()
        frequencies = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.frequencies: Tensor

    def table(self, num_positions: int) -> Float[Tensor, "2 positions head_dim"]:
        """Cosine and signed sine of each position, always float32."""
        frequencies = self.frequencies.float()
        angles = torch.outer(
            torch.arange(num_positions, device=frequencies.device, dtype=torch.float32), frequencies
        )
        sine = angles.sin()
        return torch.stack(
            [torch.cat([angles.cos()] * 2, dim=-1), torch.cat([-sine, sine], dim=-1)]
        )

    def signal(
        self, table: Float[Tensor, "2 positions head_dim"], start: int, num_queries: int
    ) -> PositionSignal:
        """The signal for queries at `start ..`, that see all keys from 0 up to themselves."""
        rotation = table[:, start : start + num_queries, None, None]
        if start == 0 or num_queries == 1:
            return PositionSignal(rotation, None, is_causal=num_queries > 1)
        no_bias = table.new_zeros(1, start + num_queries)
        bias = causal_bias(no_bias, num_queries, start + num_queries)
        return PositionSignal(rotation, bias[None], is_causal=False)


class RelativeBias(nn.Module):
    """T5's relative position bias: one learned scalar a head and bucket of distances.

    Half of the buckets are single distances, the rest grow logarithmically up to `max_distance`;
    everything farther shares the last one. One table serves all layers, as in T5 1.1.
    """

    def __init__(self, num_heads: int, num_buckets: int = 32, max_distance: int = 128) -> None:
        super().__init__()
        self.max_distance = max_distance
        self.weight = nn.Parameter(torch.zeros(num_buckets, num_heads))

    def table(self, num_positions: int) -> Float[Tensor, "heads distances"]:
        """The bias of each distance from 0 to `num_positions - 1`."""
        num_buckets = self.weight.shape[0]
        num_exact = num_buckets // 2
        distances = torch.arange(num_positions, device=self.weight.device)
        scale = (num_buckets - num_exact) / math.log(self.max_distance / num_exact)
        far = num_exact + (torch.log(distances.clamp(min=1) / num_exact) * scale).long()
        buckets = torch.where(distances < num_exact, distances, far.clamp(max=num_buckets - 1))
        return self.weight[buckets].transpose(0, 1)

    def signal(
        self, table: Float[Tensor, "heads distances"], start: int, num_queries: int
    ) -> PositionSignal:
        """The signal for queries at `start ..`, that see all keys from 0 up to themselves."""
        bias = causal_bias(table, num_queries, start + num_queries)
        return PositionSignal(None, bias[None], is_causal=False)


def causal_bias(
    table: Float[Tensor, "heads distances"], num_queries: int, num_keys: int
) -> Float[Tensor, "heads queries keys"]:
    """Spreads a bias by distance over queries and keys; the future gets minus infinity.

    The queries are the last `num_queries` of the `num_keys` positions.
    """
    past = table[:, :num_keys].flip(1)
    future = past.new_full((past.shape[0], num_queries - 1), -math.inf)
    return torch.cat([past, future], dim=1).unfold(1, num_keys, 1).flip(1)


def rotate(
    states: Float[Tensor, "batch queries kinds heads head_dim"],
    rotation: Float[Tensor, "2 queries 1 1 head_dim"],
) -> Float[Tensor, "batch queries kinds heads head_dim"]:
    """Turns each pair (i, i + head_dim / 2) by its position's angle, in float32."""
    swapped = states.roll(states.shape[-1] // 2, dims=-1)
    return torch.addcmul(states * rotation[0], swapped, rotation[1])


class Attention(nn.Module):
    """Multi-head causal self-attention without biases; queries, keys and values in one product."""

    def __init__(self, dim: int, num_heads: int, head_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.dropout = dropout
        self.project_in = nn.Linear(dim, 3 * num_heads * head_dim, bias=False)
        self.project_out = nn.Linear(num_heads * head_dim, dim, bias=False)

    def forward(
        self,
        states: Float[Tensor, "batch queries dim"],
        signal: PositionSignal,
        cache: KVCache | None = None,
        layer: int = 0,
    ) -> Float[Tensor, "batch queries dim"]:
        """Attends to everything up to each query; with a cache, to what it holds as well."""
        batch, num_queries, _ = states.shape
        mixed = self.project_in(states).view(batch, num_queries, 3, self.num_heads, self.head_dim)
        if signal.rotation is None:
            queries, keys, values = mixed.transpose(1, 3).unbind(2)
        else:
            turned = rotate(mixed[:, :, :2], signal.rotation).to(mixed.dtype)
            queries, keys = turned.transpose(1, 3).unbind(2)
            values = mixed[:, :, 2].transpose(1, 2)
        if cache is not None:
            keys, values = cache.append(layer, keys, values)
        attended = functional.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=None if signal.bias is None else signal.bias.to(queries.dtype),
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=signal.is_causal,
        )
        return self.project_out(attended.transpose(1, 2).reshape(batch, num_queries, -1))
