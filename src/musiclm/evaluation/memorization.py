"""Memorization: does the semantic stage go on with training music as it went on (Section 4.4)?

Conventions: only the semantic stage is tested. Examples are rows of semantic tokens with their
conditioning tokens. The model reads an example's conditioning and its first T tokens, and goes on
greedily for 125 tokens (5 s), which are compared with the true ones:

- *exact*: all 125 are the same;
- *approximate*: the cost of optimal transport between the two histograms of tokens, by distances
  between k-means centroids, is below a threshold. The papers' 0.85 is in units of their centroids;
  ours is set on negatives (the continuation of one example against the truth of another that is
  not of the same tune), so that less than one in 10,000 of them would pass;
- the entropy of matches beside that of all continuations: dull music is easily repeated; and that
  of the truth, for a stage whose likeliest music is dull matches nothing else.

Nothing here depends on where tokens come from: give training examples, and held-out ones as a
control.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from musiclm.core.config import Config
from musiclm.core.errors import DataError
from musiclm.core.runtime import RandomStreams
from musiclm.evaluation.distances import Interval, bootstrap_mean
from musiclm.evaluation.intervals import proportion_interval
from musiclm.evaluation.transport import (
    exact_token_transport_costs,
    lower_bounds,
    token_histograms,
    token_transport_costs,
)
from musiclm.stages.decoder import Decoder, make_decoder
from musiclm.stages.decoding import SamplingConfig
from musiclm.stages.extension import absent_codes
from musiclm.stages.language_model import StageModel

_CHECKED_PAIRS = 32


class MemorizationConfig(Config):
    """What is asked of the model, and how sure a match must be."""

    prompt_frames: tuple[int, ...] = tuple(range(0, 251, 25))
    """T: tokens of the example that are given; those too long for the model's window are left
    out."""
    continuation_frames: int = Field(default=125, gt=0)
    """Tokens generated and compared (5 s)."""
    false_positive_rate: float = Field(default=1e-4, gt=0, lt=1)
    """The share of negatives that may pass stays below it."""
    epsilon: float = Field(default=0.01, gt=0)
    """Sinkhorn's regularisation, as a share of the mean cost."""
    temperature: float = Field(default=0.0, ge=0)
    """Of the continuations; 0 always takes the likeliest token, as the paper does."""
    batch_size: int = Field(default=16, gt=0)
    """Continuations generated at once."""

    @property
    def example_frames(self) -> int:
        """Tokens an example must have."""
        return max(self.prompt_frames) + self.continuation_frames


@dataclass(frozen=True)
class Examples:
    """Music the model is prompted with, one row an example.

    Attributes:
        conditioning: Conditioning tokens.
        semantic: Semantic tokens.
        groups: Tune of each example; rows of one tune are no negatives of one another.
    """

    conditioning: Int[Tensor, "examples levels 1"]
    semantic: Int[Tensor, "examples 1 frames"]
    groups: tuple[str, ...]


@dataclass(frozen=True)
class Continuations:
    """What the model made of examples after T tokens, and what was true."""

    prompt_frames: int
    generated: Int[Tensor, "examples length"]
    truth: Int[Tensor, "examples length"]
    groups: tuple[str, ...]


@dataclass(frozen=True)
class Threshold:
    """Costs below `cost` are matches; of `num_negatives` wrong pairs so many as given were."""

    cost: float
    num_negatives: int
    num_false_positives: int

    @property
    def false_positive_rate(self) -> float:
        """Share of wrong pairs that would pass."""
        return self.num_false_positives / self.num_negatives


@dataclass(frozen=True)
class MemorizationPoint:
    """One T of a curve.

    Attributes:
        prompt_frames: T.
        exact: Share of exact matches, with its interval.
        approximate: Share of approximate matches, with its interval.
        mean_cost: Mean transport cost to the truth.
        entropy_bits: Mean entropy of the continuations.
        match_entropy_bits: Mean entropy of those that match; None without a match.
        truth_entropy_bits: Mean entropy of the true continuations.
        entropy_gap: Mean entropy of all minus that of the matches, its interval by bootstrap over
            matches; None with fewer than two.
    """

    prompt_frames: int
    exact: Interval
    approximate: Interval
    mean_cost: float
    entropy_bits: float
    match_entropy_bits: float | None
    truth_entropy_bits: float = 0.0
    entropy_gap: Interval | None = None


