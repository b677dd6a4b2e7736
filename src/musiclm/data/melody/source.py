"""Batches for the melody embedder: one melody in several keys, tempi, voices and recordings.

A corpus with its notes gives all of it for nothing: the clip's own audio is the melody with its
backing, and hums, whistles and plain instruments are synthesised from the notes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from numpy import ndarray
from numpy.typing import NDArray
from pydantic import Field

from musiclm.core.config import Config
from musiclm.core.errors import DataError
from musiclm.core.runtime import RandomStreams
from musiclm.data.manifest import Clip, Corpus, Split
from musiclm.data.melody.line import Line, SingerErrors, performed
from musiclm.data.melody.voices import VOICE_KINDS, VoiceKind, in_place, sing

NO_NOTE = -1
_LEAST_NOTES = 5


class MelodySourceConfig(Config):
    """How melodies are cut and varied."""

    sample_rate_hz: int = Field(default=12_000, gt=0)
    """Rate of the audio; the embedder's."""
    frame_rate_hz: int = Field(default=25, gt=0)
    """Rate of the targets; the embedder's."""
    view_seconds: float = Field(default=6.0, gt=0)
    """Length of every view."""
    window_seconds: float = Field(default=4.0, gt=0)
    """What one embedding covers."""
    sounding: int = Field(default=6, gt=0)
    """Melodies a batch that are heard: as recording, hum, whistle and instrument."""
    written: int = Field(default=40, ge=0)
    """Melodies a batch that are only written: rolls of pitch classes as a faultless ear would hear
    them, which cost nothing and give the triplets many negatives. They include the sounding."""
    tempo_range: tuple[float, float] = (0.8, 1.25)
    """Tempi of the views beside that of the recording."""
    validation_melodies: int = Field(default=16, ge=0)
    """Fixed melodies of the validation split."""


