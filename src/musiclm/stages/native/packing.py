"""A stage's weights in the order in which the compiled loop reads them."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from musiclm.layers.transformer import Block, Transformer
from musiclm.stages.language_model import SegmentEmbedding, StageModel
from musiclm.stages.native.arrays import LANES, Array, Cache, Matrices, Network, Target

Precision = Literal["float32", "int8"]
_TOLERANCE = 1e-5


def exact_precision(model: StageModel) -> Precision:
    """`int8` when every matrix of the model was stored so, and nothing is lost by keeping it."""
    for matrix in _all_matrices(model):
        whole, scale = _to_int8(matrix)
        error = (whole.float() * scale[:, None] - matrix).abs().amax(dim=1)
        if not bool((error <= scale * 127 * _TOLERANCE).all()):
            return "float32"
    return "int8"


def pack_network(model: StageModel, precision: Precision) -> Network:
    """The transformer's weights."""
    blocks = _blocks(model.transformer)
    norms = [
        norm.weight for block in blocks for norm in (block.attention_norm, block.feed_forward_norm)
    ]
    return Network(
        attention_in=_pack([block.attention.project_in.weight for block in blocks], precision),
        attention_out=_pack([block.attention.project_out.weight for block in blocks], precision),
        gated_in=_pack([block.feed_forward.project_in.weight for block in blocks], precision),
        gated_out=_pack([block.feed_forward.project_out.weight for block in blocks], precision),
        norms=_array(torch.stack([*norms, model.transformer.norm.weight])),
    )


def pack_target(model: StageModel, precision: Precision) -> Target:
    """The tables of the target's codes."""
    spec = model.layout.target.spec
    embedding = model.embeddings[spec.name]
    assert isinstance(embedding, SegmentEmbedding)
    tables = model.target_table().unflatten(0, (spec.num_quantizers, spec.codebook_size))
    return Target(
        embeddings=_array(embedding.weight),
        output=_pack(tables.unbind(0), precision),
        codebook_size=spec.codebook_size,
    )


def new_cache(model: StageModel, num_rows: int, num_positions: int) -> Cache:
    """An empty cache with room for `num_positions`."""
    config = model.transformer.config
    table = model.transformer.positions.table(num_positions).float()
    rotation = torch.zeros(2, num_positions, config.head_dim)
    rotation[0] = 1
    bias = torch.zeros(config.num_heads, num_positions)
    if config.positions == "rotary":
        rotation = table
    else:
        bias = table
    sizes = (num_rows, config.num_layers, config.num_heads)
    keys = (*sizes, config.head_dim, num_positions)
    values = (*sizes, num_positions, config.head_dim)
    return Cache(
        keys=np.empty(keys, np.float32),
        values=np.empty(values, np.float32),
        rotation=_array(rotation),
        bias=_array(bias),
    )


def _pack(matrices: Sequence[Tensor], precision: Precision) -> Matrices:
    """Matrices of [outputs, inputs], cut into panels of neighbouring outputs."""
    panels: list[Array] = []
    scales: list[Array] = []
    for matrix in matrices:
        weights, scale = matrix.detach().float().cpu(), torch.ones(matrix.shape[0])
        if precision == "int8":
            weights, scale = _to_int8(weights)
        num_outputs, num_inputs = weights.shape
        filled = weights.new_zeros(-(-num_outputs // LANES) * LANES, num_inputs)
        filled[:num_outputs] = weights
        panels.append(filled.unflatten(0, (-1, LANES)).transpose(1, 2).contiguous().numpy())
        scales.append(scale.numpy())
    return Matrices(np.stack(panels), np.stack(scales))


def _to_int8(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers from -127 to 127 and a scale a row, as `core.pretrained` stores them."""
    matrix = matrix.detach().float().cpu()
    scale = matrix.abs().amax(dim=1).clamp(min=1e-12) / 127
    return (matrix / scale[:, None]).round().to(torch.int8), scale


def _all_matrices(model: StageModel) -> list[Tensor]:
    matrices = [model.target_table()]
    for block in _blocks(model.transformer):
        matrices += [block.attention.project_in.weight, block.attention.project_out.weight]
        matrices += [block.feed_forward.project_in.weight, block.feed_forward.project_out.weight]
    return [matrix.detach().float().cpu() for matrix in matrices]


def _blocks(transformer: Transformer) -> list[Block]:
    return [block for block in transformer.blocks if isinstance(block, Block)]


def _array(tensor: Tensor) -> Array:
    return np.ascontiguousarray(tensor.detach().float().cpu().numpy())
