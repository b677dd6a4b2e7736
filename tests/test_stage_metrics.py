"""Stage metrics: entropies of known distributions."""

import math

import pytest
import torch

from musiclm.evaluation.stage_metrics import (
    token_counts,
    unigram_cross_entropy_nats,
    unigram_entropy_nats,
)


def test_entropy_of_constant_and_of_uniform_tokens():
    constant = torch.full((2, 8), 3)
    uniform = torch.arange(16).reshape(2, 8) % 4
    codes = torch.stack([constant, uniform], dim=1)
    entropy = unigram_entropy_nats(codes, codebook_size=16)
    assert entropy.tolist() == pytest.approx([0.0, math.log(4)], abs=1e-6)


def test_counts_are_per_level():
    codes = torch.tensor([[[0, 0, 1], [2, 2, 2]]])
    assert token_counts(codes, 3).tolist() == [[2, 1, 0], [0, 0, 3]]


def test_training_frequencies_cost_at_least_the_entropy():
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(8, (4, 2, 50), generator=generator) ** 2 % 8
    entropy = unigram_entropy_nats(codes, 8)
    own = unigram_cross_entropy_nats(token_counts(codes, 8) * 1000, codes)
    unseen = unigram_cross_entropy_nats(torch.zeros(2, 8, dtype=torch.int64), codes)
    torch.testing.assert_close(own, entropy, atol=1e-3, rtol=0)
    assert (unseen > entropy).all()
    assert unseen.tolist() == pytest.approx([math.log(8)] * 2, rel=1e-6)
