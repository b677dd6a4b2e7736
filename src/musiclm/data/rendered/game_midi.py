"""Game music: free MIDI files, from a folder or out of a WAD archive, to clips with captions."""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from musiclm.audio.waveform import Waveform
from musiclm.core.errors import DataError, DependencyError
from musiclm.data.manifest import Caption, Split
from musiclm.data.rendered.captions import tidy
from musiclm.data.rendered.facts import joined
from musiclm.data.rendered.instruments import INSTRUMENTS, instrument_of_program
from musiclm.data.rendered.mixing import finished, in_room
from musiclm.data.rendered.splits import is_held_out_wording, split_of_group
from musiclm.data.rendered.synthesizer import DRUM_CHANNEL, Event, Synthesizer

_TEMPLATES = {
    "tags": (
        "video game music, {tempo}, {players}", "{mood}, game soundtrack, instrumental, {players}",
        "{players}, {tempo}, {bpm} bpm, game music", "soundtrack, {mood}, {players}, {tempo}",
    ),
    "sentence": (
        "A {tempo} video game soundtrack with {players}.", "{mood} game music played by {players}.",
        "Instrumental game music at {bpm} bpm with {players}.",
        "A {mood}, {tempo} soundtrack piece with {players}.",
    ),
    "prose": (
        "This is instrumental music from a video game. It is {tempo}, around {bpm} bpm. One hears "
        "{players}.",
        "The recording features {players}. The tempo is {tempo} and the music is {mood}.",
        "A piece of game music with {players}. It has a {tempo} pace and a {mood} sound.",
    ),
}  # fmt: skip
_PERCUSSIVE_PROGRAMS = range(112, 128)


@dataclass(frozen=True)
class MidiNote:
    """One note of a file: seconds from the start, channel, pitch, velocity."""

    start_seconds: float
    end_seconds: float
    channel: int
    pitch: int
    velocity: int


@dataclass(frozen=True)
class GamePiece:
    """A MIDI file, read.

    Attributes:
        name: The file's (or the archive entry's) name.
        group: Hash of the bytes, by which it is split.
        notes: All notes, in order of onset.
        programs: Program of each channel; the drum channel has none.
        controls: Volume, expression and other controllers, in order.
        tempo_bpm: Quarter notes a minute at the start.
    """

    name: str
    group: str
    notes: tuple[MidiNote, ...]
    programs: dict[int, int]
    controls: tuple[Event, ...]
    tempo_bpm: float

    @property
    def end_seconds(self) -> float:
        """When the last note ends."""
        return max(note.end_seconds for note in self.notes)

    @property
    def split(self) -> Split:
        """Where the piece may be used."""
        return split_of_group(f"game/{self.group}")


def midi_in_wad(data: bytes) -> list[tuple[str, bytes]]:
    """The MIDI files inside a WAD: a 12-byte header, then a directory of 16-byte entries."""
    if data[:4] not in (b"IWAD", b"PWAD") or len(data) < 12:
        return []
    count, directory = struct.unpack("<ii", data[4:12])
    found: list[tuple[str, bytes]] = []
    for place in range(directory, min(directory + 16 * count, len(data) - 15), 16):
        offset, size, name = struct.unpack("<ii8s", data[place : place + 16])
        lump = data[offset : offset + size]
        if lump[:4] == b"MThd":
            found.append((name.rstrip(b"\0").decode("latin-1"), lump))
    return found


def load_game_pieces(source: Path) -> tuple[GamePiece, ...]:
    """Reads every MIDI file below a folder, or inside a WAD, each once.

    Raises:
        DataError: There is none.
        DependencyError: symusic is not installed.
    """
    paths = sorted(source.rglob("*")) if source.is_dir() else [source]
    files: list[tuple[str, bytes]] = []
    for path in paths:
        if path.suffix.lower() == ".wad" and path.is_file():
            files += midi_in_wad(path.read_bytes())
        elif path.suffix.lower() in (".mid", ".midi") and path.is_file():
            files.append((path.stem, path.read_bytes()))
    unique = {hashlib.blake2b(data, digest_size=8).hexdigest(): (n, data) for n, data in files}
    read = (_read(name, group, data) for group, (name, data) in sorted(unique.items()))
    pieces = tuple(piece for piece in read if piece is not None)
    if not pieces:
        raise DataError(
            f"No MIDI music at {source}. Give a .wad file (Debian: apt install freedoom, then "
            "/usr/share/games/doom/freedoom1.wad) or a folder of .mid files."
        )
    return pieces