@dataclass(frozen=True)
class MemorizationReport:
    """Curves over T by set of examples, and how the threshold was set.

    Attributes:
        curves: By name of the set; the first is the one the threshold was set on.
        num_examples: By name of the set.
        threshold: What counts as a match.
        sinkhorn_excess: Largest share by which Sinkhorn's cost exceeds the exact one, on checked
            pairs.
    """

    curves: dict[str, tuple[MemorizationPoint, ...]]
    num_examples: dict[str, int]
    threshold: Threshold
    sinkhorn_excess: float

    @property
    def bits(self) -> tuple[float, float]:
        """Mean entropy of the first set's continuations, and of the true ones, over all T."""
        points = next(iter(self.curves.values()))
        made = sum(point.entropy_bits for point in points) / len(points)
        return made, sum(point.truth_entropy_bits for point in points) / len(points)

    @property
    def is_dull(self) -> bool:
        """Whether the continuations say less than half of what the music says.

        A stage that stays on the same few tokens can match hardly anything, so few matches do not
        show that little is remembered.
        """
        made, true = self.bits
        return made < true / 2


def measure_memorization(
    model: StageModel,
    sets: dict[str, Examples],
    centroids: Float[Tensor, "entries dim"],
    config: MemorizationConfig,
) -> MemorizationReport:
    """Curves of exact and approximate matches for each set of examples.

    Args:
        model: The semantic stage, in eval mode.
        sets: Training examples first, then controls (held-out ones).
        centroids: The semantic tokenizer's.
        config: T and the false positives allowed.

    Raises:
        DataError: No set, a set without examples, examples that are too short, or too few for the
            false-positive rate.
    """
    if not sets or not all(examples.groups for examples in sets.values()):
        raise DataError("There are no examples to prompt with; give at least the training set.")
    kept = usable_prompts(model, config)
    decoder = make_decoder(model, num_threads=torch.get_num_threads())
    made = {
        name: [continue_examples(decoder, examples, frames, config) for frames in kept]
        for name, examples in sets.items()
    }
    threshold = calibrated_threshold(next(iter(made.values())), centroids, config)
    excess = max(
        sinkhorn_excess(continuations, centroids, config.epsilon)
        for continuations in next(iter(made.values()))
    )
    curves = {
        name: tuple(_point(item, centroids, threshold, config) for item in continuations)
        for name, continuations in made.items()
    }
    counts = {name: len(examples.groups) for name, examples in sets.items()}
    return MemorizationReport(curves, counts, threshold, excess)


def usable_prompts(model: StageModel, config: MemorizationConfig) -> tuple[int, ...]:
    """The T for which prompt and continuation fit in the model's window.

    Raises:
        DataError: None fits.
    """
    rate = model.layout.target.spec.frame_rate_hz
    window = round(model.config.window_seconds * rate)
    kept = tuple(
        frames for frames in config.prompt_frames if frames + config.continuation_frames <= window
    )
    if not kept:
        raise DataError(
            f"The stage's window of {window} tokens is too short for continuations of "
            f"{config.continuation_frames}. Ask for fewer continuation_frames."
        )
    return kept


def continue_examples(
    decoder: Decoder, examples: Examples, prompt_frames: int, config: MemorizationConfig
) -> Continuations:
    """What the model goes on with after the first `prompt_frames` tokens.

    Raises:
        DataError: The examples are shorter than prompt and continuation.
    """
    stop = prompt_frames + config.continuation_frames
    if examples.semantic.shape[2] < stop:
        raise DataError(
            f"The examples have {examples.semantic.shape[2]} tokens; {prompt_frames} to prompt "
            f"with and {config.continuation_frames} to compare are needed. Use longer clips."
        )
    generated: list[Tensor] = []
    generators = [
        RandomStreams(0).generator("continuation", prompt_frames, number)
        for number in range(len(examples.groups))
    ]
    for first in range(0, len(generators), config.batch_size):
        rows = slice(first, first + config.batch_size)
        conditioning, semantic = examples.conditioning[rows], examples.semantic[rows]
        blocks = decoder.blocks(
            {
                **absent_codes(decoder.model.layout, len(conditioning), stop),
                "conditioning": conditioning,
            },
            stop,
            sampling=SamplingConfig(temperature=config.temperature),
            generators=generators[rows],
            known_target=semantic[:, :, :prompt_frames] if prompt_frames else None,
        )
        generated.append(torch.cat([block[:, 0].cpu() for block in blocks], dim=1))
    truth = examples.semantic[:, 0, prompt_frames:stop].cpu()
    return Continuations(prompt_frames, torch.cat(generated), truth, examples.groups)


