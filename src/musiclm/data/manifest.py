"""The manifest: what a corpus folder holds, clip by clip, with captions, labels and splits.

A corpus is a folder with `manifest.jsonl` (one `Clip` a line, paths relative to the folder) and
the audio files it names.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from musiclm.audio.waveform import Waveform
from musiclm.core.config import Config
from musiclm.core.errors import DataError
from musiclm.core.files import written_whole

Split = Literal["train", "validation", "test"]
MANIFEST_NAME = "manifest.jsonl"


class Caption(Config):
    """One way of saying what a clip sounds like."""

    text: str
    """The words."""
    kind: Literal["tags", "sentence", "paraphrase", "prose"]
    """A tag list, one plain sentence, a rewording, or several sentences as in MusicCaps."""
    is_held_out: bool = False
    """Whether the wording (template, adjectives) is kept for tests."""


class Note(Config):
    """One note of the melody."""

    start_seconds: float
    """Onset from the start of the clip's audio."""
    end_seconds: float
    """Release."""
    pitch: int = Field(ge=0, le=127)
    """MIDI number; 69 is A4, 440 Hz."""


class Labels(Config):
    """Machine-readable facts of a rendered clip; empty fields are unknown."""

    lead: str = ""
    """The instrument that plays the melody, as in the captions."""
    instruments: tuple[str, ...] = ()
    """Every instrument, the lead first."""
    style: str = ""
    """Accompaniment style, or genre."""
    tempo_bpm: float = 0.0
    """Quarter notes a minute; 0 when unknown."""
    key: str = ""
    """Tonic, such as `D` or `Bb`."""
    mode: str = ""
    """`major`, `minor`, `dorian` or `mixolydian`."""
    metre: str = ""
    """Time signature, such as `6/8`."""
    dynamics: str = ""
    """`soft`, `medium` or `loud`."""
    soundfont: str = ""
    """Name of the soundfont it was rendered with."""
    melody_cluster: str = ""
    """Group of near-duplicate tunes; splits never divide a cluster."""


class Clip(Config):
    """One piece of audio of a corpus."""

    clip_id: str
    """Unique in the corpus."""
    path: str
    """Audio file, relative to the corpus folder."""
    duration_seconds: float = Field(gt=0)
    """Length of the audio."""
    sample_rate_hz: int = Field(gt=0)
    """Rate of the file."""
    split: Split
    """Where the clip may be used."""
    captions: tuple[Caption, ...] = ()
    """Exact or given descriptions; may be empty."""
    labels: Labels = Labels()
    """What is known about the music."""
    melody: tuple[Note, ...] = ()
    """Notes of the lead, when known."""
    source: str = ""
    """Where the music comes from (collection and title)."""
    licence: str = ""
    """Terms of the source."""


@dataclass(frozen=True)
class Corpus:
    """A corpus folder, opened."""

    folder: Path
    clips: tuple[Clip, ...]

    @classmethod
    def open(cls, folder: Path | str) -> "Corpus":
        """Reads the manifest of a corpus.

        Raises:
            DataError: There is no manifest, or a line of it is malformed.
        """
        folder = Path(folder)
        path = folder / MANIFEST_NAME
        if not path.is_file():
            raise DataError(
                f"{folder} is no corpus: it has no {MANIFEST_NAME}. Make one: `musiclm prepare`."
            )
        clips: list[Clip] = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                clips.append(Clip.model_validate_json(line))
            except ValidationError as error:
                raise DataError(
                    f"{path}, line {number}: {error.errors()[0]['msg']}. Prepare the corpus again."
                ) from error
        return cls(folder, tuple(clips))

    def split(self, name: Split) -> "Corpus":
        """The clips of one split."""
        return Corpus(self.folder, tuple(clip for clip in self.clips if clip.split == name))

    @property
    def duration_hours(self) -> float:
        """Hours of audio in all."""
        return math.fsum(clip.duration_seconds for clip in self.clips) / 3600

    def audio(
        self,
        clip: Clip,
        *,
        sample_rate_hz: int | None = None,
        start_seconds: float = 0.0,
        duration_seconds: float | None = None,
    ) -> Waveform:
        """Reads a clip, or a piece of it."""
        return Waveform.read(
            self.folder / clip.path,
            sample_rate_hz=sample_rate_hz,
            start_seconds=start_seconds,
            duration_seconds=duration_seconds,
        )


def write_manifest(folder: Path, clips: Iterable[Clip]) -> Sequence[Clip]:
    """Writes the manifest of a corpus, whole or not at all."""
    clips = list(clips)
    with written_whole(folder / MANIFEST_NAME) as temporary:
        temporary.write_text(
            "".join(clip.model_dump_json(exclude_defaults=True) + "\n" for clip in clips),
            encoding="utf-8",
        )
    return clips
