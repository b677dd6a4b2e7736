"""SoundStream's discriminators: three on the waveform, one on the complex STFT (Section III-D)."""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from musiclm.core.config import Config


class DiscriminatorConfig(Config):
    """The set of discriminators; the defaults are the published ones."""

    wave_channels: int = Field(default=16, gt=0)
    """Channels of the first layer of a waveform discriminator."""
    wave_max_channels: int = Field(default=1024, gt=0)
    """Channels grow fourfold a layer up to this."""
    wave_downsamplings: tuple[int, ...] = (1, 2, 4)
    """One waveform discriminator for each."""
    stft_channels: int = Field(default=32, gt=0)
    """Channels of the first layer of the STFT discriminator."""
    stft_multiples: tuple[int, ...] = (1, 2, 4, 4, 8, 8)
    """Channels of its residual units, in multiples of `stft_channels`."""
    stft_window_length: int = Field(default=1024, gt=0)
    """Samples of its window; the hop is a quarter."""


@dataclass(frozen=True)
class Judgement:
    """Logits and inner layers, one entry a discriminator.

    Attributes:
        logits: One track in time (or a few in parallel) of each discriminator.
        features: The outputs of the layers of each discriminator, for the feature loss.
    """

    logits: tuple[Tensor, ...]
    features: tuple[tuple[Tensor, ...], ...]


class WaveDiscriminator(nn.Module):
    """MelGAN's: a plain convolution, four grouped and strided ones, two plain ones."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        channels = config.wave_channels
        layers: list[nn.Module] = [weight_norm(nn.Conv1d(1, channels, 15, padding=7))]
        for _ in range(4):
            wider = min(4 * channels, config.wave_max_channels)
            layers.append(
                weight_norm(
                    nn.Conv1d(channels, wider, 41, 4, padding=20, groups=max(channels // 4, 1))
                )
            )
            channels = wider
        layers.append(weight_norm(nn.Conv1d(channels, channels, 5, padding=2)))
        self.layers = nn.ModuleList(layers)
        self.exit = weight_norm(nn.Conv1d(channels, 1, 3, padding=1))

    def forward(self, samples: Float[Tensor, "batch samples"]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Logits and inner layers."""
        hidden = rearrange(samples, "batch samples -> batch 1 samples")
        features: list[Tensor] = []
        for layer in self.layers:
            hidden = functional.leaky_relu(layer(hidden), 0.2)
            features.append(hidden)
        return self.exit(hidden), tuple(features)


class StftUnit(nn.Module):
    """A residual unit over time and frequency that halves frequency, and time when told."""

    def __init__(self, in_channels: int, out_channels: int, *, time_stride: int) -> None:
        super().__init__()
        self.first = weight_norm(nn.Conv2d(in_channels, in_channels, 3, padding=1))
        self.second = weight_norm(
            nn.Conv2d(
                in_channels,
                out_channels,
                (time_stride + 2, 4),
                (time_stride, 2),
                padding=((time_stride + 1) // 2, 1),
            )
        )
        self.shortcut = weight_norm(nn.Conv2d(in_channels, out_channels, 1, (time_stride, 2)))

    def forward(
        self, inputs: Float[Tensor, "batch channels frames bins"]
    ) -> Float[Tensor, "batch out_channels out_frames out_bins"]:
        """The unit's output."""
        hidden = self.second(functional.elu(self.first(functional.elu(inputs))))
        shortcut = self.shortcut(inputs)
        frames, bins = (
            min(hidden.shape[2], shortcut.shape[2]),
            min(hidden.shape[3], shortcut.shape[3]),
        )
        return hidden[:, :, :frames, :bins] + shortcut[:, :, :frames, :bins]


class StftDiscriminator(nn.Module):
    """A convolution, six residual units with strides (1, 2) and (2, 2) in turn, a last one."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.length = config.stft_window_length
        self.register_buffer("window", torch.hann_window(self.length), persistent=False)
        base = config.stft_channels
        self.entry = weight_norm(nn.Conv2d(2, base, 7, padding=3))
        channels = [base, *(base * multiple for multiple in config.stft_multiples)]
        self.units = nn.ModuleList(
            StftUnit(channels[index], channels[index + 1], time_stride=1 + index % 2)
            for index in range(len(config.stft_multiples))
        )
        last_bins = self.length // 2 >> len(config.stft_multiples)
        self.exit = weight_norm(nn.Conv2d(channels[-1], 1, (1, last_bins)))

    def forward(self, samples: Float[Tensor, "batch samples"]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Logits and inner layers."""
        with torch.autocast(samples.device.type, enabled=False):
            spectrum = torch.stft(
                samples.float(),
                self.length,
                self.length // 4,
                window=self.get_buffer("window"),
                return_complex=True,
            )[:, : self.length // 2]
            hidden = torch.stack([spectrum.real, spectrum.imag], dim=1) / self.length**0.5
        hidden = self.entry(rearrange(hidden, "batch parts bins frames -> batch parts frames bins"))
        features: list[Tensor] = [hidden]
        for unit in self.units:
            hidden = unit(hidden)
            features.append(hidden)
        return self.exit(functional.elu(hidden)), tuple(features)


class Discriminators(nn.Module):
    """All of them: the STFT one first (k = 0 in the paper), then the waveform ones."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        self.stft = StftDiscriminator(config)
        self.waves = nn.ModuleList(WaveDiscriminator(config) for _ in config.wave_downsamplings)

    def forward(self, samples: Float[Tensor, "batch samples"]) -> Judgement:
        """What every discriminator makes of the audio."""
        outputs = [self.stft(samples)]
        for factor, wave in zip(self.config.wave_downsamplings, self.waves, strict=True):
            pooled = samples
            if factor > 1:
                pooled = functional.avg_pool1d(samples, 2 * factor, factor, padding=factor // 2)
            outputs.append(wave(pooled))
        return Judgement(
            tuple(logits for logits, _ in outputs), tuple(features for _, features in outputs)
        )
