"""The decoding loop of a stage, compiled: everything a step computes, without returning to Python.

Written with numba as plain loops over arrays. Axes: `rows`, one a sample (several with guidance);
`queries`, the positions read at once; `positions` of the caches; `lanes` of a panel.

Matrices are cut into panels of 64 outputs, the outputs innermost: the inner loops run over
neighbouring outputs, which the compiler turns into vector instructions without changing the order
of any sum. So a row's numbers are the same in every batch, streamed or whole.

One file on purpose: numba keeps compiled functions by the file they stand in, and would not notice
that a function they call has changed in another.
"""

import math
from typing import Any

import numpy as np

from musiclm.core.compiled import compiled
from musiclm.stages.native.arrays import LANES, Array, Cache, Choice, Network, Progress, Target

UNROLL = 4
"""Inputs, rows, keys taken at once; widths must be multiples of it."""

_EPSILON = np.float32(1e-6)
_ONE = np.float32(1.0)
_LOG2_E = np.float32(1.44269504)
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(-2.12194440e-4)
_ROUNDER = np.float32(12_582_912.0)  # 1.5 * 2**23: adding it rounds a float32 to a whole number
_SMALLEST = np.float32(-87.0)
_LARGEST = np.float32(88.0)
_GELU_SCALE = np.float32(2 * math.sqrt(2 / math.pi))
_GELU_CUBIC = np.float32(0.044715)


@compiled()
def _one_row(weights: Array, inputs: Array, tile: Array) -> None:
    """A row times a panel: `tile[lane]` = sum of `weights[input, lane] * inputs[input]`."""
    for lane in range(LANES):
        tile[lane] = 0
    for start in range(0, weights.shape[0], UNROLL):
        x0, x1, x2, x3 = inputs[start], inputs[start + 1], inputs[start + 2], inputs[start + 3]
        four = weights[start : start + UNROLL]
        for lane in range(LANES):
            total = tile[lane] + np.float32(four[0, lane]) * x0
            total = total + np.float32(four[1, lane]) * x1
            total = total + np.float32(four[2, lane]) * x2
            tile[lane] = total + np.float32(four[3, lane]) * x3


@compiled()
def _four_rows(weights: Array, inputs: Array, tile: Array) -> None:
    """As `_one_row` for four rows, reading each weight once; the sums are the very same."""
    for row in range(UNROLL):
        for lane in range(LANES):
            tile[row, lane] = 0
    for start in range(0, weights.shape[0], UNROLL):
        i, j, k, m = start, start + 1, start + 2, start + 3
        a0, a1, a2, a3 = inputs[0, i], inputs[0, j], inputs[0, k], inputs[0, m]
        b0, b1, b2, b3 = inputs[1, i], inputs[1, j], inputs[1, k], inputs[1, m]
        c0, c1, c2, c3 = inputs[2, i], inputs[2, j], inputs[2, k], inputs[2, m]
        d0, d1, d2, d3 = inputs[3, i], inputs[3, j], inputs[3, k], inputs[3, m]
        four = weights[start : start + UNROLL]
        for lane in range(LANES):
            w0, w1 = np.float32(four[0, lane]), np.float32(four[1, lane])
            w2, w3 = np.float32(four[2, lane]), np.float32(four[3, lane])
            tile[0, lane] = (((tile[0, lane] + w0 * a0) + w1 * a1) + w2 * a2) + w3 * a3
            tile[1, lane] = (((tile[1, lane] + w0 * b0) + w1 * b1) + w2 * b2) + w3 * b3
            tile[2, lane] = (((tile[2, lane] + w0 * c0) + w1 * c1) + w2 * c2) + w3 * c3
            tile[3, lane] = (((tile[3, lane] + w0 * d0) + w1 * d1) + w2 * d2) + w3 * d3


@compiled()
def _multiply(panels: Array, scales: Array, inputs: Array, outputs: Array) -> None:
    """`outputs` = `inputs` times the matrix, for all rows."""
    tile = np.empty((UNROLL, LANES), np.float32)
    num_rows = inputs.shape[0]
    num_grouped = num_rows - num_rows % UNROLL
    for panel in range(panels.shape[0]):
        weights = panels[panel]
        first = panel * LANES
        width = min(LANES, outputs.shape[1] - first)
        scale = scales[first : first + width]
        for start in range(0, num_grouped, UNROLL):
            _four_rows(weights, inputs[start : start + UNROLL], tile)
            for row in range(UNROLL):
                part = outputs[start + row, first : first + width]
                for lane in range(width):
                    part[lane] = tile[row, lane] * scale[lane]
        for row in range(num_grouped, num_rows):
            _one_row(weights, inputs[row], tile[0])
            part = outputs[row, first : first + width]
            for lane in range(width):
                part[lane] = tile[0, lane] * scale[lane]


