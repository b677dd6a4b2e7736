"""w2v-BERT: conformers that learn music by filling in what was hidden (Chung 2021).

Legend: `batch`, `samples`, `frames` (25 Hz), `dim` (model width), `codebook` (entries).
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from musiclm.core.errors import ConfigError
from musiclm.layers.conformer import ConformerBlock
from musiclm.semantic.front_end import FrontEnd
from musiclm.semantic.gumbel import GumbelQuantizer, QuantizerTargets
from musiclm.semantic.prototypes import PrototypeQuantizer
from musiclm.semantic.w2v_bert_config import W2vBertConfig

_MASK_DEVIATION = 0.1
_CALIBRATION_CROPS = 32


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
