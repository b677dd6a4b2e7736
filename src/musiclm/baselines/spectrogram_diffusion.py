"""Spectrogram diffusion: text to an image of a mel spectrogram, and that to audio (as Riffusion).

A small U-Net of `diffusers` learns to remove noise from log-mel images while it reads the caption's
words by cross-attention; DDIM makes an image from noise, guided towards the words; Griffin-Lim
makes audio of it. It shares no model with MusicLM: words have embeddings of its own, by a hash.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from musiclm.audio.spectrogram import LogMelConfig
from musiclm.core.config import Config
from musiclm.core.errors import DependencyError

_NO_WORD = 0


class DiffusionConfig(Config):
    """Sizes of the U-Net and its steps."""

    log_mel: LogMelConfig = LogMelConfig(num_mels=64)
    """The images; those of MuLan's audio tower, so that a corpus's are computed once."""
    image_frames: int = Field(default=512, gt=0)
    """Frames of a training image (5.12 s); longer ones are made at once."""
    patch: int = Field(default=4, gt=0)
    """Mel bands, and frames, that the network reads as one point with `patch * patch` channels.
    Attention costs the square of the points: 10 s are 1,000 of them where words are first read,
    and would be 16,000 without patches."""
    channels: tuple[int, ...] = (64, 96, 128)
    """Of each resolution; the words are read at all but the first."""
    word_dim: int = Field(default=64, gt=0)
    """Width of a word's embedding."""
    num_buckets: int = Field(default=4096, gt=1)
    """Different embeddings; words share them by a hash."""
    max_words: int = Field(default=48, gt=0)
    """Words of a caption that are read."""
    num_train_steps: int = Field(default=1000, gt=0)
    """Levels of noise."""
    num_sample_steps: int = Field(default=20, gt=0)
    """Steps from noise to an image."""
    guidance: float = Field(default=3.0, ge=0)
    """How far the estimate moves from that without words (0) past that with them (1)."""

    @model_validator(mode="after")
    def _check(self) -> "DiffusionConfig":
        for name, size in (("mels", self.log_mel.num_mels), ("frames", self.image_frames)):
            if size % self.grid:
                raise ValueError(
                    f"{size} {name} do not divide into patches and halvings; give a multiple of "
                    f"{self.grid}"
                )
        return self

    @property
    def grid(self) -> int:
        """Mel bands, and frames, of one point at the lowest resolution."""
        return self.patch * 2 ** (len(self.channels) - 1)


def load_diffusers() -> Any:
    """The `diffusers` package.

    Raises:
        DependencyError: It is not installed.
    """
    try:
        import diffusers
    except ImportError as error:
        raise DependencyError(
            "Spectrogram diffusion needs diffusers, which is not installed. "
            "Run: pip install 'musiclm[baselines]'."
        ) from error
    return diffusers


