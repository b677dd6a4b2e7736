"""The diffusion baseline as it is trained and compared: a `Task` and a `System`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from pydantic import Field
from torch import nn

from musiclm.audio.spectrogram import mel_filterbank
from musiclm.audio.waveform import Waveform
from musiclm.baselines.mel_inversion import griffin_lim, linear_magnitudes
from musiclm.baselines.spectrogram_diffusion import DiffusionConfig, SpectrogramDiffusion
from musiclm.core.config import Config
from musiclm.core.pretrained import load_weights, read_config_json, sha256_of_file
from musiclm.core.runtime import RandomStreams, Runtime
from musiclm.core.side_by_side import side_by_side
from musiclm.training.task import (
    Batch,
    BatchSource,
    LossOutput,
    OptimizerConfig,
    StepContext,
    Task,
)


class DiffusionTaskConfig(Config):
    """How the baseline is trained."""

    model: DiffusionConfig = DiffusionConfig()
    """The network."""
    optimizer: OptimizerConfig = OptimizerConfig(
        learning_rate=5e-4, betas=(0.9, 0.99), weight_decay=0.01, warmup_steps=100
    )
    """AdamW."""
    text_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of captions left out."""


class DiffusionTask(Task):
    """Batches of `log_mel` and `texts` (`data/pairs.py`): the error of the velocity."""

    def __init__(self, config: DiffusionTaskConfig, *, seed: int = 0) -> None:
        self.config = config
        with RandomStreams(seed).layers_draw_from("init", "spectrogram diffusion"):
            self._model = SpectrogramDiffusion(config.model)
        self._seed = seed

    @property
    def model(self) -> nn.Module:
        """The network with its words."""
        return self._model

    @property
    def optimizers(self) -> Mapping[str, tuple[OptimizerConfig, list[nn.Parameter]]]:
        """One for everything."""
        return {"diffusion": (self.config.optimizer, list(self._model.parameters()))}

    def start(self, source: BatchSource) -> None:
        """Takes the images' scale from the first batch."""
        self._model.fit_scale(source.batch(0, 0)["log_mel"])

    def loss(self, optimizer_name: str, batch: Batch, context: StepContext) -> LossOutput:
        """Mean squared error of the velocity; 1 is that of finding none."""
        del optimizer_name
        loss = self._model(
            batch["log_mel"],
            batch["texts"],
            context.generator,
            text_dropout=self.config.text_dropout,
        )
        return LossOutput(loss, {"velocity_error": loss.detach()})

    def validation_metrics(self, batch: Batch) -> Mapping[str, float]:
        """The same on fixed noise, with the captions and without."""
        streams = RandomStreams(self._seed)
        told, untold = (
            self._model(
                batch["log_mel"],
                batch["texts"],
                streams.generator("validation"),
                text_dropout=dropout,
            )
            for dropout in (0.0, 1.0)
        )
        return {"loss": float(told), "loss_without_text": float(untold)}


class SpectrogramDiffusionSystem:
    """The trained baseline; a `System` for the evaluation."""

    name = "spectrogram diffusion"

    def __init__(self, weights: Path, runtime: Runtime) -> None:
        """Loads what the trainer wrote.

        Raises:
            CheckpointError: The weights are missing or of another model.
            DependencyError: `diffusers` is not installed.
        """
        config = DiffusionConfig.from_json(read_config_json(weights))
        self._model = SpectrogramDiffusion(config)
        load_weights(self._model, weights)
        self._model = self._model.eval().to(runtime.device)
        self._num_threads = runtime.num_threads if runtime.device.type == "cpu" else 1
        self.identity = sha256_of_file(weights)

    def generate(
        self, prompts: Sequence[str], seeds: Sequence[int], duration_seconds: float
    ) -> list[Waveform]:
        """One clip a prompt and seed."""
        config = self._model.config.log_mel
        num_frames = round(duration_seconds * config.frame_rate_hz) + 1
        streams = [RandomStreams(seed) for seed in seeds]
        filters = mel_filterbank(
            config.sample_rate_hz, config.fft_size, config.num_mels, config.low_hz, config.high_hz
        )

        def make(asked: tuple[str, RandomStreams]) -> Waveform:
            prompt, stream = asked  # one at a time: rounding differs between batch sizes
            image = self._model.sample([prompt], num_frames, [stream.generator("image")])[0].cpu()
            samples = griffin_lim(
                linear_magnitudes(image.exp(), filters),
                fft_size=config.fft_size,
                hop_length=config.hop_length,
                window=torch.hann_window(config.window_length),
                generator=stream.generator("phases"),
            )
            return Waveform(samples, config.sample_rate_hz).peak_normalised()

        return side_by_side(make, zip(prompts, streams, strict=True), num_threads=self._num_threads)
