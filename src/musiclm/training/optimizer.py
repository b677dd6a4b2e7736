"""Optimizers: AdamW with decay on matrices only, its schedule, and the average of the weights."""

import math
from collections.abc import Generator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from musiclm.core.errors import ConfigError
from musiclm.training.task import OptimizerConfig


def build_adamw(config: OptimizerConfig, parameters: list[nn.Parameter]) -> torch.optim.AdamW:
    """AdamW over the parameters that ask for gradients; only matrices decay.

    Raises:
        ConfigError: No parameter asks for gradients.
    """
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    if not trainable:
        raise ConfigError("An optimizer got no parameter that requires gradients; unfreeze some.")
    groups = [
        {"params": [p for p in trainable if _is_matrix(p)], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if not _is_matrix(p)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=config.betas,
    )


def _is_matrix(parameter: nn.Parameter) -> bool:
    """Kernels and matrices; a `[channels, 1, 1]` gain is a vector in disguise."""
    return sum(size > 1 for size in parameter.shape) > 1


def learning_rate(config: OptimizerConfig, step: int, total_steps: int) -> float:
    """Linear warm-up from `peak / warmup_steps`, then a cosine to `final_fraction` of the peak.

    Args:
        config: The peak, the warm-up and the end.
        step: Updates made so far.
        total_steps: Updates of the whole run.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    decay_steps = max(total_steps - 1 - config.warmup_steps, 1)
    progress = min((step - config.warmup_steps) / decay_steps, 1.0)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return config.learning_rate * (config.final_fraction + (1 - config.final_fraction) * cosine)


class WeightAverage:
    """An exponential moving average of a module's parameters, in float32.

    Buffers are not averaged: those that learn (codebooks) are averages already, and an entry that
    was restarted means something else than before. The exported module has the average parameters
    and the current buffers.

    The decay of update `t` is `min(decay, (1 + t) / (10 + t))`, so that short runs forget their
    random start.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self._parameters = dict(module.named_parameters())
        self._average = {
            name: parameter.detach().float().clone() for name, parameter in self._parameters.items()
        }

    @torch.no_grad()
    def update(self) -> None:
        """Moves the average towards the module's parameters as they are now."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        # No public name for it.
        torch._foreach_lerp_(  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
            list(self._average.values()),
            [parameter.detach().float() for parameter in self._parameters.values()],
            1 - decay,
        )

    @contextmanager
    def swapped_in(self) -> Generator[None]:
        """Within the block the module has the average weights; afterwards its own, to the bit."""
        own = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        self._fill(self._average)
        try:
            yield
        finally:
            self._fill(own)

    def state(self) -> dict[str, Tensor]:
        """The average, by parameter name."""
        return dict(self._average)

    def load_state(self, tensors: Mapping[str, Tensor], num_updates: int) -> None:
        """Restores what `state` gave and the number of updates behind it."""
        for name, average in self._average.items():
            average.copy_(tensors[name])
        self.num_updates = num_updates

    @torch.no_grad()
    def _fill(self, tensors: Mapping[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(tensors[name])
