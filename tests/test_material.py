"""What a cascade is given: stories, continuations, kept tokens; with small random stages."""

from itertools import pairwise

import pytest
import torch

from musiclm.core.runtime import RandomStreams
from musiclm.generation.cascade import Cascade
from musiclm.generation.material import ConditioningSpan, Material, concatenated, looped, plain
from musiclm.generation.prompt import GenerationSettings
from musiclm.generation.windows import sliding_windows
from tests.support.stages import ALIGNED, SIZE, SUMMED, make_layout, make_model

STREAMS = [RandomStreams(1), RandomStreams(2)]


@pytest.fixture(scope="module")
def cascade():
    return Cascade(
        make_model(make_layout("semantic", SUMMED)),
        make_model(make_layout("coarse", ALIGNED), seed=1),
        make_model(make_layout("fine", ALIGNED), seed=2),
    )


def prompt(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, SIZE, (2, 3, 1), generator=generator)


def play(cascade, material, seconds=2.0):
    return cascade.generate(material, seconds, GenerationSettings(), STREAMS)


def test_windows_end_where_the_text_changes_and_cover_the_piece():
    windows = sliding_windows(100, 20, 10, boundaries=[33, 80])
    assert [window.stop for window in windows if window.stop in (33, 80)] == [33, 80]
    assert windows[-1].stop == 100
    assert sum(window.num_new for window in windows) == 100
    for before, after in pairwise(windows):
        assert after.start + after.num_known == before.stop
        assert after.num_known == 10


def test_a_story_begins_as_its_first_text_alone_and_then_differs(cascade):
    first, second = prompt(1), prompt(2)
    alone = play(cascade, plain(first))
    story = Material((ConditioningSpan(0.0, first), ConditioningSpan(1.0, second)))
    told = play(cascade, story)
    assert told[0].shape == alone[0].shape
    assert told[1].shape == alone[1].shape
    assert torch.equal(told[0][:, :, :25], alone[0][:, :, :25])
    # Coarse windows hold 48 frames here; the next one sees, ahead, what the second text made.
    assert torch.equal(told[1][:, :2, :48], alone[1][:, :2, :48])
    assert not torch.equal(told[0][:, :, 25:], alone[0][:, :, 25:])


def test_a_story_of_one_text_twice_keeps_what_is_known(cascade):
    text = prompt(1)
    story = Material((ConditioningSpan(0.0, text), ConditioningSpan(1.0, text)))
    told = play(cascade, story)
    assert torch.equal(told[0][:, :, :25], play(cascade, plain(text))[0][:, :, :25])


def test_a_continuation_keeps_every_code_it_was_given(cascade):
    semantic, acoustic = play(cascade, plain(prompt(3)), 0.6)
    known = {"semantic": semantic, "coarse": acoustic[:, :2], "fine": acoustic[:, 2:]}
    material = Material((ConditioningSpan(0.0, prompt(3)),), known=known)
    longer = play(cascade, material, 2.0)
    assert torch.equal(longer[0][:, :, :15], semantic)
    assert torch.equal(longer[1][:, :, :30], acoustic)
    assert longer[0].shape[2] == 50
    assert longer[1].shape[1:] == (5, 100)


def test_kept_semantic_tokens_get_a_new_sound(cascade):
    semantic, acoustic = play(cascade, plain(prompt(4)), 2.0)
    kept = Material((ConditioningSpan(0.0, prompt(4)),), known={"semantic": semantic})
    again = cascade.generate(kept, 2.0, GenerationSettings(), [RandomStreams(8), RandomStreams(9)])
    assert torch.equal(again[0], semantic)
    assert not torch.equal(again[1], acoustic)


def test_samples_side_by_side_are_the_same_as_alone(cascade):
    one = Material((ConditioningSpan(0.0, prompt(1)[:1]),))
    two = Material((ConditioningSpan(0.0, prompt(5)[:1]),))
    both = play(cascade, concatenated([one, two]), 1.0)
    alone = cascade.generate(two, 1.0, GenerationSettings(), STREAMS[1:])
    assert torch.equal(both[0][1:], alone[0])


def test_a_tune_comes_again_until_the_piece_is_over():
    codes = torch.arange(6).reshape(2, 3)
    assert looped(codes, 7).tolist() == [[0, 1, 2, 0, 1, 2, 0], [3, 4, 5, 3, 4, 5, 3]]
    assert looped(codes[:, :0], 7).shape == (2, 0)
