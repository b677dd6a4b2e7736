"""Chords for a melody: Viterbi over the chords of its mode, and their voicings.

Each candidate chord is scored by how long its tones sound in the melody over a span (more on the
beat), with musical preferences for what follows what; the best path through all spans wins.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from musiclm.data.rendered.score import ScoreNote

# Semitones above the tonic and quality, with a prior: how willingly the chord is used at all.
_CHORDS: dict[str, tuple[tuple[int, str, float], ...]] = {
    "major": ((0, "M", 0.45), (5, "M", 0.15), (7, "M", 0.25), (9, "m", 0.0), (2, "m", 0.0),
              (4, "m", -0.35)),
    "minor": ((0, "m", 0.45), (5, "m", 0.1), (7, "M", 0.15), (8, "M", 0.05), (3, "M", 0.05),
              (10, "M", 0.05), (7, "m", -0.2)),
    "dorian": ((0, "m", 0.45), (5, "M", 0.1), (10, "M", 0.2), (7, "m", 0.0), (3, "M", 0.0)),
    "mixolydian": ((0, "M", 0.45), (10, "M", 0.25), (5, "M", 0.1), (7, "m", -0.1), (2, "m", -0.1)),
}  # fmt: skip
_TRIADS = {"M": (0, 4, 7), "m": (0, 3, 7)}
_GOOD_STEPS = {(7, 0): 0.35, (5, 7): 0.15, (2, 7): 0.25, (10, 0): 0.2, (5, 0): 0.1, (9, 2): 0.1}
_POOR_STEPS = {(7, 5): -0.2, (7, 2): -0.3, (7, 4): -0.2}


@dataclass(frozen=True)
class Chord:
    """A chord: root pitch class and the semitones above it, root first."""

    root: int
    intervals: tuple[int, ...]

    @property
    def pitch_classes(self) -> tuple[int, ...]:
        """Pitch classes of the tones, root first."""
        return tuple((self.root + interval) % 12 for interval in self.intervals)


def infer_chords(
    notes: Sequence[ScoreNote], num_spans: int, span_quarters: float, tonic: int, mode: str
) -> list[tuple[int, str]]:
    """Finds one diatonic triad a span: pairs of root pitch class and quality (`M` or `m`).

    Args:
        notes: The melody, timed from the start of the first span.
        num_spans: How many chords to find.
        span_quarters: Length of a span.
        tonic: Pitch class of the tonic.
        mode: One of the known modes.
    """
    candidates = _CHORDS[mode]
    weights = _pitch_class_weights(notes, num_spans, span_quarters)
    scores = np.zeros((num_spans, len(candidates)))
    for column, (offset, quality, prior) in enumerate(candidates):
        is_tone = np.zeros(12, dtype=bool)
        is_tone[[(tonic + offset + step) % 12 for step in _TRIADS[quality]]] = True
        scores[:, column] = weights @ np.where(is_tone, 1.0, -0.75) + prior
    scores[0, 0] += 0.8
    scores[-1, 0] += 1.2
    steps = np.full((len(candidates), len(candidates)), -0.12)
    for i, (before, _, _) in enumerate(candidates):
        for j, (after, _, _) in enumerate(candidates):
            steps[i, j] += _GOOD_STEPS.get((before, after), 0.0)
            steps[i, j] += _POOR_STEPS.get((before, after), 0.0)
        steps[i, i] = 0.0
    path = _viterbi(scores, steps)
    return [((tonic + candidates[c][0]) % 12, candidates[c][1]) for c in path]


def _pitch_class_weights(
    notes: Sequence[ScoreNote], num_spans: int, span_quarters: float
) -> np.ndarray:
    """Seconds-weighted pitch classes a span, scaled so that a full span weighs about 2."""
    weights = np.zeros((num_spans, 12))
    for note in notes:
        first = max(int(note.start_quarters / span_quarters + 1e-6), 0)
        last = min(int((note.end_quarters - 1e-6) / span_quarters), num_spans - 1)
        for span in range(first, last + 1):
            start = max(note.start_quarters, span * span_quarters)
            length = min(note.end_quarters, (span + 1) * span_quarters) - start
            offset = start - span * span_quarters
            accent = 1.6 if offset < 1e-3 else 1.25 if abs(offset - round(offset)) < 1e-3 else 1.0
            weights[span, note.pitch % 12] += length * accent
    return weights * (2.0 / span_quarters)


def _viterbi(scores: np.ndarray, steps: np.ndarray) -> list[int]:
    """The best path: `scores` is spans by states, `steps` what a change of state adds."""
    best = scores[0]
    back: list[np.ndarray] = []
    for row in scores[1:]:
        total = best[:, None] + steps
        back.append(total.argmax(axis=0))
        best = total.max(axis=0) + row
    path = [int(best.argmax())]
    for choices in reversed(back):
        path.append(int(choices[path[-1]]))
    return path[::-1]


def coloured(root: int, quality: str, tonic: int, harmony: str) -> Chord:
    """A triad with the colour of a style: sevenths, power chords, blues sevenths, open fifths."""
    degree = (root - tonic) % 12
    if harmony == "drone":
        return Chord(tonic, (0, 7, 12))
    if harmony == "open":
        return Chord(root, (0, 7, 14))
    if harmony == "power":
        return Chord(root, (0, 7, 12))
    triad = _TRIADS[quality]
    if harmony == "blues":
        return Chord(root, (*triad, 10))
    if harmony == "seventh":
        seventh = 10 if quality == "m" or degree in (7, 10) else 11
        return Chord(root, (*triad, 9 if degree == 0 and quality == "M" else seventh))
    return Chord(root, triad)


def voiced(chord: Chord, previous: Sequence[int], low: int, size: int) -> tuple[int, ...]:
    """A close voicing near the previous one: few steps, between `low` and an octave above.

    Args:
        chord: What to voice.
        previous: The last voicing, or empty.
        low: Lowest pitch a voicing may start on.
        size: Number of tones to return; more than the chord has are doubled an octave up.
    """
    classes = sorted(set(chord.pitch_classes))
    options: list[tuple[int, ...]] = []
    for turn in range(len(classes)):
        order = classes[turn:] + classes[:turn]
        pitches = [low + (order[0] - low) % 12]
        for pitch_class in (order * 3)[1:size]:
            pitches.append(pitches[-1] + ((pitch_class - pitches[-1]) % 12 or 12))
        options.append(tuple(pitches))
    target = list(previous) or [low + 4 + 4 * i for i in range(size)]
    return min(
        options, key=lambda option: sum(abs(a - b) for a, b in zip(option, target, strict=False))
    )
