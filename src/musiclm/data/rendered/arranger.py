"""Arranger: a plan to a full score of parts, then to audio.

`compose` needs no synthesizer and is quick, so captions, labels and melodies can be had without
rendering; `perform` makes the sound.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from musiclm.audio.waveform import Waveform
from musiclm.data.manifest import Note
from musiclm.data.rendered.accompaniment import (
    Bars,
    PartNote,
    bass_part,
    chord_part,
    drum_part,
    pad_part,
)
from musiclm.data.rendered.adaptation import adapted_notes
from musiclm.data.rendered.form import Form, shape_form
from musiclm.data.rendered.harmony import coloured, infer_chords
from musiclm.data.rendered.instruments import INSTRUMENTS, Instrument
from musiclm.data.rendered.mixing import balanced, finished, in_room
from musiclm.data.rendered.performance import Clock, Stem, Touch
from musiclm.data.rendered.plan import ClipPlan
from musiclm.data.rendered.score import ScoreNote, bar_quarters
from musiclm.data.rendered.styles import Style
from musiclm.data.rendered.synthesizer import Synthesizer

_GAIN_DB = {"bass": -3.0, "chords": -7.0, "pad": -10.0, "counter line": -7.0, "voice": -1.5}
_TAIL_SECONDS = 1.2


@dataclass(frozen=True)
class Part:
    """What one player plays.

    Attributes:
        role: `lead`, `second lead`, `bass`, `chords`, `pad`, `counter line`, `voice` or `drums`.
        instrument: Who plays it; for drums any (the kit counts).
        notes: In quarter notes from the start of the piece.
        kit: The drum kit, for drums.
    """

    role: str
    instrument: Instrument
    notes: tuple[PartNote, ...]
    kit: str = ""


@dataclass(frozen=True)
class Composition:
    """A clip's whole score and what can be said about it.

    Attributes:
        plan: The decisions it follows.
        form: The bar plan.
        parts: All players, the lead first.
        clock: Score time to seconds.
        duration_seconds: Length of the clip.
        melody: The lead's notes in seconds of the clip.
        tonic: Pitch class of the sounding tonic.
    """

    plan: ClipPlan
    form: Form
    parts: tuple[Part, ...]
    clock: Clock
    duration_seconds: float
    melody: tuple[Note, ...]
    tonic: int

    @property
    def has_drums(self) -> bool:
        """Whether drums play."""
        return any(part.role == "drums" for part in self.parts)

    def part(self, role: str) -> Part | None:
        """The first part with a role."""
        return next((part for part in self.parts if part.role == role), None)


def compose(plan: ClipPlan, seed: int) -> Composition:
    """Writes all parts of a clip; a function of the plan and the seed only."""
    draw = np.random.default_rng([seed, plan.index, 1])
    notes, lead_in = adapted_notes(plan.tune, plan.how, plan.metre, plan.stretch)
    form = shape_form(draw, plan, notes, lead_in)
    shift = _shift_into_range([n.pitch for n in form.melody], plan.lead, plan.transpose)
    bar = bar_quarters(plan.metre)
    intro = form.intro_bars * bar
    tonic = (plan.tune.tonic + shift) % 12
    if plan.kind == "chorale":
        parts = _chorale_parts(plan, form, lead_in)
        tonic = (plan.tune.tonic + _chorale_shift(plan)) % 12
    else:
        moved = [ScoreNote(n.start_quarters, n.end_quarters, n.pitch + shift) for n in form.melody]
        parts = _lead_parts(plan, form, moved, intro)
        if plan.style is not None:
            parts += _backing_parts(draw, plan, form, moved, tonic)
    swing = plan.style.swing if plan.style and not plan.how.needs_swing else 0.5
    clock = Clock(plan.quarters_per_second, swing, form.lead_in_quarters)
    end = form.total_bars * bar
    if plan.kind == "arranged" and form.ends_well:
        end += bar
    else:
        end = min(end, max(n.end_quarters for part in parts for n in part.notes))
    duration = round(clock.seconds(end) + (_TAIL_SECONDS if form.ends_well else 0.25), 3)
    melody = tuple(
        Note(
            start_seconds=round(clock.seconds(n.start_quarters), 3),
            end_seconds=round(min(clock.seconds(n.end_quarters), duration), 3),
            pitch=n.pitch,
        )
        for n in sorted(
            (n for p in parts if p.role in ("lead", "second lead") for n in p.notes),
            key=lambda n: n.start_quarters,
        )
    )
    return Composition(plan, form, tuple(parts), clock, duration, melody, tonic)


def _shift_into_range(pitches: Sequence[int], instrument: Instrument, transpose: int) -> int:
    """The transposition (and octave) that keeps most notes in the instrument's range."""

    def misfit(shift: int) -> float:
        middle = (instrument.low + instrument.high) / 2
        outside = sum(
            max(instrument.low - p - shift, 0, p + shift - instrument.high) for p in pitches
        )
        return outside * 10 / len(pitches) + abs(float(np.median(pitches)) + shift - middle) * 0.1

    return min((transpose + 12 * octave for octave in range(-4, 4)), key=misfit)


