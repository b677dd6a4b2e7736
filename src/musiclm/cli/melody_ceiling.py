"""What the melody measures say of music that does play the tune: pieces of a rendered corpus.

A follower cannot be expected to do better than an arrangement of the tune itself, and a measure by
which such a piece is hardly above a wrong tune tells little of any follower.
"""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.progress import track

from musiclm.cli.held_out import held_out_split, spread
from musiclm.cli.melody_following import MEASURES, SECONDS, heard_in
from musiclm.core.errors import DataError
from musiclm.core.runtime import RandomStreams
from musiclm.data.manifest import Clip, Corpus
from musiclm.evaluation.codec_quality import NoteListener
from musiclm.evaluation.melody import MelodyNote, ratio_estimate, share_estimate
from musiclm.evaluation.retrieval import Estimate

_RATE_HZ = 24_000
_LEAST_NOTES = 14


def ceiling_estimates(corpus: Corpus, count: int, seed: int) -> dict[str, Estimate]:
    """Each measure in held-out pieces: of their own tune, and over that of another piece's.

    Args:
        corpus: A rendered corpus; its test split (validation if there is none) is read.
        count: Pieces at most; the first 10 s from the tune's first note on are heard.
        seed: Of the intervals.

    Raises:
        DataError: Fewer than two pieces have a tune of some notes.
        DependencyError: The listener is not installed.
    """
    held_out = corpus.split(held_out_split(corpus)).clips
    usable = tuple(clip for clip in held_out if len(_tune(clip)) >= _LEAST_NOTES)
    if len(usable) < 2:
        raise DataError(
            f"{corpus.folder} has {len(usable)} held-out pieces with a tune of {SECONDS:g} s; two "
            "are needed to compare. Give a corpus of `musiclm prepare rendered`."
        )
    clips = spread(usable, count)
    tunes = [_tune(clip) for clip in clips]
    listener = NoteListener()
    own: list[Mapping[str, float]] = []
    wrong: list[Mapping[str, float]] = []
    for number, clip in enumerate(track(clips, "real pieces", console=Console(stderr=True))):
        heard = heard_in(
            listener,
            corpus.audio(
                clip,
                sample_rate_hz=_RATE_HZ,
                start_seconds=_start(clip),
                duration_seconds=SECONDS,
            ),
        )
        other = tunes[(number + len(tunes) // 2) % len(tunes)]
        own.append({name: measure(heard, tunes[number]) for name, measure in MEASURES.items()})
        wrong.append({name: measure(heard, other) for name, measure in MEASURES.items()})
    streams = RandomStreams(seed)
    estimates: dict[str, Estimate] = {}
    for name in MEASURES:
        right, false = [row[name] for row in own], [row[name] for row in wrong]
        generator = streams.generator("ceiling", name)
        estimates[f"{name}, in real pieces"] = share_estimate(right, generator)
        estimates[f"{name}, in real pieces, times of a wrong tune"] = ratio_estimate(
            right, false, generator
        )
    return estimates


def _start(clip: Clip) -> float:
    return min((note.start_seconds for note in clip.melody), default=0.0)


def _tune(clip: Clip) -> Sequence[MelodyNote]:
    """The notes of the first ten seconds of a clip's melody, where the clip is as long."""
    start = _start(clip)
    if clip.duration_seconds < start + SECONDS:
        return []
    return [
        MelodyNote(note.start_seconds - start, note.end_seconds - start, float(note.pitch))
        for note in clip.melody
        if note.start_seconds < start + SECONDS
    ]
