"""Melody tokens: the contour of a tune through a residual quantizer, 25 frames a second.

The paper quantizes one embedding of 4 s every 3 s (Appendix C). We quantize what is heard frame by
frame, so that a stage can follow a contour in time: the tokens are aligned with semantic frames
and take no positions of the sequence. They say the pitch class and the onset, not the octave.
"""

from pathlib import Path

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from musiclm.conditioning.melody import MelodyEmbedder, MelodyEmbedderConfig
from musiclm.core.config import Config
from musiclm.core.pretrained import Storage, load_weights, read_config_json, save_weights
from musiclm.quantization.residual import QuantizerConfig, ResidualVectorQuantizer
from musiclm.tokens.spec import TokenSpec

CONTOUR_DIM = 14


class MelodyTokenizerConfig(Config):
    """The embedder and the quantizer of its contours."""

    embedder: MelodyEmbedderConfig = MelodyEmbedderConfig()
    """What hears."""
    quantizer: QuantizerConfig = QuantizerConfig(
        num_quantizers=2, codebook_size=64, codebook_dim=CONTOUR_DIM
    )
    """Of contours; 64 entries hold twelve pitch classes, held and beginning, and doubts."""
    piece_seconds: float = Field(default=30.0, gt=0)
    """Longer audio is heard piece by piece."""

    @model_validator(mode="after")
    def _check(self) -> "MelodyTokenizerConfig":
        if self.quantizer.codebook_dim != CONTOUR_DIM:
            raise ValueError(f"quantizer.codebook_dim must be {CONTOUR_DIM}, a contour's width")
        return self


class MelodyTokenizer(nn.Module):
    """Audio with a tune to melody tokens; satisfies `tokens.spec.Tokenizer`."""

    def __init__(self, config: MelodyTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.embedder = MelodyEmbedder(config.embedder)
        self.quantizer = ResidualVectorQuantizer(config.quantizer)

    @classmethod
    def load(cls, path: Path) -> "MelodyTokenizer":
        """Reads what `save` wrote, ready for use (eval mode).

        Raises:
            CheckpointError: The file is missing, truncated, foreign, or does not fit.
            ConfigError: Its config makes no sense.
        """
        tokenizer = cls(MelodyTokenizerConfig.from_json(read_config_json(path)))
        load_weights(tokenizer, path)
        return tokenizer.eval()

    def save(self, path: Path, *, storage: Storage = "float16") -> None:
        """Writes weights, codebooks and config to one file, whole or not at all."""
        save_weights(self, path, config_json=self.config.to_json(), storage=storage)

    @property
    def token_spec(self) -> TokenSpec:
        """The shape of the codes."""
        return TokenSpec(
            name="melody",
            num_quantizers=self.config.quantizer.num_quantizers,
            codebook_size=self.config.quantizer.codebook_size,
            frame_rate_hz=self.config.embedder.front_end.frame_rate_hz,
        )

    @property
    def sample_rate_hz(self) -> int:
        """Rate of the audio it reads."""
        return self.embedder.sample_rate_hz

    @torch.no_grad()
    def contour(self, samples: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch 14 frames"]:
        """What is heard; long audio in pieces, each at its own level and tuning."""
        size = round(self.config.piece_seconds * self.sample_rate_hz)
        hop = self.config.embedder.front_end.hop_length
        pieces = [piece for piece in samples.split(size, dim=1) if piece.shape[1] >= hop]
        if not pieces:
            return samples.new_zeros(samples.shape[0], CONTOUR_DIM, 0)
        return torch.cat([self.embedder.hear(piece).contour() for piece in pieces], dim=2)

    @torch.no_grad()
    def tokenize(
        self, samples: Float[Tensor, "batch samples"]
    ) -> Int[Tensor, "batch quantizers frames"]:
        """Codes of audio; `n` frames of samples give `n` frames of codes."""
        return self.quantizer.encode(self.contour(samples))

    @torch.no_grad()
    def pitch_classes(
        self, codes: Int[Tensor, "batch quantizers frames"]
    ) -> Int[Tensor, "batch frames"]:
        """The pitch class that codes stand for (0 is C); 12 for no note."""
        return self.quantizer.decode(codes)[:, :13].argmax(dim=1)
