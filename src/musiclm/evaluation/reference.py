"""A folder of reference audio: what FAD compares with, and what real audio itself scores there.

The floor is one half of the folder's files, dealt at random, against the other half. The same half
sent through a codec is the best that a system with that codec could score. Both have half the
windows on either side, and FAD between smaller sets is higher: read them as bounds from above.
Files that are pieces of one recording may fall into both halves, which lowers the floor.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from musiclm.audio.waveform import Waveform
from musiclm.core.errors import DataError
from musiclm.core.runtime import RandomStreams
from musiclm.data.corpora.folder import AUDIO_SUFFIXES
from musiclm.evaluation.analysis import (
    TAGGER,
    Analysis,
    AnalysisCache,
    Judges,
    ProgressReport,
    Treatment,
)
from musiclm.evaluation.distances import GaussianStatistics, TooFewWindowsError
from musiclm.evaluation.embedders import Embedder, MusicNNEmbedder
from musiclm.evaluation.fad import ReferenceCache, extrapolated_fad
from musiclm.evaluation.musicnn import MusicNN
from musiclm.evaluation.suite import RowScores

HALF = "half of the reference"


def reference_statistics(
    folder: Path, judges: Judges, cache_folder: Path
) -> dict[str, GaussianStatistics]:
    """What each embedder makes of a folder of audio, computed once.

    Embedders for which there is too little audio are left out.

    Raises:
        DataError: The folder holds no audio, or too little for every embedder.
    """
    paths = _audio_files(folder)
    embedders: list[Embedder] = list(judges.embedders)
    if isinstance(judges.tagger, MusicNN):
        embedders.append(MusicNNEmbedder(judges.tagger))
    cache = ReferenceCache(cache_folder)
    found: dict[str, GaussianStatistics] = {}
    refused: TooFewWindowsError | None = None
    for embedder in embedders:
        try:
            found[embedder.name] = cache.statistics(embedder, lambda: _read(paths))
        except TooFewWindowsError as error:
            refused = error
    if refused is not None and not found:
        raise DataError(f"{folder} has too little audio to compare with. {refused}") from refused
    return found


def reference_rows(
    folder: Path,
    judges: Judges,
    *,
    seed: int = 0,
    cache: AnalysisCache | None = None,
    on_progress: ProgressReport | None = None,
) -> dict[str, RowScores]:
    """FAD of half of a folder's audio against the other half: as it is, and after each treatment.

    An embedder lacks where half of the audio is too little for it; a folder of one file gives no
    rows.

    Args:
        folder: Audio of any lengths and rates.
        judges: Whose embedders hear it, after which treatments.
        seed: Deals the files into halves.
        cache: Where analyses are kept between runs.
        on_progress: Told the row, the files done and the files in all.

    Raises:
        DataError: The folder holds no audio.
        AudioError: A file is unreadable or too short to judge.
    """
    paths = _audio_files(folder)
    if len(paths) < 2:
        return {}
    generator = RandomStreams(seed).generator("reference halves")
    dealt = [paths[place] for place in torch.randperm(len(paths), generator=generator).tolist()]
    one, other = dealt[: len(dealt) // 2], dealt[len(dealt) // 2 :]
    hearing = replace(judges, text_audio={}, classifier=None, joint_of={})
    kept = cache or AnalysisCache()

    def hear(row: str, half: list[Path], treatment: Treatment | None = None) -> Analysis:
        return kept.analyse(
            row,
            lambda: _read(half),
            len(half),
            hearing,
            treatment=treatment,
            on_progress=on_progress,
        )

    against = {
        name: GaussianStatistics.fit(windows)
        for name, windows in hear("the other half", other).embeddings.items()
        if _has_covariance(windows)
    }
    rows = {HALF: _fad_alone(hear(HALF, one), against, seed)}
    for name, treatment in judges.treatments.items():
        row = f"{HALF}, {name}"
        rows[row] = _fad_alone(hear(row, one, treatment), against, seed)
    return rows


def _fad_alone(heard: Analysis, against: Mapping[str, GaussianStatistics], seed: int) -> RowScores:
    draw = np.random.default_rng(seed)
    fad = {
        name: extrapolated_fad(heard.embeddings[name], statistics, generator=draw)
        for name, statistics in against.items()
        if _has_covariance(heard.embeddings[name])
    }
    return RowScores(len(heard.embeddings[TAGGER]), fad, None, (), {}, {}, {}, None)


def _has_covariance(windows: Float[np.ndarray, "windows dim"]) -> bool:
    return windows.shape[0] > windows.shape[1]


def _audio_files(folder: Path) -> list[Path]:
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in AUDIO_SUFFIXES]
    if not paths:
        raise DataError(f"{folder} holds no audio to compare with. Give WAV, FLAC, OGG or MP3.")
    return paths


def _read(paths: Iterable[Path]) -> Iterator[Waveform]:
    return map(Waveform.read, paths)
