"""The one training loop: any task, resumable to the bit."""

import json
import logging
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from musiclm.core.config import Config
from musiclm.core.errors import CheckpointError, ConfigError, TrainingError
from musiclm.core.files import write_text_whole
from musiclm.core.pretrained import load_weights, save_weights
from musiclm.core.runtime import RandomStreams, Runtime
from musiclm.training.diagnostics import RollbackGuard
from musiclm.training.metrics import MetricsLog, mean_of
from musiclm.training.optimizer import learning_rate
from musiclm.training.prefetch import Prefetcher, to_device
from musiclm.training.progress import Clock, progress_bar
from musiclm.training.run_state import RunState, checkpoint_folder, load_modules, read_tensors
from musiclm.training.task import Batch, BatchSource, LossOutput, StepContext, Task

_logger = logging.getLogger(__name__)
CONFIG_NAME = "config.json"
BEST_NAME = "best.safetensors"
LAST_NAME = "last.safetensors"


class TrainerConfig(Config):
    """How long and how to train, whatever the task."""

    num_steps: int = Field(gt=0)
    """Optimizer updates of the whole run; the learning-rate schedule spans them."""
    microbatches: int = Field(default=1, gt=0)
    """Batches whose gradients are averaged for one update."""
    use_bf16: bool | None = None
    """Forward passes in bfloat16 autocast; None means on a GPU only (many CPUs lack bfloat16)."""
    ema_decay: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the average of the weights that is validated and exported; 0 for none."""
    log_every: int = Field(default=20, gt=0)
    """Steps between two lines of metrics."""
    validate_every: int = Field(default=500, gt=0)
    """Steps between two validations; one more comes at the end."""
    checkpoint_every: int = Field(default=500, gt=0)
    """Steps between two checkpoints; one more comes at the end."""
    keep_samples: int = Field(default=3, ge=0)
    """Validations whose audio is kept in `samples/`; 0 writes none."""
    seed: int = 0
    """Names every random draw of the run."""
    max_minutes: float = Field(default=0.0, ge=0)
    """Stop cleanly after this time; the same call goes on from there. 0 for no limit."""
    compile: bool = False
    """Compile the forward passes of the trained modules with `torch.compile`."""


@dataclass(frozen=True)
class TrainResult:
    """How a call of `train` ended."""

    step: int
    """Updates made so far."""
    is_finished: bool
    """Whether all steps were made; otherwise the time was up."""
    validation: dict[str, float]
    """Figures of the last validation, with the average weights."""
    elapsed_seconds: float
    """Time spent over all resumed parts."""


def train(
    task: Task,
    source: BatchSource,
    config: TrainerConfig,
    run_folder: Path,
    *,
    runtime: Runtime,
    show_progress: bool = True,
) -> TrainResult:
    """Trains a task, or goes on where the run folder's checkpoint stands.

    A resumed run equals an unbroken one, bit for bit where the device's kernels are deterministic
    (a CPU's are): batches are a function of the step, every draw comes from a stream named after
    the step, and the checkpoint holds modules, optimizers and the average. What a task keeps
    outside its modules is not resumed.

    The run folder holds `config.json`, `metrics.jsonl`, `events/` (TensorBoard), `checkpoint/`,
    `samples/STEP/NAME.wav`, `last.safetensors` and `best.safetensors`: the weights of `task.model`
    (the average, if there is one) after the last step and at the lowest validation `loss` (a task
    whose validation reports no `loss` gets none).

    Raises:
        ConfigError: The folder holds a run with another seed, batch or average.
        CheckpointError: The checkpoint is damaged or belongs to another model.
        TrainingError: The loss is not finite, and was not after one rollback either.
    """
    for module in task.trained_modules.values():
        module.to(runtime.device).train()
        if config.compile:
            module.compile()
    state = RunState.begin(task, config.ema_decay)
    _open_run_folder(run_folder, task, config)
    state.load(run_folder)
    loop = _Loop(task, source, config, run_folder, state, runtime)
    log = MetricsLog(run_folder, from_step=state.step)
    clock, guard = Clock(state.elapsed_seconds, config.max_minutes), RollbackGuard()
    prefetcher = Prefetcher(
        source,
        device=runtime.device,
        microbatches=config.microbatches,
        total_steps=config.num_steps,
    )
    validation: dict[str, float] = {}
    with (
        prefetcher,
        progress_bar(show_progress, run_folder.name, config.num_steps, state.step) as report,
    ):
        is_time_up = clock.is_up
        while state.step < config.num_steps and not is_time_up:
            # Every step: one update of each optimizer.
            figures = loop.update(prefetcher.microbatches(state.step, state.attempt))
            log.add(state.step, figures)
            is_time_up = clock.is_up
            is_last = is_time_up or state.step == config.num_steps
            is_validation = is_last or state.step % config.validate_every == 0
            is_checkpoint = is_last or state.step % config.checkpoint_every == 0
            if not (is_validation or is_checkpoint or state.step % config.log_every == 0):
                report(state.step, {})
                continue

            # Once in a while: read the figures. After a loss that is no number, go back once.
            means, bad_step = log.take_pending()
            if bad_step is not None:
                _roll_back(state, guard, run_folder, bad_step)
                log.rewind(state.step)
                continue
            log.write(state.step, "train", means, clock.elapsed_seconds)
            report(state.step, means)

            # Once in a while: validate, let the fixed clips be heard, keep the best weights.
            if is_validation:
                validation = loop.validate()
                log.write(state.step, "validation", validation, clock.elapsed_seconds)

            # Once in a while: save.
            if is_checkpoint:
                state.elapsed_seconds = clock.elapsed_seconds
                state.save(run_folder)
            log.ignore_pause()
    log.close()
    loop.save_weights(LAST_NAME)
    is_finished = state.step >= config.num_steps
    return TrainResult(state.step, is_finished, validation, clock.elapsed_seconds)


def export_ema_weights(
    run_folder: Path, task: Task, *, which: Literal["last", "best"] = "last"
) -> nn.Module:
    """`task.model` with the average weights of a run: of its checkpoint, or of its best validation.

    Raises:
        CheckpointError: The run has no such weights, or they belong to another model.
    """
    if which == "best":
        load_weights(task.model, run_folder / BEST_NAME)
        return task.model.eval()
    folder = checkpoint_folder(run_folder)
    if folder is None:
        raise CheckpointError(f"{run_folder} holds no checkpoint. Train first: `musiclm train`.")
    names = {id(module): name for name, module in task.trained_modules.items()}
    load_modules({names[id(task.model)]: task.model}, folder)
    if (folder / "average.safetensors").is_file():
        average = read_tensors(folder / "average.safetensors")
        with torch.no_grad():
            for name, parameter in task.model.named_parameters():
                parameter.copy_(average[name])
    return task.model.eval()


@dataclass
class _Loop:
    """The acts of the loop: update, validate, write weights."""

    task: Task
    source: BatchSource
    config: TrainerConfig
    run_folder: Path
    state: RunState
    runtime: Runtime

    def __post_init__(self) -> None:
        self.streams = RandomStreams(self.config.seed)
        self.validation_batches: list[Batch] | None = None

    def update(self, batches: list[Batch]) -> dict[str, Tensor | float]:
        """One update of every optimizer in order, then the task's own and the average's."""
        state, total = self.state, self.config.num_steps
        names = [("step", state.attempt, state.step, index) for index in range(len(batches))]
        contexts = [StepContext(state.step, total, self.streams.generator(*name)) for name in names]
        figures: dict[str, Tensor | float] = {}
        with self.streams.layers_draw_from("layers", state.attempt, state.step):
            for name, (optimizer_config, _) in self.task.optimizers.items():
                optimizer = state.optimizers[name]
                rate = learning_rate(optimizer_config, state.step, total)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                parameters = [p for group in optimizer.param_groups for p in group["params"]]
                figures |= self._accumulate(name, batches, contexts, parameters)
                figures[f"gradient_norm/{name}"] = nn.utils.clip_grad_norm_(
                    parameters, optimizer_config.clip_norm
                )
                figures[f"learning_rate/{name}"] = rate
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            state.step += 1
            generator = self.streams.generator("after", state.attempt, state.step)
            figures |= self.task.after_step(StepContext(state.step, total, generator))
        if state.average is not None:
            state.average.update()
        return figures

    def _accumulate(
        self,
        name: str,
        batches: list[Batch],
        contexts: list[StepContext],
        parameters: list[nn.Parameter],
    ) -> dict[str, Tensor | float]:
        """Gradients of the mean loss over the microbatches, for these parameters only."""
        sums: dict[str, Tensor | float] = {}
        for batch, context in zip(batches, contexts, strict=True):
            with self._autocast():
                output: LossOutput = self.task.loss(name, batch, context)
            loss = output.loss / len(batches)
            if loss.requires_grad:  # a discriminator may sit out the first steps
                torch.autograd.backward(loss, inputs=parameters)
            for key, value in {f"loss/{name}": output.loss, **output.metrics}.items():
                figure = value.detach() if isinstance(value, Tensor) else value
                sums[key] = sums.get(key, 0.0) + figure / len(batches)
        return sums

    def validate(self) -> dict[str, float]:
        """Mean figures of the fixed batches with the average weights; audio; the best weights."""
        if self.validation_batches is None:
            self.validation_batches = self.source.validation_batches()
        rows: list[dict[str, float]] = []
        modules = [m for top in self.task.trained_modules.values() for m in top.modules()]
        were_training = [module.training for module in modules]
        for module in self.task.trained_modules.values():
            module.eval()
        with torch.no_grad(), self._average_weights(), self.streams.layers_draw_from("validation"):
            for index, batch in enumerate(self.validation_batches):
                on_device = to_device(batch, self.runtime.device)
                with self._autocast():
                    rows.append(dict(self.task.validation_metrics(on_device)))
                    if index == 0 and self.config.keep_samples:
                        self._write_samples(on_device)
        for module, was_training in zip(modules, were_training, strict=True):
            module.training = was_training
        means = mean_of(list(rows))
        loss, best = means.get("loss"), self.state.best_loss
        if loss is not None and (best is None or loss < best):
            self.state.best_loss = loss
            self.save_weights(BEST_NAME)
        return means

    def save_weights(self, name: str) -> None:
        """Writes `task.model` with the average weights."""
        config = getattr(self.task.model, "config", None)
        text = config.to_json() if isinstance(config, Config) else "{}"
        with self._average_weights():
            save_weights(self.task.model, self.run_folder / name, config_json=text)

    def _write_samples(self, batch: Batch) -> None:
        samples = self.task.validation_samples(batch)
        if not samples:
            return
        folder = self.run_folder / "samples"
        for name, waveform in samples.items():
            waveform.peak_normalised().write(folder / f"{self.state.step:08d}" / f"{name}.wav")
        for old in sorted(folder.iterdir())[: -self.config.keep_samples]:
            shutil.rmtree(old)

    @contextmanager
    def _average_weights(self) -> Generator[None]:
        if self.state.average is None:
            yield
        else:
            with self.state.average.swapped_in():
                yield

    def _autocast(self) -> torch.autocast:
        kind = self.runtime.device.type
        is_on = kind == "cuda" if self.config.use_bf16 is None else self.config.use_bf16
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=is_on)


def _roll_back(state: RunState, guard: RollbackGuard, run_folder: Path, bad_step: int) -> None:
    if not guard.may_roll_back_to(state.saved_step):
        raise TrainingError(
            f"The loss of step {bad_step} is not finite. Lower the learning rate or the gradient "
            f"clip and start again; the last good weights are in {run_folder}."
        )
    attempt = state.attempt + 1
    state.load(run_folder)
    state.attempt = attempt
    _logger.warning(
        "The loss of step %d is not finite: back to step %d, on with other batches.",
        bad_step,
        state.step,
    )


def _open_run_folder(run_folder: Path, task: Task, config: TrainerConfig) -> None:
    """Checks that the folder is new or holds this run, and writes down what is run."""
    path = run_folder / CONFIG_NAME
    if checkpoint_folder(run_folder) is not None and path.is_file():
        old = json.loads(path.read_text(encoding="utf-8"))["trainer"]
        for name in ("seed", "microbatches", "ema_decay"):
            if old.get(name) != getattr(config, name):
                raise ConfigError(
                    f"{run_folder} holds a run with {name}={old.get(name)}, now it is "
                    f"{getattr(config, name)}. Choose another run folder, or the old value."
                )
    sizes = {
        name: sum(parameter.numel() for parameter in module.parameters())
        for name, module in task.trained_modules.items()
    }
    record = {
        "trainer": config.model_dump(mode="json"),
        "optimizers": {k: c.model_dump(mode="json") for k, (c, _) in task.optimizers.items()},
        "num_parameters": sizes,
        "torch_version": torch.__version__,
    }
    write_text_whole(path, json.dumps(record, indent=2) + "\n")
