"""Fitting the conditioner: a trained MuLan's embeddings to codebooks and the shift of texts."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from musiclm.conditioning.conditioner import Conditioner
from musiclm.conditioning.mulan import MuLan
from musiclm.core.errors import DataError
from musiclm.data.manifest import Clip
from musiclm.data.pairs import LogMelStore
from musiclm.training.fit import ResidualFit, fit_residual_quantizer
from musiclm.training.task import Batch

_WINDOWS_AT_ONCE = 64


@dataclass(frozen=True)
class PairEmbeddings:
    """Both sides of some pairs, row by row, as unit vectors."""

    audio: Float[Tensor, "pairs dim"]
    text: Float[Tensor, "pairs dim"]


@torch.no_grad()
def embed_pairs(mulan: MuLan, batches: Iterable[Batch]) -> PairEmbeddings:
    """Embeds batches of `log_mel` and `texts` (`PairSource.batch`, `PairSource.fixed_batches`).

    Raises:
        DataError: There is no batch.
    """
    device = mulan.log_temperature.device
    audio: list[Tensor] = []
    text: list[Tensor] = []
    for batch in batches:
        windows: Tensor = batch["log_mel"].to(device)
        audio.extend(mulan.audio_tower(piece) for piece in windows.split(_WINDOWS_AT_ONCE))
        text.append(mulan.embed_text(batch["texts"]))
    if not text:
        raise DataError("There are no pairs to embed: the split has no captioned clip.")
    return PairEmbeddings(torch.cat(audio), torch.cat(text))


@torch.no_grad()
def embed_clip(
    mulan: MuLan, store: LogMelStore, clip: Clip, *, stride_seconds: int = 1
) -> Float[Tensor, "windows dim"]:
    """Unit vectors of a stored clip's 10-s windows, one every `stride_seconds`."""
    tower = mulan.audio_tower
    log_mel = store.whole(clip, least_frames=tower.config.window_frames)
    windows = tower.cut(log_mel[None].to(mulan.log_temperature.device))[0, ::stride_seconds]
    return torch.cat([tower(piece) for piece in windows.split(_WINDOWS_AT_ONCE)])


@torch.no_grad()
def fit_conditioner(
    conditioner: Conditioner,
    store: LogMelStore,
    pairs: PairEmbeddings,
    *,
    seed: int,
    stride_seconds: int = 2,
    max_clips: int = 2000,
) -> ResidualFit:
    """Fits the codebooks on audio of the train split, and the shift of texts on pairs of it.

    The quantizer meets single 10-s windows (coarse and fine stages) and averages over 30 s
    (semantic stage), so it is fitted on both.

    Args:
        conditioner: Holds the trained MuLan; its tokenizer is changed.
        store: Log-mels of the corpus.
        pairs: Embeddings of training pairs.
        seed: Of the k-means starts.
        stride_seconds: From one window to the next.
        max_clips: Training clips that are heard at most, spread evenly.

    Raises:
        DataError: The train split is empty.
    """
    num_averaged = 1 + 20 // stride_seconds
    rows: list[Tensor] = []
    clips = store.corpus.split("train").clips
    count = min(max_clips, len(clips))
    for clip in (clips[index * len(clips) // count] for index in range(count)):
        windows = embed_clip(conditioner.mulan, store, clip, stride_seconds=stride_seconds)
        rows.append(windows)
        averages = windows.unfold(0, min(num_averaged, len(windows)), 1).mean(dim=2)
        rows.append(functional.normalize(averages, dim=1))
    if not rows:
        raise DataError(f"{store.corpus.folder} has no training clip to fit codebooks on.")
    quantizer = conditioner.tokenizer.quantizer
    fit = fit_residual_quantizer(torch.cat(rows), quantizer, seed=seed)
    conditioner.tokenizer.learn_text_shift(pairs.text, pairs.audio)
    return fit
