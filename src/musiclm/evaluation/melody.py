"""How well melodies are told apart, and how well music follows a hum.

Metrics:
    Retrieval: a query is compared with an item by the mean, over the query's windows, of the
        largest cosine with any window of the item; R@1 is the share of queries whose own item is
        first.
    Note recall: the share of a melody's notes that begin in the music at their pitch, within a
        tenth of a second of their time (basic-pitch's notes; MIREX's onset-only recall with a wider
        window), once the whole melody is shifted by up to half a second and transposed by octaves,
        or by any interval of two octaves at most.
    Sounding recall: the share of notes whose pitch class sounds at all while they should, by
        basic-pitch's posteriors. A dense chord reaches much of it by chance.
    Both are to be compared with a wrong melody, with music made without one, and with what is heard
        in the hum itself: a transcriber hears no tune whole.
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
OCTAVES = (-24, -12, 0, 12, 24)
ANY_KEY = tuple(range(-24, 25))


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


def sounding_recall(
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


def note_recall(
    heard: Sequence[HeardNote],
    notes: Sequence[MelodyNote],
    duration_seconds: float,
    *,
    transpositions: Sequence[int] = OCTAVES,
    tolerance_seconds: float = 0.1,
) -> float:
    """The share of notes that begin in the music, at the best shift and transposition.

    Args:
        heard: Notes of the music, as `transcription.notes_of` gives them.
        notes: The melody; notes after the end of the music do not count.
        duration_seconds: Length of the music.
        transpositions: By how many semitones the whole melody may have been moved.
        tolerance_seconds: How far from its time a note may begin.
    """
    inside = [note for note in notes if note.start_seconds < duration_seconds - 0.1]
    if not inside or not heard:
        return 0.0
    wanted = np.array([note.start_seconds for note in inside])
    begun = np.array([note.start_seconds for note in heard])
    pitches = np.array([round(note.pitch) for note in inside])
    intervals = np.array([note.pitch for note in heard])[None] - pitches[:, None]
    best = 0.0
    for shift in np.linspace(-_SHIFT_SECONDS, _SHIFT_SECONDS, _NUM_SHIFTS):
        is_near = np.abs(begun[None] - wanted[:, None] - shift) <= tolerance_seconds
        for semitones in transpositions:
            found = (is_near & (intervals == semitones)).any(axis=1)
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


def ratio_estimate(
    above: Sequence[float], below: Sequence[float], generator: torch.Generator
) -> Estimate:
    """The ratio of two means over the same items and its 95 % bootstrap interval; pairs stay pairs.

    Where the mean below is 0 the ratio is infinite; where both are, it is 1.
    """
    pairs = torch.tensor([above, below], dtype=torch.float64)
    draws = torch.randint(pairs.shape[1], (1000, pairs.shape[1]), generator=generator)
    means = pairs[:, draws].mean(dim=2)
    ratios = (means[0] / means[1]).nan_to_num(nan=1.0, posinf=torch.inf)
    low, high = torch.quantile(ratios, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    value = (pairs[0].mean() / pairs[1].mean()).nan_to_num(nan=1.0, posinf=torch.inf)
    return Estimate(float(value), low, high)
