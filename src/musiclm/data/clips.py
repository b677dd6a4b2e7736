"""Crops of a corpus: random ones for training and fixed ones for validation, as batches.

A training batch is a pure function of the seed, the step, the microbatch and the rank, so that a
resumed run reads the same audio as an unbroken one. Only the crop itself is read from disk.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from musiclm.core.config import Config
from musiclm.core.errors import DataError
from musiclm.core.runtime import RandomStreams
from musiclm.data.manifest import Clip, Corpus, Split

_INT16_SCALE = 32_768.0


class CropSourceConfig(Config):
    """How crops are cut."""

    crop_seconds: float = Field(gt=0)
    """Length of a crop; shorter clips are padded with silence at their end."""
    batch_size: int = Field(gt=0)
    """Crops in a microbatch."""
    sample_rate_hz: int = Field(default=24_000, gt=0)
    """Rate of the crops; files at another rate are resampled."""
    gain_db_range: tuple[float, float] = (0.0, 0.0)
    """Training crops are made louder by a draw from this range; peaks never pass `peak`."""
    peak: float = Field(default=0.98, gt=0, le=1)
    """Crops that exceed it are scaled down to it."""
    cache_hours: float = Field(default=0.0, ge=0)
    """Audio kept in memory as 16-bit integers (an hour takes 173 MB at 24 kHz)."""
    validation_crops: int = Field(default=8, ge=0)
    """Fixed crops, one a clip, spread evenly over the validation clips."""
    validation_seconds: float = Field(default=0.0, ge=0)
    """Length of a validation crop; 0 means `crop_seconds`."""

    @model_validator(mode="after")
    def _check(self) -> "CropSourceConfig":
        if self.gain_db_range[0] > self.gain_db_range[1]:
            raise ValueError("gain_db_range must go from the lower to the higher gain")
        return self

    @property
    def crop_samples(self) -> int:
        """Length of a training crop in samples."""
        return round(self.crop_seconds * self.sample_rate_hz)

    @property
    def validation_samples(self) -> int:
        """Length of a validation crop in samples."""
        return round((self.validation_seconds or self.crop_seconds) * self.sample_rate_hz)


class CropSource:
    """Batches of crops; the same interface as `training.task.BatchSource`, which it satisfies.

    A batch holds `samples` (float32 `[batch, samples]`), `clips` (the `Clip` of each crop, with
    its captions and labels), `clip_ids` and `start_seconds` (float64 `[batch]`).
    """

    def __init__(
        self, corpus: Corpus, config: CropSourceConfig, *, seed: int, rank: int = 0
    ) -> None:
        """Opens the training and validation splits of `corpus` and fills the cache.

        Raises:
            DataError: The corpus has no training clip.
        """
        self.config = config
        self.corpus = corpus
        self._streams = RandomStreams(seed)
        self._rank = rank
        self._train = corpus.split("train").clips
        if not self._train:
            raise DataError(f"{corpus.folder} has no clip in its train split. Prepare it again.")
        durations = np.array([clip.duration_seconds for clip in self._train])
        self._ends_seconds = np.cumsum(durations)
        self._cache = self._filled_cache()

    def batch(self, step: int, microbatch: int) -> Mapping[str, Any]:
        """One microbatch of training crops: clips by duration, starts uniform within the clip."""
        config = self.config
        generator = self._streams.generator("crops", self._rank, step, microbatch)
        draws = torch.rand(3, config.batch_size, generator=generator, dtype=torch.float64).numpy()
        places = np.searchsorted(self._ends_seconds, draws[0] * self._ends_seconds[-1], "right")
        clips = [self._train[min(int(place), len(self._train) - 1)] for place in places]
        starts = [
            int(draw * max(self._num_samples(clip) - config.crop_samples, 0))
            for clip, draw in zip(clips, draws[1], strict=True)
        ]
        low_db, high_db = config.gain_db_range
        gains = 10 ** ((low_db + draws[2] * (high_db - low_db)) / 20)
        return self._batch(clips, starts, config.crop_samples, gains.tolist())

    def validation_batches(self) -> list[Mapping[str, Any]]:
        """The fixed crops, each from the middle of its clip, in batches of `batch_size`."""
        return self.fixed_batches("validation", self.config.validation_crops)

    def fixed_batches(self, split: Split, num_crops: int) -> list[Mapping[str, Any]]:
        """Crops from the middle of at most `num_crops` clips spread evenly over a split."""
        config = self.config
        clips = self.corpus.split(split).clips
        count = min(num_crops, len(clips))
        chosen = [clips[index * len(clips) // count] for index in range(count)]
        size = config.validation_samples
        batches: list[Mapping[str, Any]] = []
        for first in range(0, count, config.batch_size):
            group = chosen[first : first + config.batch_size]
            starts = [max(self._num_samples(clip) - size, 0) // 2 for clip in group]
            batches.append(self._batch(group, starts, size, [1.0] * len(group)))
        return batches

    def _batch(
        self, clips: Sequence[Clip], starts: Sequence[int], size: int, gains: Sequence[float]
    ) -> Mapping[str, Any]:
        rows: list[Tensor] = []
        for clip, start, gain in zip(clips, starts, gains, strict=True):
            samples = self._read(clip, start, size) * gain
            largest = float(samples.abs().max())
            rows.append(
                samples * (self.config.peak / largest) if largest > self.config.peak else samples
            )
        rate = self.config.sample_rate_hz
        return {
            "samples": torch.stack(rows),
            "clips": list(clips),
            "clip_ids": [clip.clip_id for clip in clips],
            "start_seconds": torch.tensor(starts, dtype=torch.float64) / rate,
        }

    def _num_samples(self, clip: Clip) -> int:
        return int(clip.duration_seconds * self.config.sample_rate_hz)

    def _read(self, clip: Clip, start: int, size: int) -> Tensor:
        cached = self._cache.get(clip.clip_id)
        if cached is not None:
            piece = torch.from_numpy(cached[start : start + size].astype(np.float32) / _INT16_SCALE)
            return torch.nn.functional.pad(piece, (0, size - piece.shape[0]))
        rate = self.config.sample_rate_hz
        waveform = self.corpus.audio(
            clip,
            sample_rate_hz=rate,
            start_seconds=(start + 0.25) / rate,  # a quarter sample in: rounding cannot step back
            duration_seconds=size / rate,
        )
        return waveform.crop(0, size).samples

    def _filled_cache(self) -> dict[str, NDArray[np.int16]]:
        """Whole training clips as 16-bit integers, in manifest order, up to `cache_hours`."""
        cache: dict[str, NDArray[np.int16]] = {}
        left_seconds = self.config.cache_hours * 3600
        for clip in self._train:
            left_seconds -= clip.duration_seconds
            if left_seconds < 0:
                break
            audio = self.corpus.audio(clip, sample_rate_hz=self.config.sample_rate_hz)
            scaled = (audio.samples.numpy() * _INT16_SCALE).round()
            cache[clip.clip_id] = scaled.clip(-32_768, 32_767).astype(np.int16)
        return cache