class MelodySource:
    """Random excerpts of training clips, fixed ones of validation clips.

    It satisfies `training.task.BatchSource`. A batch holds, row by row,

    - `samples` (float32 `[sounding, samples]`) with `pitches` (int64 `[sounding, frames]`, the MIDI
      number at each frame, -1 for none) and `onsets` (float32, the same shape);
    - `rolls` (float32 `[written, 12, frames]`, the share of each pitch class) and `roll_onsets`;
    - `melodies` (int64) and `windows` (int64 `[rows, 2]`, first frames of two windows) of the
      sounding rows, then of the written ones: rows with one melody are versions of one passage.
    """

    def __init__(
        self, corpus: Corpus, config: MelodySourceConfig, *, seed: int, rank: int = 0
    ) -> None:
        """Takes the clips whose notes are known.

        Raises:
            DataError: No training clip has a melody.
        """
        self.corpus = corpus
        self.config = config
        self._streams = RandomStreams(seed)
        self._rank = rank
        self._train = melody_clips(corpus, "train", config.view_seconds)
        if not self._train:
            raise DataError(
                f"{corpus.folder} has no training clip with a melody and as long as a view "
                f"({config.view_seconds:g} s). Render a corpus: `musiclm prepare rendered`."
            )

    def batch(self, step: int, microbatch: int) -> Mapping[str, Any]:
        """One microbatch of training excerpts."""
        generator = self._streams.generator("melodies", self._rank, step, microbatch)
        return self._batch(np.random.default_rng(generator.initial_seed()), self._train)

    def validation_batches(self) -> list[Mapping[str, Any]]:
        """Fixed excerpts of the validation split."""
        clips = melody_clips(self.corpus, "validation", self.config.view_seconds)
        count = min(self.config.validation_melodies, len(clips))
        size = self.config.sounding
        return [
            self._batch(np.random.default_rng([7, first]), clips, fixed=range(first, first + size))
            for first in range(0, count - size + 1, size)
        ]

    def _batch(
        self, draw: np.random.Generator, clips: Sequence[Clip], fixed: range | None = None
    ) -> Mapping[str, Any]:
        config = self.config
        excerpts = self._excerpts(draw, clips, fixed)
        rows: dict[str, list[Any]] = {name: [] for name in _ROW_NAMES}
        for number, (clip, line, start) in enumerate(excerpts):
            if number < config.sounding:
                own = line.between(start, start + config.view_seconds)
                self._add_sound(rows, number, self._recording(draw, clip, start), own, 1.0)
                for kind in VOICE_KINDS:
                    self._add_voice(rows, draw, number, (line, start), kind)
        written = self._written(draw, [(line, start) for _, line, start in excerpts], 2)
        return {
            "samples": torch.from_numpy(np.stack(rows["samples"])),
            "pitches": torch.from_numpy(np.stack(rows["pitches"])),
            "onsets": torch.from_numpy(np.stack(rows["onsets"])),
            "rolls": written["rolls"],
            "roll_onsets": written["roll_onsets"],
            "melodies": torch.cat([torch.tensor(rows["melodies"]), written["melodies"]]),
            "windows": torch.cat([torch.tensor(rows["windows"]), written["windows"]]),
        }

    def written_batch(self, step: int, *, versions: int) -> Mapping[str, Any]:
        """The rolls of a training batch alone, so many of each passage: they cost next to nothing.

        Their draws are not those of `batch`.
        """
        generator = self._streams.generator("written melodies", self._rank, step)
        draw = np.random.default_rng(generator.initial_seed())
        excerpts = self._excerpts(draw, self._train, None)
        return self._written(draw, [(line, start) for _, line, start in excerpts], versions)

    def _written(
        self, draw: np.random.Generator, passages: Sequence[tuple[Line, float]], versions: int
    ) -> dict[str, torch.Tensor]:
        rolls: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
        owners: list[int] = []
        windows: list[list[int]] = []
        for number, (line, start) in enumerate(passages):
            for _ in range(versions):
                factor, view = self._version(draw, line, start)
                view = performed(draw, view, SingerErrors(pitch_semitones=0.2))
                rolls.append(note_roll(draw, view, self.config))
                owners.append(number)
                windows.append(self._windows(factor))
        return {
            "rolls": torch.from_numpy(np.stack([roll for roll, _ in rolls])),
            "roll_onsets": torch.from_numpy(np.stack([onsets for _, onsets in rolls])),
            "melodies": torch.tensor(owners),
            "windows": torch.tensor(windows),
        }

    def _excerpts(
        self, draw: np.random.Generator, clips: Sequence[Clip], fixed: range | None
    ) -> list[tuple[Clip, Line, float]]:
        """Passages of different melodies, each beginning with a note."""
        chosen: list[tuple[Clip, Line, float]] = []
        names: set[str] = set()
        wanted = max(self.config.sounding, self.config.written)
        # In a small corpus the same melody has to come again: better two of it than none.
        for attempt in range(20 * wanted):
            if len(chosen) == wanted:
                break
            index = int(draw.integers(len(clips)))
            if fixed is not None and len(chosen) < len(fixed):
                index = (fixed.start + len(chosen)) * len(clips) // max(fixed.stop, len(clips))
                index = index % len(clips)
            clip = clips[index]
            name = clip.labels.melody_cluster or clip.clip_id
            if name in names and attempt < 10 * wanted:
                continue
            line = Line.from_notes(clip.melody)
            last = max(clip.duration_seconds - self.config.view_seconds, 0.1)
            begins = line.starts[line.starts < last]
            if not len(begins):
                continue
            start = float(begins[int(draw.integers(len(begins)))])
            if line.between(start, start + self.config.window_seconds).num_notes < _LEAST_NOTES:
                continue
            names.add(name)
            chosen.append((clip, line, start))
        if len(chosen) < 2:
            raise DataError(
                f"{self.corpus.folder}: fewer than two passages with {_LEAST_NOTES} notes in "
                f"{self.config.window_seconds:g} s. Use a larger corpus."
            )
        return chosen

    def _version(self, draw: np.random.Generator, line: Line, start: float) -> tuple[float, Line]:
        """The passage at another tempo and in another key."""
        config = self.config
        factor = float(np.exp(draw.uniform(*np.log(config.tempo_range))))
        view = line.between(start, start + config.view_seconds * factor).faster(factor)
        return factor, view.transposed(float(draw.integers(-6, 6)))

    def _add_voice(
        self,
        rows: dict[str, list[Any]],
        draw: np.random.Generator,
        number: int,
        passage: tuple[Line, float],
        kind: VoiceKind,
    ) -> None:
        config = self.config
        factor, view = self._version(draw, *passage)
        errors = SingerErrors(
            pitch_semitones=draw.uniform(0.05, 0.3), time_seconds=draw.uniform(0.0, 0.04)
        )
        seed = int(draw.integers(2**31))
        samples = sing(
            np.random.default_rng(seed),
            view,
            config.view_seconds,
            kind,
            config.sample_rate_hz,
            errors=errors,
        )
        self._add_sound(rows, number, samples, view, factor)

    def _add_sound(
        self,
        rows: dict[str, list[Any]],
        number: int,
        samples: NDArray[np.float32],
        line: Line,
        factor: float,
    ) -> None:
        pitches, onsets = frame_targets(line, self.config)
        rows["samples"].append(samples)
        rows["pitches"].append(pitches)
        rows["onsets"].append(onsets)
        rows["melodies"].append(number)
        rows["windows"].append(self._windows(factor))

    def _recording(
        self, draw: np.random.Generator, clip: Clip, start: float
    ) -> NDArray[np.float32]:
        config = self.config
        audio = self.corpus.audio(
            clip,
            sample_rate_hz=config.sample_rate_hz,
            start_seconds=start,
            duration_seconds=config.view_seconds,
        )
        samples = audio.crop(0, round(config.view_seconds * config.sample_rate_hz)).samples.numpy()
        return in_place(draw, samples, config.sample_rate_hz)

    def _windows(self, factor: float) -> list[int]:
        """First frames of the passage's two windows in a version that is so much faster."""
        config = self.config
        rest = config.view_seconds - config.window_seconds
        second = min(rest * 0.8 / factor, rest)
        return [0, round(second * config.frame_rate_hz)]


