"""What the compiled loop reads and writes: tuples of arrays, with the axes of each.

Axes: `rows`, one a sample (several with guidance); `positions` of the caches; `lanes` of a panel.
"""

from typing import Any, NamedTuple

from numpy.typing import NDArray

Array = NDArray[Any]
LANES = 64
"""Outputs of a panel."""


class Matrices(NamedTuple):
    """Matrices of one shape, cut into panels."""

    panels: Array
    """[matrices, panels, inputs, lanes], float32 or int8; outputs are filled up with zeros."""
    scales: Array
    """[matrices, outputs], float32: what a row of int8 is multiplied by; 1 for float32."""


class Network(NamedTuple):
    """The weights of a transformer."""

    attention_in: Matrices
    attention_out: Matrices
    gated_in: Matrices
    gated_out: Matrices
    norms: Array
    """[2 * layers + 1, dim]: before attention and feed-forward of each layer, and the last."""


class Cache(NamedTuple):
    """Keys and values read so far, and the position signals of all positions."""

    keys: Array
    """[rows, layers, heads, head_dim, positions]"""
    values: Array
    """[rows, layers, heads, positions, head_dim]"""
    rotation: Array
    """[2, positions, head_dim]: cosine and signed sine."""
    bias: Array
    """[heads, positions]: added to a logit, by distance."""


class Target(NamedTuple):
    """How codes become inputs and states become logits."""

    embeddings: Array
    """[ids, dim]"""
    output: Matrices
    """A matrix a level."""
    codebook_size: int
    """Entries of a level."""


class Progress(NamedTuple):
    """What the loop reads and writes as it goes."""

    steps: Array
    """[batch, columns, steps], ids said so far."""
    levels: Array
    """[steps, 2], the first level said at a step, and the one after the last."""
    aligned: Array
    """[rows, steps, dim], added to the inputs; no steps when there is nothing to add."""
    pending: Array
    """[rows, dim], the input of the next step."""


class Choice(NamedTuple):
    """How codes are chosen, as in `SamplingConfig`."""

    inverse_temperature: Any
    """Float32; 0 takes the likeliest."""
    top_k: int
    """0 for all."""
    scales: Array
    """[copies], float32: the rows of guidance that follow those of the samples."""
