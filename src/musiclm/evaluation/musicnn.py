"""MusicNN: a published music tagger in PyTorch, our judge of generated audio.

Conventions: 16 kHz mono; log-mel frames of 16 ms; windows of 187 frames (3 s), side by side; 50
tags and a 200-d embedding (after the last batch norm, the authors' `penultimate`) a window.
Trained by its authors on MagnaTagATune (MTT) or the Million Song Dataset (MSD), on none of ours.

Reference: Pons & Serra 2019, "musicnn: pre-trained convolutional neural networks for music audio
tagging". Their float16 rounding of the mel frames, which overflows on loud audio, is left out.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from musiclm.audio.spectrogram import mel_filterbank
from musiclm.audio.waveform import Waveform
from musiclm.core.config import Config
from musiclm.core.errors import AudioError, CheckpointError
from musiclm.evaluation.musicnn_tags import MSD_TAGS, MTT_TAGS
from musiclm.evaluation.musicnn_weights import read_musicnn_checkpoint

SAMPLE_RATE_HZ = 16_000
HOP_LENGTH = 256
FFT_SIZE = 512
NUM_MELS = 96
WINDOW_FRAMES = 187
EMBEDDING_DIM = 200
_WINDOWS_PER_BATCH = 16
_TEMPORAL_KERNELS = (128, 64, 32)
_NORM_EPS = 1e-3


class MusicNNConfig(Config):
    """Which MusicNN; the sizes are those of the published checkpoints."""

    variant: Literal["MTT", "MSD"] = "MTT"
    """Training set: MagnaTagATune has instrument tags, the Million Song Dataset genres."""
    timbral_filters: int = Field(default=204, gt=0)
    """Filters of each of the two convolutions that look for timbres."""
    temporal_filters: int = Field(default=51, gt=0)
    """Filters of each of the three convolutions that look for rhythms."""
    midend_filters: int = Field(default=64, gt=0)
    """Filters of the three convolutions over the features."""

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags in the order of the outputs."""
        return MTT_TAGS if self.variant == "MTT" else MSD_TAGS

    @property
    def frontend_dim(self) -> int:
        """Features a frame after the first convolutions."""
        return 2 * self.timbral_filters + len(_TEMPORAL_KERNELS) * self.temporal_filters

    @property
    def pooled_dim(self) -> int:
        """Features a window before the hidden layer."""
        return 2 * (self.frontend_dim + 3 * self.midend_filters)


@dataclass(frozen=True)
class MusicNNOutput:
    """What MusicNN says of each window."""

    tag_logits: Float[Tensor, "windows tags"]
    embeddings: Float[Tensor, "windows dim"]
    pooled: Float[Tensor, "windows features"]
    """What the embedding is made of: maximum and mean over time of every convolution's features."""

    @property
    def clip_tag_logits(self) -> Float[Tensor, " tags"]:
        """The mean over windows: one verdict on the clip."""
        return self.tag_logits.mean(dim=0)

    @property
    def clip_tag_probabilities(self) -> Float[Tensor, " tags"]:
        """Each tag's own probability (they do not exclude one another), mean over windows."""
        return self.tag_logits.sigmoid().mean(dim=0)


