"""Crops of a token store: aligned semantic codes, acoustic codes and embedding, as batches.

A training batch is a pure function of the seed, the rank, the step and the microbatch.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from musiclm.core.config import Config
from musiclm.core.errors import DataError
from musiclm.core.runtime import RandomStreams
from musiclm.data.manifest import Split
from musiclm.data.pairs import drawn_wording
from musiclm.data.token_store import StoreHeader, TokenSplit, read_header, read_split


class TokenCropConfig(Config):
    """How crops are cut from a token store."""

    crop_seconds: float = Field(gt=0)
    """Length of a crop, a whole number of semantic frames; shorter clips are left out."""
    batch_size: int = Field(gt=0)
    """Crops in a microbatch."""
    validation_crops: int = Field(default=64, ge=0)
    """Fixed crops, one a clip, spread evenly over the validation clips."""


class TokenCropSource:
    """Random crops for training, fixed ones for validation (paper, Section 4.2: 30, 10 and 3 s).

    It satisfies `training.task.BatchSource`. A batch holds `semantic` and `acoustic` (int64
    `[batch, quantizers, frames]`), `embedding` (float32 `[batch, dim]`, unit length), `texts` (a
    caption of each clip in a wording kept for training, empty where it has none; in training
    batches only), `clip_ids` and `start_seconds` (float64 `[batch]`). Every position of the
    semantic frame grid is equally likely to be the start of a crop.
    """

    def __init__(self, folder: Path, config: TokenCropConfig, *, seed: int, rank: int = 0) -> None:
        """Loads the training split.

        Raises:
            ConfigError: The crop is no whole number of semantic frames.
            DataError: There is no store, or no training clip is as long as a crop.
        """
        self.config = config
        self.header = read_header(folder)
        self._streams = RandomStreams(seed)
        self._rank = rank
        self._folder = folder
        self._train = _CroppableSplit(self.header, read_split(folder, "train"), config)
        if not self._train.num_starts:
            raise DataError(
                f"{folder} has no training clip of {config.crop_seconds} s or more (the longest "
                f"has {self._train.longest_seconds:.2f} s). Use shorter crops or longer clips."
            )

    def batch(self, step: int, microbatch: int) -> Mapping[str, Any]:
        """One microbatch of training crops."""
        generator = self._streams.generator("token crops", self._rank, step, microbatch)
        draws = torch.randint(
            self._train.num_starts, (self.config.batch_size,), generator=generator
        )
        wording = torch.rand(self.config.batch_size, 2, generator=generator, dtype=torch.float64)
        places = [self._train.place(draw) for draw in draws.tolist()]
        texts = [
            self._train.wording(clip, kind, which)
            for (clip, _), (kind, which) in zip(places, wording.tolist(), strict=True)
        ]
        return {**self._train.batch(places), "texts": texts}

    def validation_batches(self) -> list[Mapping[str, Any]]:
        """The fixed crops of the validation split."""
        return self.fixed_batches("validation", self.config.validation_crops)

    def fixed_batches(self, split: Split, num_crops: int) -> list[Mapping[str, Any]]:
        """Crops from the middles of at most `num_crops` clips spread evenly over a split."""
        croppable = _CroppableSplit(self.header, read_split(self._folder, split), self.config)
        places = croppable.spread_places(num_crops)
        size = self.config.batch_size
        return [croppable.batch(places[i : i + size]) for i in range(0, len(places), size)]


class _CroppableSplit:
    """A split, and the places (clip, first semantic frame) where a crop fits."""

    def __init__(self, header: StoreHeader, split: TokenSplit, config: TokenCropConfig) -> None:
        self._header = header
        self._split = split
        self._frames = header.semantic.num_frames(config.crop_seconds)
        self._crop_seconds = config.crop_seconds
        self._ratio = header.acoustic.frame_rate_hz // header.semantic.frame_rate_hz
        lengths = np.diff(split.semantic_offsets)
        self._starts_per_clip = np.maximum(lengths - self._frames + 1, 0)
        self._ends = np.cumsum(self._starts_per_clip)
        self.num_starts = int(self._ends[-1]) if len(self._ends) else 0
        longest = int(lengths.max()) if len(lengths) else 0
        self.longest_seconds = longest / header.semantic.frame_rate_hz

    def place(self, draw: int) -> tuple[int, int]:
        """The `draw`-th of all starts, as clip and first frame."""
        clip = int(np.searchsorted(self._ends, draw, side="right"))
        return clip, draw - int(self._ends[clip] - self._starts_per_clip[clip])

    def wording(self, clip: int, kind_draw: float, wording_draw: float) -> str:
        """A caption of a clip that training may see, or nothing."""
        captions = [caption for caption in self._split.captions[clip] if not caption.is_held_out]
        return drawn_wording(captions, kind_draw, wording_draw) if captions else ""

    def spread_places(self, count: int) -> list[tuple[int, int]]:
        """The middles of at most `count` clips, spread evenly over those that are long enough."""
        fitting = np.flatnonzero(self._starts_per_clip)
        count = min(count, len(fitting))
        clips = [int(fitting[index * len(fitting) // count]) for index in range(count)]
        return [(clip, (int(self._starts_per_clip[clip]) - 1) // 2) for clip in clips]

    def batch(self, places: Sequence[tuple[int, int]]) -> Mapping[str, Any]:
        split, rate = self._split, self._header.semantic.frame_rate_hz
        semantic: list[Tensor] = []
        acoustic: list[Tensor] = []
        embeddings: list[Tensor] = []
        for clip, frame in places:
            first = int(split.semantic_offsets[clip]) + frame
            semantic.append(_integers(split.semantic[:, first : first + self._frames]))
            first = int(split.acoustic_offsets[clip]) + frame * self._ratio
            acoustic.append(
                _integers(split.acoustic[:, first : first + self._frames * self._ratio])
            )
            windows = split.embeddings[split.window_offsets[clip] : split.window_offsets[clip + 1]]
            embeddings.append(
                mean_embedding(
                    torch.from_numpy(windows.astype(np.float32)),
                    start_seconds=frame / rate,
                    crop_seconds=self._crop_seconds,
                    window_seconds=self._header.window_seconds,
                    stride_seconds=self._header.stride_seconds,
                )
            )
        starts = torch.tensor([frame for _, frame in places], dtype=torch.float64) / rate
        return {
            "semantic": torch.stack(semantic),
            "acoustic": torch.stack(acoustic),
            "embedding": torch.stack(embeddings),
            "clip_ids": [split.clip_ids[clip] for clip, _ in places],
            "start_seconds": starts,
        }


def mean_embedding(
    windows: Float[Tensor, "windows dim"],
    *,
    start_seconds: float,
    crop_seconds: float,
    window_seconds: float,
    stride_seconds: float,
) -> Float[Tensor, " dim"]:
    """The unit-length mean of the windows that lie inside a crop (paper, Section 3.1).

    A crop of 30 s has 21 windows of 10 s when it starts with one, else 20. A crop that holds no
    whole window gets the one whose middle is nearest to its own.
    """
    tolerance = 1e-6
    first = math.ceil((start_seconds - tolerance) / stride_seconds)
    last = math.floor((start_seconds + crop_seconds - window_seconds + tolerance) / stride_seconds)
    last = min(last, len(windows) - 1)
    if first > last:
        middle = start_seconds + (crop_seconds - window_seconds) / 2
        first = last = min(max(round(middle / stride_seconds), 0), len(windows) - 1)
    mean = windows[first : last + 1].mean(dim=0)
    return torch.nn.functional.normalize(mean, dim=0)


def _integers(codes: Any) -> Tensor:
    return torch.from_numpy(codes.astype(np.int64))
