"""A corpus to a token store: every clip through the tokenizers and the embedder, resumably."""

from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from pydantic import Field
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from musiclm.audio.waveform import Waveform
from musiclm.core.config import Config
from musiclm.core.errors import ConfigError
from musiclm.data.manifest import Clip, Corpus
from musiclm.data.token_reuse import ReusedTokens, TokenPart
from musiclm.data.token_store import Share, StoreHeader, TokenizedClip, TokenStoreWriter
from musiclm.tokens.spec import Tokenizer


@runtime_checkable
class WindowEmbedder(Protocol):
    """What embeds audio window by window (MuLan: 10 s, one window a second at most)."""

    @property
    def sample_rate_hz(self) -> int:
        """The rate of the audio it reads."""
        ...

    def embed_windows(
        self, samples: Float[Tensor, "batch samples"], *, every: int = 1
    ) -> Float[Tensor, "batch windows dim"]:
        """A unit vector for each whole second where a window fits, or for one in `every`."""
        ...


@dataclass(frozen=True)
class CorpusModels:
    """The models that read a corpus; they are on their device and in eval mode."""

    semantic: Tokenizer
    acoustic: Tokenizer
    embedder: WindowEmbedder
    embedding_dim: int
    weight_hashes: Mapping[str, str] = field(default_factory=dict[str, str])
    """SHA-256 of their weights, kept in the store so that tokens never mix."""


class TokenizeConfig(Config):
    """How a corpus is cut on its way through the models."""

    batch_size: int | None = Field(default=None, gt=0)
    """Pieces of equal length that go through a model together; by default 8 on a GPU and 1 on a
    CPU, where larger batches are slower (docs/log.md)."""
    clips_ahead: int = Field(default=32, gt=0)
    """Clips that are read together; the next ones are read while these are computed."""
    piece_seconds: float = Field(default=60.0, gt=0)
    """Longer clips go through the tokenizers piece by piece; a whole number of semantic frames."""
    context_seconds: float = Field(default=2.0, ge=0)
    """Audio on both sides of a piece whose codes are thrown away."""
    clips_per_shard: int = Field(default=256, gt=0)
    """Rows of a Parquet file."""
    window_seconds: float = Field(default=10.0, gt=0)
    """What the embedder hears at once."""
    stride_seconds: int = Field(default=1, gt=0)
    """From one start of the embedder's windows to the next; MusicLM takes 1 (Section 3.1)."""
    share: Share = Share()
    """The clips to do; the others are left to other processes."""


@dataclass(frozen=True)
class TokenizeResult:
    """What a call of `tokenize_corpus` did."""

    num_clips: int
    num_skipped: int
    """Clips that were in the store before, or are shorter than a frame."""
    duration_seconds: float
    """Audio tokenized by this call."""


def tokenize_corpus(  # noqa: PLR0913  (what is read, by whom, and where it goes)
    corpus: Corpus,
    dest: Path,
    models: CorpusModels,
    config: TokenizeConfig | None = None,
    *,
    reuse: Sequence[Path] = (),
    device: torch.device | None = None,
    show_progress: bool = True,
) -> TokenizeResult:
    """Writes codes and embeddings of every clip of a corpus to a token store.

    A clip is cut to a whole number of semantic frames. Clips that the store has are skipped, so
    that the same call goes on after an interruption. Several processes or machines may fill one
    store at the same time, each with a share of its own.

    Args:
        corpus: What to read.
        dest: The folder of the store.
        models: The tokenizers and the embedder.
        config: How the corpus is cut.
        reuse: Other stores of the same corpus: what the same weights made is copied from them.
        device: Where the models are; by default the CPU.
        show_progress: Whether a bar is shown.

    Raises:
        ConfigError: Pieces, contexts or rates are no whole numbers of semantic frames.
        AudioError: A file of the corpus cannot be read.
        DataError: The store holds tokens of other models, or there is nothing to reuse.
    """
    config = config or TokenizeConfig()
    header = StoreHeader(
        semantic=models.semantic.token_spec,
        acoustic=models.acoustic.token_spec,
        embedding_dim=models.embedding_dim,
        window_seconds=config.window_seconds,
        stride_seconds=config.stride_seconds,
        weight_hashes=dict(models.weight_hashes),
    )
    reused = [ReusedTokens(folder, header) for folder in reuse]
    worker = _Worker(models, config, device or torch.device("cpu"), reused)
    frame_seconds = 1 / header.semantic.frame_rate_hz
    share = config.share
    with TokenStoreWriter(
        dest, header, clips_per_shard=config.clips_per_shard, share=share
    ) as writer:
        clips = [
            clip
            for clip in corpus.clips[share.index :: share.count]
            if clip.clip_id not in writer.done_clip_ids and clip.duration_seconds >= frame_seconds
        ]
        seconds, written = 0.0, 0
        with _progress(show_progress, clips) as advance:
            for group in _read_ahead(corpus, clips, config.clips_ahead, worker.sample_rate_hz):
                for tokenized in worker.tokenize(group):
                    writer.add(tokenized)
                    written += 1
                    seconds += tokenized.duration_seconds
                advance(sum(clip.duration_seconds for clip, _ in group))
    num_clips = len(corpus.clips[share.index :: share.count])
    return TokenizeResult(written, num_clips - written, seconds)


