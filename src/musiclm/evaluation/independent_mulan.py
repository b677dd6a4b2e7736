"""An independent joint space of music and text: it hears through MusicNN, not as MuLan does.

A MuLan of the same kind shares its architecture's habits with the one that conditions. This one's
audio side is a small network on features that a published tagger computes, frozen, so that it
judges what the model makes by other ears.
"""

import math
from collections.abc import Iterable
from pathlib import Path

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from musiclm.conditioning.mulan import JointSpace
from musiclm.conditioning.text_tower import TextTower, TextTowerConfig
from musiclm.core.config import Config
from musiclm.core.pretrained import load_weights, read_config_json
from musiclm.evaluation.musicnn_features import MusicNNFeatures, MusicNNFeaturesConfig

_LEAST_DEVIATION = 1e-2
_FARTHEST = 8.0


class FeatureTowerConfig(Config):
    """The small network on the features."""

    hidden_dim: int = Field(default=512, gt=0)
    """Width of the hidden layer."""
    input_dropout: float = Field(default=0.2, ge=0, lt=1)
    """Share of features that are not heard in training."""
    dropout: float = Field(default=0.4, ge=0, lt=1)
    """In training only, of the hidden layer."""
    embedding_dim: int = Field(default=128, gt=0)
    """Dimensions of the joint space."""


class IndependentMuLanConfig(Config):
    """What is heard, both towers, and how sharply they are compared."""

    features: MusicNNFeaturesConfig = MusicNNFeaturesConfig()
    """MusicNN's variant; its weights are those installed, not part of the file."""
    tower: FeatureTowerConfig = FeatureTowerConfig()
    """What maps features to the joint space."""
    text: TextTowerConfig
    """The tower that reads."""
    initial_temperature: float = Field(default=0.1, gt=0)
    """As in MuLan."""
    lowest_temperature: float = Field(default=0.02, gt=0)
    """As in MuLan."""

    @model_validator(mode="after")
    def _check(self) -> "IndependentMuLanConfig":
        if self.tower.embedding_dim != self.text.embedding_dim:
            raise ValueError("both towers must have the same embedding_dim")
        return self


class FeatureTower(nn.Module):
    """Mean and deviation of the features over a stretch's windows, to a unit vector."""

    def __init__(self, config: FeatureTowerConfig, feature_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2 * feature_dim))
        self.register_buffer("deviation", torch.ones(2 * feature_dim))
        self.layers = nn.Sequential(
            nn.Dropout(config.input_dropout),
            nn.Linear(2 * feature_dim, config.hidden_dim),
            nn.GELU(),
            nn.LayerNorm(config.hidden_dim),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden_dim, config.embedding_dim),
        )

    @torch.no_grad()
    def standardise(self, stretches: Iterable[Float[Tensor, "windows dim"]]) -> None:
        """Fits the mean and deviation that inputs are brought to, on training stretches."""
        rows = torch.cat([self._summary(stretch[None]) for stretch in stretches])
        self.get_buffer("mean").copy_(rows.mean(dim=0))
        deviation = rows.std(dim=0, correction=0).clamp(min=_LEAST_DEVIATION)
        self.get_buffer("deviation").copy_(deviation)

    def forward(self, features: Float[Tensor, "batch windows dim"]) -> Float[Tensor, "batch dim2"]:
        """Unit vectors of the joint space."""
        inputs = (self._summary(features) - self.get_buffer("mean")) / self.get_buffer("deviation")
        return functional.normalize(
            self.layers(inputs.clamp(-_FARTHEST, _FARTHEST)).float(), dim=-1
        )

    def _summary(
        self, features: Float[Tensor, "batch windows dim"]
    ) -> Float[Tensor, "batch twice_dim"]:
        deviation = features.std(dim=1, correction=0)
        return torch.cat([features.mean(dim=1), deviation], dim=1)


class IndependentMuLan(JointSpace):
    """MusicNN features and texts in one space; MusicNN itself is not part of it."""

    def __init__(self, config: IndependentMuLanConfig) -> None:
        super().__init__()
        self.config = config
        self.audio_tower = FeatureTower(config.tower, config.features.dim)
        self.text_tower = TextTower(config.text)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(config.initial_temperature)))
        self.lowest_temperature = config.lowest_temperature

    def embed_heard(
        self, heard: Float[Tensor, "batch ..."], *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch dim"]:
        """Unit vectors of stretches of features, `[batch, windows, dim]`; nothing is drawn."""
        del generator
        return self.audio_tower(heard)

    def embed_features(
        self, features: Float[Tensor, "batch windows dim"]
    ) -> Float[Tensor, "batch joint_dim"]:
        """Unit vectors of clips of any length: the mean over stretches that start at each window.

        Args:
            features: At least as many windows as a stretch has.
        """
        length = self.config.features.num_windows
        stretches = features.unfold(1, length, 1).transpose(2, 3)
        embedded = self.audio_tower(stretches.flatten(0, 1)).unflatten(0, stretches.shape[:2])
        return functional.normalize(embedded.mean(dim=1), dim=-1)


class IndependentJudge:
    """The independent space on its device, with its ears: a `TextAudioModel` of the suite."""

    def __init__(self, space: IndependentMuLan) -> None:
        """Takes a trained space and reads MusicNN's weights.

        Raises:
            DependencyError: They are nowhere; the message holds the command that gets them.
            CheckpointError: They cannot be read.
        """
        self._space = space.eval()
        self._device = space.log_temperature.device
        self._features = MusicNNFeatures(space.config.features, device=self._device)

    @classmethod
    def load(cls, path: Path, *, device: torch.device | None = None) -> "IndependentJudge":
        """The judge whose weights `musiclm train mulan-judge` wrote.

        Raises:
            CheckpointError: The file is missing, damaged, or of another model.
            ConfigError: Its config is another model's.
            DependencyError: MusicNN's weights are not installed.
        """
        space = IndependentMuLan(IndependentMuLanConfig.from_json(read_config_json(path)))
        load_weights(space, path)
        return cls(space.to(device or torch.device("cpu")))

    @property
    def sample_rate_hz(self) -> int:
        """The rate of the audio it reads."""
        return self._features.sample_rate_hz

    @torch.no_grad()
    def embed_text(self, texts: list[str]) -> Float[Tensor, "batch dim"]:
        """Unit vectors of texts.

        Raises:
            PromptError: A text is empty.
        """
        return self._space.embed_text(texts).cpu()

    @torch.no_grad()
    def embed_audio(self, samples: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch dim"]:
        """Unit vectors of clips; those shorter than 9 s are repeated.

        Raises:
            AudioError: There are no samples.
        """
        features = self._features(samples).to(self._device)
        return self._space.embed_features(features).cpu()
