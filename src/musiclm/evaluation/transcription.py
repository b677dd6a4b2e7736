"""Transcription: the notes that basic-pitch hears in a waveform, as a standard MIDI file."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from musiclm.audio.waveform import Waveform
from musiclm.core.errors import DataError
from musiclm.core.files import written_whole
from musiclm.evaluation.codec_quality import NOTE_THRESHOLD, NoteListener, Posteriors

_FRAME_SECONDS = 256 / 22_050
_LOWEST_PITCH = 21
_LEAST_FRAMES = 5
_BRIDGED_FRAMES = 2
_TICKS_PER_SECOND = 480


@dataclass(frozen=True)
class HeardNote:
    """One note: seconds, MIDI number, and how sure the listener was (0 to 1)."""

    start_seconds: float
    end_seconds: float
    pitch: int
    strength: float


@dataclass(frozen=True)
class Transcript:
    """Notes in order of their onsets."""

    notes: tuple[HeardNote, ...]

    def write(self, path: Path) -> None:
        """Writes a MIDI file of one track, at 480 ticks a second, whole or not at all.

        Raises:
            DataError: The name does not end in `.mid`.
        """
        if path.suffix.lower() != ".mid":
            raise DataError(f"Notes are written to .mid files; {path.name} is named otherwise.")
        with written_whole(path) as temporary:
            temporary.write_bytes(_midi_bytes(self.notes))


class Transcriber:
    """Audio to notes.

    Raises:
        DependencyError: `basic-pitch` or `onnxruntime` is not installed.
    """

    def __init__(self) -> None:
        self._listener = NoteListener()

    def transcribe(self, waveform: Waveform) -> Transcript:
        """The notes of a waveform of any rate."""
        return Transcript(notes_of(self._listener.posteriors(waveform)))


def notes_of(posteriors: Posteriors, threshold: float = NOTE_THRESHOLD) -> tuple[HeardNote, ...]:
    """Runs of frames in which a key is likely; gaps of two frames are bridged, blips left out."""
    notes: list[HeardNote] = []
    for key in range(posteriors.shape[1]):
        likely = np.flatnonzero(posteriors[:, key] > threshold)
        if not len(likely):
            continue
        for run in np.split(likely, np.flatnonzero(np.diff(likely) > _BRIDGED_FRAMES + 1) + 1):
            first, last = int(run[0]), int(run[-1]) + 1
            if last - first < _LEAST_FRAMES:
                continue
            strength = float(posteriors[first:last, key].max())
            notes.append(
                HeardNote(
                    first * _FRAME_SECONDS, last * _FRAME_SECONDS, key + _LOWEST_PITCH, strength
                )
            )
    return tuple(sorted(notes, key=lambda note: (note.start_seconds, note.pitch)))


def _midi_bytes(notes: Sequence[HeardNote]) -> bytes:
    """Format 0; 480 ticks a quarter at 60 quarters a minute."""
    events: list[tuple[int, int, bytes]] = []
    for note in notes:
        start = round(note.start_seconds * _TICKS_PER_SECOND)
        end = max(round(note.end_seconds * _TICKS_PER_SECOND), start + 1)
        velocity = min(max(round(note.strength * 127), 1), 127)
        events.append((start, 1, bytes([0x90, note.pitch, velocity])))
        events.append((end, 0, bytes([0x80, note.pitch, 0])))
    track = b"\x00\xff\x51\x03" + (1_000_000).to_bytes(3, "big")
    now = 0
    for tick, _, message in sorted(events):
        track += _variable_length(tick - now) + message
        now = tick
    track += b"\x00\xff\x2f\x00"
    header = b"MThd" + struct.pack(">IHHH", 6, 0, 1, _TICKS_PER_SECOND)
    return header + b"MTrk" + struct.pack(">I", len(track)) + track


def _variable_length(value: int) -> bytes:
    digits = [value & 0x7F]
    while value := value >> 7:
        digits.append(value & 0x7F | 0x80)
    return bytes(reversed(digits))