@compiled(may_reorder=True)
def _sum(values: Array) -> Any:
    total = np.float32(0)
    for index in range(values.shape[0]):
        total += values[index]
    return total


@compiled(may_reorder=True)
def _sum_of_squares(values: Array) -> Any:
    total = np.float32(0)
    for index in range(values.shape[0]):
        total += values[index] * values[index]
    return total


@compiled(may_reorder=True)
def _largest(values: Array) -> Any:
    largest = values[0]
    for index in range(values.shape[0]):
        largest = max(largest, values[index])
    return largest


@compiled()
def _exponentiate(values: Array, powers: Array) -> None:
    """Exp in place, to a few units in the last place; `powers` is scratch of as many int32.

    2 to a whole number is written as the exponent bits of a float, so that the compiler can take
    many values at once; a call to the library for each would be a third of a step.
    """
    for index in range(values.shape[0]):
        value = min(max(values[index], _SMALLEST), _LARGEST)
        whole = (value * _LOG2_E + _ROUNDER) - _ROUNDER
        rest = (value - whole * _LN2_HIGH) - whole * _LN2_LOW
        series = np.float32(1.9875691500e-4) * rest + np.float32(1.3981999507e-3)
        series = series * rest + np.float32(8.3334519073e-3)
        series = series * rest + np.float32(4.1665795894e-2)
        series = series * rest + np.float32(1.6666665459e-1)
        series = series * rest + np.float32(5.0000001201e-1)
        values[index] = series * (rest * rest) + rest + _ONE
        powers[index] = (np.int32(whole) + np.int32(127)) << np.int32(23)
    factors = powers.view(np.float32)
    for index in range(values.shape[0]):
        values[index] = values[index] * factors[index]


@compiled()
def _normalize(inputs: Array, weight: Array, outputs: Array) -> None:
    """RMSNorm of all rows."""
    dim = inputs.shape[1]
    for row in range(inputs.shape[0]):
        power = _sum_of_squares(inputs[row]) / np.float32(dim)
        scale = _ONE / np.sqrt(power + _EPSILON)
        source, result = inputs[row], outputs[row]
        for index in range(dim):
            result[index] = source[index] * scale * weight[index]


@compiled()
def _add(states: Array, more: Array) -> None:
    for row in range(states.shape[0]):
        result, added = states[row], more[row]
        for index in range(result.shape[0]):
            result[index] = result[index] + added[index]


@compiled()
def _gate(inner: Array, gated: Array, powers: Array) -> None:
    """`gated` = gelu(first half) * second half of `inner`; gelu(x) = x / (1 + exp(-2u))."""
    width = gated.shape[1]
    for row in range(inner.shape[0]):
        gate, value, result = inner[row, :width], inner[row, width:], gated[row]
        for index in range(width):
            x = gate[index]
            result[index] = -_GELU_SCALE * (x + _GELU_CUBIC * x * x * x)
        _exponentiate(result, powers)
        for index in range(width):
            result[index] = gate[index] * value[index] / (_ONE + result[index])


@compiled()
def _rotate(states: Array, rotation: Array, position: int, turned: Array) -> None:
    """Turns one head's states by the angles of a position."""
    half = states.shape[0] // 2
    cosine, sine = rotation[0, position], rotation[1, position]
    for index in range(half):
        low, high = states[index], states[half + index]
        turned[index] = low * cosine[index] + high * sine[index]
        turned[half + index] = high * cosine[half + index] + low * sine[half + index]


