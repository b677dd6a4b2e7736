"""Does the audio have the tempo, key and metre that the words ask for?

Conventions: only what a caption says in so many words counts as asked (`92 bpm`, `key of F major`,
`in six-eight`); a caption that names no key asks for none. Each attribute is scored over the clips
that were asked for it: `tempo` within 6 %; `tempo_multiple`, also at half, double, a third or
three times (and two thirds, four thirds and three halves where the asked metre is compound); `key`,
the same; `key_mirex`, MIREX's partial credit; `metre`, binary or ternary. Chance is the mean score
of every asked clip against every other clip's sound, exactly, without draws; the gain over it has a
bootstrap interval over clips. What real audio scores is the ceiling of the measure.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from musiclm.audio.waveform import Waveform
from musiclm.core.errors import DataError
from musiclm.evaluation.distances import Interval, bootstrap_mean
from musiclm.evaluation.rhythm import Rhythm, rhythm
from musiclm.evaluation.tonality import Key, key_of, key_score

TEMPO_TOLERANCE = 0.06
_MULTIPLES = (1.0, 0.5, 2.0, 1 / 3, 3.0)
_COMPOUND_MULTIPLES = (2 / 3, 4 / 3, 1.5)
_TEMPO = re.compile(r"\b(\d{2,3})(?:\.\d)? ?(?:bpm|beats (?:per|a) minute)\b", re.IGNORECASE)
# A capital letter, for "a minor theme" is no key; a small one only where sharp or flat follows.
_KEY = re.compile(
    r"\b(?:([A-G])([#♯b♭])?|([A-Ga-g])[ -](sharp|flat))[ -](major|minor|dorian|mixolydian)\b"
)
_METRE_WORDS = {
    "common time": "4/4",
    "duple metre": "2/4",
    "triple metre": "3/4",
    "waltz time": "3/4",
}
_NUMBERS = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
            "eight": "8", "nine": "9", "twelve": "12"}  # fmt: skip
_METRE = re.compile(
    r"\b(2|3|4|5|6|7|9|12|two|three|four|five|six|seven|nine|twelve)[/-](2|4|8|two|four|eight)\b",
    re.IGNORECASE,
)
_TERNARY = ("3/4", "3/8", "6/8", "9/8", "12/8")
_BINARY = ("2/4", "4/4", "2/2")
_COMPOUND = ("6/8", "9/8", "12/8")


@dataclass(frozen=True)
class Asked:
    """What a caption says; None where it says nothing."""

    tempo_bpm: float | None = None
    key: Key | None = None
    metre: str | None = None
    """A time signature."""


@dataclass(frozen=True)
class Heard:
    """What a clip sounds like."""

    rhythm: Rhythm
    key: Key | None


@dataclass(frozen=True)
class Adherence:
    """One attribute over the clips that were asked for it.

    Attributes:
        num_clips: How many asked for it.
        rate: Mean score.
        chance: Mean score of the same requests against the other clips.
        gain: Rate minus chance, with its interval over clips.
    """

    num_clips: int
    rate: float
    chance: float
    gain: Interval


def asked_in(caption: str) -> Asked:
    """The tempo, key and metre that a caption names."""
    tempo, key, metre = _TEMPO.search(caption), _KEY.search(caption), _METRE.search(caption)
    signature = next((sign for word, sign in _METRE_WORDS.items() if word in caption.lower()), None)
    if metre is not None:
        above, below = (_NUMBERS.get(part.lower(), part) for part in metre.groups())
        signature = f"{above}/{below}"
    return Asked(
        tempo_bpm=float(tempo[1]) if tempo else None,
        key=_named_key(key) if key else None,
        metre=signature,
    )


def hear(waveform: Waveform) -> Heard:
    """Tempo, metre and key of a clip.

    Raises:
        AudioError: The clip is shorter than three seconds.
    """
    return Heard(rhythm(waveform), key_of(waveform))


def adherence(
    asked: Sequence[Asked], heard: Sequence[Heard], *, generator: np.random.Generator
) -> dict[str, Adherence]:
    """Scores every attribute that at least two clips were asked for.

    Args:
        asked: One a clip.
        heard: The clips, in the same order.
        generator: Of the bootstrap.

    Raises:
        DataError: There are not as many clips as requests.
    """
    if len(asked) != len(heard):
        raise DataError(f"{len(asked)} requests for {len(heard)} clips; give one each.")
    results: dict[str, Adherence] = {}
    for name, (is_asked, score) in _ATTRIBUTES.items():
        rows = [number for number, request in enumerate(asked) if is_asked(request)]
        if len(rows) < 2:
            continue
        scores = np.array([[score(asked[row], heard[other]) for other in rows] for row in rows])
        own = scores.diagonal()
        others = (scores.sum(axis=1) - own) / (len(rows) - 1)
        gain = bootstrap_mean(own - others, generator=generator)
        results[name] = Adherence(len(rows), float(own.mean()), float(others.mean()), gain)
    return results


def tempo_score(asked: Asked, heard: Heard, *, multiples: bool) -> float:
    """1 if the tempo is within 6 % of the asked one (or of a multiple), else 0."""
    if asked.tempo_bpm is None or not heard.rhythm.tempo_bpm:
        return 0.0
    factors = _MULTIPLES if multiples else (1.0,)
    if multiples and asked.metre in _COMPOUND:
        factors += _COMPOUND_MULTIPLES
    ratios = [heard.rhythm.tempo_bpm / (asked.tempo_bpm * factor) for factor in factors]
    return float(any(abs(ratio - 1) <= TEMPO_TOLERANCE for ratio in ratios))


def _metre_kind(signature: str | None) -> str | None:
    if signature in _TERNARY:
        return "ternary"
    return "binary" if signature in _BINARY else None


def _named_key(match: re.Match[str]) -> Key:
    letter, sign, spelt, word, mode = match.groups()
    sign = sign or {"sharp": "#", "flat": "b", None: ""}[word]
    return Key.parse((letter or spelt).upper() + sign, mode)


_ATTRIBUTES: Mapping[str, tuple[Callable[[Asked], bool], Callable[[Asked, Heard], float]]] = {
    "tempo": (
        lambda asked: asked.tempo_bpm is not None,
        lambda asked, heard: tempo_score(asked, heard, multiples=False),
    ),
    "tempo_multiple": (
        lambda asked: asked.tempo_bpm is not None,
        lambda asked, heard: tempo_score(asked, heard, multiples=True),
    ),
    "key": (
        lambda asked: asked.key is not None,
        lambda asked, heard: float(asked.key == heard.key),
    ),
    "key_mirex": (
        lambda asked: asked.key is not None,
        lambda asked, heard: key_score(asked.key, heard.key) if asked.key else 0.0,
    ),
    "metre": (
        lambda asked: _metre_kind(asked.metre) is not None,
        lambda asked, heard: float(_metre_kind(asked.metre) == heard.rhythm.metre),
    ),
}
