"""SemanticTask: trains w2v-BERT on crops of audio and says so when its codebook collapses."""

import warnings
from collections.abc import Mapping

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from musiclm.core.config import Config
from musiclm.core.runtime import RandomStreams
from musiclm.semantic.pretext import (
    PretextConfig,
    code_perplexity,
    contrastive_loss,
    diversity_loss,
    draw_distractors,
    draw_mask,
    prediction_loss,
    spectrum_loss,
)
from musiclm.semantic.w2v_bert import W2vBert
from musiclm.semantic.w2v_bert_config import W2vBertConfig
from musiclm.training.task import Batch, BatchSource, LossOutput, OptimizerConfig, StepContext, Task


class CollapseAlarmConfig(Config):
    """When a codebook counts as collapsed."""

    perplexity: float = Field(default=32.0, gt=1)
    """The batch's code perplexity must not stay below this."""
    after_steps: int = Field(default=200, ge=0)
    """Steps that do not count, at the start."""
    patience_steps: int = Field(default=50, gt=0)
    """Steps in a row below it that raise the alarm."""


class SemanticTaskConfig(Config):
    """w2v-BERT and how it is trained."""

    w2v_bert: W2vBertConfig = W2vBertConfig()
    """The model."""
    pretext: PretextConfig = PretextConfig()
    """Masking and losses."""
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=2e-3, warmup_steps=25_000)
    """Published peak and warm-up (Chung 2021, Sec. 4.2)."""
    first_temperature: float = Field(default=2.0, gt=0)
    """Gumbel softmax temperature at the first step (Baevski 2020, Sec. 4.2)."""
    last_temperature: float = Field(default=0.5, gt=0)
    """Gumbel softmax temperature at the last step; it falls geometrically."""
    target_batches: int = Field(default=48, gt=0)
    """Training batches whose spectra settle the prototypes of `targets="spectra"`."""
    alarm: CollapseAlarmConfig = CollapseAlarmConfig()
    """When to warn."""


class SemanticTask(Task):
    """Contrastive + masked-prediction + diversity loss on `{"samples": [batch samples]}`."""

    def __init__(self, config: SemanticTaskConfig) -> None:
        self.config = config
        self._model = W2vBert(config.w2v_bert)
        self._last_perplexity: Tensor | None = None
        self._low_steps = 0
        self._has_warned = False

    @property
    def model(self) -> nn.Module:
        """The W2vBert."""
        return self._model

    @property
    def optimizers(self) -> Mapping[str, tuple[OptimizerConfig, list[nn.Parameter]]]:
        """One optimizer for everything."""
        return {"w2v_bert": (self.config.optimizer, list(self._model.parameters()))}

    def start_targets(self, source: BatchSource, *, seed: int) -> None:
        """Settles what is to be guessed when the targets are spectra; call it before training.

        A resumed run reads its own prototypes back, whatever this did.
        """
        if self.config.w2v_bert.targets != "spectra":
            return
        crops = [source.batch(step, 0)["samples"] for step in range(self.config.target_batches)]
        generator = RandomStreams(seed).generator("semantic targets")
        self._model.start_targets(torch.cat(crops), generator=generator)

    def temperature(self, progress: float) -> float:
        """Gumbel softmax temperature after a fraction of the run."""
        first, last = self.config.first_temperature, self.config.last_temperature
        return first * (last / first) ** progress

    def loss(self, optimizer_name: str, batch: Batch, context: StepContext) -> LossOutput:
        """The weighted sum of the three losses, with accuracies and perplexity beside it."""
        del optimizer_name
        output = self._losses(
            batch["samples"], self.temperature(context.progress), context.generator
        )
        perplexity = output.metrics["perplexity"]
        assert isinstance(perplexity, Tensor)
        self._last_perplexity = perplexity
        return output

    def validation_metrics(self, batch: Batch) -> Mapping[str, float]:
        """The same figures with the last temperature and always the same draws."""
        generator = RandomStreams(0).generator("semantic validation")
        output = self._losses(batch["samples"], self.config.last_temperature, generator)
        figures = {name: float(value) for name, value in output.metrics.items()}
        return {"loss": float(output.loss), **figures}

    def after_step(self, context: StepContext) -> Mapping[str, float]:
        """Watches the codebook; warns once when its perplexity stays low after warm-up."""
        alarm = self.config.alarm
        if self._last_perplexity is None or context.step < alarm.after_steps:
            return {}
        is_low = float(self._last_perplexity) < alarm.perplexity
        self._low_steps = self._low_steps + 1 if is_low else 0
        has_collapsed = self._low_steps >= alarm.patience_steps
        if has_collapsed and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"The w2v-BERT codebook has collapsed: for {self._low_steps} steps its perplexity "
                f"was below {alarm.perplexity} (now {float(self._last_perplexity):.1f}). Stop the "
                "run; lower the learning rate, raise diversity_weight or last_temperature, use "
                "longer crops, or give the contrastive module more layers.",
                RuntimeWarning,
                stacklevel=2,
            )
        return {"codebook_collapsed": float(has_collapsed)}

    def _losses(
        self,
        samples: Float[Tensor, "batch samples"],
        temperature: float,
        generator: torch.Generator,
    ) -> LossOutput:
        pretext = self.config.pretext
        frames = samples.shape[-1] // self.config.w2v_bert.hop_length
        mask = draw_mask(samples.shape[0], frames, pretext, generator=generator)
        distractors = draw_distractors(mask, pretext.num_distractors, generator=generator)
        mask, distractors = mask.to(samples.device), distractors.to(samples.device)
        output = self._model(samples, mask, temperature=temperature, generator=generator)
        targets = output.targets
        contrastive = contrastive_loss(
            output.contrastive,
            targets.vectors,
            targets.codes,
            mask,
            distractors,
            temperature=pretext.similarity_temperature,
        )
        prediction = prediction_loss(output.logits, targets.codes, mask)
        seen = prediction_loss(output.logits, targets.codes, ~mask)
        diversity = diversity_loss(targets.probabilities)
        loss = (
            pretext.contrastive_weight * contrastive.loss
            + pretext.prediction_weight * prediction.loss
            + (pretext.seen_weight * seen.loss if pretext.seen_weight else 0.0)
            + pretext.diversity_weight * diversity
        )
        extra: dict[str, Tensor] = {}
        if output.spectra is not None:
            guess, truth = output.spectra.guess, output.spectra.truth
            hidden_error = spectrum_loss(guess, truth, mask)
            seen_error = spectrum_loss(guess, truth, ~mask)
            loss = loss + pretext.spectrum_weight * 0.5 * (hidden_error + seen_error)
            extra = {
                "hidden_spectrum_error": hidden_error.detach(),
                "seen_spectrum_error": seen_error.detach(),
            }
        size = self.config.w2v_bert.codebook_size
        return LossOutput(
            loss,
            {
                "contrastive_loss": contrastive.loss.detach(),
                "contrastive_accuracy": contrastive.accuracy,
                "prediction_loss": prediction.loss.detach(),
                "prediction_accuracy": prediction.accuracy,
                "seen_accuracy": seen.accuracy,
                "diversity_loss": diversity.detach(),
                "perplexity": code_perplexity(targets.codes, size),
                "temperature": temperature,
                **extra,
            },
        )
