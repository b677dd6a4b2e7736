"""`musiclm evaluate mulan`: do texts find their music, and do their tokens agree with it?"""

from dataclasses import asdict
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from musiclm.cli.held_out import ModelParts, held_out_split, middle, spread, write_report
from musiclm.core.errors import DataError
from musiclm.core.runtime import RandomStreams
from musiclm.data.manifest import Clip, Corpus
from musiclm.evaluation.retrieval import (
    AgreementReport,
    RetrievalReport,
    agreement_report,
    retrieval,
)


def evaluate_mulan(
    source: tyro.conf.Positional[str | None] = None,
    *,
    corpus: Path,
    report: Path = Path("evaluation-mulan.json"),
    num_pairs: int = 1000,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Rank held-out audio by held-out wordings: R@1, R@10, median rank, token agreement.

    Args:
        source: A model folder or hub id; only its mulan.safetensors is needed.
        corpus: The corpus whose captioned test clips are paired (validation if there are none).
        report: The .json file to write.
        num_pairs: At most so many pairs, one a clip.
        seed: Of the bootstrap intervals.
        device: auto, cpu or cuda.
    """
    parts = ModelParts(source, device)
    opened = Corpus.open(corpus)
    split = held_out_split(opened)
    captioned = tuple(clip for clip in opened.split(split).clips if clip.captions)
    if len(captioned) < 2:
        raise DataError(
            f"{corpus} has {len(captioned)} captioned {split} clips; retrieval needs at least 2."
        )
    chosen = spread(captioned, num_pairs)
    texts = [held_out_text(clip, number) for number, clip in enumerate(chosen)]
    text, audio = _embeddings(parts, opened, chosen, texts)
    tokenizer = parts.conditioner.tokenizer
    depth = tokenizer.config.quantizer.num_quantizers
    streams = RandomStreams(seed)
    ranked = retrieval(text, audio, generator=streams.generator("retrieval"))
    agreement = agreement_report(
        tokenizer.tokenize_text(text, num_levels=depth),
        tokenizer.tokenize(audio, num_levels=depth),
        generator=streams.generator("agreement"),
    )
    right = float((text * audio).sum(dim=1).mean())
    document = {
        **parts.described("mulan"),
        "corpus": str(corpus),
        "split": split,
        "seed": seed,
        "num_texts_that_differ": len(set(texts)),
        "has_held_out_wordings": all(any(c.is_held_out for c in clip.captions) for clip in chosen),
        **asdict(ranked),
        "similarity_right": right,
        "similarity_shuffled": right - ranked.similarity_gain.value,
        "agreement": asdict(agreement),
        "num_levels_that_help": agreement.num_levels_that_help,
        "num_levels_used": tokenizer.config.num_levels,
    }
    write_report(report, "mulan", document)
    for table in _tables(ranked, agreement, f"{len(chosen)} {split} pairs"):
        Console().print(table)


def held_out_text(clip: Clip, turn: int) -> str:
    """One caption of a clip; wordings kept for tests, where there are any, take turns."""
    texts = [caption.text for caption in clip.captions if caption.is_held_out]
    texts = texts or [caption.text for caption in clip.captions]
    return texts[turn % len(texts)]


@torch.no_grad()
def _embeddings(
    parts: ModelParts, corpus: Corpus, clips: list[Clip], texts: list[str]
) -> tuple[Tensor, Tensor]:
    """Unit vectors of the texts, and of one window from the middle of each clip."""
    mulan = parts.conditioner.mulan
    window = mulan.config.audio.window_samples
    rate = mulan.sample_rate_hz
    audio: list[Tensor] = []
    for clip in track(clips, "listening", console=Console(stderr=True)):
        heard = middle(corpus, clip, seconds=window / rate, sample_rate_hz=rate).samples[:window]
        audio.append(mulan.embed_audio(heard[None].to(parts.runtime.device)))
    text = [mulan.embed_text(texts[first : first + 64]) for first in range(0, len(texts), 64)]
    return torch.cat(text), torch.cat(audio)


def _tables(ranked: RetrievalReport, agreement: AgreementReport, title: str) -> tuple[Table, Table]:
    figures = Table("figure", "value [95 %]", title=title)
    figures.add_row("R@1", str(ranked.recall_at_1))
    figures.add_row("R@10", str(ranked.recall_at_10))
    figures.add_row("median rank", str(ranked.median_rank))
    figures.add_row("similarity, right - shuffled", str(ranked.similarity_gain))
    levels = Table("level", "agreement", "shuffled", "gain [95 %]")
    rows = zip(agreement.right, agreement.shuffled, agreement.gain, strict=True)
    for level, (right, shuffled, gain) in enumerate(rows, start=1):
        levels.add_row(str(level), f"{right:.3f}", f"{shuffled:.3f}", str(gain))
    return figures, levels
