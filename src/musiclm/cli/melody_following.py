"""Following: pieces made with and without hums of held-out tunes, and what is heard in them."""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from musiclm.audio.waveform import Waveform
from musiclm.core.config import Config
from musiclm.core.errors import DataError
from musiclm.core.files import write_text_whole
from musiclm.core.runtime import RandomStreams
from musiclm.data.melody.line import Line
from musiclm.data.melody.voices import VOICE_KINDS, sing
from musiclm.evaluation.codec_quality import NoteListener, Posteriors
from musiclm.evaluation.melody import (
    ANY_KEY,
    MelodyNote,
    note_recall,
    ratio_estimate,
    share_estimate,
    sounding_recall,
)
from musiclm.evaluation.musicnn import MusicNN
from musiclm.evaluation.retrieval import Estimate
from musiclm.evaluation.transcription import HeardNote, notes_of
from musiclm.generation.musiclm import MusicLM
from musiclm.generation.prompt import GenerationSettings
from musiclm.generation.request import GenerationRequest, make_request

SECONDS = 10.0
RECORD_NAME = "pieces.json"
_INSTRUMENTS = ("violin", "piano", "flute", "guitar", "cello", "harpsichord", "harp", "sitar")
_HUM_RATE_HZ = 16_000


class PiecesRecord(Config):
    """Whose pieces a folder holds."""

    model_sha256: str
    """Of the model."""
    seed: int
    """Of hums and pieces."""
    melody_guidance: float | None = None
    """Of the pieces."""


@dataclass(frozen=True)
class Followed:
    """What was heard in the pieces of one hum, by each of `MEASURES`, and who plays.

    Attributes:
        with_hum: Of the hummed notes, in the piece made with the hum.
        without_hum: In the piece made of the same prompt and seed without it.
        wrong_hum: Of another hum's notes, in the piece made with this one. The tunes stand in
            few keys, so that it shares notes with the right one.
        wrong_hum_moved: The same, with the other hum in another key, as a person would hum it.
        in_the_hum: Of the hummed notes, in the hum itself: about the most there is.
        wins_with_hum: 1 where the asked instrument's tag is the likeliest of eight.
        wins_without_hum: The same without the hum.
    """

    with_hum: Mapping[str, float]
    without_hum: Mapping[str, float]
    wrong_hum: Mapping[str, float]
    wrong_hum_moved: Mapping[str, float]
    in_the_hum: Mapping[str, float]
    wins_with_hum: float
    wins_without_hum: float


@dataclass(frozen=True)
class Heard:
    """A piece of `SECONDS` as the transcriber hears it."""

    posteriors: Posteriors
    notes: Sequence[HeardNote]


MEASURES: Mapping[str, Callable[[Heard, Sequence[MelodyNote]], float]] = {
    "note recall": lambda heard, tune: note_recall(heard.notes, tune, SECONDS),
    "note recall in any key": lambda heard, tune: note_recall(
        heard.notes, tune, SECONDS, transpositions=ANY_KEY
    ),
    "sounding recall": lambda heard, tune: sounding_recall(heard.posteriors, tune, keys=(0,)),
    "sounding recall in any key": lambda heard, tune: sounding_recall(heard.posteriors, tune),
}


