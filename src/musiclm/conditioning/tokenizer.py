"""Conditioning tokens: MuLan embeddings through a residual quantizer; one frame a clip."""

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from musiclm.core.config import Config
from musiclm.quantization.residual import QuantizerConfig, ResidualVectorQuantizer
from musiclm.tokens.spec import TokenSpec


class ConditioningTokenizerConfig(Config):
    """The quantizer and how much of it the stages see."""

    quantizer: QuantizerConfig = QuantizerConfig(codebook_dim=128)
    """12 levels of 1024 vectors of 128 dimensions, as in MusicLM (Section 3.1)."""
    num_levels: int = Field(default=12, gt=0)
    """Levels handed on. The quantizer is fitted on audio: deep levels hold details of one
    recording that no text can name, and disagree between text and audio."""

    @model_validator(mode="after")
    def _check(self) -> "ConditioningTokenizerConfig":
        if self.num_levels > self.quantizer.num_quantizers:
            raise ValueError(
                f"num_levels is {self.num_levels}; the quantizer has "
                f"{self.quantizer.num_quantizers} levels"
            )
        return self


class ConditioningTokenizer(nn.Module):
    """Unit vectors of the joint space to codes and back.

    Text embeddings lie in a cone of their own beside those of audio (the modality gap), so the
    mean of each side over training clips is kept, and a text is moved by their difference before
    it meets the codebooks, which know audio only.
    """

    def __init__(self, config: ConditioningTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.quantizer = ResidualVectorQuantizer(config.quantizer)
        self.text_shift: Tensor
        self.register_buffer("text_shift", torch.zeros(config.quantizer.codebook_dim))

    @property
    def token_spec(self) -> TokenSpec:
        """The shape of the codes."""
        return TokenSpec(
            name="conditioning",
            num_quantizers=self.config.num_levels,
            codebook_size=self.config.quantizer.codebook_size,
            frame_rate_hz=0,
        )

    @torch.no_grad()
    def tokenize(
        self, embedding: Float[Tensor, "batch dim"], *, num_levels: int | None = None
    ) -> Int[Tensor, "batch quantizers 1"]:
        """Codes of audio embeddings; `num_levels` overrides the config's.

        Raises:
            ConfigError: The quantizer has fewer levels.
        """
        levels = self.config.num_levels if num_levels is None else num_levels
        return self.quantizer.encode(embedding[:, :, None], levels)

    @torch.no_grad()
    def tokenize_text(
        self, embedding: Float[Tensor, "batch dim"], *, num_levels: int | None = None
    ) -> Int[Tensor, "batch quantizers 1"]:
        """Codes of text embeddings, moved to where audio lies.

        Raises:
            ConfigError: The quantizer has fewer levels.
        """
        moved = nn.functional.normalize(embedding + self.text_shift, dim=-1)
        return self.tokenize(moved, num_levels=num_levels)

    @torch.no_grad()
    def embedding(self, codes: Int[Tensor, "batch quantizers 1"]) -> Float[Tensor, "batch dim"]:
        """The vector that codes of the first levels stand for (not of unit length)."""
        return self.quantizer.decode(codes)[:, :, 0]

    @torch.no_grad()
    def learn_text_shift(
        self, text: Float[Tensor, "texts dim"], audio: Float[Tensor, "clips dim"]
    ) -> None:
        """Keeps the difference between the mean audio and the mean text embedding."""
        self.text_shift.copy_(audio.mean(dim=0) - text.mean(dim=0))
