"""The audio tower of MuLan: log-mel windows of 10 s through a ResNet to 128-d unit vectors."""

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from musiclm.audio.spectrogram import LogMel, LogMelConfig
from musiclm.conditioning.resnet import ResNet, ResNetConfig
from musiclm.core.config import Config


class SpecAugmentConfig(Config):
    """Bands and stretches of the log-mel picture that training hides (SpecAugment)."""

    num_frame_masks: int = Field(default=2, ge=0)
    """Stretches of time per example."""
    max_frames: int = Field(default=100, ge=0)
    """Longest stretch."""
    num_mel_masks: int = Field(default=2, ge=0)
    """Bands of frequency per example."""
    max_mels: int = Field(default=8, ge=0)
    """Widest band."""


class AudioTowerConfig(Config):
    """Shape of the audio tower; the defaults are the paper's ResNet-50."""

    log_mel: LogMelConfig = LogMelConfig(num_mels=64)
    """Front end: 25-ms windows, 10-ms hops, 64 mels."""
    window_frames: int = Field(default=1000, gt=0)
    """Frames of one window (10 s)."""
    stride_frames: int = Field(default=100, gt=0)
    """Frames from one window to the next (1 s)."""
    resnet: ResNetConfig = ResNetConfig()
    """The convolutions."""
    embedding_dim: int = Field(default=128, gt=0)
    """Dimensions of the joint space."""
    spec_augment: SpecAugmentConfig = SpecAugmentConfig()
    """Masks of training."""

    @model_validator(mode="after")
    def _check(self) -> "AudioTowerConfig":
        masks = self.spec_augment
        if masks.max_frames > self.window_frames or masks.max_mels > self.log_mel.num_mels:
            raise ValueError("SpecAugment masks must fit in the window")
        return self

    @property
    def sample_rate_hz(self) -> int:
        """Rate of the audio it reads."""
        return self.log_mel.sample_rate_hz

    @property
    def window_samples(self) -> int:
        """Samples of one window."""
        return self.window_frames * self.log_mel.hop_length

    @property
    def stride_samples(self) -> int:
        """Samples from one window to the next."""
        return self.stride_frames * self.log_mel.hop_length


class AudioTower(nn.Module):
    """Log-mel windows to unit vectors of the joint space.

    Each mel band is standardised by a batch norm; the feature maps of the ResNet are pooled by
    mean and maximum over time. The few rows of frequency that are left stay apart: an average
    over them cannot tell a low instrument from a high one.
    """

    def __init__(self, config: AudioTowerConfig) -> None:
        super().__init__()
        self.config = config
        self.log_mel = LogMel(config.log_mel)
        self.norm = nn.BatchNorm1d(config.log_mel.num_mels)
        # Channels last is twice as fast on a CPU and never slower on a GPU.
        self.resnet = ResNet(config.resnet)
        for weight in self.resnet.parameters():
            if weight.ndim == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        rows = config.resnet.out_mels(config.log_mel.num_mels)
        features = config.resnet.out_channels * rows
        self.projection = nn.Linear(2 * features, config.embedding_dim)

    def windows(
        self, samples: Float[Tensor, "batch samples"]
    ) -> Float[Tensor, "batch windows mels frames"]:
        """Log-mel windows of 10 s, one a second; the last incomplete second gives none.

        Audio shorter than a window is repeated until it fills one: a loop sounds like the music,
        a tail of silence does not.
        """
        config = self.config
        wanted = config.window_samples
        if samples.shape[-1] < wanted:
            times = -(-wanted // max(samples.shape[-1], 1))
            samples = samples.repeat(1, times)[:, :wanted]
        return self.cut(self.log_mel(samples))

    def cut(
        self, log_mel: Float[Tensor, "batch mels frames"]
    ) -> Float[Tensor, "batch windows mels window_frames"]:
        """The windows of a whole log-mel, which holds at least one."""
        windows = log_mel.unfold(2, self.config.window_frames, self.config.stride_frames)
        return windows.transpose(1, 2)

    def forward(
        self,
        log_mel: Float[Tensor, "batch mels frames"],
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch dim"]:
        """Unit vectors of log-mel windows; with a generator, parts of them are hidden first."""
        picture = self.norm(log_mel)
        if generator is not None:
            picture = picture * self._mask(picture, generator)
        maps = self.resnet(picture[:, None]).float()
        pooled = torch.cat([maps.mean(dim=3), maps.amax(dim=3)], dim=1).flatten(1)
        return functional.normalize(self.projection(pooled).float(), dim=-1)

    def _mask(
        self, picture: Float[Tensor, "batch mels frames"], generator: torch.Generator
    ) -> Float[Tensor, "batch mels frames"]:
        batch, mels, frames = picture.shape
        config = self.config.spec_augment
        time = _hidden(batch, frames, config.num_frame_masks, config.max_frames, generator)
        band = _hidden(batch, mels, config.num_mel_masks, config.max_mels, generator)
        return (~(band[:, :, None] | time[:, None, :])).to(picture)


def _hidden(
    batch: int, length: int, num_masks: int, max_width: int, generator: torch.Generator
) -> Tensor:
    """Which of `length` places some random stretches cover (on the CPU, as the generator)."""
    width = torch.randint(0, max_width + 1, (batch, num_masks, 1), generator=generator)
    start = (torch.rand((batch, num_masks, 1), generator=generator) * (length - width + 1)).long()
    place = torch.arange(length)
    return ((place >= start) & (place < start + width)).any(dim=1)
