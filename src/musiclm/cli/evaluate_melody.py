"""`musiclm evaluate melody`: are tunes recognised in any voice, and does music follow a hum?"""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from musiclm.audio.waveform import Waveform
from musiclm.cli.held_out import write_report
from musiclm.conditioning.melody_tokenizer import MelodyTokenizer
from musiclm.core.errors import DataError
from musiclm.core.runtime import RandomStreams
from musiclm.data.melody.line import Line
from musiclm.data.melody.passages import held_out_passages
from musiclm.data.melody.voices import VOICE_KINDS, VoiceKind, sing
from musiclm.data.rendered.tunes import load_library
from musiclm.evaluation.codec_quality import NoteListener
from musiclm.evaluation.melody import MelodyNote, melody_ranks, note_recall, share_estimate
from musiclm.evaluation.musicnn import MusicNN
from musiclm.evaluation.retrieval import Estimate
from musiclm.generation.musiclm import MusicLM

_INSTRUMENTS = ("violin", "piano", "flute", "guitar", "cello", "harpsichord", "harp", "sitar")
_SECONDS = 10.0


def evaluate_melody(  # noqa: PLR0913  (each is an option of the command)
    source: tyro.conf.Positional[str | None] = None,
    *,
    report: Path = Path("evaluation-melody.json"),
    num_melodies: int = 500,
    num_queries: int = 100,
    num_hums: int = 100,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Find held-out tunes by hums, and look for hummed tunes in the music made from them.

    Args:
        source: A model folder or hub id; the bundled model by default.
        report: The .json file to write.
        num_melodies: Held-out melodies to tell apart.
        num_queries: Queries of each kind: another instrument, a hum, a whistle.
        num_hums: Pieces that follow a hum; as many more are made without. 0 leaves this out.
        seed: Of voices, prompts and pieces.
        device: auto, cpu or cuda.
    """
    if num_melodies < 2 or not 1 <= num_queries <= num_melodies:
        raise DataError(f"{num_queries} queries among {num_melodies} melodies cannot be ranked.")
    musiclm = MusicLM.from_pretrained(source, device=device)
    passages = held_out_passages(load_library(), max(num_melodies, num_hums))
    retrieval = _retrieval(
        musiclm.melody, [line for _, line in passages[:num_melodies]], num_queries, seed
    )
    document: dict[str, Any] = {
        "model_name": musiclm.config.name,
        "model_sha256": musiclm.sha256,
        "seed": seed,
        "num_melodies": num_melodies,
        "retrieval_recall_at_1": {kind: asdict(value) for kind, value in retrieval.items()},
    }
    table = Table("figure", "value [95 %]", title=f"{num_melodies} held-out melodies")
    for kind, value in retrieval.items():
        table.add_row(f"R@1, {kind}", str(value))
    if num_hums:
        followed = _followed(musiclm, passages[:num_hums], seed)
        document["following"] = {name: asdict(value) for name, value in followed.items()}
        document["num_hums"] = num_hums
        for name, value in followed.items():
            table.add_row(name.replace("_", " "), str(value))
    write_report(report, "melody", document)
    Console().print(table)


def voice(line: Line, kind: VoiceKind, seed: Sequence[int], rate: int) -> Waveform:
    """A passage in a voice, key and tempo that the seed chooses."""
    draw = np.random.default_rng(list(seed))
    factor = float(draw.uniform(0.85, 1.18))
    moved = line.faster(factor).transposed(float(draw.integers(-6, 6)))
    samples = sing(draw, moved, _SECONDS / factor, kind, rate)
    return Waveform(torch.from_numpy(samples), rate)


def _retrieval(
    tokenizer: MelodyTokenizer, lines: list[Line], num_queries: int, seed: int
) -> dict[str, Estimate]:
    """R@1 of each kind of query among the passages, played by instruments."""
    rate = tokenizer.sample_rate_hz
    device = tokenizer.embedder.pitch_out.weight.device

    def embedded(waveform: Waveform, stride_seconds: float) -> Tensor:
        samples = waveform.samples[None].to(device)
        return tokenizer.embedder.embed(samples, stride_seconds=stride_seconds).cpu()

    console = Console(stderr=True)
    items = [
        embedded(voice(line, "instrument", (seed, number, 0), rate), 0.24)
        for number, line in enumerate(track(lines, "melodies", console=console))
    ]
    found: dict[str, Estimate] = {}
    chosen = [index * len(lines) // num_queries for index in range(num_queries)]
    streams = RandomStreams(seed)
    for code, kind in enumerate(VOICE_KINDS, start=1):
        # A query's own item must be the one at its place.
        order = [*chosen, *(index for index in range(len(lines)) if index not in set(chosen))]
        queries = [
            embedded(voice(lines[index], kind, (seed, index, code), rate), 0.48)
            for index in track(chosen, kind, console=console)
        ]
        places = melody_ranks(queries, [items[index] for index in order])
        hits = [float(place == 1) for place in places]
        name = "another instrument" if kind == "instrument" else kind
        found[name] = share_estimate(hits, streams.generator("retrieval", kind))
    return found


def _followed(musiclm: MusicLM, passages: list[tuple[str, Line]], seed: int) -> dict[str, Estimate]:
    """Note recall with the hum, without one and against another's, and who wins the tags."""
    listener, tagger = NoteListener(), MusicNN.from_pretrained()
    columns: dict[str, list[float]] = {
        name: []
        for name in (
            "recall_with_hum",
            "recall_without_hum",
            "recall_of_a_wrong_hum",
            "instrument_wins_with_hum",
            "instrument_wins_without_hum",
        )
    }
    notes = [_notes(line) for _, line in passages]
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as folder:
        for number, (_, line) in enumerate(track(passages, "hums", console=console)):
            kind = VOICE_KINDS[number % len(VOICE_KINDS)]
            draw = np.random.default_rng([seed, number, 9])
            hum = Path(folder) / f"{number}.wav"
            samples = torch.from_numpy(sing(draw, line, _SECONDS, kind, 16_000))
            Waveform(samples, 16_000).write(hum)
            instrument = _INSTRUMENTS[number % len(_INSTRUMENTS)]
            prompt = f"a {instrument} plays a melody"
            make = partial(musiclm.generate, prompt, duration_seconds=_SECONDS, seed=seed + number)
            hummed, free = make(melody=hum).waveform, make().waveform
            heard = listener.posteriors(hummed)
            wrong = notes[(number + len(notes) // 2) % len(notes)]
            columns["recall_with_hum"].append(note_recall(heard, notes[number]))
            columns["recall_of_a_wrong_hum"].append(note_recall(heard, wrong))
            free_recall = note_recall(listener.posteriors(free), notes[number])
            columns["recall_without_hum"].append(free_recall)
            columns["instrument_wins_with_hum"].append(_wins(tagger, hummed, instrument))
            columns["instrument_wins_without_hum"].append(_wins(tagger, free, instrument))
    streams = RandomStreams(seed)
    return {
        name: share_estimate(values, streams.generator("following", name))
        for name, values in columns.items()
    }


def _notes(line: Line) -> list[MelodyNote]:
    rows = zip(line.starts.tolist(), line.ends.tolist(), line.pitches.tolist(), strict=True)
    return [MelodyNote(start, end, pitch) for start, end, pitch in rows]


def _wins(tagger: MusicNN, waveform: Waveform, instrument: str) -> float:
    """Whether the instrument's tag is the likeliest among those asked for."""
    logits = tagger.analyse(waveform).clip_tag_logits
    places = {name: tagger.tags.index(name) for name in _INSTRUMENTS}
    return float(max(places, key=lambda name: float(logits[places[name]])) == instrument)
