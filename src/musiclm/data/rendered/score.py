"""Score: a tune as timed notes, bars and a key, whatever file it was read from.

Times are in quarter notes from the start of bar 0. A tune that opens with a pickup has its first
notes at the end of bar 0, so bar lines always fall on multiples of `bar_quarters`.
"""

from dataclasses import dataclass

MODES = ("major", "minor", "dorian", "mixolydian")
PITCH_NAMES = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")


@dataclass(frozen=True)
class ScoreNote:
    """One written note: onset and release in quarter notes, and its MIDI pitch."""

    start_quarters: float
    end_quarters: float
    pitch: int


@dataclass(frozen=True)
class Tune:
    """A melody with its key and metre; chorales carry all their voices.

    Attributes:
        tune_id: Unique name, such as `oneills1850/12`.
        title: As printed in the source.
        collection: The book it stands in.
        transcriber: Who made the digital transcription.
        metre: Time signature, such as `6/8`.
        tonic: Pitch class of the tonic, 0 for C.
        mode: One of `MODES`.
        pickup_quarters: How much of bar 0 sounds; 0 when the tune starts on a full bar.
        notes: The melody, in time order, one note at a time.
        voices: For chorales every voice from the highest down, the melody first; else empty.
    """

    tune_id: str
    title: str
    collection: str
    transcriber: str
    metre: str
    tonic: int
    mode: str
    pickup_quarters: float
    notes: tuple[ScoreNote, ...]
    voices: tuple[tuple[ScoreNote, ...], ...] = ()

    @property
    def bar_quarters(self) -> float:
        """Length of a bar in quarter notes."""
        return bar_quarters(self.metre)

    @property
    def end_quarters(self) -> float:
        """When the last note ends."""
        return max(note.end_quarters for note in self.notes)


def bar_quarters(metre: str) -> float:
    """Length of a bar of `metre` (such as `6/8`) in quarter notes."""
    count, unit = metre.split("/")
    return int(count) * 4 / int(unit)


def beat_quarters(metre: str) -> float:
    """Length of the beat a listener taps: a dotted quarter in 6/8, 9/8 and 12/8, else a quarter."""
    return 1.5 if metre in ("6/8", "9/8", "12/8") else 1.0
