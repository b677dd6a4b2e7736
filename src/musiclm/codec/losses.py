"""What the codec is trained to lower (SoundStream, Section III-E), in float32.

Deviations from the paper: every sum over frames and bands is a mean, so that weights do not depend
on the crop; mel filters are rescaled to average their bins; spectra are divided by `sqrt(s / 2)`
so that noise reads alike in every window (the paper's `alpha_s` then weights whole scales).
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from musiclm.audio.spectrogram import LogMel, LogMelConfig, mel_filterbank
from musiclm.core.config import Config


class MelLossConfig(Config):
    """The multi-scale mel reconstruction loss."""

    sample_rate_hz: int = Field(default=24_000, gt=0)
    """Rate of the audio."""
    window_lengths: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)
    """Windows, in samples; the hop is a quarter."""
    num_mels: int = Field(default=64, gt=0)
    """Bands; fewer (a quarter of the window) for windows that cannot resolve as many."""
    linear_weight: float = Field(default=1.0, ge=0)
    """Of the difference of magnitudes."""
    log_weight: float = Field(default=0.125, ge=0)
    """Of the difference of logarithms; 1/8 is the paper's 1 after means replace sums of 64."""
    is_scale_weighted: bool = True
    """Whether scale `s` counts `sqrt(s / 2)` times, as published, or all count alike."""
    floor: float = Field(default=3e-4, gt=0)
    """Added to magnitudes before the logarithm."""


