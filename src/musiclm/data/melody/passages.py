"""Passages of held-out tunes: melodies that no training clip holds, each different."""

import numpy as np

from musiclm.core.errors import DataError
from musiclm.data.melody.line import Line
from musiclm.data.rendered.tunes import TuneLibrary, interval_grams

_NOTES_PER_SECOND = 3.0
_LEAST_NOTES = 14


def held_out_passages(
    library: TuneLibrary, count: int, *, seconds: float = 10.0
) -> list[tuple[str, Line]]:
    """Names and lines of passages from test and validation tunes, about three notes a second.

    First the beginning of each tune, then later passages of the longer ones; a passage that shares
    a run of ten intervals with one taken before is left out.

    Raises:
        DataError: There are not as many.
    """
    tunes = [*library.of_split("test"), *library.of_split("validation")]
    lines: list[tuple[str, Line]] = []
    for tune in tunes:
        first, last = tune.notes[0].start_quarters, tune.notes[-1].end_quarters
        pace = len(tune.notes) / (last - first) / _NOTES_PER_SECOND
        starts = np.array([(note.start_quarters - first) * pace for note in tune.notes])
        ends = np.array([(note.end_quarters - first) * pace for note in tune.notes])
        pitches = np.array([float(note.pitch) for note in tune.notes])
        lines.append((tune.tune_id, Line(starts, ends, pitches)))
    taken: set[tuple[int, ...]] = set()
    passages: list[tuple[str, Line]] = []
    for turn in range(12):
        for name, line in lines:
            passage = line.between(turn * seconds, (turn + 1) * seconds)
            grams = interval_grams([round(pitch) for pitch in passage.pitches.tolist()])
            if len(passages) == count:
                return passages
            if passage.num_notes < _LEAST_NOTES or grams & taken:
                continue
            taken |= grams
            passages.append((f"{name}@{turn * seconds:g}", passage))
    if len(passages) < count:
        raise DataError(
            f"The held-out tunes have {len(passages)} different passages of {seconds:g} s; "
            f"{count} were asked for."
        )
    return passages
