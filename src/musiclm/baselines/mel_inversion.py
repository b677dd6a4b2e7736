"""Mel spectrograms back to audio: least squares for the spectrum, Griffin-Lim for its phases."""

import torch
from jaxtyping import Float
from torch import Tensor


def linear_magnitudes(
    mel: Float[Tensor, "mels frames"], filters: Float[Tensor, "mels bins"], *, num_steps: int = 30
) -> Float[Tensor, "bins frames"]:
    """Magnitudes whose mel bands come nearest to the given ones, none of them negative.

    Multiplicative updates from the transpose, which keep zero and positive what it is (Lee & Seung
    2001).

    Args:
        mel: Mel magnitudes.
        filters: The filterbank that made them.
        num_steps: Updates.
    """
    target = filters.T @ mel
    magnitudes = target.clamp(min=1e-8)
    for _ in range(num_steps):
        # There are far fewer bands than bins: two thin products instead of one with their Gram.
        found = filters.T @ (filters @ magnitudes)
        magnitudes = magnitudes * target / found.clamp(min=1e-8)
    return magnitudes


def griffin_lim(  # noqa: PLR0913  (the transform, and how long)
    magnitudes: Float[Tensor, "bins frames"],
    *,
    fft_size: int,
    hop_length: int,
    window: Float[Tensor, " window"],
    generator: torch.Generator,
    num_iterations: int = 32,
    momentum: float = 0.99,
) -> Float[Tensor, " samples"]:
    """Audio whose spectrum has these magnitudes, as nearly as there is any (Perraudin 2013).

    Frames are centred every `hop_length`; the first and the last lie at the ends.

    Args:
        magnitudes: Of the short-time spectrum.
        fft_size: Points of the transform.
        hop_length: Samples between frames.
        window: Its window, at most `fft_size` long.
        generator: Draws the first phases.
        num_iterations: Rounds (Riffusion takes 32).
        momentum: How far each round overshoots.
    """
    draws = torch.rand(magnitudes.shape, generator=generator).to(magnitudes)
    phases = torch.polar(torch.ones_like(magnitudes), 2 * torch.pi * draws)
    length = hop_length * (magnitudes.shape[1] - 1)
    width = len(window)
    last = torch.zeros_like(phases)
    for _ in range(num_iterations):
        samples = torch.istft(
            magnitudes * phases, fft_size, hop_length, width, window, length=length
        )
        rebuilt = torch.stft(samples, fft_size, hop_length, width, window, return_complex=True)
        ahead = rebuilt - momentum / (1 + momentum) * last
        phases = ahead / ahead.abs().clamp(min=1e-12)
        last = rebuilt
    return torch.istft(magnitudes * phases, fft_size, hop_length, width, window, length=length)