def _read(name: str, group: str, data: bytes) -> GamePiece | None:
    """Reads one file; None when it is damaged or shorter than 20 s."""
    try:
        from symusic import Score  # an optional dependency, needed here only
    except ImportError as error:
        raise DependencyError("Reading MIDI needs symusic: pip install symusic") from error
    try:
        # Its bindings carry no types.
        score: Any = Score.from_midi(data)
    except (RuntimeError, ValueError):
        return None
    timed = score.to("second")
    notes: list[MidiNote] = []
    programs: dict[int, int] = {}
    controls: list[Event] = []
    for track in timed.tracks:
        if not len(track.notes):
            continue
        channel = DRUM_CHANNEL
        if not track.is_drum:
            channel = len(programs) + (len(programs) >= DRUM_CHANNEL)
            if channel > 15:
                continue
            programs[channel] = track.program
        notes += [
            MidiNote(n.time, n.time + n.duration, channel, n.pitch, n.velocity) for n in track.notes
        ]
        controls += [
            Event(c.time, "control", channel, c.number, c.value)
            for c in track.controls
            if c.number in (1, 7, 11, 64)
        ]
        controls += [Event(b.time, "bend", channel, b.value + 8192) for b in track.pitch_bends]
    if len(notes) < 40 or max(n.end_seconds for n in notes) < 20:
        return None
    notes.sort(key=lambda n: (n.start_seconds, n.channel, n.pitch))
    controls.sort(key=lambda c: c.time_seconds)
    tempo = float(score.tempos[0].qpm) if len(score.tempos) else 120.0
    return GamePiece(name, group, tuple(notes), programs, tuple(controls), round(tempo, 1))


@dataclass(frozen=True)
class GameClip:
    """A stretch of a piece, ready to be rendered.

    Attributes:
        piece: The whole.
        start_seconds: Where the stretch begins.
        duration_seconds: How long it is.
        uses_held_out_soundfont: Whether it is rendered with the soundfont kept for tests.
        room: `dry`, `room` or `hall`.
    """

    piece: GamePiece
    start_seconds: float
    duration_seconds: float
    uses_held_out_soundfont: bool
    room: str

    @property
    def notes(self) -> tuple[MidiNote, ...]:
        """The notes that begin within the stretch."""
        end = self.start_seconds + self.duration_seconds
        return tuple(n for n in self.piece.notes if self.start_seconds <= n.start_seconds < end)

    @property
    def instruments(self) -> tuple[str, ...]:
        """Who is heard, the busiest first."""
        weight: dict[str, float] = {}
        for note in self.notes:
            name = "drums"
            if note.channel != DRUM_CHANNEL:
                program = self.piece.programs[note.channel]
                if program in _PERCUSSIVE_PROGRAMS:
                    continue
                name = instrument_of_program(program).name
            length = note.end_seconds - note.start_seconds
            weight[name] = weight.get(name, 0.0) + max(length, 0.1) * note.velocity
        return tuple(sorted(weight, key=lambda name: (-weight[name], name)))


def plan_game_clip(
    draw: np.random.Generator, pieces: Sequence[GamePiece], split: Split
) -> GameClip:
    """Chooses a piece of a split (any, when the split has none) and a stretch of it."""
    allowed = [piece for piece in pieces if piece.split == split] or list(pieces)
    piece = allowed[int(draw.integers(len(allowed)))]
    wished = float(draw.uniform(24, 60))
    latest = max(piece.end_seconds - wished, 0.0)
    start = float(draw.uniform(0, latest))
    # Begin with a note, not in the middle of nothing.
    start = next((n.start_seconds for n in piece.notes if n.start_seconds >= start), 0.0)
    duration = round(min(wished, piece.end_seconds - start + 1.0), 3)
    held_out = piece.split != "train" and bool(draw.random() < 0.5)
    return GameClip(piece, start, duration, held_out, str(draw.choice(["dry", "room", "hall"])))


def perform_game_clip(clip: GameClip, synthesizer: Synthesizer) -> Waveform:
    """Renders a stretch: controllers are caught up with, then notes are played as written."""
    start = clip.start_seconds
    events = [Event(0.0, "program", c, program) for c, program in clip.piece.programs.items()]
    for control in clip.piece.controls:
        if control.time_seconds < start + clip.duration_seconds:
            time = max(control.time_seconds - start, 0.0)
            events.append(Event(time, control.kind, control.channel, control.key, control.value))
    for note in clip.notes:
        begin = note.start_seconds - start
        end = max(note.end_seconds - start, begin + 0.03)
        events.append(Event(begin, "on", note.channel, note.pitch, note.velocity))
        events.append(Event(end, "off", note.channel, note.pitch))
    samples = synthesizer.render(events, clip.duration_seconds)
    return finished(in_room(samples, clip.room, 0), "medium", 1.5)


def game_captions(draw: np.random.Generator, clip: GameClip) -> tuple[Caption, ...]:
    """Captions of a stretch: who plays, how fast and how busy it is."""
    tempo = clip.piece.tempo_bpm
    pace = "slow" if tempo < 85 else "fast" if tempo > 130 else "mid-tempo"
    busy = len(clip.notes) / clip.duration_seconds
    mood = "calm" if busy < 4 else "energetic" if busy > 12 else "steady"
    players = [name for name in clip.instruments if name == "drums" or name in INSTRUMENTS]
    captions: dict[str, Caption] = {}
    for kind in ("tags", "sentence", "prose") * 2:
        template = str(draw.choice(_TEMPLATES[kind]))
        held_out = is_held_out_wording(template)
        if held_out and clip.piece.split == "train":
            continue
        shown = players[: int(draw.integers(2, 5))] or ["synthesizer"]
        named = ", ".join(shown) if kind == "tags" else joined(shown)
        text = template.format(tempo=pace, mood=mood, bpm=f"{tempo:.0f}", players=named)
        text = text if kind == "tags" else tidy(text)
        row = {"text": text, "kind": kind, "is_held_out": held_out}
        captions.setdefault(text, Caption.model_validate(row))
    return tuple(captions.values())