class MelLoss(nn.Module):
    """The distance of mel spectra at several resolutions (equation 5)."""

    def __init__(self, config: MelLossConfig) -> None:
        super().__init__()
        self.config = config
        for length in config.window_lengths:
            num_mels = min(config.num_mels, length // 4)
            rate = config.sample_rate_hz
            filters = mel_filterbank(rate, length, num_mels, 0.0, rate / 2)
            filters = filters / filters.sum(dim=1, keepdim=True).clamp(min=1e-9)
            self.register_buffer(f"filters_{length}", filters, persistent=False)
            self.register_buffer(f"window_{length}", torch.hann_window(length), persistent=False)

    def forward(
        self, target: Float[Tensor, "batch samples"], estimate: Float[Tensor, "batch samples"]
    ) -> Float[Tensor, ""]:
        """The loss, averaged over scales."""
        config = self.config
        total = estimate.new_zeros((), dtype=torch.float32)
        with torch.autocast(estimate.device.type, enabled=False):
            for length in config.window_lengths:
                window = self.get_buffer(f"window_{length}")
                filters = self.get_buffer(f"filters_{length}").T
                with torch.no_grad():
                    wanted = _magnitudes(target.float(), window) @ filters
                given = _magnitudes(estimate.float(), window) @ filters
                logs = (given + config.floor).log() - (wanted + config.floor).log()
                log_term = (logs.square().mean(dim=2) + 1e-8).sqrt().mean()
                linear_term = (given - wanted).abs().mean()
                scale = math.sqrt(length / 2) if config.is_scale_weighted else 1.0
                total = total + scale * (
                    config.linear_weight * linear_term + config.log_weight * log_term
                )
        return total / len(config.window_lengths)


class StftLossConfig(Config):
    """A linear-frequency loss with long windows, which hears pitch that mel bands blur."""

    sample_rate_hz: int = Field(default=24_000, gt=0)
    """Rate of the audio."""
    window_lengths: tuple[int, ...] = (1024, 4096)
    """Windows, in samples; the hop is a quarter."""
    log_weight: float = Field(default=0.5, ge=0)
    """Of the difference of logarithms, beside the relative error of magnitudes."""
    pitch_hz: float = Field(default=1_000.0, gt=0)
    """Above it a bin's logarithm counts `pitch_hz / frequency`: octaves then count alike."""
    excess_weight: float = Field(default=1.0, gt=0)
    """How much a logarithm that is too large counts beside one that is too small. Below 1 the
    estimate rises from the median of what fits the codes to a higher quantile: weak sounds between
    strong ones come back, and a transcriber hears fewer notes that are not there."""
    floor: float = Field(default=4e-4, gt=0)
    """Added to magnitudes before the logarithm."""


class StftLoss(nn.Module):
    """Relative error of magnitudes plus weighted difference of their logarithms."""

    def __init__(self, config: StftLossConfig) -> None:
        super().__init__()
        self.config = config
        for length in config.window_lengths:
            bins_hz = torch.linspace(0, config.sample_rate_hz / 2, length // 2 + 1)
            weights = config.pitch_hz / bins_hz.clamp(min=config.pitch_hz)
            weights = weights / weights.mean()
            self.register_buffer(f"weights_{length}", weights, persistent=False)
            self.register_buffer(f"window_{length}", torch.hann_window(length), persistent=False)

    def forward(
        self, target: Float[Tensor, "batch samples"], estimate: Float[Tensor, "batch samples"]
    ) -> Float[Tensor, ""]:
        """The loss, averaged over windows."""
        config = self.config
        total = estimate.new_zeros((), dtype=torch.float32)
        with torch.autocast(estimate.device.type, enabled=False):
            for length in config.window_lengths:
                window = self.get_buffer(f"window_{length}")
                with torch.no_grad():
                    wanted = _magnitudes(target.float(), window)
                given = _magnitudes(estimate.float(), window)
                error = (given - wanted).flatten(1).norm(dim=1)
                relative = error / (wanted.flatten(1).norm(dim=1) + 0.1)
                logs = ((given + config.floor) / (wanted + config.floor)).log()
                logs = torch.maximum(config.excess_weight * logs, -logs)
                weighted = (logs * self.get_buffer(f"weights_{length}")).mean()
                total = total + relative.mean() + config.log_weight * weighted
        return total / len(config.window_lengths)


def log_mel_distance_db(
    target: Float[Tensor, "batch samples"], estimate: Float[Tensor, "batch samples"]
) -> Float[Tensor, " batch"]:
    """The mean difference of log-mel spectra (80 bands, 10 ms) of each example, in decibels."""
    front_end = LogMel(LogMelConfig()).to(target.device)
    difference = front_end(target) - front_end(estimate)
    return difference.abs().mean(dim=(1, 2)) * (20 / math.log(10))


def discriminator_loss(
    real_logits: Sequence[Tensor], fake_logits: Sequence[Tensor]
) -> Float[Tensor, ""]:
    """The hinge loss of the discriminators (equation 1), averaged over them and over time."""
    losses = [
        functional.relu(1 - real.float()).mean() + functional.relu(1 + fake.float()).mean()
        for real, fake in zip(real_logits, fake_logits, strict=True)
    ]
    return torch.stack(losses).mean()


def adversarial_loss(fake_logits: Sequence[Tensor]) -> Float[Tensor, ""]:
    """The generator's hinge loss (equation 2), averaged over discriminators and time."""
    return torch.stack([functional.relu(1 - fake.float()).mean() for fake in fake_logits]).mean()


def feature_loss(
    real_features: Sequence[Sequence[Tensor]], fake_features: Sequence[Sequence[Tensor]]
) -> Float[Tensor, ""]:
    """The mean difference of the discriminators' inner layers (equation 3)."""
    losses = [
        (real.detach().float() - fake.float()).abs().mean()
        for reals, fakes in zip(real_features, fake_features, strict=True)
        for real, fake in zip(reals, fakes, strict=True)
    ]
    return torch.stack(losses).mean()


class _Magnitude(torch.autograd.Function):
    """`|rfft(frames)|` with its gradient as one inverse transform.

    PyTorch's own gradient of `rfft` is a full complex transform, four times the work; the loss
    spends most of its time there.
    """

    @staticmethod
    def forward(ctx: Any, frames: Tensor, floor: float) -> Tensor:
        spectrum = torch.fft.rfft(frames)
        magnitude = (spectrum.real.square() + spectrum.imag.square() + floor**2).sqrt()
        ctx.save_for_backward(spectrum, magnitude)
        ctx.length = frames.shape[-1]
        return magnitude

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        spectrum, magnitude = ctx.saved_tensors
        scale = gradients[0] / magnitude * (0.5 * ctx.length)
        scale[..., 0] *= 2  # the first and last bin stand for one frequency, the others for two
        scale[..., -1] *= 2
        return torch.fft.irfft(spectrum * scale, ctx.length), None


def _magnitudes(samples: Tensor, window: Tensor) -> Tensor:
    """Magnitudes `[batch, frames, bins]`, padded with silence, over `sqrt(window / 2)`."""
    length = window.shape[0]
    hop_length = length // 4
    left = length // 2
    right = left + -samples.shape[-1] % hop_length
    hops = rearrange(
        functional.pad(samples, (left, right)), "batch (hops hop) -> batch hops hop", hop=hop_length
    )
    count = hops.shape[1] - 3
    frames = torch.cat([hops[:, part : part + count] for part in range(4)], dim=-1)
    scaled = window / (length / 2) ** 0.5
    magnitude = _Magnitude.apply(frames * scaled, 1e-5)
    assert isinstance(magnitude, Tensor)
    return magnitude
