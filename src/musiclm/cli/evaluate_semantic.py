"""`musiclm evaluate semantic`: what of the music can be read off the semantic tokens."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from musiclm.cli.held_out import ModelParts, held_out_split, middle, spread, write_report
from musiclm.data.manifest import Corpus
from musiclm.evaluation.probes import (
    PROBES,
    ProbeConfig,
    ProbeReport,
    ProbeScore,
    Representation,
    hot_frames,
    mel_representation,
    run_probes,
)
from musiclm.evaluation.stage_metrics import token_counts, unigram_entropy_nats
from musiclm.semantic.tokenizer import SemanticTokenizer
from musiclm.training.fit import fit_kmeans

MEL_TOKENS = "log-mel tokens"
_FIT_CLIPS = 600
_FIT_SECONDS = 10.0


def evaluate_semantic(  # noqa: PLR0913  (each is an option of the command)
    source: tyro.conf.Positional[str | None] = None,
    *,
    corpus: Path,
    test_corpus: Path | None = None,
    report: Path = Path("evaluation-semantic.json"),
    num_clips: int = 200,
    num_fit_clips: int = 400,
    clip_seconds: float = 10.0,
    crops_per_clip: int = 1,
    device: str = "auto",
) -> None:
    """Probe semantic tokens for pitch class, lead instrument and tempo, beside raw log-mels.

    Raw log-mels are 80 numbers a frame, tokens one of 1,024; so log-mels cut into as many tokens by
    the same k-means stand beside them.

    Args:
        source: A model folder or hub id; only its semantic.safetensors is needed.
        corpus: A rendered corpus: probes are fitted on its train split and scored on its test
            split (validation if there is none).
        test_corpus: Score them on the test split of another corpus instead.
        report: The .json file to write.
        num_clips: Clips the probes are scored on.
        num_fit_clips: Clips the probes are fitted on.
        clip_seconds: Length of a crop.
        crops_per_clip: Crops of each clip that probes are fitted on and scored on, spread evenly
            over it; one is its middle. Intervals are over clips.
        device: auto, cpu or cuda.
    """
    parts = ModelParts(source, device)
    opened = Corpus.open(corpus)
    tested = opened if test_corpus is None else Corpus.open(test_corpus)
    split = held_out_split(tested)
    chosen = spread(tested.split(split).clips, num_clips)
    tokenizer = parts.semantic
    rivals = representations(tokenizer, parts.runtime.device)
    rivals |= {MEL_TOKENS: mel_tokens(opened, rivals["log-mel"], tokenizer)}
    codes: list[Tensor] = []
    for clip in track(chosen, "tokenizing", console=Console(stderr=True)):
        heard = middle(
            tested, clip, seconds=clip_seconds, sample_rate_hz=tokenizer.sample_rate_hz
        ).samples
        codes.append(tokenizer.tokenize(heard[None].to(parts.runtime.device)).cpu())
    size = tokenizer.token_spec.codebook_size
    joined = torch.cat(codes, dim=2)
    perplexity = float(unigram_entropy_nats(joined, size)[0].exp())
    config = ProbeConfig(
        sample_rate_hz=tokenizer.sample_rate_hz,
        crop_seconds=clip_seconds,
        crops_per_clip=crops_per_clip,
        test_split=split,
        num_fit_clips=num_fit_clips,
        num_test_clips=num_clips,
    )
    probes = run_probes(
        opened,
        rivals,
        config,
        test_corpus=tested,
    )
    document = {
        **parts.described("semantic"),
        "corpus": str(corpus),
        "test_corpus": str(test_corpus or corpus),
        "split": split,
        "clip_seconds": clip_seconds,
        "crops_per_clip": crops_per_clip,
        "num_clips": len(chosen),
        "num_tokens": joined.numel(),
        "codebook_size": size,
        "token_perplexity": perplexity,
        "num_codes_used": int((token_counts(joined, size) > 0).sum()),
        "probes": {
            name: {probe: _figures(score) for probe, score in scores.items()}
            for name, scores in probes.scores.items()
        },
        **{
            f"{above}_above_{below}".replace("-", "_").replace(" ", "_"): gains
            for (above, below), gains in _gains(probes).items()
        },
    }
    write_report(report, "semantic", document)
    Console().print(_table(probes, f"{len(chosen)} {split} clips"))
    Console().print(f"token perplexity {perplexity:.0f} of {size}")


def representations(
    tokenizer: SemanticTokenizer, device: torch.device
) -> dict[str, Representation]:
    """Tokens, the features they are cut from, and raw log-mels at the same frame rate."""
    size = tokenizer.token_spec.codebook_size
    latest: list[Tensor] = []

    def features(samples: Tensor) -> Tensor:
        """Those of the same samples, asked for again, are not computed again."""
        if not (latest and latest[0] is samples):
            latest[:] = [samples, tokenizer.features(samples.to(device))]
        return latest[1]

    def tokens(samples: Tensor) -> Tensor:
        return hot_frames(tokenizer.assign(features(samples))[0], size)

    return {
        "tokens": lambda samples: tokens(samples).cpu(),
        "features": lambda samples: features(samples).cpu(),
        "log-mel": mel_representation(
            tokenizer.config.w2v_bert.spectrogram,
            frame_rate_hz=tokenizer.token_spec.frame_rate_hz,
        ),
    }


def mel_tokens(
    corpus: Corpus, log_mel: Representation, tokenizer: SemanticTokenizer
) -> Representation:
    """Log-mel frames as one of as many codes as semantic tokens have: k-means on training clips.

    Raises:
        DataError: The training clips have fewer frames than there are codes.
    """
    clips = spread(corpus.split("train").clips, _FIT_CLIPS)
    frames = [
        log_mel(
            middle(
                corpus, clip, seconds=_FIT_SECONDS, sample_rate_hz=tokenizer.sample_rate_hz
            ).samples[None]
        )[0].T
        for clip in track(clips, "cutting log-mels", console=Console(stderr=True))
    ]
    size = tokenizer.token_spec.codebook_size
    fit = fit_kmeans(torch.cat(frames), size, seed=0)

    def represent(samples: Tensor) -> Tensor:
        rows = (log_mel(samples)[0].T - fit.mean) / fit.deviation
        return hot_frames(torch.cdist(rows, fit.centroids).argmin(dim=1), size)

    return represent


def _figures(score: ProbeScore) -> dict[str, float]:
    """A score without its clips."""
    return {name: value for name, value in asdict(score).items() if name != "by_clip"}


def _gains(probes: ProbeReport) -> dict[tuple[str, str], dict[str, Any]]:
    """How much one says beyond the other, with 95 % intervals."""
    pairs = (("tokens", "log-mel"), ("features", "log-mel"), ("tokens", MEL_TOKENS))
    return {
        (above, below): {probe: asdict(gain) for probe, gain in probes.above(above, below).items()}
        for above, below in pairs
    }


def _table(probes: ProbeReport, title: str) -> Table:
    table = Table("representation", *PROBES, title=f"accuracy of linear probes, {title}")
    for name, scores in probes.scores.items():
        table.add_row(name, *(f"{scores[probe].accuracy:.3f}" for probe in PROBES))
    for (above, below), gains in _gains(probes).items():
        cells = (f"{g['mean']:+.3f} [{g['low']:+.3f}, {g['high']:+.3f}]" for g in gains.values())
        table.add_row(f"{above} - {below}", *cells)
    chances = next(iter(probes.scores.values()))
    table.add_row("chance", *(f"{chances[probe].chance:.3f}" for probe in PROBES))
    return table
