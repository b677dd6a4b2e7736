"""Synthesizer: events to mono samples with FluidSynth, in this process, soundfont loaded once.

The library is called directly (`libfluidsynth`): starting the program anew for every clip would
spend more time unpacking compressed soundfonts than making sound.
"""

import ctypes
import ctypes.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from musiclm.core.errors import DependencyError

SAMPLE_RATE_HZ = 24_000
DRUM_CHANNEL = 9
_BLOCK = 64
Float32Samples = NDArray[np.float32]
_FOLDERS = (
    "/usr/share/sounds/sf2", "/usr/share/sounds/sf3", "/usr/share/soundfonts",
    "/usr/local/share/soundfonts", "/opt/homebrew/share/soundfonts", "~/.local/share/soundfonts",
)  # fmt: skip
TRAIN_SOUNDFONTS = ("FluidR3_GM",)
HELD_OUT_SOUNDFONTS = ("MuseScore_General_Lite", "MuseScore_General")


@dataclass(frozen=True)
class Event:
    """One MIDI-like event: `kind` is `on`, `off`, `program` or `control`.

    For `program`, `key` is the program; for `control`, `key` is the controller, `value` its value.
    """

    time_seconds: float
    kind: str
    channel: int
    key: int
    value: int = 0


def find_soundfont(names: Sequence[str]) -> Path | None:
    """Looks for a soundfont by stem in the usual folders and in `MUSICLM_SOUNDFONTS`."""
    given = [part for part in os.environ.get("MUSICLM_SOUNDFONTS", "").split(os.pathsep) if part]
    for name in names:
        for folder in (*given, *_FOLDERS):
            for suffix in (".sf2", ".sf3"):
                path = Path(folder).expanduser() / f"{name}{suffix}"
                if path.is_file():
                    return path
    return None


def train_soundfont() -> Path:
    """The soundfont training clips are rendered with.

    Raises:
        DependencyError: It is not installed.
    """
    path = find_soundfont(TRAIN_SOUNDFONTS)
    if path is None:
        raise DependencyError(
            "The soundfont FluidR3_GM.sf2 was not found. Install it (Debian: apt install "
            "fluid-soundfont-gm), name its folder in MUSICLM_SOUNDFONTS, or give --soundfont PATH."
        )
    return path


def _library() -> ctypes.CDLL:
    for name in (
        ctypes.util.find_library("fluidsynth"),
        "libfluidsynth.so.3",
        "libfluidsynth.so.2",
    ):
        if name is None:
            continue
        try:
            return _declared(ctypes.CDLL(name))
        except OSError:
            continue
    raise DependencyError(
        "FluidSynth is not installed. Install it (Debian: apt install fluidsynth; "
        "macOS: brew install fluid-synth)."
    )


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    """Gives the functions their types: pointers are 64 bits wide."""
    pointer, text, integer, real = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_double
    signatures: dict[str, tuple[object, tuple[object, ...]]] = {
        "new_fluid_settings": (pointer, ()),
        "delete_fluid_settings": (None, (pointer,)),
        "fluid_settings_setnum": (integer, (pointer, text, real)),
        "fluid_settings_setint": (integer, (pointer, text, integer)),
        "new_fluid_synth": (pointer, (pointer,)),
        "delete_fluid_synth": (None, (pointer,)),
        "fluid_synth_sfload": (integer, (pointer, text, integer)),
        "fluid_synth_noteon": (integer, (pointer, integer, integer, integer)),
        "fluid_synth_noteoff": (integer, (pointer, integer, integer)),
        "fluid_synth_cc": (integer, (pointer, integer, integer, integer)),
        "fluid_synth_program_change": (integer, (pointer, integer, integer)),
        "fluid_synth_pitch_bend": (integer, (pointer, integer, integer)),
        "fluid_synth_system_reset": (integer, (pointer,)),
        "fluid_synth_get_sfont_by_id": (pointer, (pointer, integer)),
        "fluid_synth_add_sfont": (integer, (pointer, pointer)),
        "fluid_synth_remove_sfont": (integer, (pointer, pointer)),
        "fluid_synth_write_float": (
            integer, (pointer, integer, pointer, integer, integer, pointer, integer, integer)
        ),
    }  # fmt: skip
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    if hasattr(library, "fluid_set_log_function"):
        library.fluid_set_log_function.argtypes = (integer, pointer, pointer)
        library.fluid_set_log_function.restype = pointer
        for level in range(5):
            library.fluid_set_log_function(level, None, None)
    return library


