import pytest
import torch
from torch.nn import functional

from musiclm.core.runtime import RandomStreams
from musiclm.evaluation.retrieval import agreement_report, ranks, retrieval, token_agreement


def unit_vectors(count, dim=32, name="x"):
    rows = torch.randn(count, dim, generator=RandomStreams(0).generator(name))
    return functional.normalize(rows, dim=1)


def report(text, audio):
    return retrieval(text, audio, generator=RandomStreams(0).generator("bootstrap"))


def test_the_same_vectors_score_one():
    x = unit_vectors(50)
    found = report(x, x)
    assert found.recall_at_1.value == found.recall_at_1.low == 1.0
    assert found.median_rank.value == 1.0
    assert found.similarity_gain.low > 0.9
    assert found.num_pairs == 50


def test_strangers_score_chance():
    found = report(unit_vectors(400, name="text"), unit_vectors(400, name="audio"))
    assert found.recall_at_10.low <= 10 / 400 <= found.recall_at_10.high
    assert found.median_rank.low < 200 < found.median_rank.high
    assert found.similarity_gain.low < 0 < found.similarity_gain.high


def test_ranks_by_hand_and_ties_count_against():
    audio = torch.eye(3)
    text = torch.tensor([[1.0, 0.0, 0.0], [0.9, 0.5, 0.1], [0.5, 0.5, 0.5]])
    assert ranks(text, audio).tolist() == [1, 2, 3]


def test_intervals_are_seeded_and_hold_the_value():
    text = functional.normalize(unit_vectors(200) + 2 * unit_vectors(200, name="y"), dim=1)
    one, two = report(text, unit_vectors(200)), report(text, unit_vectors(200))
    assert one == two
    assert one.recall_at_1.low <= one.recall_at_1.value <= one.recall_at_1.high
    assert str(one.recall_at_1).count("[") == 1


def test_agreement_by_level():
    audio = torch.tensor([[[1], [2]], [[3], [4]]])
    text = torch.tensor([[[1], [2]], [[3], [5]]])
    assert token_agreement(text, audio).tolist() == pytest.approx([1.0, 0.5])


def test_levels_help_until_text_and_audio_part():
    generator = RandomStreams(0).generator("codes")
    audio = torch.randint(0, 16, (300, 4, 1), generator=generator)
    text = torch.randint(0, 16, (300, 4, 1), generator=generator)
    text[:, 0] = audio[:, 0]
    text[::2, 1] = audio[::2, 1]
    found = agreement_report(text, audio, generator=generator)
    assert found.right[0] == 1.0
    assert found.right == pytest.approx(token_agreement(text, audio).tolist())
    assert found.shuffled[0] == pytest.approx(1 / 16, abs=0.01)
    assert found.num_levels_that_help == 2