class _NormedConvolution(nn.Module):
    """A convolution over (time, feature), padded to the same length in time; ReLU; batch norm.

    Even kernels are padded as TensorFlow does: the odd zero goes to the end.
    """

    def __init__(self, num_filters: int, time: int, features: int) -> None:
        super().__init__()
        self.padding = (0, 0, (time - 1) // 2, time // 2)
        self.convolution = nn.Conv2d(1, num_filters, (time, features))
        self.norm = nn.BatchNorm2d(num_filters, eps=_NORM_EPS)

    def forward(
        self, inputs: Float[Tensor, "windows 1 frames dim"]
    ) -> Float[Tensor, "windows filters frames places"]:
        return self.norm(functional.relu(self.convolution(functional.pad(inputs, self.padding))))


class MusicNN(nn.Module):
    """The network, always in evaluation mode once loaded."""

    def __init__(self, config: MusicNNConfig) -> None:
        super().__init__()
        self.config = config
        timbral, temporal = config.timbral_filters, config.temporal_filters
        self.input_norm = nn.BatchNorm2d(1, eps=_NORM_EPS)
        self.frontend = nn.ModuleList(
            [
                _NormedConvolution(timbral, 7, int(0.4 * NUM_MELS)),
                _NormedConvolution(timbral, 7, int(0.7 * NUM_MELS)),
                *(_NormedConvolution(temporal, length, 1) for length in _TEMPORAL_KERNELS),
            ]
        )
        midend = config.midend_filters
        dims = (config.frontend_dim, midend, midend)
        self.midend = nn.ModuleList([_NormedConvolution(midend, 7, dim) for dim in dims])
        self.pooled_norm = nn.BatchNorm1d(config.pooled_dim, eps=_NORM_EPS)
        self.hidden = nn.Linear(config.pooled_dim, EMBEDDING_DIM)
        self.hidden_norm = nn.BatchNorm1d(EMBEDDING_DIM, eps=_NORM_EPS)
        self.output = nn.Linear(EMBEDDING_DIM, len(config.tags))
        filters = mel_filterbank(SAMPLE_RATE_HZ, FFT_SIZE, NUM_MELS, 0.0, SAMPLE_RATE_HZ / 2)
        self.register_buffer("filters", filters.clone(), persistent=False)
        self.register_buffer("window", torch.hann_window(FFT_SIZE), persistent=False)

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags in the order of the outputs."""
        return self.config.tags

    @classmethod
    def from_pretrained(
        cls, variant: Literal["MTT", "MSD"] = "MTT", *, place: Path | None = None
    ) -> "MusicNN":
        """The published weights; `place` is the wheel or the package's folder, if not installed.

        Raises:
            DependencyError: The weights are nowhere; the message holds the command that gets them.
            CheckpointError: They cannot be read, or do not fit.
        """
        model = cls(MusicNNConfig(variant=variant))
        model.load_tensorflow(read_musicnn_checkpoint(f"{variant}_musicnn", place))
        return model.eval().requires_grad_(False)

    def load_tensorflow(self, tensors: dict[str, np.ndarray]) -> None:
        """Fills the network from the authors' variables, which are numbered in building order.

        Raises:
            CheckpointError: A variable is missing or has another shape.
        """
        blocks = [*self.frontend, *self.midend]
        convolutions = [block.get_submodule("convolution") for block in blocks]
        norms = [block.get_submodule("norm") for block in blocks]
        norms = [self.input_norm, *norms, self.pooled_norm, self.hidden_norm]
        for kind, layers in (
            ("conv2d", convolutions),
            ("batch_normalization", norms),
            ("dense", [self.hidden, self.output]),
        ):
            for number, layer in enumerate(layers):
                _fill(layer, tensors, kind + (f"_{number}" if number else ""))

    def log_mel(
        self, samples: Float[Tensor, "batch samples"]
    ) -> Float[Tensor, "batch frames mels"]:
        """`log10(10000 * mel + 1)` of the power spectrum, as librosa computes it."""
        with torch.autocast(samples.device.type, enabled=False):
            spectrum = torch.stft(
                samples.float(),
                FFT_SIZE,
                HOP_LENGTH,
                window=self.get_buffer("window"),
                pad_mode="constant",
                return_complex=True,
            )
            mel = self.get_buffer("filters") @ spectrum.abs().square()
        return rearrange(torch.log10(10_000 * mel + 1), "batch mels frames -> batch frames mels")

    def forward(self, log_mel: Float[Tensor, "windows frames mels"]) -> MusicNNOutput:
        """Tags and embeddings of windows of log-mel frames."""
        inputs = self.input_norm(log_mel.unsqueeze(1))
        features = torch.cat([block(inputs).amax(dim=3) for block in self.frontend], dim=1)
        features = rearrange(features, "windows dim frames -> windows 1 frames dim")
        layers = [features]
        for block in self.midend:
            new = rearrange(block(layers[-1]), "windows dim frames 1 -> windows 1 frames dim")
            layers.append(new if len(layers) == 1 else new + layers[-1])
        stacked = torch.cat(layers, dim=3).squeeze(1)
        pooled = torch.stack([stacked.amax(dim=1), stacked.mean(dim=1)], dim=2).flatten(1)
        embeddings = self.hidden_norm(functional.relu(self.hidden(self.pooled_norm(pooled))))
        return MusicNNOutput(self.output(embeddings), embeddings, pooled)

    @torch.no_grad()
    def analyse(self, waveform: Waveform) -> MusicNNOutput:
        """Tags and embeddings of every whole 3 s window of a clip, at any sample rate.

        Raises:
            AudioError: The clip is shorter than a window.
        """
        samples = waveform.resampled(SAMPLE_RATE_HZ).samples.to(self.output.weight.device)
        frames = self.log_mel(samples.unsqueeze(0))[0]
        num_windows = frames.shape[0] // WINDOW_FRAMES
        if num_windows == 0:
            raise AudioError(
                f"MusicNN was given {waveform.duration_seconds:.2f} s; it needs clips of "
                f"{WINDOW_FRAMES * HOP_LENGTH / SAMPLE_RATE_HZ:.2f} s or more."
            )
        windows = frames[: num_windows * WINDOW_FRAMES].unflatten(0, (num_windows, WINDOW_FRAMES))
        parts = [self(batch) for batch in windows.split(_WINDOWS_PER_BATCH)]
        return MusicNNOutput(
            torch.cat([part.tag_logits for part in parts]).cpu(),
            torch.cat([part.embeddings for part in parts]).cpu(),
            torch.cat([part.pooled for part in parts]).cpu(),
        )


def _fill(layer: nn.Module, tensors: dict[str, np.ndarray], name: str) -> None:
    """Copies one layer's variables; TensorFlow keeps kernels with the output channel last."""
    names = {"weight": "kernel", "bias": "bias"}
    if not isinstance(layer, (nn.Conv2d, nn.Linear)):
        names = {
            "weight": "gamma",
            "bias": "beta",
            "running_mean": "moving_mean",
            "running_var": "moving_variance",
        }
    state = layer.state_dict()
    for ours, theirs in names.items():
        key = f"{name}/{theirs}"
        if key not in tensors:
            raise CheckpointError(f"The MusicNN checkpoint lacks {key!r}: it is another model's.")
        tensor = torch.from_numpy(tensors[key])
        if theirs == "kernel":
            tensor = tensor.permute(3, 2, 0, 1) if tensor.ndim == 4 else tensor.T
        if tensor.shape != state[ours].shape:
            raise CheckpointError(
                f"MusicNN's {key!r} is {list(tensor.shape)}, {list(state[ours].shape)} is wanted."
            )
        state[ours].copy_(tensor)
