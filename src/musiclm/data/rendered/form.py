"""Form: which bars of a piece hold what (introduction, phrases, rests, entries, ending)."""

from dataclasses import dataclass

import numpy as np

from musiclm.data.rendered.plan import ClipPlan
from musiclm.data.rendered.score import ScoreNote, bar_quarters


@dataclass(frozen=True)
class Form:
    """The bar plan of a piece.

    Attributes:
        melody: The melody from the first bar on, retimed and transposed, in style time.
        num_bars: Bars after the introduction.
        intro_bars: Bars of accompaniment before the melody.
        lead_in_quarters: Silence at the start of bar 0 that is cut off (a pickup, no intro).
        phrase_bars: Bars a phrase.
        drums_from_bar: First bar with drums, counted after the introduction; -1 when the
            introduction has them too.
        pad_from_bar: First bar with the pad or counter line.
        silent_lead_bars: Bars in which the melody rests.
        ends_well: Whether the tune comes to its end; otherwise the clip fades out.
    """

    melody: tuple[ScoreNote, ...]
    num_bars: int
    intro_bars: int
    lead_in_quarters: float
    phrase_bars: int
    drums_from_bar: int
    pad_from_bar: int
    silent_lead_bars: range
    ends_well: bool

    @property
    def total_bars(self) -> int:
        """Bars in all."""
        return self.intro_bars + self.num_bars


def shape_form(
    draw: np.random.Generator, plan: ClipPlan, notes: list[ScoreNote], lead_in: float
) -> Form:
    """Chooses how much of a tune is played, and when the players come in.

    Args:
        draw: Random draws of this clip.
        plan: The clip's plan.
        notes: The melody in style time.
        lead_in: Silence before the first note, for tunes with a pickup.
    """
    bar = bar_quarters(plan.metre)
    bar_seconds = bar / plan.quarters_per_second
    tune_bars = max(int(np.ceil((max(n.end_quarters for n in notes) - 1e-3) / bar)), 1)
    wished = int(plan.target_seconds / bar_seconds)
    is_arranged = plan.kind == "arranged"
    intro = _intro_bars(draw, wished) if is_arranged else 0
    wished = max(wished - intro, 4)
    start, num_bars, ends_well = 0, tune_bars, True
    if tune_bars > wished:
        num_bars = wished - wished % 4 if wished >= 8 else wished
        sections = max((tune_bars - num_bars) // 8, 0)
        start = 8 * int(draw.integers(sections + 1))
        ends_well = False
    melody = [
        ScoreNote(n.start_quarters - start * bar, n.end_quarters - start * bar, n.pitch)
        for n in notes
        if start * bar - 1e-6 <= n.start_quarters < (start + num_bars) * bar - 1e-3
    ]
    if ends_well and wished >= 2 * tune_bars:
        # A short tune is played again; its last bar makes room for the pickup.
        step = tune_bars * bar - (bar if lead_in else 0.0)
        melody += [
            ScoreNote(n.start_quarters + step, n.end_quarters + step, n.pitch) for n in melody
        ]
        num_bars = int(np.ceil((melody[-1].end_quarters - 1e-3) / bar))
    phrase = 8 if num_bars >= 24 else 4
    silent = range(0)
    if is_arranged and num_bars >= 3 * phrase and draw.random() < 0.22:
        first = phrase * int(draw.integers(1, num_bars // phrase - 1))
        silent = range(first, first + phrase)
    late = [0, phrase, phrase * 2 if num_bars >= 4 * phrase else phrase]
    drums_from = int(draw.choice([-1, *late], p=[0.35, 0.3, 0.25, 0.1])) if is_arranged else 0
    return Form(
        melody=tuple(melody),
        num_bars=num_bars,
        intro_bars=intro,
        lead_in_quarters=lead_in if start == 0 and intro == 0 else 0.0,
        phrase_bars=phrase,
        drums_from_bar=drums_from if num_bars > phrase else min(drums_from, 0),
        pad_from_bar=int(draw.choice(late)) if num_bars > 2 * phrase else 0,
        silent_lead_bars=silent,
        ends_well=ends_well,
    )


def _intro_bars(draw: np.random.Generator, wished_bars: int) -> int:
    if wished_bars < 10:
        return 0
    return int(draw.choice([0, 1, 2, 4], p=[0.4, 0.1, 0.3, 0.2]))
