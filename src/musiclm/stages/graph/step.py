"""One decoding step as a function of static shapes: the same operations at every position.

Where the step stands is a number on the device, and all that changes lies in tensors allocated
once. So a step can be recorded (as a CUDA graph) and replayed without asking the host anything. It
attends to a fixed number of cached positions, of which those not yet filled are hidden.

Axes: `rows`, one a sample (several with guidance); `keys`, the cached positions that are read; the
others as in `stages.language_model`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from musiclm.layers.attention import RotaryPositions, rotate
from musiclm.layers.transformer import NORM_EPSILON, Block
from musiclm.stages.guidance import contrasted
from musiclm.stages.language_model import StageModel


class LayerWeights(NamedTuple):
    """The weights of one block, where the model has them."""

    attention_norm: Tensor
    attention_in: Tensor
    attention_out: Tensor
    gated_norm: Tensor
    gated_in: Tensor
    gated_out: Tensor


class Network(NamedTuple):
    """What a step reads and never writes; all but `table` are the model's own weights."""

    layers: tuple[LayerWeights, ...]
    norm: Tensor
    """[dim]: before the logits."""
    output: Tensor
    """[levels, entries, dim]: rows of logits."""
    embedding: Tensor
    """[ids, dim]: the target's."""
    table: Tensor
    """Of positions: rotary [2, positions, head_dim], or relative bias [heads, distances]."""
    is_rotary: bool


class StepState(NamedTuple):
    """What a step reads and writes; its tensors stay where they are for many requests."""

    keys: tuple[Tensor, ...]
    """[rows, heads, positions, head_dim] of each layer."""
    values: tuple[Tensor, ...]
    """As `keys`."""
    pending: Tensor
    """[rows, dim]: the input of the next step."""
    steps: Tensor
    """[batch, columns, steps]: ids said so far."""
    is_said: Tensor
    """[steps, columns]: what steps have to say; the other ids stay as they are."""
    aligned: Tensor | None
    """[rows, steps, dim]: added to the input of each step."""
    noise: Tensor
    """[batch, ticks, columns, entries]: Gumbel noise of the steps of a chunk; zeros when greedy."""
    step: Tensor
    """[1]: the step to be said next."""
    position: Tensor
    """[1]: its place among all positions."""
    tick: Tensor
    """[1]: its place in the chunk."""
    scales: Tensor
    """[copies]: of guidance."""
    inverse_temperature: Tensor
    """[1]; 1 when greedy."""


class PositionTensors(NamedTuple):
    """What a position tells every layer."""

    rotation: Tensor | None
    """[2, 1, 1, 1, head_dim], as in `layers.attention`."""
    bias: Tensor
    """[heads or 1, keys], float32; minus infinity hides what is not filled."""


@dataclass(frozen=True)
class Kernels:
    """The parts of a step: as they are written here, or compiled."""

    positions: Callable[[Network, Tensor, int], PositionTensors]
    layer: Callable[[LayerWeights, Tensor, PositionTensors, Tensor, Tensor, Tensor], Tensor]
    choose: Callable[[Network, StepState, Tensor, int | None], None]


def network_of(model: StageModel, num_positions: int) -> Network:
    """The weights of a stage, not copied, and the position table of so many positions."""
    transformer, spec = model.transformer, model.layout.target.spec
    blocks = [block for block in transformer.blocks if isinstance(block, Block)]
    return Network(
        layers=tuple(
            LayerWeights(
                attention_norm=block.attention_norm.weight,
                attention_in=block.attention.project_in.weight,
                attention_out=block.attention.project_out.weight,
                gated_norm=block.feed_forward_norm.weight,
                gated_in=block.feed_forward.project_in.weight,
                gated_out=block.feed_forward.project_out.weight,
            )
            for block in blocks
        ),
        norm=transformer.norm.weight,
        output=model.target_table().unflatten(0, (spec.num_quantizers, spec.codebook_size)),
        embedding=model.embedding(model.layout.target).weight,
        table=transformer.positions.table(num_positions),
        is_rotary=isinstance(transformer.positions, RotaryPositions),
    )


def decode_step(
    network: Network, state: StepState, kernels: Kernels, num_keys: int, top_k: int | None
) -> None:
    """Reads the pending input, says the codes of one step and leaves the input of the next.

    Args:
        network: Weights.
        state: Is changed in place.
        kernels: What runs.
        num_keys: Cached positions to read, more than `state.position`.
        top_k: Only the likeliest codes of a level may be chosen; all when None.
    """
    signal = kernels.positions(network, state.position, num_keys)
    states = state.pending
    for weights, keys, values in zip(network.layers, state.keys, state.values, strict=True):
        states = kernels.layer(
            weights, states, signal, keys[:, :, :num_keys], values[:, :, :num_keys], state.position
        )
    kernels.choose(network, state, states, top_k)