class Synthesizer:
    """One soundfont, loaded once; renders any number of clips, each with a fresh synth.

    A synth that is reset between clips keeps small traces of the last one (its output differs by
    about -45 dB); a fresh one that borrows the loaded soundfont costs a millisecond and keeps none.
    """

    def __init__(self, soundfont: Path) -> None:
        """Loads a soundfont.

        Raises:
            DependencyError: FluidSynth is missing, or the soundfont is missing or damaged.
        """
        self.soundfont = soundfont
        self._library = _library()
        self._settings = self._library.new_fluid_settings()
        for name, value in (("synth.gain", 0.25), ("synth.sample-rate", float(SAMPLE_RATE_HZ))):
            self._library.fluid_settings_setnum(self._settings, name.encode(), value)
        # The reverb is ours (mixing.py): cheaper, and its amount is known to the captions.
        off = ("synth.chorus.active", "synth.reverb.active")
        for name, value in (*((name, 0) for name in off), ("synth.polyphony", 128)):
            self._library.fluid_settings_setint(self._settings, name.encode(), value)
        self._owner = self._library.new_fluid_synth(self._settings)
        number = -1
        if soundfont.is_file():
            number = self._library.fluid_synth_sfload(self._owner, str(soundfont).encode(), 1)
        if number < 0:
            raise DependencyError(
                f"{soundfont} is no readable soundfont. Give an .sf2 or .sf3 file."
            )
        self._font = self._library.fluid_synth_get_sfont_by_id(self._owner, number)
        self._levels: dict[tuple[int, int], float] = {}

    @property
    def name(self) -> str:
        """The soundfont's name, as labels have it."""
        return self.soundfont.stem

    def render(self, events: Sequence[Event], duration_seconds: float) -> Float32Samples:
        """Plays events (in any order) and returns float32 mono samples at 24 kHz.

        Events fall on blocks of 64 samples (2.7 ms), FluidSynth's own grain.
        """
        library = self._library
        synth = library.new_fluid_synth(self._settings)
        library.fluid_synth_add_sfont(synth, self._font)
        library.fluid_synth_system_reset(synth)
        num_samples = round(duration_seconds * SAMPLE_RATE_HZ)
        audio = np.zeros((2, num_samples), dtype=np.float32)
        left, right = audio[0].ctypes.data, audio[1].ctypes.data
        done = 0
        # Releases come before onsets of the same moment, so that repeated notes sound again.
        for event in sorted(events, key=lambda e: (e.time_seconds, _ORDER[e.kind])):
            due = int(event.time_seconds * SAMPLE_RATE_HZ) // _BLOCK * _BLOCK
            if due >= num_samples:
                break
            if due > done:
                library.fluid_synth_write_float(synth, due - done, left, done, 1, right, done, 1)
                done = due
            self._send(synth, event)
        rest = num_samples - done
        library.fluid_synth_write_float(synth, rest, left, done, 1, right, done, 1)
        library.fluid_synth_remove_sfont(synth, self._font)
        library.delete_fluid_synth(synth)
        return audio.mean(axis=0)

    def _send(self, synth: int, event: Event) -> None:
        library = self._library
        if event.kind == "on":
            library.fluid_synth_noteon(synth, event.channel, event.key, event.value)
        elif event.kind == "off":
            library.fluid_synth_noteoff(synth, event.channel, event.key)
        elif event.kind == "program":
            library.fluid_synth_program_change(synth, event.channel, event.key)
        elif event.kind == "bend":
            library.fluid_synth_pitch_bend(synth, event.channel, event.key)
        else:
            library.fluid_synth_cc(synth, event.channel, event.key, event.value)

    def level_db(self, program: int, pitch: int) -> float:
        """How loud a program plays near a pitch (dB RMS of a half-second test note)."""
        pitch = pitch // 6 * 6 + 3
        if (program, pitch) not in self._levels:
            events = [
                Event(0.0, "program", 0, program),
                Event(0.0, "on", 0, pitch, 95),
                Event(0.5, "off", 0, pitch),
            ]
            samples = self.render(events, 0.6)
            self._levels[program, pitch] = float(10 * np.log10(np.mean(samples**2) + 1e-9))
        return self._levels[program, pitch]


_ORDER = {"control": 0, "program": 1, "bend": 2, "off": 3, "on": 4}