def exact_matches(continuations: Continuations) -> Bool[Tensor, " examples"]:
    """Whether every token is the true one."""
    return (continuations.generated == continuations.truth).all(dim=1)


def entropy_bits(tokens: Int[Tensor, "samples length"]) -> Float[Tensor, " samples"]:
    """Entropy of each sample's own token frequencies: 0 for one token, 7 for 128 that differ."""
    frequencies = token_histograms(tokens, int(tokens.max()) + 1)
    return -torch.special.xlogy(frequencies, frequencies).sum(dim=1) / np.log(2)


def calibrated_threshold(
    made: Sequence[Continuations],
    centroids: Float[Tensor, "entries dim"],
    config: MemorizationConfig,
) -> Threshold:
    """The cost below which fewer negatives than the allowed share lie.

    Every continuation is a negative with the truth of every example of another tune. Only pairs
    whose lower bound is small enough to matter are transported, so all of them can be counted.

    Raises:
        DataError: There are too few negatives to tell the rate.
    """
    ground = torch.cdist(centroids.double(), centroids.double()).cpu()
    bounds: list[np.ndarray] = []
    for item in made:
        groups = np.array(item.groups)
        is_other = groups[:, None] != groups[None, :]
        values = lower_bounds(item.generated, item.truth, ground).numpy()
        bounds.append(np.where(is_other, values, np.inf))
    stacked = np.stack(bounds)
    num_negatives = int(np.isfinite(stacked).sum())
    needed = int(np.ceil(1 / config.false_positive_rate))
    if num_negatives < needed:
        raise DataError(
            f"{num_negatives} negative pairs cannot show a rate below "
            f"{config.false_positive_rate:g}: {needed} are needed. Give more tunes."
        )
    allowed = int(np.ceil(config.false_positive_rate * num_negatives)) - 1
    smallest: list[float] = []
    for place in np.argsort(stacked, axis=None, kind="stable").tolist():
        number, row, column = (int(axis) for axis in np.unravel_index(place, stacked.shape))
        if len(smallest) > allowed and stacked[number, row, column] >= smallest[allowed]:
            break
        cost = token_transport_costs(
            made[number].generated[row : row + 1],
            made[number].truth[column : column + 1],
            ground,
            epsilon=config.epsilon,
        )
        smallest = sorted([*smallest, float(cost)])[: allowed + 1]
    return Threshold(smallest[allowed], num_negatives, allowed)


def sinkhorn_excess(
    continuations: Continuations, centroids: Float[Tensor, "entries dim"], epsilon: float
) -> float:
    """The largest share by which Sinkhorn's costs exceed exact ones on the first pairs."""
    ground = torch.cdist(centroids.double(), centroids.double()).cpu()
    pair = continuations.generated[:_CHECKED_PAIRS], continuations.truth[:_CHECKED_PAIRS]
    ours = token_transport_costs(*pair, ground, epsilon=epsilon).numpy()
    exact = exact_token_transport_costs(*pair, ground)
    is_apart = exact > 1e-9
    return float((ours[is_apart] / exact[is_apart] - 1).max(initial=0.0))


def _point(
    continuations: Continuations,
    centroids: Float[Tensor, "entries dim"],
    threshold: Threshold,
    config: MemorizationConfig,
) -> MemorizationPoint:
    ground = torch.cdist(centroids.double(), centroids.double()).cpu()
    costs = token_transport_costs(
        continuations.generated, continuations.truth, ground, epsilon=config.epsilon
    )
    is_exact = exact_matches(continuations)
    is_match = (costs < threshold.cost) | is_exact
    entropies = entropy_bits(continuations.generated)
    count = len(costs)
    return MemorizationPoint(
        prompt_frames=continuations.prompt_frames,
        exact=proportion_interval(int(is_exact.sum()), count),
        approximate=proportion_interval(int(is_match.sum()), count),
        mean_cost=float(costs.mean()),
        entropy_bits=float(entropies.mean()),
        match_entropy_bits=float(entropies[is_match].mean()) if bool(is_match.any()) else None,
        truth_entropy_bits=float(entropy_bits(continuations.truth).mean()),
        entropy_gap=_gap(entropies, is_match),
    )


def _gap(
    entropies: Float[Tensor, " examples"], is_match: Bool[Tensor, " examples"]
) -> Interval | None:
    """How much less the matches say than all continuations do on average."""
    gaps = (entropies.mean() - entropies[is_match]).numpy()
    if gaps.size < 2:
        return None
    return bootstrap_mean(gaps, generator=np.random.default_rng(0))
