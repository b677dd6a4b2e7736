"""MuLan: music and text in one 128-d space, learned by contrast (MuLan, Section 3)."""

import math
from abc import abstractmethod

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from musiclm.conditioning.audio_tower import AudioTower, AudioTowerConfig
from musiclm.conditioning.text_tower import TextTower, TextTowerConfig
from musiclm.core.config import Config

_WINDOWS_AT_ONCE = 64


class MuLanConfig(Config):
    """Two towers and how sharply they are compared."""

    audio: AudioTowerConfig = AudioTowerConfig()
    """The tower that hears."""
    text: TextTowerConfig
    """The tower that reads."""
    initial_temperature: float = Field(default=0.1, gt=0)
    """Cosines are divided by it in the loss; it is trained."""
    lowest_temperature: float = Field(default=0.02, gt=0)
    """The loss without its positive has no minimum in the temperature: this bounds it."""

    @model_validator(mode="after")
    def _check(self) -> "MuLanConfig":
        if self.audio.embedding_dim != self.text.embedding_dim:
            raise ValueError("both towers must have the same embedding_dim")
        return self

    @property
    def embedding_dim(self) -> int:
        """Dimensions of the joint space."""
        return self.audio.embedding_dim


def contrastive_loss(
    audio: Float[Tensor, "batch dim"], text: Float[Tensor, "batch dim"], temperature: Tensor
) -> Float[Tensor, ""]:
    """MuLan's contrastive loss: one denominator of the negatives of both directions.

    For each pair, `-s_ii + log(sum_{j != i} exp s_ij + exp s_ji)` with `s = cosine / temperature`;
    the positive is left out of the denominator. Float32, because the sum of exponentials is not
    safe in bfloat16.
    """
    with torch.autocast(audio.device.type, enabled=False):
        scores = audio.float() @ text.float().T / temperature.float()
        own = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
        negatives = torch.cat([scores, scores.T], dim=1)
        negatives = negatives.masked_fill(torch.cat([own, own], dim=1), -math.inf)
        return (negatives.logsumexp(dim=1) - scores.diagonal()).mean()


def collapsed_loss(batch_size: int) -> float:
    """The value of `contrastive_loss` when every pair looks alike: `ln(2 (batch - 1))`."""
    return math.log(2 * (batch_size - 1))


class JointSpace(nn.Module):
    """What all joint spaces of music and text share: texts, and the temperature of the contrast."""

    text_tower: TextTower
    log_temperature: nn.Parameter
    lowest_temperature: float

    @abstractmethod
    def embed_heard(
        self, heard: Float[Tensor, "batch ..."], *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch dim"]:
        """Unit vectors of what the audio side reads (log-mels, features), one a crop."""

    @property
    def temperature(self) -> Tensor:
        """What cosines are divided by in the loss."""
        return self.log_temperature.exp().clamp(min=self.lowest_temperature)

    def embed_text(self, texts: list[str]) -> Float[Tensor, "batch dim"]:
        """Unit vectors of texts.

        Raises:
            PromptError: A text is empty.
        """
        return self.text_tower.embed(texts)


class MuLan(JointSpace):
    """The joint embedding of music and text; cosine is the measure of agreement."""

    def __init__(self, config: MuLanConfig) -> None:
        super().__init__()
        self.config = config
        self.audio_tower = AudioTower(config.audio)
        self.text_tower = TextTower(config.text)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(config.initial_temperature)))
        self.lowest_temperature = config.lowest_temperature

    @property
    def sample_rate_hz(self) -> int:
        """Rate of the audio it reads."""
        return self.config.audio.sample_rate_hz

    def embed_heard(
        self, heard: Float[Tensor, "batch ..."], *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch dim"]:
        """Unit vectors of windows of log-mels; the generator draws the masks of training."""
        return self.audio_tower(heard, generator=generator)

    def embed_windows(
        self, samples: Float[Tensor, "batch samples"], *, every: int = 1
    ) -> Float[Tensor, "batch windows dim"]:
        """Unit vectors of the 10-s windows that start at each whole second, or every few seconds.

        `n` seconds give `n - 9` windows, and one for anything shorter, which is looped; with
        `every`, the first of each so many.
        """
        windows = self.audio_tower.windows(samples)[:, ::every]
        pieces = windows.flatten(0, 1).split(_WINDOWS_AT_ONCE)
        embedded = torch.cat([self.audio_tower(piece) for piece in pieces])
        return embedded.unflatten(0, windows.shape[:2])

    def embed_audio(self, samples: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch dim"]:
        """Unit vectors of whole clips: windows averaged and brought back to unit length."""
        return functional.normalize(self.embed_windows(samples).mean(dim=1), dim=-1)
