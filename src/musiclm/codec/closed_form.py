"""A codec by linear algebra: the spectral backbone's starting point, fitted in seconds.

Targets are read off the audio: for every oscillator the spectrum's magnitude at its frequency, for
every noise band the lower part of the magnitudes around. Reduced-rank regression from the encoder's
features to the targets gives the two shortcuts (features to latents, latents to controls) that the
networks then refine. Latents keep the metric of log amplitudes, so the quantizer spends its bits on
what the synthesis needs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from musiclm.codec.spectral import SpectralConfig, SpectralDecoder, SpectralEncoder
from musiclm.core.errors import DataError

_WINDOW_SAMPLES = 4096
_FFT_SIZE = 8192
_NOISE_WINDOW_SAMPLES = 1024
_AMPLITUDE_FLOOR = 1e-4
_NOISE_FLOOR = 1e-4
_NOISE_SHARE = 0.7
_RIDGE = 0.1
_LATENT_SCALE = 0.1


@dataclass(frozen=True)
class FitReport:
    """How well the linear path explains its targets.

    Attributes:
        num_frames: Frames it was fitted on.
        explained: Share of the variance of the targets.
    """

    num_frames: int
    explained: float


@torch.no_grad()
def fit_shortcuts(
    encoder: SpectralEncoder, decoder: SpectralDecoder, clips: Sequence[Float[Tensor, " samples"]]
) -> FitReport:
    """Sets both shortcuts, and lets the networks start at zero.

    Args:
        encoder: Its shortcut and last layer are set.
        decoder: Its shortcut and last layer are set.
        clips: Pieces of audio of a second or more, several hundred seconds in all.

    Raises:
        DataError: There are fewer frames than features.
    """
    config = encoder.config
    pairs = [(features_of(encoder, clip), targets_of(config, clip)) for clip in clips]
    features = torch.cat([pair[0] for pair in pairs]).double()
    targets = torch.cat([pair[1] for pair in pairs]).double()
    if len(features) < features.shape[1]:
        raise DataError(
            f"The closed-form start needs at least {features.shape[1]} frames of audio, got "
            f"{len(features)}. Give it more."
        )
    feature_mean, target_mean = features.mean(dim=0), targets.mean(dim=0)
    features, targets = features - feature_mean, targets - target_mean
    gram = features.T @ features
    gram.diagonal().add_(_RIDGE * gram.diagonal().mean())
    weights = torch.linalg.solve(gram, features.T @ targets)
    fitted = features @ weights
    _, directions = torch.linalg.eigh(fitted.T @ fitted)
    basis = directions.flip(1)[:, : config.latent_dim]
    projection = _LATENT_SCALE * weights @ basis
    encoder.shortcut.copy_(projection)
    decoder.shortcut.copy_(basis.T / _LATENT_SCALE)
    for layer in (encoder.exit, decoder.exit):
        nn.init.zeros_(layer.weight)
    encoder.exit.bias.copy_(-feature_mean @ projection)
    decoder.exit.bias.copy_(target_mean)
    error = (targets - fitted @ basis @ basis.T).square().sum() / targets.square().sum()
    return FitReport(len(features), 1 - float(error))


def features_of(
    encoder: SpectralEncoder, samples: Float[Tensor, " samples"]
) -> Float[Tensor, "frames features"]:
    """What the encoder's first layer reads of a clip, whole frames only."""
    config = encoder.config
    used = samples[: len(samples) // config.hop_length * config.hop_length]
    context = config.longest_window - config.hop_length - config.lookahead_samples
    padded = functional.pad(used, (context, config.lookahead_samples))
    return encoder.spectra(padded.unfold(0, config.longest_window, config.hop_length)[None])[0]


def targets_of(
    config: SpectralConfig, samples: Float[Tensor, " samples"]
) -> Float[Tensor, "frames outputs"]:
    """The controls that would sound like a clip: log amplitudes, then log noise gains."""
    synthesis = config.synthesis
    rate = synthesis.sample_rate_hz
    num_frames = len(samples) // config.hop_length
    used = samples[: num_frames * config.hop_length]
    step = config.hop_length // synthesis.amplitudes_per_frame
    spectra = _spectra(used, _WINDOW_SAMPLES, step, _FFT_SIZE)
    numbers = torch.arange(synthesis.num_oscillators)
    frequencies = synthesis.lowest_hz * 2 ** (numbers / synthesis.oscillators_per_octave)
    place = frequencies / rate * _FFT_SIZE
    below = place.long().clamp(max=spectra.shape[1] - 2)
    part = place - below
    magnitude = spectra[:, below] * (1 - part) + spectra[:, below + 1] * part
    # A partial spreads over all oscillators within the window's main lobe: share it among them.
    spacing_hz = frequencies * (2 ** (1 / synthesis.oscillators_per_octave) - 1)
    sharing = (4 * rate / _WINDOW_SAMPLES / spacing_hz).clamp(min=1).sqrt()
    tones = (magnitude / sharing + _AMPLITUDE_FLOOR).log()
    step = config.hop_length // synthesis.noise_gains_per_frame
    short = _spectra(used, _NOISE_WINDOW_SAMPLES, step, _NOISE_WINDOW_SAMPLES)[:, 1:]
    bands = rearrange(
        short, "points (bands bins) -> points bands bins", bands=synthesis.noise_bands
    )
    # The 30 % quantile of a Rayleigh distribution, and the window's noise gain, give the RMS.
    rms = bands.quantile(0.3, dim=-1) / math.sqrt(-math.log(0.7) * 6 / _NOISE_WINDOW_SAMPLES)
    hiss = (_NOISE_SHARE * rms + _NOISE_FLOOR).log()
    return torch.cat(
        [
            rearrange(tones, "(frames points) rows -> frames (points rows)", frames=num_frames),
            rearrange(hiss, "(frames points) rows -> frames (points rows)", frames=num_frames),
        ],
        dim=1,
    )


def _spectra(samples: Tensor, window_length: int, step: int, fft_size: int) -> Tensor:
    """Amplitude spectra centred on the end of every step."""
    half = window_length // 2
    frames = functional.pad(samples, (half, half)).unfold(0, window_length, step)[1:]
    window = torch.hann_window(window_length, device=samples.device)
    return torch.fft.rfft(frames * (2 / window.sum()) * window, fft_size).abs()
