"""Memorization: planted sequences are found in a stage that learned them, others are not."""

import pytest
import torch

from musiclm.core.errors import DataError
from musiclm.evaluation.memorization import (
    Continuations,
    Examples,
    MemorizationConfig,
    calibrated_threshold,
    continue_examples,
    entropy_bits,
    exact_matches,
    measure_memorization,
    usable_prompts,
)
from musiclm.evaluation.memorization_file import read_memorization, write_memorization
from musiclm.evaluation.transport import token_transport_costs
from musiclm.stages.decoder import make_decoder
from tests.support.stages import PAPER, SIZE, make_layout, make_model

CONFIG = MemorizationConfig(
    prompt_frames=(0, 4, 8, 40), continuation_frames=12, false_positive_rate=0.01
)


@pytest.fixture(scope="module")
def centroids() -> torch.Tensor:
    return torch.randn(SIZE, 6, generator=torch.Generator().manual_seed(5))


def random_examples(count: int, seed: int) -> Examples:
    """Each piece dwells on a few tokens of its own, as pieces of music do."""
    generator = torch.Generator().manual_seed(seed)
    own = torch.rand(count, SIZE, generator=generator).argsort(dim=1)[:, :5]
    picks = torch.randint(0, 5, (count, 24), generator=generator)
    return Examples(
        torch.randint(0, SIZE, (count, 3, 1), generator=generator),
        own.gather(1, picks)[:, None],
        tuple(f"{seed}/{number}" for number in range(count)),
    )


@pytest.fixture(scope="module")
def trained():
    """A small stage that has seen four planted pieces over and over, and the four pieces."""
    planted = random_examples(4, seed=1)
    model = make_model(make_layout("semantic", PAPER))
    codes = {"conditioning": planted.conditioning, "semantic": planted.semantic[:, :, :20]}
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        model.loss(codes).loss.backward()
        optimizer.step()
    return model.eval(), planted


def joined(*parts: Examples) -> Examples:
    return Examples(
        torch.cat([part.conditioning for part in parts]),
        torch.cat([part.semantic for part in parts]),
        tuple(group for part in parts for group in part.groups),
    )


def test_planted_duplicates_are_found_and_nothing_else(trained, centroids):
    model, planted = trained
    training = joined(planted, random_examples(8, seed=2))
    report = measure_memorization(
        model, {"training": training, "held out": random_examples(12, seed=3)}, centroids, CONFIG
    )
    points = {point.prompt_frames: point for point in report.curves["training"]}
    assert set(points) == {0, 4, 8}  # 40 + 12 tokens are more than the window of 25
    assert points[4].exact.mean == pytest.approx(4 / 12)
    assert points[4].approximate.mean >= points[4].exact.mean
    assert all(point.exact.mean == 0 for point in report.curves["held out"])
    assert all(point.approximate.mean < 0.2 for point in report.curves["held out"])
    assert points[4].match_entropy_bits is not None
    assert points[4].entropy_gap is not None
    assert points[4].truth_entropy_bits > 1
    assert report.threshold.false_positive_rate < CONFIG.false_positive_rate
    assert report.threshold.num_negatives == 3 * 12 * 11
    assert report.sinkhorn_excess < 0.02
    assert report.num_examples == {"training": 12, "held out": 12}


def test_a_report_on_disk_comes_back_for_the_same_model_only(trained, centroids, tmp_path):
    model, planted = trained
    report = measure_memorization(
        model, {"training": joined(planted, random_examples(8, seed=2))}, centroids, CONFIG
    )
    path = tmp_path / "memorization.json"
    assert read_memorization(path, "a") is None
    write_memorization(path, "a", report)
    assert read_memorization(path, "a") == report
    assert read_memorization(path, "b") is None
    path.write_text("{")
    assert read_memorization(path, "a") is None


def test_greedy_continuations_are_the_same_each_time_and_in_any_batch(trained):
    model, planted = trained
    decoder = make_decoder(model)
    whole = continue_examples(decoder, planted, 4, CONFIG)
    alone = CONFIG.model_copy(update={"batch_size": 1})
    one_by_one = continue_examples(decoder, planted, 4, alone)
    assert torch.equal(whole.generated, one_by_one.generated)
    assert exact_matches(whole).all()
    drawn = [
        continue_examples(decoder, planted, 4, config.model_copy(update={"temperature": 2.0}))
        for config in (CONFIG, alone, CONFIG)
    ]
    assert torch.equal(drawn[0].generated, drawn[1].generated)
    assert torch.equal(drawn[0].generated, drawn[2].generated)
    assert not torch.equal(drawn[0].generated, whole.generated)


def test_threshold_lets_fewer_than_the_allowed_share_pass(centroids):
    examples = random_examples(30, seed=4)
    tokens = examples.semantic[:, 0, :12]
    made = [Continuations(0, tokens, tokens.flip(0), examples.groups)]
    threshold = calibrated_threshold(made, centroids, CONFIG)
    ground = torch.cdist(centroids.double(), centroids.double())
    costs = torch.cat(
        [
            token_transport_costs(tokens, tokens.flip(0).roll(shift, 0), ground)
            for shift in range(1, 30)
        ]
    )
    assert threshold.num_negatives == len(costs) == 30 * 29
    assert (costs < threshold.cost).sum() == threshold.num_false_positives == 8


def test_rows_of_one_tune_are_no_negatives(centroids):
    tokens = random_examples(6, seed=4).semantic[:, 0, :12]
    groups = ("a", "a", "a", "b", "b", "b")
    config = CONFIG.model_copy(update={"false_positive_rate": 0.1})
    threshold = calibrated_threshold([Continuations(0, tokens, tokens, groups)], centroids, config)
    assert threshold.num_negatives == 18
    with pytest.raises(DataError, match="0 negative pairs cannot show"):
        calibrated_threshold([Continuations(0, tokens, tokens, ("a",) * 6)], centroids, config)


def test_entropy_is_zero_for_a_held_token_and_full_for_all_different():
    tokens = torch.stack([torch.full((16,), 3), torch.arange(16), torch.arange(16) // 8])
    assert entropy_bits(tokens).tolist() == pytest.approx([0, 4, 1])


def test_too_short_examples_and_windows_are_told(trained, centroids):
    model, planted = trained
    with pytest.raises(DataError, match="have 24 tokens; 20 to prompt"):
        continue_examples(make_decoder(model), planted, 20, CONFIG)
    with pytest.raises(DataError, match="window of 25 tokens is too short"):
        usable_prompts(model, CONFIG.model_copy(update={"continuation_frames": 50}))
    with pytest.raises(DataError, match="no examples"):
        measure_memorization(model, {}, centroids, CONFIG)
    nobody = Examples(planted.conditioning[:0], planted.semantic[:0], ())
    with pytest.raises(DataError, match="no examples"):
        measure_memorization(model, {"training": nobody}, centroids, CONFIG)
