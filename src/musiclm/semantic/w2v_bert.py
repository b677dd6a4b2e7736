"""w2v-BERT: conformers that learn music by filling in what was hidden (Chung 2021).

Legend: `batch`, `samples`, `frames` (25 Hz), `dim` (model width), `codebook` (entries).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from musiclm.audio.spectrogram import LogMel, LogMelConfig
from musiclm.core.config import Config
from musiclm.core.errors import ConfigError
from musiclm.layers.conformer import ConformerBlock, ConformerConfig
from musiclm.semantic.gumbel import GumbelQuantizer, QuantizerTargets
from musiclm.semantic.prototypes import PrototypeQuantizer

_STRIDE = 4
_MASK_DEVIATION = 0.1
_CALIBRATION_CROPS = 32
_WHITENING_FLOOR = 3e-3


class W2vBertConfig(Config):
    """Sizes of w2v-BERT; the defaults are the XL model (600M) that MusicLM uses."""

    spectrogram: LogMelConfig = LogMelConfig()
    """The log-mel that the strided convolutions read: a frame every 10 ms."""
    slow_spectrogram: LogMelConfig | None = None
    """A second log-mel with a long window and one frame a feature frame, which tells neighbouring
    notes apart; the published model has none."""
    input_mean: float = -4.0
    """Subtracted from the log-mels."""
    input_deviation: float = Field(default=3.0, gt=0)
    """The log-mels are divided by this."""
    front_end_channels: int = Field(default=256, gt=0)
    """Channels of the two strided convolutions."""
    conformer: ConformerConfig = ConformerConfig()
    """Every block of both modules."""
    num_contrastive_layers: int = Field(default=12, gt=0)
    """Blocks below the contrastive loss."""
    num_prediction_layers: int = Field(default=12, ge=0)
    """Blocks between the contrastive and the masked-prediction loss."""
    codebook_size: int = Field(default=1024, gt=1)
    """Entries of the quantizer."""
    codebook_dim: int = Field(default=1024, gt=0)
    """Width of an entry."""
    targets: Literal["features", "spectra"] = "features"
    """What is quantized into the targets: the front end's features by a learned quantizer, as
    published, or the spectra by fixed prototypes, which a short run can learn from."""

    @model_validator(mode="after")
    def _check(self) -> "W2vBertConfig":
        if self.spectrogram.num_mels % _STRIDE:
            raise ValueError(f"the number of mels must be a multiple of {_STRIDE}")
        if self.sample_rate_hz % self.hop_length:
            raise ValueError("sample_rate_hz must be a multiple of four spectrogram hops")
        slow = self.slow_spectrogram
        if slow and (slow.sample_rate_hz, slow.hop_length) != (
            self.sample_rate_hz,
            self.hop_length,
        ):
            raise ValueError(f"slow_spectrogram must have a hop of {self.hop_length} samples")
        return self

    @property
    def sample_rate_hz(self) -> int:
        """Samples per second of the input."""
        return self.spectrogram.sample_rate_hz

    @property
    def hop_length(self) -> int:
        """Samples per feature frame."""
        return _STRIDE * self.spectrogram.hop_length

    @property
    def num_bands(self) -> int:
        """Bands of all spectrograms together."""
        slow = self.slow_spectrogram
        return self.spectrogram.num_mels + (slow.num_mels if slow else 0)

    @property
    def frame_rate_hz(self) -> int:
        """Feature frames per second."""
        return self.sample_rate_hz // self.hop_length


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
        shapes = [_shape(functional.avg_pool1d(self.fast, _STRIDE))]
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
        width = channels * (config.spectrogram.num_mels // _STRIDE)
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


class W2vBertEncoder(nn.Module):
    """The part that makes features: front end, contrastive blocks, prediction blocks."""

    def __init__(self, config: W2vBertConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.conformer.dim
        self.front_end = FrontEnd(config)
        self.project = nn.Linear(dim, dim)
        self.contrastive_blocks = nn.ModuleList(
            ConformerBlock(config.conformer) for _ in range(config.num_contrastive_layers)
        )
        self.prediction_blocks = nn.ModuleList(
            ConformerBlock(config.conformer) for _ in range(config.num_prediction_layers)
        )

    def contrast(
        self, features: Float[Tensor, "batch frames dim"]
    ) -> Float[Tensor, "batch frames dim"]:
        """Front-end features (masked or not) through the contrastive module."""
        frames = self.project(features)
        for block in self.contrastive_blocks:
            frames = block(frames)
        return frames

    def forward(self, samples: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch dim frames"]:
        """Features after the last block, nothing masked."""
        frames = self.contrast(self.front_end(samples))
        for block in self.prediction_blocks:
            frames = block(frames)
        return rearrange(frames, "batch frames dim -> batch dim frames")


@dataclass(frozen=True)
class SpectrumGuess:
    """Standardised spectra and a guess of them."""

    guess: Float[Tensor, "batch frames bands"]
    truth: Float[Tensor, "batch frames bands"]


@dataclass(frozen=True)
class W2vBertOutput:
    """What the losses need.

    Attributes:
        contrastive: Context vectors of the contrastive module, in the codebook's space.
        logits: The masked-prediction module's guess of each frame's code.
        targets: The quantizer's view of the unmasked features.
        spectra: With `targets="spectra"`, standardised spectra and the prediction module's guess.
    """

    contrastive: Float[Tensor, "batch frames codebook_dim"]
    logits: Float[Tensor, "batch frames codebook"]
    targets: QuantizerTargets
    spectra: SpectrumGuess | None = None


class W2vBert(nn.Module):
    """The encoder with its quantizer and the two heads that only training needs."""

    def __init__(self, config: W2vBertConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.conformer.dim
        self.encoder = W2vBertEncoder(config)
        sizes = (config.codebook_size, config.codebook_dim)
        self.quantizer = (
            GumbelQuantizer(dim, *sizes)
            if config.targets == "features"
            else PrototypeQuantizer(config.num_bands, *sizes)
        )
        self.contrastive_head = nn.Linear(dim, config.codebook_dim)
        self.prediction_head = nn.Linear(dim, config.codebook_size)
        reads_spectra = config.targets == "spectra"
        self.spectrum_head = nn.Linear(dim, config.num_bands) if reads_spectra else None
        # Random guesses would first of all teach the blocks to say less: heads start from none.
        for head in (self.prediction_head, self.spectrum_head):
            if head is not None:
                nn.init.zeros_(head.weight)

    def forward(
        self,
        samples: Float[Tensor, "batch samples"],
        mask: Bool[Tensor, "batch frames"],
        *,
        temperature: float,
        generator: torch.Generator,
    ) -> W2vBertOutput:
        """The training pass: hidden frames become noise, the quantizer sees all.

        Args:
            samples: Audio; `frames` whole frames of it.
            mask: Frames to hide (`pretext.draw_mask`).
            temperature: Of the Gumbel softmax.
            generator: Draws the noise that replaces hidden frames and the quantizer's.
        """
        spectra = self.encoder.front_end.read(samples)
        features = self.encoder.front_end.embed(spectra)
        noise = _MASK_DEVIATION * torch.randn(features.shape, generator=generator)
        shapes: Tensor | None = None
        if isinstance(self.quantizer, PrototypeQuantizer):
            shapes = spectra.shapes()
            targets = self.quantizer(shapes)
            shapes = self.quantizer.standardise(shapes)
        else:
            targets = self.quantizer(features, temperature=temperature, generator=generator)
        hidden = torch.where(mask[..., None], noise.to(features), features)
        context = self.encoder.contrast(hidden)
        predicted = context
        for block in self.encoder.prediction_blocks:
            predicted = block(predicted)
        spectrum_guess = None
        if self.spectrum_head is not None and shapes is not None:
            spectrum_guess = SpectrumGuess(self.spectrum_head(predicted), shapes)
        return W2vBertOutput(
            contrastive=self.contrastive_head(context),
            logits=self.prediction_head(predicted),
            targets=targets,
            spectra=spectrum_guess,
        )

    @torch.no_grad()
    def start_targets(
        self, samples: Float[Tensor, "batch samples"], *, generator: torch.Generator
    ) -> None:
        """Settles the prototypes of `targets="spectra"`, before training, on a hundred crops or so.

        The front end is calibrated on the same audio. Does nothing when the prototypes are settled
        already, or when the quantizer is learned.
        """
        quantizer, front_end = self.quantizer, self.encoder.front_end
        if isinstance(quantizer, PrototypeQuantizer) and not quantizer.get_buffer("is_started"):
            shapes = [front_end.read(some).shapes().flatten(0, 1) for some in samples.split(8)]
            quantizer.start(torch.cat(shapes), generator=generator)
            front_end.calibrate(front_end.read(samples[:_CALIBRATION_CROPS]))

    def features(
        self, samples: Float[Tensor, "batch samples"], layer: int
    ) -> Float[Tensor, "batch dim frames"]:
        """Features after block `layer` of the masked-prediction module; nothing is masked.

        Layer 0 is the output of the contrastive module. MusicLM takes layer 7 of 12.

        Raises:
            ConfigError: There is no such layer.
        """
        blocks = self.encoder.prediction_blocks
        if not 0 <= layer <= len(blocks):
            raise ConfigError(f"Layer {layer} does not exist; choose 0 to {len(blocks)}.")
        frames = self.encoder.contrast(self.encoder.front_end(samples))
        for block in blocks[:layer]:
            frames = block(frames)
        return rearrange(frames, "batch frames dim -> batch dim frames")
