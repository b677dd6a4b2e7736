"""Golden figures in the manner of mir_eval: same input, empty input, stored triples.

The stored values were computed by other means: `scipy.linalg.sqrtm`, sums by hand, plain Python.
"""

import math

import numpy as np
import pytest
import torch

from musiclm.core.errors import DataError, MusicLMError
from musiclm.evaluation.adherence import adherence
from musiclm.evaluation.distances import (
    GaussianStatistics,
    bootstrap_mean,
    frechet_audio_distance,
    kl_divergences,
)
from musiclm.evaluation.intervals import proportion_interval
from musiclm.evaluation.retrieval import ranks
from musiclm.evaluation.suite import caption_similarity
from musiclm.evaluation.token_information import compare_pairs
from musiclm.evaluation.tonality import Key, key_score
from musiclm.evaluation.transport import exact_token_transport_costs, token_transport_costs


def reference_rows() -> np.ndarray:
    rows, columns = np.arange(1, 25)[:, None], np.arange(1, 5)[None]
    return np.sin(rows * columns)


def made_rows() -> np.ndarray:
    rows, columns = np.arange(1, 25)[:, None], np.arange(1, 5)[None]
    return np.cos(rows * columns + 0.3 * rows) * 1.5 + 0.1 * columns


def test_stored_frechet_distance():
    ours = frechet_audio_distance(made_rows(), reference_rows())
    assert ours == pytest.approx(0.7515644081086599, rel=1e-9)


def test_stored_divergences():
    real, made = np.array([[0.0, 1.0, 2.0]]), np.array([[2.0, 0.0, -1.0]])
    assert kl_divergences(real, made) == pytest.approx([1.822630247150408], rel=1e-12)
    swapped = kl_divergences(real, made, direction="generated || reference")
    assert swapped == pytest.approx([1.6851240160639807], rel=1e-12)


def test_stored_transport():
    """Two tokens of four move from 0 to 3 and one from 1 to 2, on a line of unit steps."""
    line = torch.arange(4.0)[:, None]
    ground = torch.cdist(line, line)
    left, right = torch.tensor([[0, 0, 1, 2]]), torch.tensor([[3, 3, 2, 2]])
    assert exact_token_transport_costs(left, right, ground) == pytest.approx([7 / 4])
    assert token_transport_costs(left, right, ground).item() == pytest.approx(7 / 4, rel=0.01)


def test_stored_similarity():
    """Three captions and clips in the plane, at 0, 60 and 90 degrees and 30, 60 and 120."""
    text, audio = (
        torch.tensor([[math.cos(math.radians(a)), math.sin(math.radians(a))] for a in angles])
        for angles in ((0, 60, 90), (30, 60, 120))
    )
    found = caption_similarity(text, audio, ["a", "b", "c"], np.random.default_rng(0))
    right = [math.cos(math.radians(angle)) for angle in (30, 0, 30)]
    others = [
        (math.cos(math.radians(30)) + math.cos(math.radians(60))) / 2,
        (math.cos(math.radians(60)) + math.cos(math.radians(30))) / 2,
        (math.cos(math.radians(120)) + math.cos(math.radians(60))) / 2,
    ]
    assert found.by_clip == pytest.approx(right, abs=1e-6)
    assert found.right == pytest.approx(sum(right) / 3, abs=1e-6)
    assert found.shuffled == pytest.approx(sum(others) / 3, abs=1e-6)
    assert ranks(text, audio).tolist() == [1, 1, 2]


def test_the_same_input_is_perfect():
    rows, logits = reference_rows(), np.arange(12.0).reshape(4, 3)
    assert frechet_audio_distance(rows, rows) == pytest.approx(0, abs=1e-9)
    assert kl_divergences(logits, logits) == pytest.approx([0] * 4)
    tokens = torch.tensor([[1, 2, 3, 1]])
    ground = torch.ones(4, 4) - torch.eye(4)
    assert exact_token_transport_costs(tokens, tokens, ground) == pytest.approx([0])
    assert key_score(Key(3, "minor"), Key(3, "minor")) == 1
    assert proportion_interval(7, 7).mean == 1


@pytest.mark.parametrize(
    "measure",
    [
        lambda: GaussianStatistics.fit(np.zeros((0, 3))),
        lambda: GaussianStatistics.fit(np.zeros((1, 3))),
        lambda: bootstrap_mean(np.zeros(1), generator=np.random.default_rng(0)),
        lambda: proportion_interval(0, 0),
        lambda: compare_pairs([], [], [], generator=np.random.default_rng(0)),
        lambda: caption_similarity(
            torch.ones(1, 2), torch.ones(1, 2), ["only one"], np.random.default_rng(0)
        ),
    ],
)
def test_empty_and_single_input_is_a_clear_error(measure):
    with pytest.raises(MusicLMError) as caught:
        measure()
    assert isinstance(caught.value, DataError)
    assert len(str(caught.value)) > 20


def test_no_clips_have_no_adherence():
    assert adherence([], [], generator=np.random.default_rng(0)) == {}
