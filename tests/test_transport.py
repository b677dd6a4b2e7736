"""Transport: Sinkhorn against exact transport, bounds, identity, symmetry, bad histograms."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from musiclm.core.errors import DataError
from musiclm.evaluation.transport import (
    exact_token_transport_costs,
    lower_bounds,
    sinkhorn_costs,
    token_histograms,
    token_transport_costs,
)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def random_histograms(generator, pairs, bins):
    weights = torch.rand(pairs, bins, generator=generator, dtype=torch.float64)
    weights[:, bins // 2] = 0.0
    return weights / weights.sum(dim=1, keepdim=True)


def linear_program(left, right, costs) -> float:
    """The textbook statement of optimal transport."""
    rows, columns = costs.shape
    sums = np.zeros((rows + columns, rows * columns))
    for row in range(rows):
        sums[row, row * columns : (row + 1) * columns] = 1
    for column in range(columns):
        sums[rows + column, column::columns] = 1
    marginals = np.concatenate([left, right])
    return linprog(costs.reshape(-1), A_eq=sums, b_eq=marginals, method="highs").fun


def test_is_at_most_two_percent_above_the_linear_program_and_never_below(generator):
    left, right = random_histograms(generator, 5, 8), random_histograms(generator, 5, 9)
    costs = torch.rand(5, 8, 9, generator=generator, dtype=torch.float64)
    ours = sinkhorn_costs(left, right, costs).numpy()
    exact = [linear_program(*(part[i].numpy() for part in (left, right, costs))) for i in range(5)]
    assert (ours >= np.array(exact) - 1e-9).all()
    assert (ours <= np.array(exact) * 1.02).all()


def test_a_histogram_is_at_no_distance_from_itself(generator):
    histogram = random_histograms(generator, 3, 10)
    points = torch.randn(10, 2, generator=generator, dtype=torch.float64)
    costs = torch.cdist(points, points).expand(3, -1, -1)
    assert sinkhorn_costs(histogram, histogram, costs).max() < 0.01 * costs.mean()


def test_one_bin_to_one_bin_costs_their_distance():
    weights = torch.ones(1, 1)
    assert sinkhorn_costs(weights, weights, torch.full((1, 1, 1), 2.5)).item() == pytest.approx(2.5)


def test_tokens_agree_with_exact_matching_and_with_bounds(generator):
    centroids = torch.randn(30, 4, generator=generator)
    ground = torch.cdist(centroids.double(), centroids.double())
    left = torch.randint(0, 15, (6, 40), generator=generator)
    right = torch.randint(5, 30, (6, 40), generator=generator)
    ours = token_transport_costs(left, right, ground).numpy()
    exact = exact_token_transport_costs(left, right, ground)
    bounds = lower_bounds(left, right, ground).diagonal().numpy()
    assert (ours >= exact - 1e-9).all()
    assert (ours <= exact * 1.02).all()
    assert (bounds <= exact + 1e-9).all()
    assert (bounds > 0.3 * exact).all()


def test_order_of_tokens_does_not_matter(generator):
    centroids = torch.randn(9, 3, generator=generator)
    ground = torch.cdist(centroids, centroids)
    tokens = torch.randint(0, 9, (2, 25), generator=generator)
    shuffled = tokens[:, torch.randperm(25, generator=generator)]
    assert exact_token_transport_costs(tokens, shuffled, ground) == pytest.approx([0, 0])
    assert torch.equal(token_histograms(tokens, 9), token_histograms(shuffled, 9))
    assert token_histograms(tokens, 9).sum(dim=1).tolist() == pytest.approx([1, 1])


def test_nonsense_is_refused():
    half = torch.tensor([[0.5, 0.4]])
    with pytest.raises(DataError, match="sum to 1"):
        sinkhorn_costs(half, half, torch.ones(1, 2, 2))
    whole = torch.tensor([[0.5, 0.5]])
    with pytest.raises(DataError, match="finite and not negative"):
        sinkhorn_costs(whole, whole, -torch.ones(1, 2, 2))