def _lead_parts(plan: ClipPlan, form: Form, melody: list[ScoreNote], intro: float) -> list[Part]:
    """The melody, shared out between one or two players; resting where the form says so."""
    bar = bar_quarters(plan.metre)
    shares: dict[str, list[PartNote]] = {"lead": [], "second lead": []}
    second = plan.second_lead
    octave = 0
    if second is not None:
        octave = _shift_into_range([n.pitch for n in melody], second, 0)
    for note in melody:
        at_bar = int(note.start_quarters // bar)
        if at_bar in form.silent_lead_bars:
            continue
        is_second = second is not None and at_bar // form.phrase_bars % 2 == 1
        player = second if is_second and second is not None else plan.lead
        pitch = _folded(note.pitch + (octave if is_second else 0), player)
        length = note.end_quarters - note.start_quarters
        held = length * (0.96 if player.is_sustained else 1.0)
        beat = note.start_quarters % bar
        strength = 1.06 if beat < 1e-3 else 1.0 if abs(beat - round(beat)) < 1e-3 else 0.93
        start = note.start_quarters + intro
        shares["second lead" if is_second else "lead"].append(
            PartNote(start, start + held, pitch, strength)
        )
    parts = [Part("lead", plan.lead, tuple(shares["lead"]))]
    if second is not None and shares["second lead"]:
        parts.append(Part("second lead", second, tuple(shares["second lead"])))
    return parts


def _folded(pitch: int, instrument: Instrument) -> int:
    """A pitch moved by octaves until it lies within a fourth of the instrument's range."""
    while pitch > instrument.high + 5:
        pitch -= 12
    while pitch < instrument.low - 5:
        pitch += 12
    return pitch


def _backing_parts(
    draw: np.random.Generator, plan: ClipPlan, form: Form, melody: list[ScoreNote], tonic: int
) -> list[Part]:
    style = plan.style
    assert style is not None
    bar = style.bar_quarters
    spans = 2 if bar in (4.0, 6.0) and plan.tempo_bpm < 112 and draw.random() < 0.6 else 1
    triads = infer_chords(melody, form.num_bars * spans, bar / spans, tonic, plan.tune.mode)
    first = 1 if form.lead_in_quarters else 0
    intro = (triads[first * spans :] * 4)[: form.intro_bars * spans]
    chords = [coloured(r, q, tonic, style.harmony) for r, q in [*intro, *triads]]
    bars = Bars(style, chords, spans, form.total_bars)
    drawn: list[Part] = []
    if plan.bass is not None:
        drawn.append(Part("bass", plan.bass, tuple(bass_part(draw, bars, plan.bass))))
    if plan.comp is not None:
        lowest = 48 if plan.comp.low <= 55 else plan.comp.low - 7
        notes = chord_part(draw, bars, plan.comp, lowest)
        drawn.append(Part("chords", plan.comp, tuple(notes)))
    if plan.pad is not None:
        notes = pad_part(bars, plan.pad)
        is_line = len({n.start_quarters for n in notes}) == len(notes)
        drawn.append(Part("counter line" if is_line else "pad", plan.pad, tuple(notes)))
    if plan.drums:
        notes = drum_part(draw, bars, plan.drums, form.phrase_bars)
        drawn.append(Part("drums", INSTRUMENTS["timpani"], tuple(notes), style.kit))
    parts = [_entering(part, form, bar) for part in drawn]
    if form.ends_well:
        parts = [_with_ending(part, form, bar, tonic, plan.tune.mode) for part in parts]
    return [part for part in parts if part.notes]


def _entering(part: Part, form: Form, bar: float) -> Part:
    """Leaves out what lies before a part's first bar."""
    from_bar = 0.0
    if part.role == "drums" and form.drums_from_bar >= 0:
        from_bar = float(form.intro_bars + form.drums_from_bar)
    elif part.role in ("pad", "counter line"):
        from_bar = float(form.intro_bars + form.pad_from_bar)
    start = max(from_bar * bar, bar if form.lead_in_quarters else 0.0) - 1e-6
    kept = tuple(note for note in part.notes if note.start_quarters >= start)
    return Part(part.role, part.instrument, kept, part.kit)


def _with_ending(part: Part, form: Form, bar: float, tonic: int, mode: str) -> Part:
    """Adds the last bar: one long tonic chord, or one stroke."""
    start = form.total_bars * bar
    third = 3 if mode in ("minor", "dorian") else 4
    if part.role == "drums":
        if not any(n.pitch == 36 for n in part.notes):
            return part
        end = (PartNote(start, start + 1, 49, 0.8), PartNote(start, start + 1, 36, 0.9))
    elif part.role == "bass":
        lowest = min(n.pitch for n in part.notes) if part.notes else 36
        end = (PartNote(start, start + bar, lowest + (tonic - lowest) % 12),)
    elif part.role == "counter line":
        end = (PartNote(start, start + bar, 60 + tonic - (12 if tonic > 6 else 0)),)
    else:
        root = 48 + tonic
        end = tuple(PartNote(start, start + bar, root + step, 0.9) for step in (0, third, 7))
    return Part(part.role, part.instrument, part.notes + end, part.kit)


def _chorale_shift(plan: ClipPlan) -> int:
    return max(-4, min(4, plan.transpose))


def _chorale_parts(plan: ClipPlan, form: Form, lead_in: float) -> list[Part]:
    """The four voices as they are written, over the same bars as the melody."""
    bar = plan.tune.bar_quarters
    shift = _chorale_shift(plan)
    # The form cut the melody out of the tune; find where, to cut the other voices alike.
    offset = next(
        n.start_quarters - form.melody[0].start_quarters
        for n in plan.tune.notes
        if n.pitch == form.melody[0].pitch
    )
    offset = round(offset / bar) * bar if lead_in == 0 or form.lead_in_quarters == 0 else 0.0
    parts: list[Part] = []
    octave = 12 if plan.lead.low >= 62 else 0
    for number, (voice, instrument) in enumerate(zip(plan.tune.voices, plan.ensemble, strict=True)):
        notes = tuple(
            PartNote(n.start_quarters - offset, n.end_quarters - offset, n.pitch + shift + octave)
            for n in voice
            if -1e-6 <= n.start_quarters - offset < form.num_bars * bar - 1e-3
        )
        parts.append(Part("voice" if number else "lead", instrument, notes))
    return parts


def perform(composition: Composition, synthesizer: Synthesizer, seed: int) -> Waveform:
    """Renders a composition: the lead and the rest apart, balanced, in a room, at its loudness."""
    plan = composition.plan
    draw = np.random.default_rng([seed, plan.index, 2])
    style: Style | None = plan.style
    is_machine = style is not None and style.kit in ("electronic", "808")
    touch = Touch(
        plan.dynamics, plan.grows, 0.002 if is_machine else 0.007, composition.duration_seconds
    )
    front, back = Stem(synthesizer), Stem(synthesizer)
    for part in composition.parts:
        is_front = part.role in ("lead", "second lead")
        stem = front if is_front else back
        gain_db = 0.0 if is_front else _GAIN_DB.get(part.role, -3.0)
        if part.role == "drums":
            channel = stem.drum_channel(part.kit, 0.0)
        else:
            channel = stem.channel_for(part.instrument, part.notes, gain_db)
        stem.play(draw, part.notes, channel, composition.clock, touch)
    seconds = composition.duration_seconds
    above_db = 1.5 if plan.kind == "chorale" else float(draw.uniform(3.0, 5.5))
    lead = synthesizer.render(front.events, seconds)
    rest = synthesizer.render(back.events, seconds) if back.events else np.zeros_like(lead)
    mix = in_room(balanced(lead, rest, above_db), plan.room, plan.index)
    return finished(mix, plan.dynamics, 0.6 if composition.form.ends_well else 1.5)
