"""Optimal transport between histograms of tokens: Sinkhorn's for the measure, exact for the check.

Legend: `pairs`, compared two by two; `left` and `right`, bins of the two histograms; weights sum
to 1 along their bins, and bins of weight 0 are passed over, so pairs of different supports fit in
one batch. Everything in float64.
"""

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from musiclm.core.errors import DataError

_FIRST_EPSILON = 1.0


def sinkhorn_costs(
    left_weights: Float[Tensor, "pairs left"],
    right_weights: Float[Tensor, "pairs right"],
    costs: Float[Tensor, "pairs left right"],
    *,
    epsilon: float = 0.01,
    max_iterations: int = 60,
) -> Float[Tensor, " pairs"]:
    """Cost of the entropy-regularised plan (Cuturi 2013), made feasible: never below the exact one.

    Log-domain iterations whose regularisation falls by half from the costs' own scale to
    `epsilon` times it; the last plan is rounded onto the marginals (Altschuler et al. 2017).

    Args:
        left_weights: First histograms.
        right_weights: Second histograms.
        costs: Of moving a unit from each left to each right bin, not negative.
        epsilon: Last regularisation, as a share of each pair's mean cost.
        max_iterations: Iterations at each regularisation.

    Raises:
        DataError: A histogram does not sum to 1, or a cost is negative or not finite.
    """
    left, right, costs = left_weights.double(), right_weights.double(), costs.double()
    _check(left, right, costs)
    is_used = (left[:, :, None] > 0) & (right[:, None, :] > 0)
    costs = costs.masked_fill(~is_used, 0.0)
    scale = costs.sum(dim=(1, 2)) / is_used.sum(dim=(1, 2))
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))[:, None, None]
    log_left, log_right = left.log(), right.log()
    f, g = torch.zeros_like(left), torch.zeros_like(right)
    plan = left[:, :, None] * right[:, None, :]
    steps = max(1, math.ceil(math.log2(_FIRST_EPSILON / epsilon))) + 1
    for regular in np.geomspace(_FIRST_EPSILON, epsilon, steps).tolist():
        reduced = (-costs / (regular * scale)).masked_fill(~is_used, -math.inf)
        f, g = f / (regular * scale[:, :, 0]), g / (regular * scale[:, :, 0])
        for _ in range(max_iterations):
            f_old = f
            f = _finite(log_left - (reduced + g[:, None, :]).logsumexp(dim=2))
            g = _finite(log_right - (reduced + f[:, :, None]).logsumexp(dim=1))
            if (f - f_old).abs().amax() < 1e-4:
                break
        plan = (reduced + f[:, :, None] + g[:, None, :]).exp()
        f, g = f * regular * scale[:, :, 0], g * regular * scale[:, :, 0]
    return (_rounded(plan, left, right) * costs).sum(dim=(1, 2))


def token_histograms(
    tokens: Int[Tensor, "samples length"], num_entries: int
) -> Float[Tensor, "samples entries"]:
    """How often each entry occurs in each sample; rows sum to 1."""
    counts = torch.zeros(len(tokens), num_entries, dtype=torch.float64, device=tokens.device)
    ones = torch.ones_like(tokens, dtype=torch.float64)
    return counts.scatter_add_(1, tokens, ones) / tokens.shape[1]


def token_transport_costs(
    left: Int[Tensor, "pairs length"],
    right: Int[Tensor, "pairs length"],
    ground_costs: Float[Tensor, "entries entries"],
    *,
    epsilon: float = 0.01,
) -> Float[Tensor, " pairs"]:
    """Sinkhorn's cost between the token histograms of pairs, over the entries that occur."""
    results: list[Tensor] = []
    for one, other in zip(left, right, strict=True):
        one_entries, one_counts = one.unique(return_counts=True)
        other_entries, other_counts = other.unique(return_counts=True)
        costs = ground_costs[one_entries][:, other_entries]
        results.append(
            sinkhorn_costs(
                one_counts[None].double() / len(one),
                other_counts[None].double() / len(other),
                costs[None],
                epsilon=epsilon,
            )
        )
    return torch.cat(results) if results else torch.zeros(0, dtype=torch.float64)


def exact_token_transport_costs(
    left: Int[Tensor, "pairs length"],
    right: Int[Tensor, "pairs length"],
    ground_costs: Float[Tensor, "entries entries"],
) -> Float[np.ndarray, " pairs"]:
    """The exact cost: samples of the same length are matched token by token, each once."""
    table = ground_costs.double().cpu().numpy()
    results: list[float] = []
    for one, other in zip(left.cpu().numpy(), right.cpu().numpy(), strict=True):
        costs = table[np.ix_(one, other)]
        rows, columns = linear_sum_assignment(costs)
        results.append(float(costs[rows, columns].mean()))
    return np.array(results)


def lower_bounds(
    left: Int[Tensor, "rows length"],
    right: Int[Tensor, "columns length"],
    ground_costs: Float[Tensor, "entries entries"],
) -> Float[Tensor, "rows columns"]:
    """What transport costs at least, for all pairs at once: each token moves to its nearest.

    The larger of both directions (Kusner et al. 2015, "relaxed word mover's distance").
    """
    ground = ground_costs.double()
    histograms = [token_histograms(tokens, len(ground)) for tokens in (left, right)]
    forward, backward = (
        torch.stack([ground[:, tokens.unique()].amin(dim=1) for tokens in side], dim=1)
        for side in (right, left)
    )
    return torch.maximum(histograms[0] @ forward, (histograms[1] @ backward).T)


def _finite(potential: Tensor) -> Tensor:
    """Bins of weight 0 have no potential."""
    return potential.masked_fill(~potential.isfinite(), 0.0)


def _rounded(plan: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """The plan scaled down to both marginals, and what is missing spread as their product."""
    tiny = torch.finfo(plan.dtype).tiny
    plan = plan * (left / plan.sum(dim=2).clamp(min=tiny)).clamp(max=1)[:, :, None]
    plan = plan * (right / plan.sum(dim=1).clamp(min=tiny)).clamp(max=1)[:, None, :]
    left_rest = (left - plan.sum(dim=2)).clamp(min=0)
    right_rest = (right - plan.sum(dim=1)).clamp(min=0)
    total = left_rest.sum(dim=1).clamp(min=tiny)[:, None, None]
    return plan + left_rest[:, :, None] * right_rest[:, None, :] / total


def _check(left: Tensor, right: Tensor, costs: Tensor) -> None:
    for weights in (left, right):
        if (weights < 0).any() or not torch.allclose(
            weights.sum(dim=1), torch.ones_like(weights[:, 0]), atol=1e-9
        ):
            raise DataError("Histograms must not be negative and must sum to 1; normalise them.")
    if not bool(costs.isfinite().all()) or (costs < 0).any():
        raise DataError("Transport costs must be finite and not negative; check the centroids.")