@compiled()
def _attend_head(query: Array, keys: Array, values: Array, scores: Array, outputs: Array) -> None:
    """One head of one query; `scores` holds the bias, and one score a filled position after."""
    head_dim = query.shape[0]
    count = scores.shape[0]
    for start in range(0, head_dim, UNROLL):
        q0, q1, q2, q3 = query[start], query[start + 1], query[start + 2], query[start + 3]
        k0, k1, k2, k3 = keys[start], keys[start + 1], keys[start + 2], keys[start + 3]
        for index in range(count):
            total = scores[index] + q0 * k0[index] + q1 * k1[index]
            scores[index] = total + q2 * k2[index] + q3 * k3[index]
    largest = _largest(scores)
    for index in range(count):
        scores[index] = scores[index] - largest
    _exponentiate(scores, np.empty(count, np.int32))
    scale = _ONE / _sum(scores)
    outputs[:] = 0
    for start in range(0, count - count % UNROLL, UNROLL):
        p0, p1, p2, p3 = scores[start], scores[start + 1], scores[start + 2], scores[start + 3]
        four = values[start : start + UNROLL]
        for index in range(head_dim):
            total = outputs[index] + p0 * four[0, index] + p1 * four[1, index]
            outputs[index] = total + p2 * four[2, index] + p3 * four[3, index]
    for start in range(count - count % UNROLL, count):
        one, weight = values[start], scores[start]
        for index in range(head_dim):
            outputs[index] = outputs[index] + weight * one[index]
    for index in range(head_dim):
        outputs[index] = outputs[index] * scale


@compiled()
def _attend(mixed: Array, cache: Cache, layer: int, start: int) -> Array:
    """Stores keys and values of the queries, then attends; `mixed` is [rows, queries, 3, ...]."""
    num_rows, num_queries, _, num_heads, head_dim = mixed.shape
    attended = np.empty((num_rows, num_queries, num_heads, head_dim), np.float32)
    query = np.empty(head_dim, np.float32)
    scores = np.empty(start + num_queries, np.float32)
    root = _ONE / np.sqrt(np.float32(head_dim))
    for row in range(num_rows):
        for head in range(num_heads):
            keys = cache.keys[row, layer, head]
            values = cache.values[row, layer, head]
            bias = cache.bias[head]
            for number in range(num_queries):
                position = start + number
                _rotate(mixed[row, number, 1, head], cache.rotation, position, query)
                for index in range(head_dim):
                    keys[index, position] = query[index]
                    values[position, index] = mixed[row, number, 2, head, index]
            for number in range(num_queries):
                position = start + number
                _rotate(mixed[row, number, 0, head], cache.rotation, position, query)
                for index in range(head_dim):
                    query[index] = query[index] * root
                for index in range(position + 1):
                    scores[index] = bias[position - index]
                visible = scores[: position + 1]
                _attend_head(query, keys, values, visible, attended[row, number, head])
    return attended


