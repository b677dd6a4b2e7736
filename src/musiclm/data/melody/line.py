"""Line: one melody as arrays, and what a person or player changes when performing it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from numpy import ndarray

from musiclm.data.manifest import Note

_SHORTEST_SECONDS = 0.06


@dataclass(frozen=True)
class Line:
    """Notes one after another; pitches are MIDI numbers and may lie between the keys."""

    starts: Float[ndarray, " notes"]
    ends: Float[ndarray, " notes"]
    pitches: Float[ndarray, " notes"]

    @classmethod
    def from_notes(cls, notes: Sequence[Note]) -> "Line":
        """The line of a manifest's notes; where two overlap, the later one takes over."""
        ordered = sorted(notes, key=lambda note: note.start_seconds)
        starts = np.array([note.start_seconds for note in ordered], np.float64)
        ends = np.array([note.end_seconds for note in ordered], np.float64)
        pitches = np.array([note.pitch for note in ordered], np.float64)
        if len(ends) > 1:
            ends[:-1] = np.minimum(ends[:-1], starts[1:])
        return cls(starts, ends, pitches)

    @property
    def num_notes(self) -> int:
        """How many notes."""
        return len(self.starts)

    def between(self, start_seconds: float, stop_seconds: float) -> "Line":
        """The notes that begin in a span, with times counted from its start."""
        inside = (self.starts >= start_seconds - 1e-6) & (self.starts < stop_seconds)
        ends = np.minimum(self.ends[inside], stop_seconds) - start_seconds
        return Line(self.starts[inside] - start_seconds, ends, self.pitches[inside])

    def transposed(self, semitones: float) -> "Line":
        """The same notes higher or lower."""
        return Line(self.starts, self.ends, self.pitches + semitones)

    def faster(self, factor: float) -> "Line":
        """The same notes at another tempo."""
        return Line(self.starts / factor, self.ends / factor, self.pitches)

    def moved_into(self, low: float, high: float) -> "Line":
        """Moved by octaves so that the middle of the notes lies between two pitches."""
        middle = float(np.median(self.pitches)) if self.num_notes else low
        return (
            self.transposed(12.0 * np.ceil((low - middle) / 12))
            if middle < low
            else (self.transposed(-12.0 * np.ceil((middle - high) / 12)) if middle > high else self)
        )

    def index_at(self, times: Float[ndarray, " times"]) -> Int64[ndarray, " times"]:
        """The note that sounds at each time; -1 where none does."""
        if not self.num_notes:
            return np.full(len(times), -1, np.int64)
        latest = np.searchsorted(self.starts, times, side="right") - 1
        sounds = (latest >= 0) & (times < self.ends[np.maximum(latest, 0)])
        return np.where(sounds, latest, -1)


@dataclass(frozen=True)
class SingerErrors:
    """How far a performance strays from the notes.

    Attributes:
        pitch_semitones: Spread of each note's pitch.
        wrong_note_share: Notes sung a whole semitone or two off.
        time_seconds: Spread of each onset.
        drift: Spread of the slow swings of the tempo, as a share.
        shortest_share: Notes are held for this part of their length at least.
    """

    pitch_semitones: float = 0.22
    wrong_note_share: float = 0.02
    time_seconds: float = 0.03
    drift: float = 0.03
    shortest_share: float = 0.6


def performed(draw: np.random.Generator, line: Line, errors: SingerErrors) -> Line:
    """A line as somebody without training sings it: off pitch, off time, with gaps to breathe."""
    count = line.num_notes
    if not count:
        return line
    wrong = draw.random(count) < errors.wrong_note_share
    slips = np.where(wrong, draw.choice([-2.0, -1.0, 1.0, 2.0], count), 0.0)
    pitches = line.pitches + errors.pitch_semitones * draw.standard_normal(count) + slips
    swing_hz, phase = draw.uniform(0.05, 0.2), draw.uniform(0, 2 * np.pi)
    depth = errors.drift * draw.standard_normal() / (2 * np.pi * swing_hz)
    shift = depth * (np.sin(2 * np.pi * swing_hz * line.starts + phase) - np.sin(phase))
    starts = line.starts + shift + errors.time_seconds * draw.standard_normal(count)
    starts = np.maximum.accumulate(np.maximum(starts, 0.0))
    starts = starts + np.arange(count) * 1e-4
    held = draw.uniform(errors.shortest_share, 1.0, count)
    ends = starts + np.maximum((line.ends - line.starts) * held, _SHORTEST_SECONDS)
    ends[:-1] = np.minimum(ends[:-1], starts[1:])
    return Line(starts, ends, pitches)
