"""How well melodies are told apart, and how well music follows a hum.

Metrics:
    Retrieval: a query is compared with an item by the mean, over the query's windows, of the
        largest cosine with any window of the item; R@1 is the share of queries whose own item is
        first.
    Note recall: the share of a melody's notes that sound in the music, by basic-pitch's posteriors
        of pitch classes, at the best shift of half a second, in the melody's own key or in the
        best one. A dense chord reaches some of it by chance: compare with a wrong melody and with
        music made without one.
    Onset recall: the share of a melody's notes that begin in the music, within a tenth of a second
        of their time, shifted and transposed as for note recall. A chord that merely sounds on
        does not count, so there is less of it by chance.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from musiclm.evaluation.codec_quality import NOTE_THRESHOLD, Posteriors
from musiclm.evaluation.retrieval import Estimate
from musiclm.evaluation.transcription import HeardNote

_FRAME_SECONDS = 256 / 22_050
_LOWEST_PITCH_CLASS = 21 % 12
_SHIFT_SECONDS = 0.5
_NUM_SHIFTS = 21


@dataclass(frozen=True)
class MelodyNote:
    """A note to look for."""

    start_seconds: float
    end_seconds: float
    pitch: float


def melody_similarity(
    query: Float[Tensor, "query_windows dim"], item: Float[Tensor, "item_windows dim"]
) -> float:
    """Mean over the query's windows of the best cosine in the item."""
    return float((query @ item.T).amax(dim=1).mean())


def melody_ranks(
    queries: Sequence[Float[Tensor, "_ dim"]], items: Sequence[Float[Tensor, "_ dim"]]
) -> list[int]:
    """The place of each query's own item (the one at its index), from 1; ties count against it."""
    lengths = [len(item) for item in items]
    pool = torch.cat(list(items))
    owner = torch.repeat_interleave(torch.arange(len(items)), torch.tensor(lengths))
    places: list[int] = []
    for number, query in enumerate(queries):
        cosines = query @ pool.T
        best = cosines.new_full((len(query), len(items)), -2.0)
        best = best.scatter_reduce(1, owner.expand(len(query), -1), cosines, "amax")
        scores = best.mean(dim=0)
        places.append(int((scores >= scores[number]).sum()))
    return places


def note_recall(
    posteriors: Posteriors, notes: Sequence[MelodyNote], *, keys: Sequence[int] = range(12)
) -> float:
    """The share of notes that sound, at the best shift within half a second and in the best key.

    Args:
        posteriors: Of the music, as `NoteListener.posteriors` gives them.
        notes: The melody; notes after the end of the music do not count.
        keys: Transpositions to try, in semitones; 0 alone looks in the melody's own key.
    """
    chroma = np.zeros((len(posteriors), 12), np.float32)
    for key in range(posteriors.shape[1]):
        column = (key + _LOWEST_PITCH_CLASS) % 12
        chroma[:, column] = np.maximum(chroma[:, column], posteriors[:, key])
    end = len(chroma) * _FRAME_SECONDS
    inside = [note for note in notes if note.start_seconds < end - 0.1]
    if not inside:
        return 0.0
    best = 0.0
    for shift in np.linspace(-_SHIFT_SECONDS, _SHIFT_SECONDS, _NUM_SHIFTS):
        heard = np.stack([_strongest(chroma, note, float(shift)) for note in inside])
        classes = np.array([round(note.pitch) % 12 for note in inside])
        for key in keys:
            found = heard[np.arange(len(inside)), (classes + key) % 12] > NOTE_THRESHOLD
            best = max(best, float(found.mean()))
    return best


def onset_recall(
    heard: Sequence[HeardNote],
    notes: Sequence[MelodyNote],
    duration_seconds: float,
    *,
    keys: Sequence[int] = range(12),
    tolerance_seconds: float = 0.1,
) -> float:
    """The share of notes that begin, at the best shift within half a second and in the best key.

    Args:
        heard: Notes of the music, as `transcription.notes_of` gives them.
        notes: The melody; notes after the end of the music do not count.
        duration_seconds: Length of the music.
        keys: Transpositions to try, in semitones; 0 alone looks in the melody's own key.
        tolerance_seconds: How far from its time a note may begin.
    """
    inside = [note for note in notes if note.start_seconds < duration_seconds - 0.1]
    if not inside or not heard:
        return 0.0
    wanted = np.array([note.start_seconds for note in inside])
    wanted_classes = np.array([round(note.pitch) % 12 for note in inside])
    begun = np.array([note.start_seconds for note in heard])
    begun_classes = np.array([note.pitch % 12 for note in heard])
    intervals = (begun_classes[None] - wanted_classes[:, None]) % 12
    best = 0.0
    for shift in np.linspace(-_SHIFT_SECONDS, _SHIFT_SECONDS, _NUM_SHIFTS):
        is_near = np.abs(begun[None] - wanted[:, None] - shift) <= tolerance_seconds
        for key in keys:
            found = (is_near & (intervals == key % 12)).any(axis=1)
            best = max(best, float(found.mean()))
    return best


def _strongest(
    chroma: Float[ndarray, "frames 12"], note: MelodyNote, shift: float
) -> Float[ndarray, "12"]:
    first = int(np.clip((note.start_seconds + shift) / _FRAME_SECONDS, 0, len(chroma) - 1))
    last = int(np.clip((note.end_seconds + shift) / _FRAME_SECONDS, first + 1, len(chroma)))
    return chroma[first:last].max(axis=0)


def share_estimate(hits: Sequence[float], generator: torch.Generator) -> Estimate:
    """A mean and its 95 % bootstrap interval."""
    values = torch.tensor(hits, dtype=torch.float64)
    draws = torch.randint(len(values), (1000, len(values)), generator=generator)
    means = values[draws].mean(dim=1)
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Estimate(float(values.mean()), low, high)