@compiled()
def read_positions(network: Network, cache: Cache, inputs: Array, start: int) -> Array:
    """Reads positions after those in the cache, adds them to it, gives their normalized states.

    Args:
        network: The weights.
        cache: Filled up to `start`.
        inputs: [rows, queries, dim], embedded positions.
        start: The position of the first query.
    """
    num_rows, num_queries, dim = inputs.shape
    num_heads, head_dim = cache.keys.shape[2], cache.keys.shape[3]
    count = num_rows * num_queries
    states = inputs.copy().reshape(count, dim)
    normed = np.empty((count, dim), np.float32)
    mixed = np.empty((num_rows, num_queries, 3, num_heads, head_dim), np.float32)
    inner = np.empty((count, network.gated_in.scales.shape[1]), np.float32)
    gated = np.empty((count, inner.shape[1] // 2), np.float32)
    powers = np.empty(gated.shape[1], np.int32)
    width = num_heads * head_dim
    for layer in range(cache.keys.shape[1]):
        _normalize(states, network.norms[2 * layer], normed)
        panels, scales = network.attention_in
        _multiply(panels[layer], scales[layer], normed, mixed.reshape(count, 3 * width))
        attended = _attend(mixed, cache, layer, start)
        panels, scales = network.attention_out
        _multiply(panels[layer], scales[layer], attended.reshape(count, width), normed)
        _add(states, normed)
        _normalize(states, network.norms[2 * layer + 1], normed)
        panels, scales = network.gated_in
        _multiply(panels[layer], scales[layer], normed, inner)
        _gate(inner, gated, powers)
        panels, scales = network.gated_out
        _multiply(panels[layer], scales[layer], gated, normed)
        _add(states, normed)
    _normalize(states, network.norms[-1], normed)
    return normed.reshape(num_rows, num_queries, dim)


@compiled()
def _least_of(logits: Array, top_k: int) -> Any:
    """The smallest of the `top_k` largest; 0 takes all.

    (`np.sort` costs as much compile time as the whole attention.)
    """
    least = np.float32(np.inf)
    num_taken = 0
    while 0 < top_k < logits.shape[0] and num_taken < top_k:
        following = -np.float32(np.inf)
        for code in range(logits.shape[0]):
            if logits[code] < least:
                following = max(following, logits[code])
        least = following
        for code in range(logits.shape[0]):
            num_taken += logits[code] == least
    return least if num_taken else -np.float32(np.inf)


@compiled()
def _choose(logits: Array, noise: Array, choice: Choice) -> int:
    """The code with the largest sum of scaled logit and noise, among the `top_k` likeliest."""
    least = _least_of(logits, choice.top_k)
    best, chosen = -np.float32(np.inf), 0
    for code in range(logits.shape[0]):
        if logits[code] < least:
            continue
        value = logits[code]
        if choice.inverse_temperature > 0:
            value = noise[code] + choice.inverse_temperature * value
        if value > best:
            best, chosen = value, code
    return chosen


@compiled()
def _say(
    target: Target, progress: Progress, logits: Array, step: int, noise: Array, choice: Choice
) -> None:
    """Chooses the codes of a step and writes their ids; `logits` is [levels, rows, entries]."""
    batch, num_columns, _ = progress.steps.shape
    num_copies = choice.scales.shape[0]
    for index in range(logits.shape[0]):
        level = progress.levels[step, 0] + index
        for sample in range(batch):
            chances = logits[index, num_copies * batch + sample]
            for copy in range(num_copies - 1, -1, -1):
                nearer = logits[index, copy * batch + sample]
                farther = logits[index, (copy + 1) * batch + sample]
                for code in range(chances.shape[0]):
                    chances[code] += choice.scales[copy] * (nearer[code] - farther[code])
            code = _choose(chances, noise[sample, index], choice)
            column = level if num_columns > 1 else 0
            progress.steps[sample, column, step] = level * target.codebook_size + code


@compiled()
def _prepare_next(target: Target, progress: Progress, step: int) -> None:
    """Writes the inputs of a step: the sum of the step before it, and what is aligned with it."""
    batch, num_columns, _ = progress.steps.shape
    for row in range(progress.pending.shape[0]):
        pending = progress.pending[row]
        pending[:] = 0
        for column in range(num_columns):
            embedding = target.embeddings[progress.steps[row % batch, column, step - 1]]
            for index in range(pending.shape[0]):
                pending[index] = pending[index] + embedding[index]
        if progress.aligned.shape[1] > 0:
            aligned = progress.aligned[row, step]
            for index in range(pending.shape[0]):
                pending[index] = pending[index] + aligned[index]


@compiled()
def decode_steps(  # noqa: PLR0913  (each is one thing)
    network: Network,
    cache: Cache,
    target: Target,
    progress: Progress,
    noise: Array,
    choice: Choice,
    span: tuple[int, int, int],
) -> None:
    """Says the codes of some steps.

    Args:
        network: The weights.
        cache: Filled up to the first of these steps.
        target: Embeddings and logits.
        progress: Everything said so far, and the input of the first step; updated.
        noise: [batch, levels of all these steps, entries], Gumbel noise; unread at temperature 0.
        choice: How codes are chosen.
        span: First step, the step after the last, and the position of step 0.
    """
    first_step, stop_step, first_position = span
    num_rows, dim = progress.pending.shape
    used = 0
    for step in range(first_step, stop_step):
        inputs = progress.pending.reshape(num_rows, 1, dim)
        states = read_positions(network, cache, inputs, first_position + step)
        first, stop = progress.levels[step, 0], progress.levels[step, 1]
        logits = np.empty((stop - first, num_rows, target.codebook_size), np.float32)
        for index in range(stop - first):
            panels, scales = target.output
            matrix, scale = panels[first + index], scales[first + index]
            _multiply(matrix, scale, states.reshape(num_rows, dim), logits[index])
        _say(target, progress, logits, step, noise[:, used:], choice)
        used += stop - first
        if step + 1 < progress.steps.shape[2]:
            _prepare_next(target, progress, step + 1)
