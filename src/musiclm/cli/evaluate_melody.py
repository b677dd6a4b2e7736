"""`musiclm evaluate melody`: are tunes recognised in any voice, and does music follow a hum?"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.progress import Progress, track
from rich.table import Table
from torch import Tensor

from musiclm.audio.waveform import Waveform
from musiclm.cli.held_out import write_report
from musiclm.cli.melody_ceiling import ceiling_estimates
from musiclm.cli.melody_following import Followed, HummedPieces, followed_estimates
from musiclm.conditioning.melody_tokenizer import MelodyTokenizer
from musiclm.core.errors import DataError
from musiclm.core.runtime import RandomStreams
from musiclm.data.manifest import Corpus
from musiclm.data.melody.line import Line
from musiclm.data.melody.passages import held_out_passages
from musiclm.data.melody.voices import VOICE_KINDS, VoiceKind, sing
from musiclm.data.rendered.tunes import load_library
from musiclm.evaluation.melody import melody_ranks, share_estimate
from musiclm.evaluation.retrieval import Estimate
from musiclm.generation.musiclm import MusicLM

_SECONDS = 10.0


def evaluate_melody(  # noqa: PLR0913  (each is an option of the command)
    source: tyro.conf.Positional[str | None] = None,
    *,
    report: Path = Path("evaluation-melody.json"),
    num_melodies: int = 500,
    num_queries: int = 100,
    num_hums: int = 100,
    first_hum: int = 0,
    corpus: Path | None = None,
    pieces: Path | None = None,
    melody_guidance: float | None = None,
    batch: int = 8,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Find held-out tunes by hums, and look for hummed tunes in the music made from them.

    The pieces are kept; stopped and started again, those that are there are not made again.

    Args:
        source: A model folder or hub id; the bundled model by default.
        report: The .json file to write.
        num_melodies: Held-out melodies to tell apart; 0 leaves this out.
        num_queries: Queries of each kind: another instrument, a hum, a whistle.
        num_hums: Pieces of 10 s that follow a hum; as many more are made without. 0 leaves this
            out.
        first_hum: Place of the first hummed tune among the held-out passages; others than those a
            setting was chosen on.
        corpus: A rendered corpus whose held-out pieces show what the measures say of music that
            plays the tune itself; as many as hums.
        pieces: The folder of hums and pieces; by default beside the report, with its name.
        melody_guidance: As `musiclm generate` takes it; the model's own by default.
        batch: Pieces made at once.
        seed: Of voices, prompts and pieces.
        device: auto, cpu or cuda.
    """
    if num_melodies and (num_melodies < 2 or not 1 <= num_queries <= num_melodies):
        raise DataError(f"{num_queries} queries among {num_melodies} melodies cannot be ranked.")
    if num_hums == 1 or min(num_hums, first_hum) < 0 or batch < 1:
        raise DataError(
            f"{num_hums} hums from place {first_hum}, {batch} at once; at least 2, 0 and 1 are "
            "needed."
        )
    if melody_guidance is not None and not 0 <= melody_guidance <= 20:
        raise DataError(f"The melody guidance is {melody_guidance}; choose a number from 0 to 20.")
    opened = None if corpus is None else Corpus.open(corpus)
    musiclm = MusicLM.from_pretrained(source, device=device)
    if melody_guidance is None:
        melody_guidance = musiclm.config.melody_guidance
    count = max(num_melodies, first_hum + num_hums)
    lines = [line for _, line in held_out_passages(load_library(), count)]
    document: dict[str, Any] = {
        "model_name": musiclm.config.name,
        "model_sha256": musiclm.sha256,
        "seed": seed,
    }
    table = Table("figure", "value [95 %]", title="held-out melodies")
    if num_melodies:
        retrieval = _retrieval(musiclm.melody, lines[:num_melodies], num_queries, seed)
        document["num_melodies"] = num_melodies
        document["retrieval_recall_at_1"] = {kind: asdict(v) for kind, v in retrieval.items()}
        for kind, value in retrieval.items():
            table.add_row(f"R@1, {kind}", str(value))
    if num_hums:
        folder = HummedPieces(
            pieces or report.with_name(f"{report.stem}-pieces"),
            lines[first_hum : first_hum + num_hums],
            seed,
            melody_guidance=melody_guidance,
        )
        rows = _followed(folder, musiclm, num_hums, batch)
        figures = followed_estimates(rows, seed)
        if opened is not None:
            figures |= ceiling_estimates(opened, num_hums, seed)
            document["corpus"] = str(corpus)
        document["num_hums"], document["first_hum"] = num_hums, first_hum
        document["melody_guidance"] = folder.melody_guidance
        document["following"] = {name: asdict(value) for name, value in figures.items()}
        document["following_by_hum"] = [asdict(row) for row in rows]
        for name, value in figures.items():
            table.add_row(name, str(value))
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


def _followed(folder: HummedPieces, musiclm: MusicLM, count: int, batch: int) -> list[Followed]:
    """Makes the pieces that are missing, and listens to all."""
    console = Console(stderr=True)
    used = 0.0
    with Progress(console=console) as bar:
        making = bar.add_task("pieces", total=2 * count)

        def report(done: int, of: int, seconds: float) -> None:
            nonlocal used
            used = seconds
            bar.update(making, completed=done, total=of)

        folder.fill(musiclm, batch=batch, on_progress=report)
        bar.update(making, completed=2 * count)
    if used:
        console.print(f"the pieces took {used:.0f} s of processor time")
    return list(track(folder.scores(), "listening", total=count, console=console))
