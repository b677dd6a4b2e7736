"""Golden figures in the manner of mir_eval: same input, empty input, stored triples.

The stored values were computed by other means: `scipy.linalg.sqrtm`, sums by hand, plain Python.
"""

import math

import numpy as np
import pytest
import torch

from musiclm.audio.waveform import Waveform
from musiclm.core.errors import DataError, MusicLMError
from musiclm.evaluation.adherence import adherence, hear
from musiclm.evaluation.attributes import instrument_agreement
from musiclm.evaluation.distances import (
    GaussianStatistics,
    bootstrap_mean,
    frechet_audio_distance,
    kl_divergences,
)
from musiclm.evaluation.intervals import proportion_interval
from musiclm.evaluation.musicnn_tags import MTT_TAGS
from musiclm.evaluation.retrieval import ranks, retrieval
from musiclm.evaluation.suite import caption_similarity
from musiclm.evaluation.token_information import (
    compare_pairs,
    melody_similarity,
    rhythm_similarity,
)
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


def test_stored_retrieval():
    """Four captions on the axes, four clips; the third finds its clip second, the fourth last."""
    text = torch.eye(4)
    audio = torch.tensor([[1.0, 0, 0, 0.1], [0, 1, 0, 0.2], [0, 0, 0.4, 0.3], [0, 0, 0.5, 0]])
    found = retrieval(text, audio, generator=torch.Generator().manual_seed(0))
    assert ranks(text, audio).tolist() == [1, 1, 2, 4]
    assert found.recall_at_1.value == 0.5
    assert found.recall_at_10.value == 1
    assert found.median_rank.value == 1.5
    assert found.similarity_gain.value == pytest.approx((1 + 1 + (0.4 - 0.5 / 3) - 0.2) / 4)


def test_stored_instruments():
    """Two leads of four are heard; of 2 pianos and 2 flutes asked, 3 and 1 are heard."""
    tags = np.zeros((4, len(MTT_TAGS)))
    for row, name in enumerate(("piano", "piano", "piano", "flute")):
        tags[row, MTT_TAGS.index(name)] = 0.9
    found = instrument_agreement(["piano", "flute", "piano", "flute"], tags, MTT_TAGS)
    assert (found.num_clips, found.rate) == (4, 0.75)
    assert found.chance == pytest.approx((2 * 3 + 2 * 1) / 16)
    assert found.rate_by_instrument == {"flute": 0.5, "piano": 1.0}


def tune(sample_rate_hz: int) -> Waveform:
    """Eight notes of half a second, each struck."""
    times = torch.arange(sample_rate_hz // 2, dtype=torch.float64) / sample_rate_hz
    notes = [
        torch.exp(-6 * times) * torch.sin(2 * torch.pi * 220 * 2 ** (step / 12) * times)
        for step in (0, 4, 7, 12, 9, 5, 2, 0)
    ]
    return Waveform(0.4 * torch.cat(notes).float(), sample_rate_hz)


def test_the_same_music_at_another_rate_is_the_same_music():
    """Unequal rates are brought to one rate before anything is compared."""
    one, other = tune(24_000), tune(16_000)
    assert rhythm_similarity(one, one) == pytest.approx(1)
    assert melody_similarity(one, one) == pytest.approx(1)
    assert rhythm_similarity(one, other) > 0.95
    assert melody_similarity(one, other) > 0.95
    heard = hear(one), hear(other)
    assert heard[0].rhythm.tempo_bpm == pytest.approx(heard[1].rhythm.tempo_bpm, rel=0.02)
    assert heard[0].key == heard[1].key


@pytest.mark.parametrize("level", [0.0, 0.5])
def test_constant_audio_has_no_tempo_no_key_and_no_relatives(level):
    """Silence, and a constant: no error, and nothing is heard in it."""
    still, moving = Waveform(torch.full((64_000,), level), 16_000), tune(16_000)
    heard = hear(still)
    assert heard.rhythm.metre == ""
    assert heard.key is None
    assert key_score(Key(0, "major"), heard.key) == 0
    assert rhythm_similarity(still, moving) == 0
    assert melody_similarity(still, moving) == 0


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
        lambda: retrieval(torch.ones(0, 2), torch.ones(0, 2), generator=torch.Generator()),
        lambda: instrument_agreement([], np.zeros((0, len(MTT_TAGS))), MTT_TAGS),
        lambda: frechet_audio_distance(made_rows()[:4], reference_rows()),
        lambda: kl_divergences(np.zeros((3, 5)), np.zeros((2, 5))),
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
