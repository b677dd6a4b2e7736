"""Positions and attention against slow references; the cache holds what it was given."""

import math

import pytest
import torch
from torch.nn import functional

from musiclm.layers.attention import (
    Attention,
    PositionSignal,
    RelativeBias,
    RotaryPositions,
    causal_bias,
    rotate,
)


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def t5_bucket(distance, num_buckets=32, max_distance=128):
    """The published bucket rule for a causal model, one distance at a time."""
    num_exact = num_buckets // 2
    if distance < num_exact:
        return distance
    grown = math.log(distance / num_exact) / math.log(max_distance / num_exact)
    return min(num_exact + int(grown * (num_buckets - num_exact)), num_buckets - 1)


def test_relative_bias_follows_the_published_buckets():
    bias = RelativeBias(num_heads=1)
    bias.weight.data = torch.arange(32.0)[:, None]
    buckets = bias.table(400)[0].tolist()
    # Distances at which the logarithm is a whole number may round either way.
    for distance in set(range(400)) - {16, 32, 64, 128}:
        assert buckets[distance] == t5_bucket(distance), distance
    assert buckets[128:] == [31.0] * 272


@pytest.mark.parametrize(("num_queries", "num_keys"), [(1, 1), (5, 5), (1, 6), (3, 7)])
def test_causal_bias_spreads_distances(num_queries, num_keys):
    table = draws(2, 9)
    bias = causal_bias(table, num_queries, num_keys)
    for query in range(num_queries):
        for key in range(num_keys):
            distance = query + num_keys - num_queries - key
            expected = table[:, distance] if distance >= 0 else torch.full((2,), -math.inf)
            assert torch.equal(bias[:, query, key], expected)


def test_rotation_leaves_only_the_distance():
    positions = RotaryPositions(8)
    table = positions.table(50)
    query, key = draws(1, 1, 1, 1, 8), draws(1, 1, 1, 1, 8, seed=1)

    def product(query_position, key_position):
        turned = [
            rotate(states, table[:, place : place + 1, None, None])
            for states, place in [(query, query_position), (key, key_position)]
        ]
        return float((turned[0] * turned[1]).sum())

    assert product(9, 4) == pytest.approx(product(45, 40), abs=1e-4)
    assert product(9, 4) != pytest.approx(product(9, 5), abs=1e-3)
    assert product(0, 0) == pytest.approx(float((query * key).sum()), abs=1e-5)


def slow_attention(attention, states, bias):
    """One head and one query at a time, with a bias by distance."""
    batch, num_positions, _ = states.shape
    heads, width = attention.num_heads, attention.head_dim
    mixed = functional.linear(states, attention.project_in.weight)
    queries, keys, values = mixed.view(batch, num_positions, 3, heads, width).unbind(2)
    attended = torch.zeros(batch, num_positions, heads, width)
    for head in range(heads):
        for place in range(num_positions):
            past = slice(0, place + 1)
            logits = (keys[:, past, head] @ queries[:, place, head, :, None])[..., 0]
            logits = logits / width**0.5 + bias[head, : place + 1].flip(0)
            weights = logits.softmax(-1)
            attended[:, place, head] = (weights[..., None] * values[:, past, head]).sum(1)
    return functional.linear(attended.flatten(2), attention.project_out.weight)


def test_attention_with_bias_equals_slow_reference():
    attention = Attention(dim=12, num_heads=3, head_dim=4)
    states, table = draws(2, 7, 12), draws(3, 7, seed=1)
    signal = PositionSignal(None, causal_bias(table, 7, 7)[None], is_causal=False)
    expected = slow_attention(attention, states, table)
    torch.testing.assert_close(attention(states, signal), expected, atol=1e-5, rtol=1e-5)


def test_relative_bias_learns():
    bias = RelativeBias(num_heads=2)
    attention = Attention(dim=8, num_heads=2, head_dim=4)
    attention(draws(1, 20, 8), bias.signal(bias.table(20), 0, 20)).sum().backward()
    assert bias.weight.grad is not None
    assert bool((bias.weight.grad[:16].abs().sum(1) > 0).all())