def position_tensors(network: Network, position: Tensor, num_keys: int) -> PositionTensors:
    """What `position` ([1]) tells every layer about itself and its past."""
    distances = position - torch.arange(num_keys, device=position.device)
    if network.is_rotary:
        rotation = network.table.index_select(1, position)[:, :, None, None]
        bias = torch.zeros(1, num_keys, device=position.device)
    else:
        rotation = None
        bias = network.table.index_select(1, distances.clamp(min=0)).float()
    return PositionTensors(rotation, bias.masked_fill(distances < 0, -math.inf))


def layer_step(
    weights: LayerWeights,
    states: Float[Tensor, "rows dim"],
    signal: PositionTensors,
    keys: Float[Tensor, "rows heads keys head_dim"],
    values: Float[Tensor, "rows heads keys head_dim"],
    position: Int[Tensor, " 1"],
) -> Float[Tensor, "rows dim"]:
    """One block at one position, as `layers.transformer.Block`; adds to keys and values."""
    num_rows, num_heads, _, head_dim = keys.shape
    normed = functional.rms_norm(states, states.shape[1:], weights.attention_norm, NORM_EPSILON)
    mixed = functional.linear(normed, weights.attention_in)
    mixed = mixed.view(num_rows, 1, 3, num_heads, head_dim)
    if signal.rotation is not None:
        turned = rotate(mixed[:, :, :2], signal.rotation).to(mixed.dtype)
        mixed = torch.cat([turned, mixed[:, :, 2:]], dim=2)
    query, key, value = mixed.transpose(1, 3).unbind(2)
    keys[:, :, position] = key
    values[:, :, position] = value
    scores = torch.matmul(query * head_dim**-0.5, keys.transpose(2, 3))
    shares = torch.softmax(scores.float() + signal.bias[:, None], dim=-1).to(values.dtype)
    attended = torch.matmul(shares, values).view(num_rows, num_heads * head_dim)
    states = states + functional.linear(attended, weights.attention_out)
    normed = functional.rms_norm(states, states.shape[1:], weights.gated_norm, NORM_EPSILON)
    gate, inner = functional.linear(normed, weights.gated_in).chunk(2, dim=-1)
    gated = functional.gelu(gate, approximate="tanh") * inner
    return states + functional.linear(gated, weights.gated_out)


def choose_step(
    network: Network, state: StepState, states: Float[Tensor, "rows dim"], top_k: int | None
) -> None:
    """Chooses the codes of a step, writes them down and moves on; as `decoding.sample_codes`."""
    num_levels, size, _ = network.output.shape
    num_samples, num_columns, num_steps = state.steps.shape
    if num_columns == num_levels:
        levels, rows = torch.arange(num_levels, device=states.device), network.output
    else:  # one level after the other
        levels = state.step % num_levels
        rows = network.output.index_select(0, levels)
    states = functional.rms_norm(states, states.shape[1:], network.norm, NORM_EPSILON)
    logits = functional.linear(states, rows.flatten(0, 1)).float()
    logits = logits.unflatten(1, (num_columns, size))
    logits = contrasted(logits, state.scales)
    if top_k is not None:
        least = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    noise = state.noise.index_select(1, state.tick)[:, 0]
    chosen = torch.addcmul(noise, logits, state.inverse_temperature).argmax(dim=-1)
    before = state.steps.index_select(2, state.step)[:, :, 0]
    is_said = state.is_said.index_select(0, state.step)
    ids = torch.where(is_said, chosen + levels * size, before)
    state.steps[:, :, state.step] = ids[:, :, None]
    for counter in (state.step, state.position, state.tick):
        counter.add_(1)
    pending = functional.embedding(ids, network.embedding).sum(dim=1)
    pending = pending.repeat(len(states) // num_samples, 1)
    if state.aligned is not None:
        following = state.step.clamp(max=num_steps - 1)
        pending = pending + state.aligned.index_select(1, following)[:, 0]
    state.pending.copy_(pending)


PLAIN = Kernels(position_tensors, layer_step, choose_step)
"""The parts as they are written."""


@cache
def fused_kernels() -> Kernels:
    """The parts compiled with `torch.compile`, which fuses what lies between the products.

    Products of one row become sums that read the weights once; tuning finds the tiles that do it
    fastest. It takes a minute when it is new on a machine.
    """
    options: dict[str, str | int | bool | Callable[..., object]] = {
        "coordinate_descent_tuning": True
    }
    return Kernels(
        positions=torch.compile(position_tensors, options=options),
        layer=torch.compile(layer_step, options=options),
        choose=torch.compile(choose_step, options=options),
    )
