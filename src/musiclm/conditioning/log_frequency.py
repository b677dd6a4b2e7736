"""Log-frequency spectrogram: a third of a semitone a bin, tuned so that keys fall on bins.

Fine in pitch where a mel spectrogram is not: every melody in another key is the same picture,
shifted, which is what the melody embedder's convolutions rest on.
"""

import math

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from musiclm.core.config import Config

BINS_PER_SEMITONE = 3
_TUNING_FROM_SEMITONE = 30


class LogFrequencyConfig(Config):
    """What the front end computes."""

    sample_rate_hz: int = Field(default=12_000, gt=0)
    """Samples per second of the input; partials up to 5 kHz tell a pitch."""
    window_length: int = Field(default=2_048, gt=0)
    """Hann window, in samples (171 ms)."""
    fft_size: int = Field(default=4_096, gt=0)
    """Points of the transform."""
    hop_length: int = Field(default=480, gt=0)
    """Samples per frame; 25 frames a second, as semantic tokens have."""
    low_pitch: int = Field(default=36, ge=0)
    """MIDI number of the lowest key (36 is 65 Hz)."""
    num_semitones: int = Field(default=84, gt=24)
    """Keys covered."""

    @property
    def frame_rate_hz(self) -> int:
        """Frames per second."""
        return self.sample_rate_hz // self.hop_length


class LogFrequency(nn.Module):
    """Compressed magnitudes on a scale of thirds of semitones, free of loudness and tuning.

    Frame `t` is centred on the middle of its hop; `n` hops give `n` frames. Key `k` is centred on
    bin `3 k + 1`. The clip's deviation from concert pitch is measured and taken out, so that a hum
    between the keys falls on them.
    """

    def __init__(self, config: LogFrequencyConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("filters", _filters(config), persistent=False)
        self.register_buffer("window", torch.hann_window(config.window_length), persistent=False)

    def forward(
        self, samples: Float[Tensor, "batch samples"]
    ) -> Float[Tensor, "batch bins frames"]:
        """Magnitudes, `log(1 + 10 x)` of each over the clip's own level."""
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
            )
            # Half the time of `abs`, which guards against overflow.
            size = (spectrum.real.square() + spectrum.imag.square()).sqrt()
            magnitudes = torch.einsum("kf,bft->bkt", self.get_buffer("filters"), size)
            level = magnitudes.square().mean(dim=(1, 2), keepdim=True).sqrt()
            scaled = torch.log1p(10 * magnitudes / level.clamp(min=1e-5))
            return shifted_bins(scaled, tuning_bins(scaled))


def tuning_bins(
    spectrum: Float[Tensor, "batch bins frames"],
) -> Float[Tensor, " batch"]:
    """How many bins (-1.5 to 1.5) the sound lies above the keys of concert pitch."""
    bins = spectrum.shape[1]
    power = spectrum[:, _TUNING_FROM_SEMITONE * BINS_PER_SEMITONE :].square().square().sum(dim=2)
    first = _TUNING_FROM_SEMITONE * BINS_PER_SEMITONE
    places = torch.arange(first, bins, device=spectrum.device) - 1
    angles = 2 * math.pi * places / BINS_PER_SEMITONE
    phase = torch.atan2(power @ angles.sin(), power @ angles.cos() + 1e-9)
    return phase * (BINS_PER_SEMITONE / (2 * math.pi))


def shifted_bins(
    spectrum: Float[Tensor, "batch bins frames"], bins: Float[Tensor, " batch"]
) -> Float[Tensor, "batch bins frames"]:
    """A spectrum moved down by a fraction of a few bins."""
    padded = functional.pad(spectrum, (0, 0, 2, 3))
    whole = bins.floor()
    share = (bins - whole)[:, None, None]
    rows = torch.arange(spectrum.shape[1], device=spectrum.device)[None] + 2 + whole[:, None].long()
    index = rows[:, :, None].expand(-1, -1, spectrum.shape[2])
    return torch.lerp(padded.gather(1, index), padded.gather(1, index + 1), share)


def _filters(config: LogFrequencyConfig) -> Float[Tensor, "bins frequencies"]:
    """Triangles a bin wide on each side, at least one point of the transform wide."""
    with torch.device("cpu"):
        points_hz = torch.linspace(0, config.sample_rate_hz / 2, config.fft_size // 2 + 1)
        bins = torch.arange(config.num_semitones * BINS_PER_SEMITONE)
        pitches = config.low_pitch + (bins - 1) / BINS_PER_SEMITONE
        centres_hz = 440 * 2 ** ((pitches - 69) / 12)
        step_hz = config.sample_rate_hz / config.fft_size
        widths_hz = (centres_hz * (2 ** (1 / 36) - 1)).clamp(min=step_hz)
        weights = 1 - (points_hz[None] - centres_hz[:, None]).abs() / widths_hz[:, None]
        weights = weights.clamp(min=0)
    return weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-6)