def melody_clips(corpus: Corpus, split: Split, view_seconds: float) -> tuple[Clip, ...]:
    """The clips of a split whose notes are known, enough of them to cut a passage from."""
    return tuple(
        clip
        for clip in corpus.split(split).clips
        if len(clip.melody) >= 2 * _LEAST_NOTES and clip.duration_seconds >= view_seconds
    )


_ROW_NAMES = ("samples", "pitches", "onsets", "melodies", "windows")


def frame_targets(
    line: Line, config: MelodySourceConfig
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The key that sounds at the middle of each frame (-1: none), and where notes begin."""
    num_frames = round(config.view_seconds * config.frame_rate_hz)
    times = (np.arange(num_frames) + 0.5) / config.frame_rate_hz
    index = line.index_at(times)
    pitches = np.full(num_frames, NO_NOTE, np.int64)
    pitches[index >= 0] = np.round(line.pitches[index[index >= 0]]).astype(np.int64)
    onsets = np.zeros(num_frames, np.float32)
    begins = (line.starts * config.frame_rate_hz).astype(np.int64)
    onsets[begins[(begins >= 0) & (begins < num_frames)]] = 1.0
    return pitches, onsets


def note_roll(
    draw: np.random.Generator, line: Line, config: MelodySourceConfig
) -> tuple[Float32[ndarray, "12 frames"], Float32[ndarray, " frames"]]:
    """A line as the embedder would hear it: shares of pitch classes, a little unsure."""
    pitches, onsets = frame_targets(line, config)
    num_frames = len(pitches)
    roll = np.zeros((12, num_frames), np.float32)
    sounds = np.flatnonzero(pitches >= 0)
    roll[pitches[sounds] % 12, sounds] = 1.0
    smooth = roll.copy()
    smooth[:, 1:] += 0.5 * roll[:, :-1]
    smooth[:, :-1] += 0.5 * roll[:, 1:]
    ghosts = draw.dirichlet(np.full(12, 0.2), num_frames).T.astype(np.float32)
    doubt = np.float32(draw.uniform(0.0, 0.25))
    shares = (1 - doubt) * smooth / np.maximum(smooth.sum(axis=0), 1.0) + doubt * ghosts
    keep = (draw.random(num_frames) > draw.uniform(0, 0.1)).astype(np.float32)
    return (shares * keep).astype(np.float32), onsets * keep
