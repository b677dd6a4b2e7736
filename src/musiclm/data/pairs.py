"""Pairs: 10-s log-mel crops with one caption each, from log-mels that are computed only once."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from musiclm.audio.spectrogram import LogMel, LogMelConfig
from musiclm.core.config import Config
from musiclm.core.errors import DataError
from musiclm.core.files import write_text_whole, written_whole
from musiclm.core.runtime import RandomStreams
from musiclm.data.manifest import Caption, Clip, Corpus, Split


@runtime_checkable
class CropStore(Protocol):
    """Where pairs find what is heard of a clip: log-mels, or features computed from them."""

    @property
    def corpus(self) -> Corpus:
        """The clips."""
        ...

    @property
    def batch_key(self) -> str:
        """What the crops are called in a batch."""
        ...

    def crop(self, clip: Clip, place: float, num_frames: int) -> Float[Tensor, "..."]:
        """A crop of so many frames, from 0 (the start) to 1 (as late as it fits)."""
        ...


class LogMelStore:
    """Log-mels of a corpus on disk: one float16 array `[frames, mels]` a clip, mapped on use.

    A 10-s crop costs one read of 128 kB instead of a thousand Fourier transforms. The folder
    remembers its front end and refuses another.
    """

    batch_key = "log_mel"

    def __init__(self, corpus: Corpus, folder: Path, config: LogMelConfig) -> None:
        """Opens or begins a store.

        Raises:
            DataError: The folder holds log-mels of another front end.
        """
        self.corpus = corpus
        self.folder = folder
        self._log_mel = LogMel(config)
        record = folder / "log_mel.json"
        if not record.is_file():
            write_text_whole(record, config.to_json() + "\n")
        elif LogMelConfig.from_json(record.read_text(encoding="utf-8")) != config:
            raise DataError(f"{folder} holds log-mels of another front end. Choose another folder.")

    def add(self, clip: Clip) -> None:
        """Computes the log-mel of a clip unless it is there."""
        path = self._path(clip)
        if path.is_file():
            return
        rate = self._log_mel.config.sample_rate_hz
        samples = self.corpus.audio(clip, sample_rate_hz=rate).samples
        log_mel = self._log_mel(samples[None])[0].T.half().numpy()
        with written_whole(path) as temporary, temporary.open("wb") as file:
            np.save(file, log_mel)

    def crop(self, clip: Clip, place: float, num_frames: int) -> Float[Tensor, "mels frames"]:
        """A crop of a clip's log-mel; a clip that is too short is repeated.

        Args:
            clip: Whose.
            place: Where, from 0 (its start) to 1 (as late as the crop fits).
            num_frames: Length of the crop.
        """
        whole = self._whole(clip)
        start = int(place * max(len(whole) - num_frames, 0))
        rows = np.arange(start, start + num_frames) % len(whole)
        return torch.from_numpy(np.ascontiguousarray(whole[rows].T)).float()

    def whole(self, clip: Clip, *, least_frames: int = 1) -> Float[Tensor, "mels frames"]:
        """The log-mel of a whole clip, repeated if it has fewer than `least_frames`."""
        return self.crop(clip, 0.0, max(len(self._whole(clip)), least_frames))

    def _whole(self, clip: Clip) -> NDArray[np.float16]:
        self.add(clip)
        whole: NDArray[np.float16] = np.load(self._path(clip), mmap_mode="r")
        if not len(whole):
            raise DataError(f"Clip {clip.clip_id} is shorter than one frame. Remove it.")
        return whole

    def _path(self, clip: Clip) -> Path:
        return self.folder / f"{clip.clip_id.replace(os.sep, '_')}.npy"


class PairSourceConfig(Config):
    """How pairs are drawn."""

    batch_size: int = Field(default=128, gt=1)
    """Pairs in a microbatch, each of another clip; fewer when the corpus has fewer clips."""
    crop_frames: int = Field(default=1000, gt=0)
    """Frames of a crop (10 s)."""
    validation_pairs: int = Field(default=256, ge=0)
    """Fixed pairs of the validation split."""
    wordings: Literal["all", "even", "odd"] = "all"
    """All wordings kept for training, or one half of them: a fixed half of all texts, so that two
    models can learn from different ones."""


class PairSource:
    """Batches of what the store keeps (`log_mel`: `[batch, mels, frames]`), `texts`, `clip_ids`.

    The same interface as `training.task.BatchSource`. A training batch is a pure function of the
    seed, step and microbatch; no clip comes twice in one batch, or it would be its own negative.
    """

    def __init__(self, store: CropStore, config: PairSourceConfig, *, seed: int) -> None:
        """Takes the clips that have captions for training.

        Raises:
            DataError: There are fewer than two such clips in the train split.
        """
        self.config = config
        self.store = store
        self._streams = RandomStreams(seed)
        clips = store.corpus.split("train").clips
        self._train = [clip for clip in clips if training_captions(clip, config.wordings)]
        if len(self._train) < 2:
            raise DataError(
                f"{store.corpus.folder} has {len(self._train)} captioned training clips; contrast "
                "needs at least 2. Add captions to the manifest."
            )
        seconds = [clip.duration_seconds for clip in self._train]
        self._weights = torch.tensor(seconds, dtype=torch.float64)

    def batch(self, step: int, microbatch: int) -> Mapping[str, Any]:
        """Random pairs: clips by duration, any place in them, any wording kept for training."""
        generator = self._streams.generator("pairs", step, microbatch)
        count = min(self.config.batch_size, len(self._train))
        chosen = torch.multinomial(self._weights, count, generator=generator).tolist()
        draws = torch.rand(count, 3, generator=generator, dtype=torch.float64).tolist()
        clips = [self._train[index] for index in chosen]
        texts = [
            drawn_wording(training_captions(clip, self.config.wordings), draw[1], draw[2])
            for clip, draw in zip(clips, draws, strict=True)
        ]
        return self._batch(clips, [draw[0] for draw in draws], texts)

    def validation_batches(self) -> list[Mapping[str, Any]]:
        """Fixed pairs of the validation split, in batches of `batch_size`."""
        return self.fixed_batches("validation", self.config.validation_pairs)

    def fixed_batches(
        self, split: Split, num_pairs: int, *, is_held_out: bool = False
    ) -> list[Mapping[str, Any]]:
        """At most `num_pairs` pairs, one a clip, spread over a split; crops from the middle.

        The wordings take turns; with `is_held_out` only those kept for tests.
        """
        found: list[tuple[Clip, str]] = []
        for clip in self.store.corpus.split(split).clips:
            texts = [c.text for c in clip.captions if c.is_held_out == is_held_out]
            if texts:
                found.append((clip, texts[len(found) % len(texts)]))
        count = min(num_pairs, len(found))
        pairs = [found[index * len(found) // count] for index in range(count)]
        size = self.config.batch_size
        groups = [pairs[first : first + size] for first in range(0, count, size)]
        return [
            self._batch(
                [clip for clip, _ in group], [0.5] * len(group), [text for _, text in group]
            )
            for group in groups
        ]

    def _batch(
        self, clips: Sequence[Clip], places: Sequence[float], texts: Sequence[str]
    ) -> Mapping[str, Any]:
        frames = self.config.crop_frames
        crops = [self.store.crop(c, place, frames) for c, place in zip(clips, places, strict=True)]
        return {
            self.store.batch_key: torch.stack(crops),
            "texts": list(texts),
            "clip_ids": [clip.clip_id for clip in clips],
        }


def training_captions(clip: Clip, wordings: Literal["all", "even", "odd"] = "all") -> list[Caption]:
    """The wordings of a clip that training may see, or the half of them with such a hash."""
    captions = [caption for caption in clip.captions if not caption.is_held_out]
    if wordings == "all":
        return captions
    wanted = ("even", "odd").index(wordings)
    return [
        caption
        for caption in captions
        if hashlib.blake2b(caption.text.encode(), digest_size=1).digest()[0] % 2 == wanted
    ]


def drawn_wording(captions: Sequence[Caption], kind_draw: float, wording_draw: float) -> str:
    """First a kind, then a wording of it, so that no kind is rare because it has few wordings.

    Args:
        captions: The wordings to choose from, one at least.
        kind_draw: Uniform from 0 to 1.
        wording_draw: Uniform from 0 to 1.
    """
    kinds: defaultdict[str, list[str]] = defaultdict(list)
    for caption in captions:
        kinds[caption.kind].append(caption.text)
    texts = list(kinds.values())[int(kind_draw * len(kinds))]
    return texts[int(wording_draw * len(texts))]
