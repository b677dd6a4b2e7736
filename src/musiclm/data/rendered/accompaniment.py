"""Accompaniment: bass, chords, pads, counter lines and drums from a style's patterns.

Every part is written in quarter notes from the start of the piece; `performance.py` turns it into
seconds and adds the human touch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from musiclm.data.rendered.harmony import Chord, voiced
from musiclm.data.rendered.instruments import DRUM_KEYS, Instrument
from musiclm.data.rendered.styles import Style

_STRENGTH = {"x": 1.0, "X": 1.15, "o": 0.6}
_LINE_FAMILIES = ("strings", "wind", "brass")
_ENSEMBLES = ("strings", "slow strings", "brass section", "accordion")


@dataclass(frozen=True)
class PartNote:
    """A note of a part: times in quarter notes, strength 1 is normal."""

    start_quarters: float
    end_quarters: float
    pitch: int
    strength: float = 1.0


@dataclass(frozen=True)
class Bars:
    """What the accompaniment knows about the piece.

    Attributes:
        style: The patterns.
        chords: One chord a span.
        spans_per_bar: Chords a bar (1 or 2).
        num_bars: Bars in all.
    """

    style: Style
    chords: Sequence[Chord]
    spans_per_bar: int
    num_bars: int

    def chord_at(self, bar: int, step: int) -> Chord:
        """The chord at a step of a bar; past the end, the last one."""
        half = step * self.spans_per_bar // self.style.steps
        return self.chords[min(bar * self.spans_per_bar + half, len(self.chords) - 1)]

    def time(self, bar: int, step: int) -> float:
        """Quarter notes from the start of the piece."""
        return bar * self.style.bar_quarters + step * self.style.step_quarters


def _held_steps(pattern: str, step: int) -> int:
    """How many steps a hit lasts: itself and the hyphens after it."""
    end = step + 1
    while end < len(pattern) and pattern[end] == "-":
        end += 1
    return end - step


def bass_part(draw: np.random.Generator, bars: Bars, instrument: Instrument) -> list[PartNote]:
    """The bass line: roots, fifths and walking steps, low in the instrument's range."""
    style = bars.style
    lowest = 28 if instrument.low <= 30 else 36 if instrument.low < 50 else 40
    patterns = [str(draw.choice(style.bass)), str(draw.choice(style.bass))]
    notes: list[PartNote] = []
    for bar in range(bars.num_bars):
        pattern = patterns[0] if bar // 4 % 2 == 0 else patterns[1]
        for step, mark in enumerate(pattern):
            if mark in ".-":
                continue
            held = _held_steps(pattern, step)
            chord = bars.chord_at(bar, step)
            after = bars.chord_at(bar, step + held) if step + held < style.steps else None
            following = after or bars.chord_at(bar + 1, 0)
            pitch = _bass_pitch(mark, chord, following, lowest)
            end = bars.time(bar, step + held)
            strength = 1.05 if step == 0 else 0.95
            notes.append(PartNote(bars.time(bar, step), end, pitch, strength))
    return notes


def _bass_pitch(mark: str, chord: Chord, following: Chord, lowest: int) -> int:
    root = lowest + (chord.root - lowest) % 12
    intervals = chord.intervals
    if mark == "5":
        fifth = next((i for i in intervals if i in (6, 7)), 7)
        return root + fifth if root + fifth < lowest + 14 else root + fifth - 12
    if mark == "3":
        return root + next((i for i in intervals if i in (3, 4)), 7)
    if mark == "7":
        return root + next((i for i in intervals if i in (9, 10, 11)), 12)
    if mark == "8":
        return root + 12
    if mark == "w":
        target = lowest + (following.root - lowest) % 12
        return (
            target - 1
            if target > root
            else target + 2
            if following.root != chord.root
            else root + 7
        )
    return root


