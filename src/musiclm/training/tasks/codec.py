"""Training the codec: reconstruction first, then the quantizer, then (if asked) discriminators."""

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from musiclm.audio.waveform import Waveform
from musiclm.codec.closed_form import FitReport, fit_shortcuts
from musiclm.codec.discriminators import DiscriminatorConfig, Discriminators
from musiclm.codec.losses import (
    MelLoss,
    MelLossConfig,
    StftLoss,
    StftLossConfig,
    adversarial_loss,
    discriminator_loss,
    feature_loss,
    log_mel_distance_db,
)
from musiclm.codec.soundstream import CodecOutput, SoundStream, SoundStreamConfig
from musiclm.codec.spectral import SpectralDecoder, SpectralEncoder
from musiclm.core.config import Config
from musiclm.core.runtime import RandomStreams
from musiclm.training.task import Batch, BatchSource, LossOutput, OptimizerConfig, StepContext, Task

_FIRST_FRAMES = 3_000
_USAGE_PERIOD_STEPS = 50


class CodecTaskConfig(Config):
    """What the codec lowers, and when its parts come in."""

    codec: SoundStreamConfig = SoundStreamConfig()
    """The model."""
    discriminators: DiscriminatorConfig = DiscriminatorConfig()
    """Used from `discriminator_start` on."""
    mel: MelLossConfig = MelLossConfig()
    """The published reconstruction loss."""
    stft: StftLossConfig = StftLossConfig()
    """The extra loss that the spectral backbone needs."""
    mel_weight: float = Field(default=1.0, ge=0)
    """Of the mel loss."""
    stft_weight: float = Field(default=0.0, ge=0)
    """Of the STFT loss; 0 as published."""
    commitment_weight: float = Field(default=0.25, ge=0)
    """Of the commitment loss."""
    adversarial_weight: float = Field(default=1.0, ge=0)
    """Of the adversarial loss."""
    feature_weight: float = Field(default=100.0, ge=0)
    """Of the feature loss."""
    quantizer_start: float = Field(default=0.0, ge=0, le=1)
    """Fraction of the run after which the quantizer is in the path."""
    discriminator_start: float = Field(default=0.0, ge=0, le=1)
    """Fraction of the run after which the discriminators train; 1 means never."""
    generator: OptimizerConfig = OptimizerConfig(learning_rate=3e-4)
    """Of the codec."""
    discriminator: OptimizerConfig = OptimizerConfig(learning_rate=3e-4, betas=(0.5, 0.9))
    """Of the discriminators."""
    closed_form_batches: int = Field(default=0, ge=0)
    """Batches for a start by linear algebra (spectral backbone, `start_codec`); 0 leaves it out."""
    decoder_only_start: float = Field(default=1.0, ge=0, le=1)
    """Fraction of the run after which encoder and codebooks rest and only the decoder learns: the
    codes stay what they are, so language models may be trained on them meanwhile. 1 is never."""
    validation_levels: tuple[int, ...] = (12, 8, 4)
    """Numbers of levels at which validation audio is judged."""


