"""Semantic tokenizer: w2v-BERT features, standardised, to the nearest of 1024 centroids at 25 Hz.

Legend: `batch`, `samples`, `quantizers` (one here), `frames` (25 Hz), `dim`, `clusters`.
"""

from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from musiclm.core.config import Config
from musiclm.core.errors import AudioError, ConfigError
from musiclm.core.pretrained import Storage, load_weights, read_config_json, save_weights
from musiclm.semantic.w2v_bert import W2vBert, W2vBertEncoder
from musiclm.semantic.w2v_bert_config import W2vBertConfig
from musiclm.tokens.spec import TokenSpec

_WINDOWS_AT_ONCE = 8


class SemanticTokenizerConfig(Config):
    """Which layer is read, how finely it is cut, and in what windows."""

    w2v_bert: W2vBertConfig = W2vBertConfig()
    """The model the features come from."""
    layer: int = Field(default=7, ge=0)
    """Block of the masked-prediction module that is read; 0 is the contrastive module's output."""
    num_clusters: int = Field(default=1024, gt=1)
    """Centroids: the size of the semantic vocabulary."""
    window_seconds: float = Field(default=10.0, gt=0)
    """Audio longer than a window and its contexts is tokenized window by window."""
    context_seconds: float = Field(default=1.0, ge=0)
    """Audio seen on both sides of a window, whose codes are thrown away."""

    @model_validator(mode="after")
    def _check(self) -> "SemanticTokenizerConfig":
        if self.layer > self.w2v_bert.num_prediction_layers:
            raise ValueError(f"layer must be at most {self.w2v_bert.num_prediction_layers}")
        rate = self.w2v_bert.frame_rate_hz
        for seconds in (self.window_seconds, self.context_seconds):
            if abs(seconds * rate - round(seconds * rate)) > 1e-6:
                raise ValueError(f"windows and contexts must be whole frames of {1 / rate} s")
        return self

    @property
    def window_frames(self) -> int:
        """Frames of codes a window gives."""
        return round(self.window_seconds * self.w2v_bert.frame_rate_hz)

    @property
    def context_frames(self) -> int:
        """Frames thrown away on each side."""
        return round(self.context_seconds * self.w2v_bert.frame_rate_hz)


class SemanticTokenizer(nn.Module):
    """Audio to semantic codes (MusicLM, Sec. 3.1).

    Holds no block above the layer it reads. Cost grows linearly with duration.
    """

    def __init__(self, config: SemanticTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        sizes = config.w2v_bert.model_copy(update={"num_prediction_layers": config.layer})
        dim = sizes.conformer.dim
        self.encoder = W2vBertEncoder(sizes)
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("deviation", torch.ones(dim))
        self.register_buffer("centroids", torch.zeros(config.num_clusters, dim))

    @property
    def token_spec(self) -> TokenSpec:
        """One code a frame."""
        return TokenSpec(
            name="semantic",
            num_quantizers=1,
            codebook_size=self.config.num_clusters,
            frame_rate_hz=self.config.w2v_bert.frame_rate_hz,
        )

    @property
    def sample_rate_hz(self) -> int:
        """The rate of the audio it reads."""
        return self.config.w2v_bert.sample_rate_hz

    @classmethod
    def from_w2v_bert(cls, model: W2vBert, config: SemanticTokenizerConfig) -> "SemanticTokenizer":
        """Takes the blocks up to the layer from a trained model; centroids are still to be fitted.

        Raises:
            ConfigError: The config describes another model.
        """
        if model.config != config.w2v_bert:
            raise ConfigError("The tokenizer's w2v_bert config is not the given model's.")
        tokenizer = cls(config)
        wanted = tokenizer.encoder.state_dict()
        have = model.encoder.state_dict()
        tokenizer.encoder.load_state_dict({name: have[name] for name in wanted})
        return tokenizer

    def fill(
        self,
        mean: Float[Tensor, " dim"],
        deviation: Float[Tensor, " dim"],
        centroids: Float[Tensor, "clusters dim"],
    ) -> None:
        """Sets the standardisation and the centroids (of standardised features).

        Raises:
            ConfigError: A shape does not fit.
        """
        for name, value in (("mean", mean), ("deviation", deviation), ("centroids", centroids)):
            buffer = self.get_buffer(name)
            if buffer.shape != value.shape:
                raise ConfigError(
                    f"{name} is {list(value.shape)}; this tokenizer takes {list(buffer.shape)}."
                )
            buffer.copy_(value)

    @torch.no_grad()
    def features(
        self, samples: Float[Tensor, "batch samples"]
    ) -> Float[Tensor, "batch dim frames"]:
        """Features before standardisation; a last incomplete frame is padded with zeros.

        Audio up to a window and its two contexts is seen whole; longer audio in windows of that
        length, all alike, so that a window's codes depend on at most a context to either side.

        Raises:
            AudioError: There is no audio.
        """
        hop = self.config.w2v_bert.hop_length
        if samples.shape[-1] == 0:
            raise AudioError("There is no audio to tokenize (0 samples). Give a longer clip.")
        samples = functional.pad(samples, (0, -samples.shape[-1] % hop))
        frames = samples.shape[-1] // hop
        kept, context = self.config.window_frames, self.config.context_frames
        length = kept + 2 * context
        if frames <= length:
            return torch.cat([self.encoder(some) for some in samples.split(_WINDOWS_AT_ONCE)])
        starts = [*range(0, frames - length, kept), frames - length]
        pieces = torch.stack([samples[:, s * hop : (s + length) * hop] for s in starts], dim=1)
        windows = rearrange(pieces, "batch windows samples -> (batch windows) samples")
        seen = torch.cat([self.encoder(some) for some in windows.split(_WINDOWS_AT_ONCE)])
        seen = rearrange(
            seen, "(b windows) dim frames -> b windows dim frames", windows=len(starts)
        )
        parts: list[Tensor] = []
        done = 0
        for number, start in enumerate(starts):
            end = frames if start == starts[-1] else start + context + kept
            parts.append(seen[:, number, :, done - start : end - start])
            done = end
        return torch.cat(parts, dim=-1)

    @torch.no_grad()
    def assign(self, features: Float[Tensor, "batch dim frames"]) -> Int[Tensor, "batch frames"]:
        """The nearest centroid of each frame, in float32."""
        with torch.autocast(features.device.type, enabled=False):
            frames = rearrange(features.float(), "batch dim frames -> batch frames dim")
            frames = (frames - self.get_buffer("mean")) / self.get_buffer("deviation")
            centroids = self.get_buffer("centroids")
            closeness = frames @ centroids.T - 0.5 * centroids.square().sum(dim=-1)
            return closeness.argmax(dim=-1)

    @torch.no_grad()
    def tokenize(
        self, samples: Float[Tensor, "batch samples"]
    ) -> Int[Tensor, "batch quantizers frames"]:
        """Codes of audio of any length, one every 40 ms; the last may be padded with silence.

        Raises:
            AudioError: There is no audio.
        """
        return self.assign(self.features(samples))[:, None]

    def save(self, path: Path, *, storage: Storage = "float16") -> None:
        """Writes weights, standardisation, centroids and config to one safetensors file."""
        save_weights(self, path, config_json=self.config.to_json(), storage=storage)

    @classmethod
    def load(cls, path: Path) -> "SemanticTokenizer":
        """Reads what `save` wrote.

        Raises:
            CheckpointError: The file is missing, damaged, or another model's.
        """
        tokenizer = cls(SemanticTokenizerConfig.from_json(read_config_json(path)))
        load_weights(tokenizer, path)
        return tokenizer.eval()
