"""Adherence: what captions ask for, perfect and random clips, exact chance."""

import numpy as np
import pytest

from musiclm.core.errors import DataError
from musiclm.evaluation.adherence import Asked, Heard, adherence, asked_in, tempo_score
from musiclm.evaluation.rhythm import Rhythm
from musiclm.evaluation.tonality import Key


def heard(tempo_bpm: float, key: Key | None = None, ternary: float = -1.0) -> Heard:
    return Heard(Rhythm(tempo_bpm, ternary, 0.5), key)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a calm piano", Asked()),
        ("92 bpm, key of Bb major, 6/8", Asked(92.0, Key(10, "major"), "6/8")),
        ("about 120 beats per minute, in f sharp minor", Asked(120.0, Key(6, "minor"), None)),
        ("A waltz in triple metre, D dorian", Asked(None, Key(2, "minor"), "3/4")),
        ("It is in E-flat mixolydian and in six-eight time.", Asked(None, Key(3, "major"), "6/8")),
        ("common time, a minor theme in a major city", Asked(None, None, "4/4")),
        ("In the 90s, 4 guitars, B movie", Asked()),
        ("seven-eight, 143 BPM", Asked(143.0, None, "7/8")),
    ],
)
def test_captions_ask_for_what_they_say(caption, expected):
    assert asked_in(caption) == expected


@pytest.mark.parametrize(
    ("asked", "tempo", "exact", "multiple"),
    [
        (Asked(100.0), 100.0, 1, 1),
        (Asked(100.0), 105.9, 1, 1),
        (Asked(100.0), 107.0, 0, 0),
        (Asked(100.0), 50.0, 0, 1),
        (Asked(100.0), 198.0, 0, 1),
        (Asked(120.0), 40.0, 0, 1),
        (Asked(90.0), 60.0, 0, 0),
        (Asked(90.0, metre="6/8"), 60.0, 0, 1),
        (Asked(90.0), 0.0, 0, 0),
    ],
)
def test_tempo_is_within_six_percent_or_a_multiple(asked, tempo, exact, multiple):
    assert tempo_score(asked, heard(tempo), multiples=False) == exact
    assert tempo_score(asked, heard(tempo), multiples=True) == multiple


def requests(count: int) -> list[Asked]:
    return [
        Asked(60.0 + 7 * number, Key(number % 12, "major"), "3/4" if number % 2 else "4/4")
        for number in range(count)
    ]


def obedient(asked: Asked) -> Heard:
    assert asked.tempo_bpm is not None
    return heard(asked.tempo_bpm, asked.key, 1.0 if asked.metre == "3/4" else -1.0)


def test_obedient_audio_scores_one_and_chance_is_that_of_the_others():
    asked = requests(12)
    scores = adherence(asked, [obedient(one) for one in asked], generator=np.random.default_rng(0))
    assert set(scores) == {"tempo", "tempo_multiple", "key", "key_mirex", "metre"}
    assert all(score.rate == 1 for score in scores.values())
    assert scores["key"].chance == 0
    assert scores["metre"].chance == pytest.approx(5 / 11)
    assert all(score.gain.low > 0 for score in scores.values())


def test_audio_that_always_does_the_same_gains_nothing():
    asked = requests(20)
    same = [obedient(asked[3])] * 20
    scores = adherence(asked, same, generator=np.random.default_rng(0))
    assert all(score.gain.mean == pytest.approx(0, abs=1e-12) for score in scores.values())


def test_attributes_nobody_asks_for_are_left_out():
    asked = [Asked(tempo_bpm=90.0), Asked(tempo_bpm=120.0), Asked(key=Key(0, "major"))]
    scores = adherence(asked, [heard(90.0)] * 3, generator=np.random.default_rng(0))
    assert set(scores) == {"tempo", "tempo_multiple"}
    assert scores["tempo"].num_clips == 2
    with pytest.raises(DataError, match="3 requests for 1 clips"):
        adherence(asked, [heard(90.0)], generator=np.random.default_rng(0))