class _Worker:
    """Clips to rows; pieces of equal length share a batch, whichever clip they come from."""

    def __init__(
        self,
        models: CorpusModels,
        config: TokenizeConfig,
        device: torch.device,
        reused: Sequence[ReusedTokens] = (),
    ) -> None:
        self._reused = reused
        self._models = models
        self._config = config
        self._device = device
        self._batch_size = config.batch_size or (1 if device.type == "cpu" else 8)
        self.sample_rate_hz = models.acoustic.sample_rate_hz
        self._rate_hz = models.semantic.token_spec.frame_rate_hz
        for seconds in (config.piece_seconds, config.context_seconds):
            models.semantic.token_spec.num_frames(seconds)
        if self.sample_rate_hz % self._rate_hz:
            raise ConfigError(
                f"{self.sample_rate_hz} Hz audio has no whole number of samples in a semantic "
                f"frame ({self._rate_hz} a second). Use a codec of another rate."
            )

    @torch.no_grad()
    def tokenize(self, group: Sequence[tuple[Clip, Waveform]]) -> list[TokenizedClip]:
        hop = self.sample_rate_hz // self._rate_hz
        fitting = [(clip, audio) for clip, audio in group if audio.num_samples >= hop]
        audios = [audio.crop(0, audio.num_samples // hop * hop) for _, audio in fitting]
        clips = [clip for clip, _ in fitting]
        known_or_made = partial(self._known_or_made, clips=clips, audios=audios)
        semantic = known_or_made("semantic", make=partial(self._codes, self._models.semantic))
        acoustic = known_or_made("acoustic", make=partial(self._codes, self._models.acoustic))
        embeddings = known_or_made("embeddings", make=self._embeddings)
        return [
            TokenizedClip(
                clip_id=clip.clip_id,
                split=clip.split,
                duration_seconds=audio.duration_seconds,
                captions=clip.captions,
                labels=clip.labels,
                semantic=semantic[index].astype(np.uint16),
                acoustic=acoustic[index].astype(np.uint16),
                embeddings=embeddings[index].astype(np.float16),
            )
            for index, (clip, audio) in enumerate(zip(clips, audios, strict=True))
        ]

    def _known_or_made(
        self,
        part: TokenPart,
        clips: Sequence[Clip],
        audios: Sequence[Waveform],
        make: Callable[[Sequence[Waveform]], list[Tensor]],
    ) -> list[NDArray[np.generic]]:
        """A part of every clip: from another store that has it, else from its model."""
        known: dict[int, NDArray[np.generic]] = {}
        for index, (clip, audio) in enumerate(zip(clips, audios, strict=True)):
            for store in self._reused:
                values = store.of(part, clip.clip_id, audio.duration_seconds)
                if values is not None:
                    known[index] = values
                    break
        missing = [index for index in range(len(clips)) if index not in known]
        made = make([audios[index] for index in missing])
        known |= {index: tensor.numpy() for index, tensor in zip(missing, made, strict=True)}
        return [known[index] for index in range(len(clips))]

    def _codes(self, tokenizer: Tokenizer, audios: Sequence[Waveform]) -> list[Tensor]:
        """The codes of each clip, its pieces joined."""
        config, spec = self._config, tokenizer.token_spec
        rate = spec.frame_rate_hz
        pieces: list[tuple[int, Tensor, slice]] = []
        for index, audio in enumerate(audios):
            samples = audio.resampled(tokenizer.sample_rate_hz).samples
            num_frames = round(audio.duration_seconds * rate)
            size = round(config.piece_seconds * rate)
            context = round(config.context_seconds * rate)
            length = min(num_frames, size + 2 * context)
            for start in range(0, num_frames, size):
                # Near the edges of the clip the window keeps its length and moves inwards.
                first = min(max(start - context, 0), num_frames - length)
                kept = slice(start - first, min(start + size, num_frames) - first)
                pieces.append((index, _cut(samples, tokenizer, first, length), kept))
        codes = self._in_batches([piece for _, piece, _ in pieces], tokenizer.tokenize)
        parts: list[list[Tensor]] = [[] for _ in audios]
        for (index, _, kept), piece_codes in zip(pieces, codes, strict=True):
            parts[index].append(piece_codes[:, kept])
        return [torch.cat(part, dim=1) for part in parts]

    def _embeddings(self, audios: Sequence[Waveform]) -> list[Tensor]:
        """The windows of each clip; long clips give them piece by piece."""
        config, embedder = self._config, self._models.embedder
        rate = embedder.sample_rate_hz
        window, stride = round(config.window_seconds * rate), config.stride_seconds * rate
        windows_at_once = max(round(config.piece_seconds / config.stride_seconds), 1)
        owners: list[int] = []
        pieces: list[Tensor] = []
        for index, audio in enumerate(audios):
            samples = audio.resampled(rate).samples
            num_windows = max(len(samples) - window, 0) // stride + 1
            for first in range(0, num_windows, windows_at_once):
                count = min(windows_at_once, num_windows - first)
                end = first * stride + window + (count - 1) * stride
                pieces.append(samples[first * stride : end])
                owners.append(index)
        parts: list[list[Tensor]] = [[] for _ in audios]
        embed = partial(embedder.embed_windows, every=config.stride_seconds)
        for index, part in zip(owners, self._in_batches(pieces, embed), strict=True):
            parts[index].append(part)
        return [torch.cat(part) for part in parts]

    def _in_batches(
        self, pieces: Sequence[Tensor], model: Callable[[Tensor], Tensor]
    ) -> list[Tensor]:
        """Runs a model on batches of pieces of equal length; answers in the pieces' order."""
        by_length: dict[int, list[int]] = {}
        for index, piece in enumerate(pieces):
            by_length.setdefault(len(piece), []).append(index)
        answers: dict[int, Tensor] = {}
        for indices in by_length.values():
            for first in range(0, len(indices), self._batch_size):
                chosen = indices[first : first + self._batch_size]
                batch = torch.stack([pieces[index] for index in chosen]).to(self._device)
                answers |= zip(chosen, model(batch).cpu(), strict=True)
        return [answers[index] for index in range(len(pieces))]


def _cut(samples: Tensor, tokenizer: Tokenizer, first: int, length: int) -> Tensor:
    """Frames `first` to `first + length` as samples, padded where resampling lost some."""
    hop = tokenizer.sample_rate_hz / tokenizer.token_spec.frame_rate_hz
    piece = samples[round(first * hop) : round((first + length) * hop)]
    return torch.nn.functional.pad(piece, (0, round(length * hop) - len(piece)))


def _read_ahead(
    corpus: Corpus, clips: Sequence[Clip], count: int, sample_rate_hz: int
) -> Generator[list[tuple[Clip, Waveform]]]:
    """Groups of clips with their audio; the next group is read in a background thread."""
    groups = [clips[first : first + count] for first in range(0, len(clips), count)]

    def read(group: Sequence[Clip]) -> list[tuple[Clip, Waveform]]:
        return [(clip, corpus.audio(clip, sample_rate_hz=sample_rate_hz)) for clip in group]

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="reader") as executor:
        waiting = executor.submit(read, groups[0]) if groups else None
        for following in [*groups[1:], None]:
            if waiting is None:
                return
            group = waiting.result()
            waiting = executor.submit(read, following) if following is not None else None
            yield group


@contextmanager
def _progress(is_shown: bool, clips: Sequence[Clip]) -> Generator[Callable[[float], Any]]:
    columns = (
        TextColumn("tokenizing"),
        BarColumn(),
        TextColumn("{task.completed:.2f}/{task.total:.2f} h"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    hours = sum(clip.duration_seconds for clip in clips) / 3600
    with Progress(*columns, console=Console(stderr=True), disable=not is_shown) as progress:
        bar = progress.add_task("tokenizing", total=hours)
        yield lambda seconds: progress.advance(bar, seconds / 3600)
