"""Adaptation: a tune retimed to the metre of a style (two bars to one, triplets to beats, 5/4)."""

from collections.abc import Callable
from dataclasses import dataclass

from musiclm.data.rendered.score import ScoreNote, Tune, bar_quarters


@dataclass(frozen=True)
class Adaptation:
    """How times of a tune become times of a style.

    Attributes:
        scale: Factor on all times.
        bend: Piecewise change within a bar (of the scaled tune) to another length, or None.
        needs_swing: Whether it makes triplets, which only swung styles carry.
    """

    scale: float
    bend: str = ""
    needs_swing: bool = False


_TABLE: dict[tuple[str, str], Adaptation] = {
    ("4/4", "4/4"): Adaptation(1.0),
    ("2/4", "4/4"): Adaptation(2.0),
    ("4/4", "2/4"): Adaptation(0.5),
    ("2/4", "2/4"): Adaptation(1.0),
    ("3/4", "3/4"): Adaptation(1.0),
    ("3/8", "3/4"): Adaptation(2.0),
    ("6/8", "3/4"): Adaptation(2.0),
    ("9/8", "3/4"): Adaptation(2 / 3, needs_swing=True),
    ("6/8", "6/8"): Adaptation(1.0),
    ("3/8", "6/8"): Adaptation(1.0),
    ("12/8", "6/8"): Adaptation(1.0),
    ("6/8", "12/8"): Adaptation(1.0),
    ("12/8", "12/8"): Adaptation(1.0),
    ("6/8", "4/4"): Adaptation(2 / 3, needs_swing=True),
    ("12/8", "4/4"): Adaptation(2 / 3, needs_swing=True),
    ("9/8", "9/8"): Adaptation(1.0),
    ("4/4", "5/4"): Adaptation(1.0, bend="five"),
    ("2/4", "5/4"): Adaptation(2.0, bend="five"),
    ("3/4", "7/8"): Adaptation(1.0, bend="seven"),
}


def _five(time: float) -> float:
    """Four beats to five: the last one lasts two."""
    bar, beat = divmod(time, 4.0)
    return bar * 5 + (beat if beat <= 3 else 3 + (beat - 3) * 2)


def _seven(time: float) -> float:
    """Three beats to three and a half: the last one is longer by half."""
    bar, beat = divmod(time, 3.0)
    return bar * 3.5 + (beat if beat <= 2 else 2 + (beat - 2) * 1.5)


_BENDS: dict[str, Callable[[float], float]] = {"five": _five, "seven": _seven}


def adaptation(tune_metre: str, style_metre: str, *, is_swung: bool) -> Adaptation | None:
    """How a tune can be played in a style's metre, or None."""
    found = _TABLE.get((tune_metre, style_metre))
    return None if found is None or (found.needs_swing and not is_swung) else found


def adapted_notes(
    tune: Tune, found: Adaptation, style_metre: str, stretch: float
) -> tuple[list[ScoreNote], float]:
    """The melody in style time, and how much of its first style bar is silent before it.

    Bar lines of the style fall on multiples of its bar; `stretch` of 2 plays at half speed.
    """
    bar = bar_quarters(style_metre)
    scale = found.scale * stretch
    tune_bar = tune.bar_quarters * scale
    bend = _BENDS.get(found.bend)

    def retimed(time: float) -> float:
        return bend(time * scale) if bend else time * scale

    shift = 0.0
    if tune.pickup_quarters and bend is None:
        # The bar line after the pickup must meet a bar line of the style.
        shift = -tune_bar % bar
    first = retimed(tune.notes[0].start_quarters) + shift
    shift -= first // bar * bar
    notes = [
        ScoreNote(retimed(n.start_quarters) + shift, retimed(n.end_quarters) + shift, n.pitch)
        for n in tune.notes
    ]
    return notes, notes[0].start_quarters if tune.pickup_quarters else 0.0
