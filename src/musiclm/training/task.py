"""Task: what the one training loop trains. A task knows its model and losses, not the loop."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor, nn

from musiclm.audio.waveform import Waveform
from musiclm.core.config import Config

Batch = Mapping[str, Any]


class OptimizerConfig(Config):
    """AdamW with warm-up and cosine decay."""

    learning_rate: float = Field(gt=0)
    """Peak."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Momentum of the gradient and of its square."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Applied to matrices only, never to vectors (norms, biases)."""
    warmup_steps: int = Field(default=100, ge=0)
    """Steps from zero to the peak."""
    final_fraction: float = Field(default=0.05, ge=0, le=1)
    """Learning rate at the last step, as a fraction of the peak."""
    clip_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm."""


@dataclass
class StepContext:
    """What the loop tells a task about the step it is in."""

    step: int
    """Optimizer updates made so far."""
    total_steps: int
    """Updates of the whole run."""
    generator: torch.Generator
    """The random stream of this step and microbatch (CPU)."""
    scratch: dict[str, Any] = field(default_factory=dict[str, Any])
    """Kept from one optimizer's loss to the next one's on the same microbatch."""

    @property
    def progress(self) -> float:
        """Fraction of the run that is done."""
        return self.step / max(self.total_steps, 1)


@dataclass(frozen=True)
class LossOutput:
    """One loss and what to log beside it."""

    loss: Tensor
    metrics: Mapping[str, Tensor | float]


class Task(ABC):
    """A model, its optimizers and its losses.

    The loop, for each step: draw the microbatches (`source.batch(step, microbatch)`), then for each
    optimizer in order: `loss(name, ...)`, backward, clip, update. Forward passes run under bf16
    autocast when the trainer says so; losses that need float32 switch it off inside.
    """

    @property
    @abstractmethod
    def model(self) -> nn.Module:
        """What is exported, averaged (EMA) and validated."""

    @property
    def trained_modules(self) -> Mapping[str, nn.Module]:
        """Every module with a state to resume, by name; discriminators belong here too."""
        return {"model": self.model}

    @property
    @abstractmethod
    def optimizers(self) -> Mapping[str, tuple[OptimizerConfig, list[nn.Parameter]]]:
        """Optimizers by name, in the order in which they are updated within a step."""

    @abstractmethod
    def loss(self, optimizer_name: str, batch: Batch, context: StepContext) -> LossOutput:
        """The loss that the named optimizer lowers."""

    @abstractmethod
    def validation_metrics(self, batch: Batch) -> Mapping[str, float]:
        """Figures of one fixed validation batch; called without gradients, model in eval mode."""

    def after_step(self, context: StepContext) -> Mapping[str, float]:
        """Called after each update (codebook restarts, alarms); returns more to log."""
        del context
        return {}

    def validation_samples(self, batch: Batch) -> Mapping[str, Waveform]:
        """Audio of a fixed validation batch to listen to, by name; empty by default."""
        del batch
        return {}


@runtime_checkable
class BatchSource(Protocol):
    """Batches as a pure function of the step, so that a resumed run equals an unbroken one.

    A protocol, because the sources live in `data`, which knows no training.
    """

    @abstractmethod
    def batch(self, step: int, microbatch: int) -> Batch:
        """Tensors (on CPU) of one microbatch of one step."""

    @abstractmethod
    def validation_batches(self) -> list[Batch]:
        """The fixed validation batches."""
