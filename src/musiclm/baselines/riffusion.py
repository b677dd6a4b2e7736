"""Riffusion itself, for a user who has its weights: a Stable Diffusion that paints spectrograms.

Conventions, as its authors' code has them: 44.1 kHz, 512 mel bands (HTK, no norm) from 0 to 10 kHz,
10-ms steps, 100-ms windows; an image's brightness is 255 minus the level, upside down; magnitudes
are levels to the fourth power (power 0.25), at most 30 million; Griffin-Lim, 32 rounds.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from musiclm.audio.waveform import Waveform
from musiclm.baselines.mel_inversion import griffin_lim, linear_magnitudes
from musiclm.baselines.spectrogram_diffusion import load_diffusers
from musiclm.core.errors import CheckpointError
from musiclm.core.pretrained import sha256_of_file
from musiclm.core.runtime import RandomStreams, Runtime

SAMPLE_RATE_HZ = 44_100
FFT_SIZE = 17_640
WINDOW_LENGTH = 4_410
HOP_LENGTH = 441
NUM_MELS = 512
HIGH_HZ = 10_000.0
MAX_MAGNITUDE = 30e6
POWER = 0.25
_WIDTH_STEP = 8

Painter = Callable[[str, int, torch.Generator], UInt8[np.ndarray, "512 frames"]]
"""Prompt, width and noise to a grey image."""


class RiffusionSystem:
    """Riffusion; a `System` for the evaluation.

    Args:
        painter: Makes the images.
        identity: A hash of its weights.
    """

    name = "riffusion"

    def __init__(self, painter: Painter, identity: str) -> None:
        self._painter = painter
        self.identity = identity

    @classmethod
    def load(cls, folder: Path, runtime: Runtime) -> "RiffusionSystem":
        """Opens the published weights (`riffusion-model-v1`) from a folder; nothing is fetched.

        Raises:
            CheckpointError: The folder holds no such model.
            DependencyError: `diffusers` is not installed.
        """
        diffusers = load_diffusers()
        index = folder / "model_index.json"
        if not index.is_file():
            raise CheckpointError(f"{folder} holds no Riffusion: it has no model_index.json.")
        try:
            pipeline: Any = diffusers.StableDiffusionPipeline.from_pretrained(
                folder, local_files_only=True, safety_checker=None
            ).to(runtime.device)
        except (OSError, ValueError, ImportError) as error:
            raise CheckpointError(f"{folder} cannot be read as Riffusion ({error}).") from error
        pipeline.set_progress_bar_config(disable=True)

        def paint(prompt: str, width: int, generator: torch.Generator) -> np.ndarray:
            image = pipeline(
                prompt, width=width, height=NUM_MELS, generator=generator, output_type="np"
            ).images[0]
            return (255 * image.mean(axis=2)).round().astype(np.uint8)

        weights = sorted(folder.rglob("*.safetensors")) + sorted(folder.rglob("*.bin"))
        identity = "/".join(sha256_of_file(path) for path in [index, *weights])
        return cls(paint, identity)

    def generate(
        self, prompts: Sequence[str], seeds: Sequence[int], duration_seconds: float
    ) -> list[Waveform]:
        """One clip a prompt and seed."""
        frames = round(duration_seconds * SAMPLE_RATE_HZ / HOP_LENGTH) + 1
        width = -(-frames // _WIDTH_STEP) * _WIDTH_STEP
        clips: list[Waveform] = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            streams = RandomStreams(seed)
            image = self._painter(prompt, width, streams.generator("image"))
            mel = mel_of_image(image[:, :frames])
            clips.append(audio_of_mel(mel, streams.generator("phases")))
        return clips


def mel_of_image(image: UInt8[np.ndarray, "512 frames"]) -> Float[Tensor, "512 frames"]:
    """Mel magnitudes of an image: dark is loud, low is at the bottom."""
    levels = (255 - image[::-1].astype(np.float32)) / 255
    return torch.from_numpy(MAX_MAGNITUDE * levels ** (1 / POWER))


def image_of_mel(mel: Float[Tensor, "512 frames"]) -> UInt8[np.ndarray, "512 frames"]:
    """The image of mel magnitudes, the loudest black."""
    levels = (mel / mel.max().clamp(min=1e-9)).clamp(min=0) ** POWER
    return (255 - (255 * levels).round()).numpy().astype(np.uint8)[::-1].copy()


def audio_of_mel(mel: Float[Tensor, "512 frames"], generator: torch.Generator) -> Waveform:
    """Griffin-Lim's audio of mel magnitudes, as loud as it may be."""
    samples = griffin_lim(
        linear_magnitudes(mel / mel.max().clamp(min=1e-9), mel_filters()),
        fft_size=FFT_SIZE,
        hop_length=HOP_LENGTH,
        window=torch.hann_window(WINDOW_LENGTH),
        generator=generator,
    )
    return Waveform(samples / samples.abs().max().clamp(min=1e-9), SAMPLE_RATE_HZ).peak_normalised()


@lru_cache(maxsize=1)
def mel_filters() -> Float[Tensor, "512 bins"]:
    """HTK's triangles of unit height."""
    bins_hz = torch.linspace(0, SAMPLE_RATE_HZ / 2, FFT_SIZE // 2 + 1, dtype=torch.float64)
    high = 2595 * np.log10(1 + HIGH_HZ / 700)
    points = 700 * (10 ** (torch.linspace(0, high, NUM_MELS + 2, dtype=torch.float64) / 2595) - 1)
    rising = (bins_hz - points[:-2, None]) / points.diff()[:-1, None]
    falling = (points[2:, None] - bins_hz) / points.diff()[1:, None]
    return torch.minimum(rising, falling).clamp(min=0).float()
