"""Distances: identity, closed forms, agreement with the textbook formula, intervals."""

import numpy as np
import pytest
import scipy.linalg

from musiclm.core.errors import DataError
from musiclm.evaluation.distances import (
    GaussianStatistics,
    bootstrap_mean,
    frechet_audio_distance,
    frechet_distance,
    kl_divergences,
)


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(7)


def correlated(generator: np.random.Generator, frames: int, dim: int) -> np.ndarray:
    return generator.standard_normal((frames, dim)) @ generator.standard_normal((dim, dim))


def test_same_embeddings_are_at_distance_zero(generator):
    embeddings = correlated(generator, 500, 20)
    scale = np.trace(np.cov(embeddings, rowvar=False))
    assert frechet_audio_distance(embeddings, embeddings) < 1e-9 * scale


def test_a_shift_costs_its_squared_length(generator):
    embeddings = correlated(generator, 300, 8)
    shift = np.arange(8) / 4
    distance = frechet_audio_distance(embeddings + shift, embeddings)
    assert distance == pytest.approx(float(shift @ shift), rel=1e-9)


def test_axis_aligned_gaussians_have_a_closed_form():
    mean = np.array([1.0, -2.0, 0.5])
    spread, other_spread = np.array([1.0, 4.0, 9.0]), np.array([4.0, 1.0, 0.0])
    one = GaussianStatistics(mean, np.diag(spread), 100)
    other = GaussianStatistics(np.zeros(3), np.diag(other_spread), 100)
    expected = mean @ mean + ((np.sqrt(spread) - np.sqrt(other_spread)) ** 2).sum()
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-12)


def test_agrees_with_the_matrix_square_root_formula(generator):
    one, other = correlated(generator, 400, 30), correlated(generator, 350, 30) + 0.3
    first, second = GaussianStatistics.fit(one), GaussianStatistics.fit(other)
    root = scipy.linalg.sqrtm(first.covariance @ second.covariance)
    difference = first.mean - second.mean
    expected = difference @ difference + np.trace(first.covariance + second.covariance - 2 * root)
    assert frechet_distance(first, second) == pytest.approx(float(expected.real), rel=1e-6)


def test_is_symmetric_and_grows_with_noise(generator):
    real = correlated(generator, 400, 10)
    noisy, noisier = (real + level * generator.standard_normal(real.shape) for level in (1.0, 3.0))
    assert frechet_audio_distance(real, noisy) == pytest.approx(
        frechet_audio_distance(noisy, real), rel=1e-9
    )
    assert frechet_audio_distance(real, noisy) < frechet_audio_distance(real, noisier)


def test_too_few_windows_are_refused(generator):
    with pytest.raises(DataError, match="more than 20 windows; got 20"):
        GaussianStatistics.fit(generator.standard_normal((20, 20)))


def test_broken_embeddings_are_refused(generator):
    embeddings = generator.standard_normal((30, 3))
    embeddings[4, 1] = np.nan
    with pytest.raises(DataError, match="NaN"):
        GaussianStatistics.fit(embeddings)


def test_embeddings_of_different_models_are_refused(generator):
    with pytest.raises(DataError, match="3 and 4 dimensions"):
        frechet_distance(
            GaussianStatistics.fit(generator.standard_normal((30, 3))),
            GaussianStatistics.fit(generator.standard_normal((30, 4))),
        )


def test_kld_of_equal_logits_is_zero_whatever_their_offset(generator):
    logits = generator.standard_normal((5, 7))
    np.testing.assert_allclose(kl_divergences(logits, logits + 100), 0, atol=1e-12)


def test_kld_runs_from_reference_to_generated():
    reference = np.log(np.array([[0.5, 0.5]]))
    generated = np.log(np.array([[0.9, 0.1]]))
    expected = 0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1)
    assert kl_divergences(reference, generated)[0] == pytest.approx(expected, rel=1e-12)
    assert kl_divergences(generated, reference)[0] != pytest.approx(expected, rel=1e-2)


def test_bootstrap_interval_is_about_two_standard_errors_wide(generator):
    values = generator.standard_normal(400) + 0.5
    interval = bootstrap_mean(values, generator=generator)
    standard_error = values.std(ddof=1) / np.sqrt(values.size)
    assert interval.mean == pytest.approx(values.mean())
    assert interval.high - interval.mean == pytest.approx(1.96 * standard_error, rel=0.1)
    assert interval.mean - interval.low == pytest.approx(1.96 * standard_error, rel=0.1)


def test_bootstrap_is_deterministic_and_needs_two_values():
    values = np.arange(10.0)
    one, other = (bootstrap_mean(values, generator=np.random.default_rng(3)) for _ in range(2))
    assert one == other
    with pytest.raises(DataError, match="at least 2"):
        bootstrap_mean(np.ones(1), generator=np.random.default_rng(0))


def test_sigmoid_divergence_adds_independent_classes():
    real, made = np.array([[0.0, 2.0]]), np.array([[0.0, -1.0]])
    chances = 1 / (1 + np.exp(-real)), 1 / (1 + np.exp(-made))
    expected = sum(
        float((p * np.log(p / q)).sum()) for p, q in (chances, (1 - chances[0], 1 - chances[1]))
    )
    ours = kl_divergences(real, made, squashing="sigmoid")
    assert ours == pytest.approx([expected], rel=1e-12)
    assert kl_divergences(real, real, squashing="sigmoid") == pytest.approx([0])


@pytest.mark.parametrize("squashing", ["softmax", "sigmoid"])
def test_the_other_direction_is_the_arguments_swapped(generator, squashing):
    real, made = generator.standard_normal((2, 5, 7))
    forward = kl_divergences(real, made, squashing=squashing)
    swapped = kl_divergences(made, real, squashing=squashing, direction="generated || reference")
    assert forward == pytest.approx(swapped)
    assert (forward > 0).all()


def test_unequal_sides_are_refused(generator):
    with pytest.raises(DataError, match="KLD compares pairs"):
        kl_divergences(generator.standard_normal((3, 4)), generator.standard_normal((2, 4)))
