"""MusicNN features: what a small model can hear music through, computed once for each clip.

Conventions: 16 kHz mono; windows of 187 frames (2.99 s) side by side; 1706 features a window, the
1506 that MusicNN pools over time and its 200-d embedding beside them.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from rich.console import Console
from rich.progress import track
from torch import Tensor

from musiclm.core.config import Config
from musiclm.core.errors import AudioError, DataError
from musiclm.core.files import write_text_whole, written_whole
from musiclm.data.manifest import Clip, Corpus
from musiclm.evaluation.musicnn import (
    EMBEDDING_DIM,
    HOP_LENGTH,
    SAMPLE_RATE_HZ,
    WINDOW_FRAMES,
    MusicNN,
    MusicNNConfig,
)

FOLDER_NAME = "musicnn_features"
RECORD_NAME = "features.json"
_CLIPS_AT_ONCE = 4
_WINDOWS_AT_ONCE = 6


class MusicNNFeaturesConfig(Config):
    """Which features of how long a stretch."""

    variant: Literal["MTT", "MSD"] = "MTT"
    """The published weights."""
    num_windows: int = Field(default=3, gt=0)
    """Windows that are heard together; shorter audio is repeated until it has as many."""
    use_bf16: bool = True
    """bfloat16 autocast in the convolutions: faster on CPUs that have it."""

    @property
    def dim(self) -> int:
        """Features a window."""
        return MusicNNConfig(variant=self.variant).pooled_dim + EMBEDDING_DIM

    @property
    def num_samples(self) -> int:
        """Samples of all windows together."""
        return self.num_windows * WINDOW_FRAMES * HOP_LENGTH


class MusicNNFeatures:
    """Features of audio, by the published weights as they are installed."""

    sample_rate_hz = SAMPLE_RATE_HZ

    def __init__(
        self, config: MusicNNFeaturesConfig, *, device: torch.device | None = None
    ) -> None:
        """Reads the weights.

        Raises:
            DependencyError: They are nowhere; the message holds the command that gets them.
            CheckpointError: They cannot be read.
        """
        self.config = config
        self._device = device or torch.device("cpu")
        self._model = MusicNN.from_pretrained(config.variant).to(self._device)

    @torch.no_grad()
    def __call__(
        self, samples: Float[Tensor, "batch samples"]
    ) -> Float[Tensor, "batch windows dim"]:
        """Features of every whole window, on the CPU; what is too short is repeated."""
        frames = self._model.log_mel(repeated(samples, self.config.num_samples).to(self._device))
        count = frames.shape[1] // WINDOW_FRAMES
        windows = frames[:, : count * WINDOW_FRAMES].unflatten(1, (count, WINDOW_FRAMES))
        rows: list[Tensor] = []
        with torch.autocast(self._device.type, torch.bfloat16, self.config.use_bf16):
            for part in windows.flatten(0, 1).split(_WINDOWS_AT_ONCE):
                output = self._model(part)
                rows.append(torch.cat([output.pooled, output.embeddings], dim=1).float().cpu())
        return torch.cat(rows).unflatten(0, (len(samples), count))


class MusicNNFeatureStore:
    """Features of a corpus on disk: one float16 array `[windows, features]` a clip.

    Of each clip one stretch is heard, from its middle. The folder remembers how the features were
    computed and refuses others; each file is written whole, so that an interrupted call goes on.
    A `data.pairs.CropStore` whose frames are windows.
    """

    batch_key = "features"

    def __init__(self, corpus: Corpus, folder: Path, features: MusicNNFeatures) -> None:
        """Opens or begins a store.

        Raises:
            DataError: The folder holds other features.
        """
        self.corpus = corpus
        self.folder = folder
        self._features = features
        record, config = folder / RECORD_NAME, features.config
        if not record.is_file():
            write_text_whole(record, config.to_json() + "\n")
        elif MusicNNFeaturesConfig.from_json(record.read_text(encoding="utf-8")) != config:
            raise DataError(f"{folder} holds other MusicNN features. Move it away to begin anew.")

    def add(self, clips: Sequence[Clip], *, show_progress: bool = False) -> None:
        """Computes the features of the clips that have none yet."""
        missing = [clip for clip in clips if not self._path(clip).is_file()]
        groups = [missing[i : i + _CLIPS_AT_ONCE] for i in range(0, len(missing), _CLIPS_AT_ONCE)]
        said = f"MusicNN features of {len(missing)} clips"
        is_silent = not (show_progress and missing)
        for group in track(groups, said, console=Console(stderr=True), disable=is_silent):
            rows = self._features(torch.stack([self._stretch(clip) for clip in group]))
            for clip, row in zip(group, rows, strict=True):
                with written_whole(self._path(clip)) as temporary, temporary.open("wb") as file:
                    np.save(file, row.half().numpy())

    def crop(self, clip: Clip, place: float, num_frames: int) -> Float[Tensor, "windows dim"]:
        """So many windows in a row, from 0 (the first) to 1 (the last that are kept).

        Raises:
            DataError: Fewer windows are kept.
        """
        self.add([clip])
        whole = torch.from_numpy(np.load(self._path(clip))).float()
        if num_frames > len(whole):
            raise DataError(f"{num_frames} windows were asked for; {self.folder} has {len(whole)}.")
        start = int(place * (len(whole) - num_frames))
        return whole[start : start + num_frames]

    def _stretch(self, clip: Clip) -> Float[Tensor, " samples"]:
        """The samples in the middle of a clip, repeated where it is shorter."""
        length = self._features.config.num_samples
        seconds = length / SAMPLE_RATE_HZ
        samples = self.corpus.audio(
            clip,
            sample_rate_hz=SAMPLE_RATE_HZ,
            start_seconds=max(0.0, (clip.duration_seconds - seconds) / 2),
            duration_seconds=min(seconds, clip.duration_seconds),
        ).samples
        return repeated(samples, length)[:length]

    def _path(self, clip: Clip) -> Path:
        return self.folder / f"{clip.clip_id.replace(os.sep, '_')}.npy"


def repeated(samples: Float[Tensor, "*batch samples"], least: int) -> Float[Tensor, "*batch more"]:
    """Audio that is too short, again and again up to the least number of samples.

    Raises:
        AudioError: There are none.
    """
    length = samples.shape[-1]
    if length == 0:
        raise AudioError("There is no audio to hear (0 samples). Give a longer clip.")
    times = [*[1] * (samples.ndim - 1), -(-least // length)]
    return samples if length >= least else samples.repeat(times)[..., :least]
