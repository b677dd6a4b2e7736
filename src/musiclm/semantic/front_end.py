"""Front end of w2v-BERT: log-mels and two convolutions of stride 2, a vector every 40 ms.

Legend: `batch`, `samples`, `frames` (25 Hz), `columns` (100 Hz), `mels`, `bands`, `dim`.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from musiclm.audio.spectrogram import LogMel
from musiclm.semantic.w2v_bert_config import FRONT_END_STRIDE, W2vBertConfig

_WHITENING_FLOOR = 3e-3


@dataclass(frozen=True)
class Spectra:
    """Log-mels of the same audio.

    Attributes:
        fast: Four columns a feature frame.
        slow: One column a feature frame, long windows; absent in the published model.
    """

    fast: Float[Tensor, "batch mels columns"]
    slow: Float[Tensor, "batch slow_mels frames"] | None

    def shapes(self) -> Float[Tensor, "batch frames bands"]:
        """What `targets="spectra"` quantizes: all bands at the feature rate, free of loudness.

        The crop's mean is subtracted too, so that codes tell notes and beats apart, not the
        instruments that play all along.
        """
        shapes = [_shape(functional.avg_pool1d(self.fast, FRONT_END_STRIDE))]
        if self.slow is not None:
            shapes.append(_shape(self.slow))
        bands = torch.cat(shapes, dim=-1)
        return bands - bands.mean(dim=1, keepdim=True)


class FrontEnd(nn.Module):
    """Log-mel and two convolutions of stride 2: one layer-normalised vector every 40 ms."""

    def __init__(self, config: W2vBertConfig) -> None:
        super().__init__()
        self.config = config
        dim, channels = config.conformer.dim, config.front_end_channels
        self.spectrogram = LogMel(config.spectrogram)
        self.first = nn.Conv2d(1, channels, 3, stride=2, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        width = channels * (config.spectrogram.num_mels // FRONT_END_STRIDE)
        slow = config.slow_spectrogram
        self.slow_spectrogram = LogMel(slow) if slow else None
        self.slow_project = nn.Linear(slow.num_mels, dim) if slow else None
        self.project = nn.Linear(width + dim if slow else width, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, samples: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch frames dim"]:
        """Features of every whole frame; a last incomplete frame is dropped."""
        return self.embed(self.read(samples))

    def read(self, samples: Float[Tensor, "batch samples"]) -> Spectra:
        """The log-mels of every whole frame."""
        whole = samples.shape[-1] // self.config.hop_length * self.config.hop_length
        samples = samples[..., :whole]
        slow = self.slow_spectrogram(samples) if self.slow_spectrogram is not None else None
        return Spectra(self.spectrogram(samples), slow)

    def embed(self, spectra: Spectra) -> Float[Tensor, "batch frames dim"]:
        """Features of log-mels."""
        image = (spectra.fast - self.config.input_mean) / self.config.input_deviation
        image = functional.gelu(self.second(functional.gelu(self.first(image[:, None]))))
        frames = rearrange(image, "batch channels bands frames -> batch frames (channels bands)")
        if spectra.slow is not None and self.slow_project is not None:
            # Its shape only: which notes sound, not how loud; loudness has the other path.
            slow = self.slow_project(_shape(spectra.slow))
            frames = torch.cat([frames, functional.gelu(slow)], dim=-1)
        return self.norm(self.project(frames))

    @torch.no_grad()
    def calibrate(self, spectra: Spectra) -> None:
        """Rescales each layer so that its outputs have mean 0 and deviation 1 on some audio.

        Log-mels share most of their energy from frame to frame; without this, what differs would
        be a ripple on a constant, and a short run would end before the blocks have found it.
        """
        image = (spectra.fast - self.config.input_mean) / self.config.input_deviation
        for layer in (self.first, self.second):
            image = functional.gelu(
                _calibrated(layer, image if image.ndim == 4 else image[:, None])
            )
        frames = rearrange(image, "batch channels bands frames -> batch frames (channels bands)")
        if spectra.slow is not None and self.slow_project is not None:
            slow = _calibrated(self.slow_project, _shape(spectra.slow))
            frames = torch.cat([frames, functional.gelu(slow)], dim=-1)
        _calibrated(self.project, frames)
        _whiten(self.project, frames)


def _whiten(layer: nn.Linear, inputs: Float[Tensor, "batch frames dim"]) -> None:
    """Rotates and stretches a layer so that its outputs vary alike in every direction."""
    outputs = layer(inputs).flatten(0, 1)
    values, vectors = torch.linalg.eigh(torch.cov(outputs.T))
    stretch = (values + _WHITENING_FLOOR * values.mean()).rsqrt()
    matrix = vectors @ torch.diag(stretch) @ vectors.T
    layer.weight.copy_(matrix @ layer.weight)
    layer.bias.copy_(matrix @ (layer.bias - outputs.mean(dim=0)))


def _calibrated(layer: nn.Conv2d | nn.Linear, inputs: Tensor) -> Tensor:
    """The layer's outputs on some inputs after it was rescaled to standardise them."""
    outputs = layer(inputs)
    axes = (0, 2, 3) if isinstance(layer, nn.Conv2d) else (0, 1)
    mean, deviation = outputs.mean(dim=axes), outputs.std(dim=axes).clamp(min=1e-4)
    assert layer.bias is not None
    layer.weight.div_(deviation.view(-1, *[1] * (layer.weight.ndim - 1)))
    layer.bias.sub_(mean).div_(deviation)
    return layer(inputs)


def _shape(
    log_mel: Float[Tensor, "batch mels frames"],
) -> Float[Tensor, "batch frames mels"]:
    """Each frame without its loudness and contrast."""
    frames = rearrange(log_mel, "batch mels frames -> batch frames mels")
    return functional.layer_norm(frames, frames.shape[-1:])
