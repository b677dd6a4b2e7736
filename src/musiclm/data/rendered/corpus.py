"""Corpus: renders clips one after another into a folder, resumably, with its manifest."""

import multiprocessing
from collections.abc import Callable, Generator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, ValidationError

from musiclm.core.config import Config
from musiclm.core.errors import DataError
from musiclm.core.files import write_text_whole
from musiclm.data.manifest import (
    MANIFEST_NAME,
    Clip,
    Corpus,
    Labels,
    Split,
    write_manifest,
)
from musiclm.data.quality import quality_flags
from musiclm.data.rendered.arranger import Composition, compose, perform
from musiclm.data.rendered.captions import write_captions
from musiclm.data.rendered.facts import instrument_names
from musiclm.data.rendered.game_midi import (
    game_captions,
    load_game_pieces,
    perform_game_clip,
    plan_game_clip,
)
from musiclm.data.rendered.plan import drawn_split, plan_clip
from musiclm.data.rendered.score import PITCH_NAMES, beat_quarters
from musiclm.data.rendered.synthesizer import SAMPLE_RATE_HZ, Synthesizer
from musiclm.data.rendered.tunes import COLLECTION_TITLES, TuneLibrary, load_library

SETTINGS_NAME = "rendered.json"
_FORMAT_VERSION = 1
_MANIFEST_EVERY = 100
_GAME_SHARE = 1 / 16


class RenderSettings(Config):
    """What decides every clip of a rendered corpus."""

    seed: int = Field(default=0, ge=0)
    """Clip `i` depends on the seed and `i` only."""
    audio_format: Literal["flac", "wav"] = "flac"
    """Kind of audio file; both are 16-bit."""
    soundfont: str
    """Path of the soundfont for training clips."""
    held_out_soundfont: str = ""
    """Path of the soundfont only validation and test clips use; empty for none."""
    game_midi: str = ""
    """A WAD, or a folder of WAD or MIDI files, for one clip in sixteen; empty for none."""
    splits: tuple[Split, ...] = Field(default=("train", "validation", "test"), min_length=1)
    """Clips of other splits are left out unrendered; the rest are what they would have been."""
    format_version: int = _FORMAT_VERSION
    """Raised when the same seed gives other clips than before."""


@dataclass(frozen=True)
class Progress:
    """How far a rendering is."""

    clips: int
    seconds_done: float
    seconds_wanted: float


