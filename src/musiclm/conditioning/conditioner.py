"""The conditioner: MuLan and its tokenizer as one part of a model, in one weight file."""

from pathlib import Path

import torch
from jaxtyping import Float, Int
from pydantic import model_validator
from torch import Tensor, nn

from musiclm.conditioning.mulan import MuLan, MuLanConfig
from musiclm.conditioning.tokenizer import ConditioningTokenizer, ConditioningTokenizerConfig
from musiclm.core.config import Config
from musiclm.core.pretrained import Storage, load_weights, read_config_json, save_weights
from musiclm.tokens.spec import TokenSpec


class ConditionerConfig(Config):
    """What a weight file of the conditioner describes."""

    mulan: MuLanConfig
    """The joint embedding."""
    tokenizer: ConditioningTokenizerConfig = ConditioningTokenizerConfig()
    """Its quantizer."""

    @model_validator(mode="after")
    def _check(self) -> "ConditionerConfig":
        if self.mulan.embedding_dim != self.tokenizer.quantizer.codebook_dim:
            raise ValueError("the quantizer's codebook_dim must be MuLan's embedding_dim")
        return self


class Conditioner(nn.Module):
    """Audio or text to conditioning tokens; satisfies `tokens.spec.Tokenizer` for audio."""

    def __init__(self, config: ConditionerConfig) -> None:
        super().__init__()
        self.config = config
        self.mulan = MuLan(config.mulan)
        self.tokenizer = ConditioningTokenizer(config.tokenizer)

    @classmethod
    def load(cls, path: Path) -> "Conditioner":
        """Reads what `save` wrote, ready for use (eval mode).

        Raises:
            CheckpointError: The file is missing, truncated, foreign, or does not fit.
            ConfigError: Its config makes no sense.
        """
        conditioner = cls(ConditionerConfig.from_json(read_config_json(path)))
        load_weights(conditioner, path)
        return conditioner.eval()

    def save(self, path: Path, *, storage: Storage = "int8") -> None:
        """Writes weights, codebooks, vocabulary and config to one file, whole or not at all."""
        save_weights(self, path, config_json=self.config.to_json(), storage=storage)

    @property
    def token_spec(self) -> TokenSpec:
        """The shape of the codes."""
        return self.tokenizer.token_spec

    @property
    def sample_rate_hz(self) -> int:
        """Rate of the audio it reads."""
        return self.mulan.sample_rate_hz

    @torch.no_grad()
    def tokenize(
        self, samples: Float[Tensor, "batch samples"]
    ) -> Int[Tensor, "batch quantizers 1"]:
        """Codes of audio: windows of 10 s every second, averaged, re-normalised, quantized."""
        return self.tokenizer.tokenize(self.mulan.embed_audio(samples))

    @torch.no_grad()
    def tokenize_text(self, texts: list[str]) -> Int[Tensor, "batch quantizers 1"]:
        """Codes of texts.

        Raises:
            PromptError: A text is empty.
        """
        return self.tokenizer.tokenize_text(self.mulan.embed_text(texts))