class HummedPieces:
    """A folder of hums and of the pieces made with and without them; it fills up run by run.

    Hum `n` is `hum-000n.wav`; `with-000n.wav` follows it, and `without-000n.wav` has the same
    prompt and seed.

    Args:
        folder: Where they are.
        lines: The tunes.
        seed: Of voices and pieces.
        melody_guidance: As `GenerationSettings` has it.

    Raises:
        DataError: There are fewer than two tunes, so that none is another's wrong one.
    """

    def __init__(
        self,
        folder: Path,
        lines: Sequence[Line],
        seed: int,
        *,
        melody_guidance: float | None = None,
    ) -> None:
        if len(lines) < 2:
            raise DataError(f"{len(lines)} hums cannot be told apart; ask for at least 2.")
        self._folder = folder
        self._lines = lines
        self._seed = seed
        self.melody_guidance = melody_guidance

    def instrument(self, number: int) -> str:
        """Who is asked to play a tune."""
        return _INSTRUMENTS[number % len(_INSTRUMENTS)]

    def path(self, kind: str, number: int) -> Path:
        """A `hum`, or a piece made `with` or `without` it."""
        return self._folder / f"{kind}-{number:04d}.wav"

    def fill(
        self,
        musiclm: MusicLM,
        *,
        batch: int,
        on_progress: Callable[[int, int, float], None] = lambda done, of, seconds: None,
    ) -> None:
        """Makes what the folder lacks.

        Args:
            musiclm: A model that follows melodies.
            batch: Pieces at once.
            on_progress: Told the pieces done, those wanted, and the processor's seconds so far.

        Raises:
            DataError: The folder holds pieces of another model, seed or guidance.
            PromptError: The model follows no melodies.
        """
        self._check(
            PiecesRecord(
                model_sha256=musiclm.sha256,
                seed=self._seed,
                melody_guidance=self.melody_guidance,
            )
        )
        for number in range(len(self._lines)):
            if not self.path("hum", number).is_file():
                self._hum(number).write(self.path("hum", number))
        begun, total = time.process_time(), 2 * len(self._lines)
        settings = GenerationSettings(
            duration_seconds=SECONDS, melody_guidance=self.melody_guidance
        )
        for kind in ("with", "without"):
            numbers = [n for n in range(len(self._lines)) if not self.path(kind, n).is_file()]
            for first in range(0, len(numbers), batch):
                chosen = numbers[first : first + batch]
                with warnings.catch_warnings():
                    # A hum that is taken for speech is followed all the same.
                    warnings.simplefilter("ignore", UserWarning)
                    pieces = musiclm.generate_batch(
                        [f"a {self.instrument(number)} plays a melody" for number in chosen],
                        seeds=[self._seed + number for number in chosen],
                        settings=settings,
                        request=[self._request(kind, number) for number in chosen],
                    )
                for number, piece in zip(chosen, pieces, strict=True):
                    piece.waveform.write(self.path(kind, number))
                done = sum(self.path(k, n).is_file() for k, n in self._wanted())
                on_progress(done, total, time.process_time() - begun)

    def scores(self) -> Iterator[Followed]:
        """What is heard, hum by hum.

        Raises:
            DependencyError: A judge is not installed.
            AudioError: A piece is missing.
        """
        listener, tagger = NoteListener(), MusicNN.from_pretrained()
        tunes = [notes_of_prompt(line) for line in self._lines]
        for number, own in enumerate(tunes):
            hum, hummed, free = (
                Waveform.read(self.path(kind, number)) for kind in ("hum", "with", "without")
            )
            in_hum, in_hummed, in_free = (heard_in(listener, w) for w in (hum, hummed, free))
            wrong = tunes[(number + len(tunes) // 2) % len(tunes)]
            instrument = self.instrument(number)
            yield Followed(
                with_hum=_recalls(in_hummed, own),
                without_hum=_recalls(in_free, own),
                wrong_hum=_recalls(in_hummed, wrong),
                wrong_hum_moved=_recalls(in_hummed, _moved(wrong, self._seed, number)),
                in_the_hum=_recalls(in_hum, own),
                wins_with_hum=_wins(tagger, hummed, instrument),
                wins_without_hum=_wins(tagger, free, instrument),
            )

    def _wanted(self) -> Iterator[tuple[str, int]]:
        return ((kind, n) for kind in ("with", "without") for n in range(len(self._lines)))

    def _hum(self, number: int) -> Waveform:
        kind = VOICE_KINDS[number % len(VOICE_KINDS)]
        draw = np.random.default_rng([self._seed, number, 9])
        samples = sing(draw, self._lines[number], SECONDS, kind, _HUM_RATE_HZ)
        return Waveform(torch.from_numpy(samples), _HUM_RATE_HZ)

    def _request(self, kind: str, number: int) -> GenerationRequest:
        return make_request(melody=self.path("hum", number) if kind == "with" else None)

    def _check(self, record: PiecesRecord) -> None:
        path = self._folder / RECORD_NAME
        if path.is_file():
            found = PiecesRecord.from_json(path.read_text(encoding="utf-8"))
            if found != record:
                raise DataError(
                    f"{self._folder} holds pieces of another model, seed or guidance "
                    f"({found.model_sha256[:12]}, seed {found.seed}, melody guidance "
                    f"{found.melody_guidance}). Choose another folder, or delete it."
                )
        write_text_whole(path, record.to_json() + "\n")


def followed_estimates(rows: Sequence[Followed], seed: int) -> dict[str, Estimate]:
    """Means and ratios, with intervals over hums."""
    streams = RandomStreams(seed)
    estimates: dict[str, Estimate] = {}
    for measure in MEASURES:
        columns = {
            "with the hum": [row.with_hum[measure] for row in rows],
            "without it": [row.without_hum[measure] for row in rows],
            "of a wrong hum": [row.wrong_hum[measure] for row in rows],
            "of a wrong hum in another key": [row.wrong_hum_moved[measure] for row in rows],
            "in the hum itself": [row.in_the_hum[measure] for row in rows],
        }
        for name, values in columns.items():
            generator = streams.generator("following", measure, name)
            estimates[f"{measure}, {name}"] = share_estimate(values, generator)
        for control in ("without it", "of a wrong hum", "of a wrong hum in another key"):
            generator = streams.generator("following", measure, "times", control)
            estimates[f"{measure}, times {control}"] = ratio_estimate(
                columns["with the hum"], columns[control], generator
            )
    wins = {
        "with the hum": [row.wins_with_hum for row in rows],
        "without it": [row.wins_without_hum for row in rows],
    }
    for name, values in wins.items():
        generator = streams.generator("following", "wins", name)
        estimates[f"asked instrument wins, {name}"] = share_estimate(values, generator)
    return estimates


def heard_in(listener: NoteListener, waveform: Waveform) -> Heard:
    """A piece as the measures want it."""
    posteriors = listener.posteriors(waveform)
    return Heard(posteriors, notes_of(posteriors))


def _recalls(heard: Heard, tune: Sequence[MelodyNote]) -> dict[str, float]:
    return {name: measure(heard, tune) for name, measure in MEASURES.items()}


def _moved(tune: Sequence[MelodyNote], seed: int, number: int) -> list[MelodyNote]:
    """A tune in another key, by a random interval of a tritone at most."""
    draw = np.random.default_rng([seed, number, 10])
    interval = int(draw.choice([-5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6]))
    return [replace(note, pitch=note.pitch + interval) for note in tune]


def notes_of_prompt(line: Line) -> list[MelodyNote]:
    """The notes of a hum as a prompt has them: without the silence before the first one."""
    first = float(line.starts[0]) if line.num_notes else 0.0
    rows = zip(line.starts - first, line.ends - first, line.pitches, strict=True)
    return [MelodyNote(float(start), float(end), float(pitch)) for start, end, pitch in rows]


def _wins(tagger: MusicNN, waveform: Waveform, instrument: str) -> float:
    """Whether the instrument's tag is the likeliest among those asked for."""
    logits = tagger.analyse(waveform).clip_tag_logits
    places = {name: tagger.tags.index(name) for name in _INSTRUMENTS}
    return float(max(places, key=lambda name: float(logits[places[name]])) == instrument)