class CodecTask(Task):
    """Trains a SoundStream."""

    def __init__(self, config: CodecTaskConfig) -> None:
        self.config = config
        self.codec = SoundStream(config.codec)
        self.mel_loss = MelLoss(config.mel)
        self.stft_loss = StftLoss(config.stft)
        self.discriminators: Discriminators | None = None
        if config.discriminator_start < 1:
            self.discriminators = Discriminators(config.discriminators)

    def start_codec(self, source: BatchSource, *, seed: int) -> FitReport | None:
        """Gives a spectral codec its closed-form start, and its quantizer codebooks to match.

        Reads the first `closed_form_batches` batches; with 0 of them, or another backbone, it does
        nothing. Call it before training; a resumed run overwrites what it set.

        Raises:
            DataError: The batches hold too little audio.
        """
        encoder, decoder = self.codec.encoder, self.codec.decoder
        count = self.config.closed_form_batches
        if not count or not isinstance(encoder, SpectralEncoder):
            return None
        assert isinstance(decoder, SpectralDecoder)
        clips = [row for step in range(count) for row in source.batch(step, 0)["samples"]]
        report = fit_shortcuts(encoder, decoder, clips)
        with torch.no_grad():
            latents = torch.cat([encoder(clip[None]) for clip in clips], dim=-1)
        generator = RandomStreams(seed).generator("codebooks")
        self.codec.quantizer.initialise(latents, generator)
        return report

    @property
    def model(self) -> nn.Module:
        """The codec."""
        return self.codec

    @property
    def trained_modules(self) -> Mapping[str, nn.Module]:
        """The codec and its discriminators."""
        modules: dict[str, nn.Module] = {"model": self.codec}
        if self.discriminators is not None:
            modules["discriminators"] = self.discriminators
        return modules

    @property
    def optimizers(self) -> Mapping[str, tuple[OptimizerConfig, list[nn.Parameter]]]:
        """The generator, then the discriminators."""
        groups = {"generator": (self.config.generator, list(self.codec.parameters()))}
        if self.discriminators is not None:
            parameters = list(self.discriminators.parameters())
            groups["discriminator"] = (self.config.discriminator, parameters)
        return groups

    def loss(self, optimizer_name: str, batch: Batch, context: StepContext) -> LossOutput:
        """The generator's sum of losses, or the discriminators' hinge loss."""
        samples = _whole_frames(batch["samples"], self.codec.hop_length)
        if optimizer_name == "generator":
            return self._generator_loss(samples, context)
        return self._discriminator_loss(samples, context)

    def _generator_loss(self, samples: Tensor, context: StepContext) -> LossOutput:
        config = self.config
        first_frame = torch.randint(0, _FIRST_FRAMES, (len(samples),), generator=context.generator)
        if context.progress >= config.decoder_only_start:
            output = self._decode_frozen_codes(samples, first_frame, context.generator)
        else:
            output = self.codec(
                samples,
                is_quantized=context.progress >= config.quantizer_start,
                first_frame=first_frame,
                generator=context.generator,
            )
        self._follow(samples)
        terms = {"mel": (config.mel_weight, self.mel_loss(samples, output.samples))}
        if config.stft_weight:
            terms["stft"] = (config.stft_weight, self.stft_loss(samples, output.samples))
        metrics: dict[str, Tensor | float] = {}
        if output.quantizer is not None:
            commitment = output.quantizer.commitment_loss
            terms["commitment"] = (config.commitment_weight, commitment)
            metrics["batch_perplexity"] = output.quantizer.perplexity.mean()
        context.scratch["reconstruction"] = output.samples.detach()
        if self._is_adversarial(context):
            terms |= self._adversarial_terms(samples, output.samples)
        metrics |= {name: value.detach() for name, (_, value) in terms.items()}
        weighted = [weight * value for weight, value in terms.values()]
        return LossOutput(torch.stack(weighted).sum(), metrics)

    def _decode_frozen_codes(
        self, samples: Tensor, first_frame: Tensor, generator: torch.Generator
    ) -> CodecOutput:
        """Reconstructs from codes that no gradient reaches, with the quantizer's dropout."""
        quantizer = self.codec.quantizer
        with torch.no_grad():
            latents = self.codec.encoder(samples)
            codes = quantizer.encode(latents)
            depth = codes.shape[1]
            draws = torch.randint(1, depth + 1, (len(samples),), generator=generator)
            is_dropped = torch.rand(len(samples), generator=generator)
            is_dropped = is_dropped < self.config.codec.quantizer.dropout_probability
            levels = torch.where(is_dropped, draws, depth).tolist()
            carried = torch.cat(
                [
                    quantizer.decode(row[None, :level])
                    for row, level in zip(codes, levels, strict=True)
                ]
            )
        return CodecOutput(self.codec.decoder(carried, first_frame), latents, None)

    def _adversarial_terms(
        self, samples: Tensor, reconstruction: Tensor
    ) -> dict[str, tuple[float, Tensor]]:
        assert self.discriminators is not None
        with torch.no_grad():
            real = self.discriminators(samples)
        fake = self.discriminators(reconstruction)
        return {
            "adversarial": (self.config.adversarial_weight, adversarial_loss(fake.logits)),
            "feature": (self.config.feature_weight, feature_loss(real.features, fake.features)),
        }

    def _discriminator_loss(self, samples: Tensor, context: StepContext) -> LossOutput:
        assert self.discriminators is not None
        self.discriminators.to(samples.device)
        if not self._is_adversarial(context):
            idle = torch.stack([p.sum() * 0 for p in self.discriminators.parameters()]).sum()
            return LossOutput(idle, {})
        real = self.discriminators(samples)
        fake = self.discriminators(context.scratch["reconstruction"])
        loss = discriminator_loss(real.logits, fake.logits)
        return LossOutput(loss, {"discriminator": loss.detach()})

    def _is_adversarial(self, context: StepContext) -> bool:
        start = self.config.discriminator_start
        return self.discriminators is not None and context.progress >= start

    def _follow(self, samples: Tensor) -> None:
        """The losses hold tables only: they live wherever the audio is."""
        self.mel_loss.to(samples.device)
        self.stft_loss.to(samples.device)

    def after_step(self, context: StepContext) -> Mapping[str, float]:
        """The perplexity of each codebook, now and then."""
        if context.step % _USAGE_PERIOD_STEPS or context.progress < self.config.quantizer_start:
            return {}
        usage = self.codec.quantizer.usage_perplexity()
        return {f"perplexity_level_{level}": value for level, value in enumerate(usage, start=1)}

    def validation_metrics(self, batch: Batch) -> Mapping[str, float]:
        """Log-mel distances, and how much of the latents each level explains.

        `level_gain_k` is the share of the latents' variance that level `k` adds to what the levels
        before it explain.
        """
        samples = _whole_frames(batch["samples"], self.codec.hop_length)
        with torch.no_grad():
            latents = self.codec.encoder(samples)
            distance = log_mel_distance_db(samples, self.codec.decoder(latents)).mean()
            metrics = {"log_mel_db_unquantized": float(distance)}
            if not self._has_codebooks():
                return metrics
            codes = self.codec.quantizer.encode(latents)
            for count in self._validation_levels():
                decoded = self.codec.decode(codes[:, :count])
                distance = log_mel_distance_db(samples, decoded).mean()
                metrics[f"log_mel_db_{count}_levels"] = float(distance)
            metrics |= self._level_gains(latents, codes)
        return metrics

    def _level_gains(self, latents: Tensor, codes: Tensor) -> dict[str, float]:
        variance = (latents - latents.mean(dim=(0, 2), keepdim=True)).square().mean()
        before = variance
        gains: dict[str, float] = {}
        for count in range(1, codes.shape[1] + 1):
            error = (latents - self.codec.quantizer.decode(codes[:, :count])).square().mean()
            gains[f"level_gain_{count}"] = float((before - error) / variance)
            before = error
        return gains

    def validation_samples(self, batch: Batch) -> Mapping[str, Waveform]:
        """The first two examples: the original, and the reconstructions."""
        samples = _whole_frames(batch["samples"], self.codec.hop_length)[:2]
        rate = self.codec.sample_rate_hz
        sounds: dict[str, Tensor] = {"original": samples}
        with torch.no_grad():
            if self._has_codebooks():
                codes = self.codec.encode(samples)
                for count in self._validation_levels():
                    sounds[f"levels_{count}"] = self.codec.decode(codes[:, :count])
            else:
                sounds["unquantized"] = self.codec.decoder(self.codec.encoder(samples))
        return {
            f"{index}_{name}": Waveform(row.float().cpu(), rate)
            for name, rows in sounds.items()
            for index, row in enumerate(rows)
        }

    def _has_codebooks(self) -> bool:
        return all(bool(level.initialised) for level in self.codec.quantizer.quantizers)

    def _validation_levels(self) -> list[int]:
        depth = self.codec.config.quantizer.num_quantizers
        return sorted({min(count, depth) for count in self.config.validation_levels}, reverse=True)


def build_codec_task(config: CodecTaskConfig) -> CodecTask:
    """The task of a configuration, with fresh weights."""
    return CodecTask(config)


def _whole_frames(samples: Tensor, hop_length: int) -> Tensor:
    return samples[..., : samples.shape[-1] // hop_length * hop_length]
