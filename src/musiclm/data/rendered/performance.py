"""Performance: parts to timed, humanised events, one stem for the lead and one for the rest."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from musiclm.data.rendered.accompaniment import PartNote
from musiclm.data.rendered.instruments import DRUM_KITS, Instrument
from musiclm.data.rendered.synthesizer import DRUM_CHANNEL, Event, Synthesizer

_VELOCITY = {"soft": 64, "medium": 86, "loud": 106}
_REFERENCE_DB = -37.0


@dataclass(frozen=True)
class Clock:
    """Quarter notes of the score to seconds of the clip.

    Attributes:
        quarters_per_second: Speed.
        swing: Where the second half of a quarter falls.
        origin_quarters: Score time of the clip's first sample.
    """

    quarters_per_second: float
    swing: float = 0.5
    origin_quarters: float = 0.0

    def seconds(self, quarters: float, *, is_swung: bool = True) -> float:
        """When a moment of the score sounds."""
        if is_swung and self.swing > 0.5:
            beat, part = divmod(quarters + 1e-9, 1.0)
            if part < 0.5:
                part *= 2 * self.swing
            else:
                part = self.swing + (part - 0.5) * 2 * (1 - self.swing)
            quarters = beat + part
        return max((quarters - self.origin_quarters) / self.quarters_per_second, 0.0)


@dataclass(frozen=True)
class Touch:
    """How the players play.

    Attributes:
        dynamics: `soft`, `medium` or `loud`.
        grows: Whether strength rises over the clip.
        jitter_seconds: Standard deviation of onsets; 0 for machines.
        duration_seconds: Length of the clip, for the growth.
    """

    dynamics: str
    grows: bool
    jitter_seconds: float
    duration_seconds: float

    def velocity(self, draw: np.random.Generator, strength: float, seconds: float) -> int:
        """The MIDI velocity of a note at a moment."""
        growth = 0.68 + 0.36 * min(seconds / self.duration_seconds, 1.0) if self.grows else 1.0
        value = _VELOCITY[self.dynamics] * strength * growth + draw.normal(0, 4.0)
        return int(np.clip(value, 22, 125))


@dataclass
class Stem:
    """Events being gathered for one rendering; each instrument has its channel."""

    synthesizer: Synthesizer
    events: list[Event] = field(default_factory=list[Event])
    channels: int = 0

    def channel_for(self, instrument: Instrument, notes: Sequence[PartNote], gain_db: float) -> int:
        """Opens a channel whose volume makes the soundfont's unequal sounds equally loud."""
        channel = self.channels + (self.channels >= DRUM_CHANNEL)
        self.channels += 1
        middle = int(np.median([note.pitch for note in notes])) if notes else 60
        level = self.synthesizer.level_db(instrument.program, middle)
        self._open(channel, instrument.program, gain_db + _REFERENCE_DB - level)
        return channel

    def drum_channel(self, kit: str, gain_db: float) -> int:
        """Opens the drum channel with a kit."""
        self._open(DRUM_CHANNEL, DRUM_KITS[kit][0], gain_db)
        return DRUM_CHANNEL

    def _open(self, channel: int, program: int, gain_db: float) -> None:
        # Controller 7 is squared on its way to a gain; 80 leaves room to raise quiet sounds.
        volume = int(np.clip(80 * 10 ** (gain_db / 40), 12, 127))
        self.events.append(Event(0.0, "program", channel, program))
        self.events.append(Event(0.0, "control", channel, 7, volume))

    def play(
        self,
        draw: np.random.Generator,
        notes: Sequence[PartNote],
        channel: int,
        clock: Clock,
        touch: Touch,
    ) -> None:
        """Adds a part's notes."""
        shifts = draw.normal(0, 1, len(notes)) * touch.jitter_seconds
        for note, shift in zip(notes, shifts, strict=True):
            start = max(clock.seconds(note.start_quarters) + float(shift), 0.0)
            end = max(clock.seconds(note.end_quarters) - 0.012, start + 0.06)
            velocity = touch.velocity(draw, note.strength, start)
            self.events.append(Event(start, "on", channel, note.pitch, velocity))
            self.events.append(Event(end, "off", channel, note.pitch))