class ClipRenderer:
    """Makes clips: the library, and each soundfont once it is needed."""

    def __init__(self, folder: Path, settings: RenderSettings, library: TuneLibrary) -> None:
        self.folder = folder
        self.settings = settings
        self.library = library
        self._synthesizers: dict[str, Synthesizer] = {}
        has_games = bool(settings.game_midi)
        self._pieces = load_game_pieces(Path(settings.game_midi)) if has_games else ()

    def render(self, index: int) -> Clip | None:
        """Makes clip `index`, audio and all; None when it came out unusable or is not wanted.

        Audio that is there already is kept: file names and contents follow from the settings.
        """
        seed = self.settings.seed
        draw = np.random.default_rng([seed, index, 4])
        if self._pieces and draw.random() < _GAME_SHARE:
            return self._render_game(draw, index)
        if drawn_split(np.random.default_rng([seed, index])) not in self.settings.splits:
            return None
        composition = compose(plan_clip(self.library, seed, index), seed)
        clip_id, path = self._name(index)
        font = self._soundfont(is_held_out=composition.plan.uses_held_out_soundfont)
        if not (self.folder / path).is_file():
            wave = perform(composition, self._synthesizer(font), seed)
            if quality_flags(wave, min_seconds=5.0):
                return None
            wave.write(self.folder / path)
        return _clip(composition, self.library, clip_id, path, (font, seed))

    def _name(self, index: int) -> tuple[str, Path]:
        clip_id = f"r{index:06d}"
        name = f"{clip_id}.{self.settings.audio_format}"
        return clip_id, Path("audio") / f"{index // 1000:03d}" / name

    def _render_game(self, draw: np.random.Generator, index: int) -> Clip | None:
        game = plan_game_clip(draw, self._pieces, drawn_split(draw))
        if game.piece.split not in self.settings.splits:
            return None
        clip_id, path = self._name(index)
        font = self._soundfont(is_held_out=game.uses_held_out_soundfont)
        if not (self.folder / path).is_file():
            wave = perform_game_clip(game, self._synthesizer(font))
            if quality_flags(wave, min_seconds=5.0):
                return None
            wave.write(self.folder / path)
        return Clip(
            clip_id=clip_id,
            path=path.as_posix(),
            duration_seconds=round(game.duration_seconds * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ,
            sample_rate_hz=SAMPLE_RATE_HZ,
            split=game.piece.split,
            captions=game_captions(draw, game),
            labels=Labels(
                instruments=game.instruments,
                style="video game",
                tempo_bpm=game.piece.tempo_bpm,
                soundfont=Path(font).stem,
                melody_cluster=f"game/{game.piece.group}",
            ),
            source=f"game music: {game.piece.name}",
            licence="as the given MIDI files; Freedoom is BSD-3-Clause",
        )

    def _soundfont(self, *, is_held_out: bool) -> str:
        held_out = self.settings.held_out_soundfont
        return held_out if is_held_out and held_out else self.settings.soundfont

    def _synthesizer(self, path: str) -> Synthesizer:
        if path not in self._synthesizers:
            self._synthesizers[path] = Synthesizer(Path(path))
        return self._synthesizers[path]


def _clip(
    composition: Composition,
    library: TuneLibrary,
    clip_id: str,
    path: Path,
    font_and_seed: tuple[str, int],
) -> Clip:
    font, seed = font_and_seed
    plan = composition.plan
    labels = Labels(
        lead=plan.lead.name,
        instruments=instrument_names(composition),
        style=plan.style.name.replace("_", " ") if plan.style else plan.kind,
        tempo_bpm=round(plan.tempo_bpm * beat_quarters(plan.metre), 2),
        key=PITCH_NAMES[composition.tonic],
        mode=plan.tune.mode,
        metre=plan.metre,
        dynamics=plan.dynamics,
        soundfont=Path(font).stem,
        melody_cluster=library.cluster_of[plan.tune.tune_id],
    )
    collection = COLLECTION_TITLES.get(plan.tune.collection, plan.tune.collection)
    return Clip(
        clip_id=clip_id,
        path=path.as_posix(),
        # The file's length to the sample, known without reading it.
        duration_seconds=round(composition.duration_seconds * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ,
        sample_rate_hz=SAMPLE_RATE_HZ,
        split=plan.split,
        captions=write_captions(composition, seed),
        labels=labels,
        melody=composition.melody,
        source=f"{collection}: {plan.tune.title}",
        licence="public-domain composition; see ATTRIBUTION.md for the transcription",
    )


_worker: ClipRenderer | None = None


def _start_worker(folder: Path, settings: RenderSettings, library: TuneLibrary) -> None:
    global _worker  # a process pool has no other place for state
    _worker = ClipRenderer(folder, settings, library)


def _work(index: int) -> Clip | None:
    assert _worker is not None
    return _worker.render(index)


def _rendered(
    renderer: ClipRenderer, first: int, jobs: int
) -> Generator[tuple[int, Clip | None], None, None]:
    """Clips from `first` on, in order, without end."""
    if jobs == 1:
        for index in count(first):
            yield index, renderer.render(index)
    arguments = (renderer.folder, renderer.settings, renderer.library)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _start_worker, arguments) as pool:
        waiting: list[tuple[int, Future[Clip | None]]] = []
        try:
            for index in count(first):
                waiting.append((index, pool.submit(_work, index)))
                if len(waiting) >= 3 * jobs:
                    number, future = waiting.pop(0)
                    yield number, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def render_corpus(
    folder: Path,
    settings: RenderSettings,
    hours: float,
    *,
    jobs: int = 1,
    library: TuneLibrary | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Corpus:
    """Renders clips until the corpus has so many hours; continues where an earlier call stopped.

    The manifest is written every hundred clips, so a corpus can be used while it grows.

    Raises:
        DataError: The folder holds a corpus made with other settings.
        DependencyError: FluidSynth, the soundfont or the tune books are missing.
    """
    if not hours > 0:
        raise DataError(f"hours is {hours}; give a number above 0, such as 1.5.")
    _claim(folder, settings)
    clips, index = _earlier_clips(folder)
    done, wanted = sum(clip.duration_seconds for clip in clips), hours * 3600
    if done < wanted:
        renderer = ClipRenderer(folder, settings, library or load_library())
        stream = _rendered(renderer, index, jobs)
        for _, clip in stream:
            if clip is None:
                continue
            clips.append(clip)
            done += clip.duration_seconds
            on_progress(Progress(len(clips), done, wanted))
            if done >= wanted:
                break
            if len(clips) % _MANIFEST_EVERY == 0:
                write_manifest(folder, clips)
        stream.close()
    write_manifest(folder, clips)
    return Corpus(folder, tuple(clips))


def _claim(folder: Path, settings: RenderSettings) -> None:
    """Writes the settings beside the corpus, or checks that they are the same."""
    path = folder / SETTINGS_NAME
    if path.is_file():
        try:
            found = RenderSettings.model_validate_json(path.read_text(encoding="utf-8"))
        except ValidationError as error:
            raise DataError(f"{path} is not readable. Choose an empty folder.") from error
        if found != settings:
            changed = [
                f"{name} {getattr(found, name)!r}, not {value!r}"
                for name, value in settings.model_dump().items()
                if getattr(found, name) != value
            ]
            raise DataError(
                f"{folder} holds a corpus made with {'; '.join(changed)}. "
                "Use the same settings to continue it, or another folder."
            )
        return
    if (folder / MANIFEST_NAME).exists():
        raise DataError(f"{folder} holds another corpus. Choose an empty folder.")
    write_text_whole(path, settings.to_json())


def _earlier_clips(folder: Path) -> tuple[list[Clip], int]:
    """The clips that are there already, and the first index after them."""
    if not (folder / MANIFEST_NAME).is_file():
        return [], 0
    clips = [c for c in Corpus.open(folder).clips if (folder / c.path).is_file()]
    return clips, int(clips[-1].clip_id[1:]) + 1 if clips else 0
