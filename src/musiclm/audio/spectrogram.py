"""Spectrograms: the mel filterbank and the log-mel front end every model shares."""

import math
from functools import lru_cache

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from musiclm.core.config import Config


def hz_to_mel(frequency_hz: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Slaney's mel scale: linear below 1 kHz, logarithmic above."""
    linear = frequency_hz / (200 / 3)
    logarithmic = 15 + torch.log(frequency_hz.clamp(min=1e-6) / 1000) * (27 / math.log(6.4))
    return torch.where(frequency_hz < 1000, linear, logarithmic)


def mel_to_hz(mel: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """The inverse of `hz_to_mel`."""
    return torch.where(mel < 15, mel * (200 / 3), 1000 * torch.exp((mel - 15) * math.log(6.4) / 27))


@lru_cache(maxsize=64)
def mel_filterbank(
    sample_rate_hz: int, fft_size: int, num_mels: int, low_hz: float, high_hz: float
) -> Float[Tensor, "mels bins"]:
    """Triangular filters of equal area (Slaney), one row a mel band; `bins = fft_size // 2 + 1`."""
    # Numbers, kept for every later front end: real ones, even while a model is built on `meta`.
    with torch.device("cpu"):
        bins_hz = torch.linspace(0, sample_rate_hz / 2, fft_size // 2 + 1, dtype=torch.float64)
        edges = hz_to_mel(torch.tensor([low_hz, high_hz], dtype=torch.float64))
        low, high = float(edges[0]), float(edges[1])
        points_hz = mel_to_hz(torch.linspace(low, high, num_mels + 2, dtype=torch.float64))
        widths = points_hz.diff()
        slopes = points_hz[:, None] - bins_hz[None, :]
        rising = -slopes[:-2] / widths[:-1, None]
        falling = slopes[2:] / widths[1:, None]
        filters = torch.minimum(rising, falling).clamp(min=0)
        filters = filters * (2 / (points_hz[2:] - points_hz[:-2]))[:, None]
    return filters.float()


class LogMelConfig(Config):
    """What a log-mel front end computes."""

    sample_rate_hz: int = Field(default=24_000, gt=0)
    """Samples per second of the input."""
    window_length: int = Field(default=600, gt=0)
    """Hann window, in samples."""
    fft_size: int = Field(default=1024, gt=0)
    """Points of the transform; at least the window."""
    hop_length: int = Field(default=240, gt=0)
    """Samples per frame."""
    num_mels: int = Field(default=80, gt=0)
    """Mel bands."""
    low_hz: float = Field(default=30.0, ge=0)
    """Lowest band edge."""
    high_hz: float = Field(default=11_500.0, gt=0)
    """Highest band edge."""
    floor: float = Field(default=1e-4, gt=0)
    """Magnitudes are raised to at least this before the logarithm."""

    @model_validator(mode="after")
    def _check(self) -> "LogMelConfig":
        if self.fft_size < self.window_length:
            raise ValueError("fft_size must be at least window_length")
        if not self.low_hz < self.high_hz <= self.sample_rate_hz / 2:
            raise ValueError("low_hz < high_hz <= sample_rate_hz / 2 is required")
        return self

    @property
    def frame_rate_hz(self) -> float:
        """Frames per second."""
        return self.sample_rate_hz / self.hop_length


class LogMel(nn.Module):
    """Natural-log mel magnitudes, one frame every `hop_length` samples.

    Frame `t` is centred on the middle of its hop, so `n` hops of audio give exactly `n` frames.
    Runs in float32 whatever the autocast mode: a half-precision FFT loses quiet partials.
    """

    def __init__(self, config: LogMelConfig) -> None:
        super().__init__()
        self.config = config
        filters = mel_filterbank(
            config.sample_rate_hz, config.fft_size, config.num_mels, config.low_hz, config.high_hz
        )
        self.register_buffer("filters", filters.clone(), persistent=False)
        window = torch.hann_window(config.window_length)
        self.register_buffer("window", window, persistent=False)

    def forward(
        self, samples: Float[Tensor, "batch samples"]
    ) -> Float[Tensor, "batch mels frames"]:
        """Log-mel frames; a last incomplete hop is dropped."""
        config = self.config
        with torch.autocast(samples.device.type, enabled=False):
            samples = samples.float()
            frames = samples.shape[-1] // config.hop_length
            left = (config.fft_size - config.hop_length) // 2
            right = config.fft_size - config.hop_length - left
            padded = functional.pad(samples[..., : frames * config.hop_length], (left, right))
            spectrum = torch.stft(
                padded,
                config.fft_size,
                config.hop_length,
                config.window_length,
                self.get_buffer("window"),
                center=False,
                return_complex=True,
            ).abs()
            mel = torch.einsum("mf,bft->bmt", self.get_buffer("filters"), spectrum)
            return mel.clamp(min=config.floor).log()
