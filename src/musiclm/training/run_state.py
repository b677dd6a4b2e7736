"""The state of a run and its checkpoint: safetensors and JSON, written whole or not at all."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from musiclm.core.config import Config
from musiclm.core.errors import CheckpointError, ConfigError
from musiclm.core.files import write_text_whole
from musiclm.training.optimizer import WeightAverage, build_adamw
from musiclm.training.task import Task

CHECKPOINT_VERSION = 1
CHECKPOINT_NAME = "checkpoint"
_PREVIOUS_NAME = "checkpoint.previous"
_UNFINISHED_NAME = "checkpoint.unfinished"


class RunNumbers(Config):
    """The JSON part of a checkpoint."""

    format_version: int
    """Which layout the checkpoint has."""
    step: int
    """Updates made."""
    attempt: int
    """Rollbacks made."""
    best_loss: float | None
    """Lowest validation loss."""
    elapsed_seconds: float
    """Time spent."""
    average_updates: int
    """Updates of the average of the weights."""


@dataclass
class RunState:
    """Everything that changes during a run."""

    task: Task
    optimizers: dict[str, torch.optim.AdamW]
    average: WeightAverage | None
    step: int = 0
    """Updates made so far."""
    attempt: int = 0
    """Rollbacks so far; each goes on with other microbatches."""
    best_loss: float | None = None
    """Lowest validation loss so far."""
    elapsed_seconds: float = 0.0
    """Time spent so far, over all resumed parts."""
    saved_step: int | None = field(default=None, init=False)
    """The step of the checkpoint on disk."""

    @classmethod
    def begin(cls, task: Task, ema_decay: float) -> "RunState":
        """The state before the first update; the task is on its device already."""
        optimizers = {
            name: build_adamw(config, parameters)
            for name, (config, parameters) in task.optimizers.items()
        }
        average = WeightAverage(task.model, ema_decay) if ema_decay else None
        state = cls(task, optimizers, average)
        known = state._names()
        for name, optimizer in optimizers.items():
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            assert all(p in known for p in parameters), f"{name!r}: not all in trained_modules"
        return state

    def save(self, run_folder: Path) -> None:
        """Writes the checkpoint beside the old one, then takes its place."""
        unfinished = run_folder / _UNFINISHED_NAME
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            unfinished.mkdir(parents=True)
            _write(unfinished / "modules.safetensors", _module_tensors(self.task))
            _write(unfinished / "optimizers.safetensors", self._optimizer_tensors())
            if self.average is not None:
                _write(unfinished / "average.safetensors", self.average.state())
            write_text_whole(unfinished / "state.json", self._numbers().to_json())
        except (OSError, SafetensorError) as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise CheckpointError(
                f"Cannot write a checkpoint to {run_folder} ({error}). The last one is untouched; "
                "free some space and start the same command again."
            ) from error
        checkpoint, previous = run_folder / CHECKPOINT_NAME, run_folder / _PREVIOUS_NAME
        shutil.rmtree(previous, ignore_errors=True)
        if checkpoint.exists():
            checkpoint.rename(previous)
        unfinished.rename(checkpoint)
        shutil.rmtree(previous, ignore_errors=True)
        self.saved_step = self.step

    def load(self, run_folder: Path) -> bool:
        """Restores the checkpoint of a run; says whether there was one.

        Raises:
            CheckpointError: It is damaged, of another version, or of another model.
        """
        folder = checkpoint_folder(run_folder)
        if folder is None:
            return False
        numbers = read_numbers(folder)
        load_modules(self.task.trained_modules, folder)
        self._load_optimizers(read_tensors(folder / "optimizers.safetensors"), folder)
        if self.average is not None:
            tensors = read_tensors(folder / "average.safetensors")
            self.average.load_state(tensors, numbers.average_updates)
        self.step = self.saved_step = numbers.step
        self.attempt = numbers.attempt
        self.best_loss = numbers.best_loss
        self.elapsed_seconds = numbers.elapsed_seconds
        return True

    def _numbers(self) -> RunNumbers:
        return RunNumbers(
            format_version=CHECKPOINT_VERSION,
            step=self.step,
            attempt=self.attempt,
            best_loss=self.best_loss,
            elapsed_seconds=self.elapsed_seconds,
            average_updates=self.average.num_updates if self.average is not None else 0,
        )

    def _names(self) -> dict[Tensor, str]:
        return {
            parameter: f"{module_name}/{name}"
            for module_name, module in self.task.trained_modules.items()
            for name, parameter in module.named_parameters()
        }

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        names = self._names()
        return {
            f"{optimizer_name}/{names[parameter]}/{key}": value
            for optimizer_name, optimizer in self.optimizers.items()
            for parameter, entries in optimizer.state.items()
            for key, value in entries.items()
        }

    def _load_optimizers(self, tensors: dict[str, Tensor], folder: Path) -> None:
        names = self._names()
        for optimizer_name, optimizer in self.optimizers.items():
            state: dict[int, dict[str, Tensor]] = {}
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            for index, parameter in enumerate(parameters):
                prefix = f"{optimizer_name}/{names[parameter]}/"
                keys = ("step", "exp_avg", "exp_avg_sq")
                entries = {key: tensors.pop(prefix + key, None) for key in keys}
                if entries["step"] is not None:  # parameters that had no gradient yet have no state
                    state[index] = {k: v for k, v in entries.items() if v is not None}
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": state, "param_groups": groups})
        if tensors:
            raise CheckpointError(
                f"{folder} holds optimizer state for {next(iter(tensors))!r}, which this task does "
                "not train. Resume with the task that wrote it, or choose an empty run folder."
            )


def checkpoint_folder(run_folder: Path) -> Path | None:
    """The newest whole checkpoint of a run, if there is one."""
    for name in (CHECKPOINT_NAME, _PREVIOUS_NAME):
        if (run_folder / name / "state.json").is_file():
            return run_folder / name
    return None


def read_numbers(folder: Path) -> RunNumbers:
    """The JSON part of a checkpoint.

    Raises:
        CheckpointError: It is unreadable or of another version.
    """
    try:
        numbers = RunNumbers.from_json((folder / "state.json").read_text(encoding="utf-8"))
    except (OSError, ConfigError) as error:
        raise CheckpointError(f"{folder} is damaged ({error}). Choose an empty folder.") from error
    if numbers.format_version != CHECKPOINT_VERSION:
        raise CheckpointError(
            f"{folder} has checkpoint version {numbers.format_version}, this program reads "
            f"{CHECKPOINT_VERSION}. Start in an empty run folder."
        )
    return numbers


def read_tensors(path: Path) -> dict[str, Tensor]:
    """One safetensors file of a checkpoint, on the CPU.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged ({error}). Choose an empty folder.") from error


def load_modules(modules: Mapping[str, nn.Module], folder: Path) -> None:
    """Fills modules by name from a checkpoint.

    Raises:
        CheckpointError: The checkpoint belongs to another model.
    """
    tensors = read_tensors(folder / "modules.safetensors")
    for module_name, module in modules.items():
        prefix = f"{module_name}/"
        own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        try:
            module.load_state_dict(own)
        except RuntimeError as error:
            first = str(error).strip().splitlines()[-1].strip()
            raise CheckpointError(
                f"{folder} does not fit {module_name!r}: {first} Resume with the recipe that wrote "
                "it, or choose an empty run folder."
            ) from error


def _module_tensors(task: Task) -> dict[str, Tensor]:
    return {
        f"{module_name}/{name}": tensor
        for module_name, module in task.trained_modules.items()
        for name, tensor in module.state_dict().items()
    }


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    # safetensors refuses tensors that share memory (tied weights): each gets its own copy.
    save_file({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, path)