def chord_part(
    draw: np.random.Generator, bars: Bars, instrument: Instrument, lowest: int
) -> list[PartNote]:
    """Chords, strummed or broken after the style's patterns, each voiced near the last."""
    style = bars.style
    size = 4 if style.harmony == "seventh" or instrument.family == "plucked" else 3
    size = 3 if style.harmony in ("power", "open", "drone") else size
    patterns = [str(draw.choice(style.comp)), str(draw.choice(style.comp))]
    is_strummed = instrument.family == "plucked" and style.harmony != "power"
    notes: list[PartNote] = []
    voicing: tuple[int, ...] = ()
    last: Chord | None = None
    for bar in range(bars.num_bars):
        pattern = patterns[0] if bar // 8 % 2 == 0 else patterns[1]
        for step, mark in enumerate(pattern):
            chord = bars.chord_at(bar, step)
            if chord != last:
                voicing, last = voiced(chord, voicing, lowest, size), chord
            if mark in ".-":
                continue
            start = bars.time(bar, step)
            end = bars.time(bar, step + _held_steps(pattern, step))
            if mark.isdigit():
                index = int(mark) - 1
                pitch = voicing[index % size] + 12 * (index // size)
                # Broken chords ring on, as under a pedal or on open strings.
                ring = end if instrument.is_sustained else end + 2 * style.step_quarters
                notes.append(PartNote(start, ring, pitch, 0.95))
                continue
            is_down = step % 2 == 0
            for place, pitch in enumerate(voicing if is_down else voicing[::-1]):
                late = 0.018 * place if is_strummed else 0.0
                notes.append(PartNote(start + late, end, pitch, _STRENGTH[mark] * 0.92))
    return notes


def pad_part(bars: Bars, instrument: Instrument) -> list[PartNote]:
    """Long chords, or for a single player a slow line of chord tones that moves by small steps."""
    is_line = instrument.family in _LINE_FAMILIES and instrument.name not in _ENSEMBLES
    span = bars.style.bar_quarters / bars.spans_per_bar
    low, high = max(instrument.low, 48), min(instrument.high, 76)
    notes: list[PartNote] = []
    voicing: tuple[int, ...] = ()
    line = (low + high) // 2
    index = 0
    num_spans = bars.num_bars * bars.spans_per_bar
    while index < num_spans:
        chord = bars.chords[min(index, len(bars.chords) - 1)]
        length = 1
        while index + length < num_spans and length < 4 and _same(bars, index + length, chord):
            length += 1
        start, end = index * span, (index + length) * span
        if is_line:
            tones = [p for p in range(low, high + 1) if p % 12 in chord.pitch_classes[1:]]
            line = min(tones, key=lambda pitch: (abs(pitch - line), pitch))
            notes.append(PartNote(start, end, line))
        else:
            voicing = voiced(chord, voicing, max(low, 53), 3)
            notes += [PartNote(start, end, pitch, 0.9) for pitch in voicing]
        index += length
    return notes


def _same(bars: Bars, index: int, chord: Chord) -> bool:
    return bars.chords[min(index, len(bars.chords) - 1)] == chord


def drum_part(
    draw: np.random.Generator, bars: Bars, pattern: dict[str, str], phrase_bars: int
) -> list[PartNote]:
    """The drum pattern, with a fill before each phrase and a crash on its first beat."""
    style = bars.style
    has_kit = "s" in pattern and "k" in pattern
    fill_from = style.steps * 3 // 4
    notes: list[PartNote] = []
    for bar in range(bars.num_bars):
        is_last_of_phrase = (bar + 1) % phrase_bars == 0
        fills = is_last_of_phrase and has_kit and draw.random() < 0.8
        for voice, steps in pattern.items():
            for step, mark in enumerate(steps):
                if mark == "." or (fills and step >= fill_from and voice != "k"):
                    continue
                start = bars.time(bar, step)
                strength = _STRENGTH[mark] * (1.06 if step == 0 else 1.0)
                notes.append(PartNote(start, start + 0.2, DRUM_KEYS[voice], strength))
        if fills:
            notes += _fill(draw, bars, bar, fill_from)
        if has_kit and bar and bar % phrase_bars == 0 and draw.random() < 0.7:
            notes.append(PartNote(bars.time(bar, 0), bars.time(bar, 1), DRUM_KEYS["c"], 0.95))
    return notes


def _fill(draw: np.random.Generator, bars: Bars, bar: int, first_step: int) -> list[PartNote]:
    """Snare and toms falling over the last quarter of a bar."""
    drums = [DRUM_KEYS[voice] for voice in ("s", "s", "u", "t", "f")]
    count = bars.style.steps - first_step
    notes: list[PartNote] = []
    for place in range(count):
        if draw.random() < 0.25:
            continue
        start = bars.time(bar, first_step + place)
        key = drums[min(place * len(drums) // max(count, 1), len(drums) - 1)]
        notes.append(PartNote(start, start + 0.2, key, 0.85 + 0.08 * place / count))
    return notes
