"""Sizes of w2v-BERT: what it reads, how deep and wide it is, and what it learns to guess."""

from typing import Literal

from pydantic import Field, model_validator

from musiclm.audio.spectrogram import LogMelConfig
from musiclm.core.config import Config
from musiclm.layers.conformer import ConformerConfig

FRONT_END_STRIDE = 4
"""Spectrogram frames a feature frame: two convolutions of stride 2."""


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
        if self.spectrogram.num_mels % FRONT_END_STRIDE:
            raise ValueError(f"the number of mels must be a multiple of {FRONT_END_STRIDE}")
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
        return FRONT_END_STRIDE * self.spectrogram.hop_length

    @property
    def num_bands(self) -> int:
        """Bands of all spectrograms together."""
        slow = self.slow_spectrogram
        return self.spectrogram.num_mels + (slow.num_mels if slow else 0)

    @property
    def frame_rate_hz(self) -> int:
        """Feature frames per second."""
        return self.sample_rate_hz // self.hop_length