class SpectrogramDiffusion(nn.Module):
    """The network, its words, and the scale of its images."""

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        self.config = config
        diffusers = load_diffusers()
        levels, patch = len(config.channels), config.patch
        self.network: nn.Module = diffusers.UNet2DConditionModel(
            sample_size=(config.log_mel.num_mels // patch, config.image_frames // patch),
            in_channels=patch**2,
            out_channels=patch**2,
            block_out_channels=config.channels,
            layers_per_block=1,
            down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * (levels - 1)),
            up_block_types=(*("CrossAttnUpBlock2D",) * (levels - 1), "UpBlock2D"),
            cross_attention_dim=config.word_dim,
            attention_head_dim=8,
            norm_num_groups=8,
        )
        self.words = nn.Embedding(config.num_buckets, config.word_dim)
        self.positions = nn.Embedding(config.max_words, config.word_dim)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("deviation", torch.ones(()))
        self._train_noise: Any = diffusers.DDPMScheduler(
            num_train_timesteps=config.num_train_steps,
            beta_schedule="squaredcos_cap_v2",
            prediction_type="v_prediction",
        )

    def fit_scale(self, log_mel: Float[Tensor, "batch mels frames"]) -> None:
        """Sets the scale of images so that these have mean 0 and deviation 1."""
        self.get_buffer("mean").copy_(log_mel.mean())
        self.get_buffer("deviation").copy_(log_mel.std().clamp(min=1e-3))

    def forward(
        self,
        log_mel: Float[Tensor, "batch mels frames"],
        texts: Sequence[str],
        generator: torch.Generator,
        *,
        text_dropout: float = 0.1,
    ) -> Float[Tensor, ""]:
        """The mean squared error of the velocity it finds in noisy images (Salimans & Ho 2022).

        At much noise that is minus the image itself, so the words matter from the first steps on.

        Args:
            log_mel: Clean images.
            texts: Their captions.
            generator: Draws noise, its level, and which captions are left out (CPU).
            text_dropout: Share of captions left out, so that guidance can contrast the two.
        """
        images = self._scaled(log_mel)
        noise = torch.randn(images.shape, generator=generator).to(images)
        limit = self.config.num_train_steps
        levels = torch.randint(0, limit, (len(images),), generator=generator).to(images.device)
        is_kept = torch.rand(len(texts), generator=generator) >= text_dropout
        read = [text if kept else "" for text, kept in zip(texts, is_kept.tolist(), strict=True)]
        noisy = self._train_noise.add_noise(images, noise, levels)
        found = self._velocity_of(noisy, levels, self.read(read))
        wanted = self._train_noise.get_velocity(images, noise, levels)
        return nn.functional.mse_loss(found.float(), wanted)

    @torch.no_grad()
    def sample(
        self, texts: Sequence[str], num_frames: int, generators: Sequence[torch.Generator]
    ) -> Float[Tensor, "batch mels frames"]:
        """Log-mel images for captions, one CPU generator each."""
        config = self.config
        shape = (config.log_mel.num_mels, -(-num_frames // config.grid) * config.grid)
        noise = [torch.randn(shape, generator=generator) for generator in generators]
        images = self._points(torch.stack(noise)).to(self.get_buffer("mean"))
        scheduler: Any = load_diffusers().DDIMScheduler(
            num_train_timesteps=config.num_train_steps,
            beta_schedule="squaredcos_cap_v2",
            clip_sample=True,
            clip_sample_range=4.0,
            prediction_type="v_prediction",
        )
        scheduler.set_timesteps(config.num_sample_steps)
        words = torch.cat([self.read(list(texts)), self.read([""] * len(texts))])
        for level in scheduler.timesteps:
            both = torch.cat([images, images])
            levels = torch.full((len(both),), int(level), device=both.device)
            told, untold = self._velocity_of(both, levels, words).chunk(2)
            velocity = torch.lerp(untold, told, config.guidance)
            images = scheduler.step(velocity, level, images).prev_sample
        log_mel = self._images(images) * self.get_buffer("deviation") + self.get_buffer("mean")
        return log_mel[:, :, :num_frames]

    def read(self, texts: Sequence[str]) -> Float[Tensor, "batch words dim"]:
        """Embeddings of the words of captions."""
        ids = word_ids(texts, self.config.num_buckets, self.config.max_words)
        return self.words(ids.to(self.words.weight.device)) + self.positions.weight

    def _scaled(self, log_mel: Tensor) -> Tensor:
        return self._points((log_mel - self.get_buffer("mean")) / self.get_buffer("deviation"))

    def _points(self, images: Tensor) -> Tensor:
        """Patches of the images as channels."""
        return rearrange(
            images,
            "batch (mels band) (frames step) -> batch (band step) mels frames",
            band=self.config.patch,
            step=self.config.patch,
        )

    def _images(self, points: Tensor) -> Tensor:
        return rearrange(
            points,
            "batch (band step) mels frames -> batch (mels band) (frames step)",
            band=self.config.patch,
        )

    def _velocity_of(self, images: Tensor, levels: Tensor, words: Tensor) -> Tensor:
        return self.network(images, levels, encoder_hidden_states=words).sample


def word_ids(texts: Sequence[str], num_buckets: int, max_words: int) -> Int[Tensor, "batch words"]:
    """The bucket of each word, the same in every process; 0 where there is no word."""
    ids = torch.full((len(texts), max_words), _NO_WORD)
    for row, text in enumerate(texts):
        words = re.findall(r"[a-z0-9#/]+", text.lower())[:max_words]
        for column, word in enumerate(words):
            digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
            ids[row, column] = 1 + int.from_bytes(digest, "little") % (num_buckets - 1)
    return ids
