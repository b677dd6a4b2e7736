"""The one loop: a resumed run is the unbroken one; schedules, averages, rollbacks, files."""

import itertools
import json
import logging
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from musiclm.audio.waveform import Waveform
from musiclm.core.errors import CheckpointError, ConfigError, TrainingError
from musiclm.core.pretrained import load_weights
from musiclm.core.runtime import RandomStreams, Runtime
from musiclm.training.diagnostics import Alarm
from musiclm.training.optimizer import WeightAverage, build_adamw, learning_rate
from musiclm.training.task import (
    Batch,
    BatchSource,
    LossOutput,
    OptimizerConfig,
    StepContext,
    Task,
)
from musiclm.training.trainer import TrainerConfig, TrainResult, export_ema_weights, train

RUNTIME = Runtime(torch.device("cpu"), 1)


class TinyModel(nn.Module):
    """A regression with dropout and a running codebook, as the real models have."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.dropout = nn.Dropout(0.2)
        self.codebook: Tensor
        self.register_buffer("codebook", torch.zeros(5, 3))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.dropout(self.linear(inputs))


class TinyTask(Task):
    def __init__(self, bad_step: int | None = None, bad_batch: float | None = None) -> None:
        with RandomStreams(3).layers_draw_from("init"):
            self._model = TinyModel()
            self.critic = nn.Linear(3, 1)
        self.bad_step, self.bad_batch = bad_step, bad_batch
        self.seen_in_validation: list[Tensor] = []

    @property
    def model(self) -> TinyModel:
        return self._model

    @property
    def trained_modules(self) -> dict[str, nn.Module]:
        return {"model": self._model, "critic": self.critic}

    @property
    def optimizers(self) -> dict[str, tuple[OptimizerConfig, list[nn.Parameter]]]:
        config = OptimizerConfig(learning_rate=0.01, warmup_steps=3, weight_decay=0.1)
        return {
            "critic": (config, list(self.critic.parameters())),
            "model": (config, list(self._model.parameters())),
        }

    def loss(self, optimizer_name: str, batch: Batch, context: StepContext) -> LossOutput:
        noise = torch.randn(batch["inputs"].shape, generator=context.generator)
        output = context.scratch.setdefault("output", self._model(batch["inputs"] + 0.1 * noise))
        if optimizer_name == "critic":
            if context.step < 2:
                return LossOutput(torch.zeros(()), {})
            gap = self.critic(output.detach()).mean() - self.critic(batch["targets"]).mean()
            return LossOutput(gap.square() + gap, {"gap": gap})
        with torch.no_grad():
            new = output.detach()[torch.randint(0, len(output), (5,), generator=context.generator)]
            self._model.codebook.lerp_(new, 0.1)
        loss = (output - batch["targets"]).square().mean() - 0.01 * self.critic(output).mean()
        is_bad = batch["number"] == self.bad_batch or context.step == self.bad_step
        return LossOutput(loss * (math.nan if is_bad else 1.0), {"one": 1.0})

    def after_step(self, context: StepContext) -> dict[str, float]:
        worst = int(torch.randint(0, 5, (1,), generator=context.generator))
        self._model.codebook[worst] *= 0.9
        return {"restarted": float(worst)}

    def validation_metrics(self, batch: Batch) -> dict[str, float]:
        assert not self._model.training
        assert not torch.is_grad_enabled()
        self.seen_in_validation.append(self._model.linear.weight.clone())
        loss = (self._model(batch["inputs"]) - batch["targets"]).square().mean()
        return {"loss": float(loss)}

    def validation_samples(self, batch: Batch) -> dict[str, Waveform]:
        return {"tone": Waveform(torch.sin(torch.arange(2400) * 0.1), 24_000)}


class TinySource(BatchSource):
    def batch(self, step: int, microbatch: int) -> Batch:
        inputs = torch.randn(8, 4, generator=RandomStreams(5).generator("b", step, microbatch))
        number = torch.tensor(float(step * 100 + microbatch))
        return {"inputs": inputs, "targets": inputs[:, :3] * 2, "number": number}

    def validation_batches(self) -> list[Batch]:
        return [self.batch(-1, 0), self.batch(-1, 1)]


def config(**changes) -> TrainerConfig:
    values: dict[str, Any] = {
        "num_steps": 12,
        "microbatches": 2,
        "log_every": 2,
        "validate_every": 4,
    }
    values |= {"checkpoint_every": 4, "ema_decay": 0.9, "keep_samples": 2}
    return TrainerConfig(**(values | changes))


def run(folder: Path, task: TinyTask | None = None, **changes) -> tuple[TinyTask, TrainResult]:
    task = task or TinyTask()
    return task, train(
        task, TinySource(), config(**changes), folder, runtime=RUNTIME, show_progress=False
    )


class SlowSource(TinySource):
    def batch(self, step: int, microbatch: int) -> Batch:
        time.sleep(0.01)
        return super().batch(step, microbatch)


class StoppingSource(TinySource):
    """Fails as a killed machine does, in the middle of a run."""

    def batch(self, step: int, microbatch: int) -> Batch:
        if step == 6:
            raise KeyboardInterrupt
        return super().batch(step, microbatch)


def exported_from(folder: Path) -> TinyModel:
    model = export_ema_weights(folder, TinyTask())
    assert isinstance(model, TinyModel)
    return model


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row.pop("elapsed_seconds")
        row["metrics"].pop("steps_per_second", None)
    return rows


def all_tensors(task: TinyTask, folder: Path) -> dict[str, Tensor]:
    tensors = {}
    for path in sorted((folder / "checkpoint").glob("*.safetensors")):
        tensors |= {f"{path.name}/{name}": value for name, value in load_file(path).items()}
    for module_name, module in task.trained_modules.items():
        tensors |= {f"{module_name}.{k}": v for k, v in module.state_dict().items()}
    return tensors


def test_a_resumed_run_is_the_unbroken_run_bit_for_bit(tmp_path):
    unbroken, result = run(tmp_path / "unbroken")
    with pytest.raises(KeyboardInterrupt):
        train(
            TinyTask(),
            StoppingSource(),
            config(),
            tmp_path / "broken",
            runtime=RUNTIME,
            show_progress=False,
        )
    torch.rand(7)  # the global generator is elsewhere in the new process
    resumed, resumed_result = run(tmp_path / "broken")
    expected = all_tensors(unbroken, tmp_path / "unbroken")
    actual = all_tensors(resumed, tmp_path / "broken")
    assert expected.keys() == actual.keys()
    assert any("optimizers" in name for name in expected)
    for name, tensor in expected.items():
        assert torch.equal(tensor, actual[name]), name
    assert metrics_of(tmp_path / "unbroken") == metrics_of(tmp_path / "broken")
    assert result.validation == resumed_result.validation
    assert result.step == resumed_result.step == 12


def test_training_lowers_the_loss_and_leaves_a_whole_run_folder(tmp_path):
    _, result = run(tmp_path, num_steps=150, validate_every=50, ema_decay=0.5)
    losses = [r["metrics"]["loss"] for r in metrics_of(tmp_path) if r["split"] == "validation"]
    assert result.is_finished
    assert losses[-1] < 0.7 * losses[0]
    names = {path.name for path in tmp_path.iterdir()}
    assert {"config.json", "checkpoint", "best.safetensors", "last.safetensors"} <= names
    assert sorted(p.name for p in (tmp_path / "samples").iterdir()) == ["00000100", "00000150"]
    assert (tmp_path / "samples" / "00000150" / "tone.wav").is_file()
    assert not list(tmp_path.rglob("*.pt"))
    train_rows = [row["metrics"] for row in metrics_of(tmp_path) if row["split"] == "train"]
    assert {"loss/critic", "loss/model", "gradient_norm/model", "one"} <= train_rows[-1].keys()
    assert train_rows[-1]["one"] == 1.0


def test_validation_and_exports_use_the_average_and_training_goes_on_with_its_own(tmp_path):
    task, _ = run(tmp_path)
    own = task.model.linear.weight.clone()
    seen = task.seen_in_validation[-1]
    assert not torch.equal(own, seen)
    assert task.model.training
    exported = exported_from(tmp_path)
    assert torch.equal(exported.linear.weight, seen)
    assert torch.equal(exported.codebook, task.model.codebook)
    last = TinyModel()
    load_weights(last, tmp_path / "last.safetensors")
    assert torch.equal(last.linear.weight, seen)
    without, _ = run(tmp_path / "none", ema_decay=0.0)
    exported = exported_from(tmp_path / "none")
    assert torch.equal(exported.linear.weight, without.model.linear.weight)


def test_the_time_budget_stops_cleanly_and_the_same_call_goes_on(tmp_path):
    _, first = run(tmp_path / "parts", max_minutes=1e-9)
    assert not first.is_finished
    assert first.step == 0
    settings = config(max_minutes=0.15 / 60)
    middle = train(
        TinyTask(),
        SlowSource(),
        settings,
        tmp_path / "parts",
        runtime=RUNTIME,
        show_progress=False,
    )
    assert 0 < middle.step < 12
    state = json.loads((tmp_path / "parts" / "checkpoint" / "state.json").read_text())
    assert state["step"] == middle.step
    parts, second = run(tmp_path / "parts")
    whole, _ = run(tmp_path / "whole")
    assert second.is_finished
    assert torch.equal(parts.model.linear.weight, whole.model.linear.weight)
    again, third = run(tmp_path / "parts")
    assert third.step == 12
    assert torch.equal(again.model.linear.weight, whole.model.linear.weight)


def test_microbatches_average_to_the_gradient_of_the_whole_batch():
    class Plain(TinyTask):
        def loss(self, optimizer_name, batch, context):
            del optimizer_name, context
            output = self._model.linear(batch["inputs"])
            return LossOutput((output - batch["targets"]).square().mean(), {})

        @property
        def optimizers(self):
            return {
                "model": (OptimizerConfig(learning_rate=0.1), [*self._model.linear.parameters()])
            }

        def after_step(self, context):
            return {}

    class Halves(TinySource):
        def batch(self, step, microbatch):
            whole = super().batch(step, 0)
            part = slice(4 * microbatch, 4 * microbatch + 4)
            return {"inputs": whole["inputs"][part], "targets": whole["targets"][part]}

    weights = []
    for source, microbatches in ((TinySource(), 1), (Halves(), 2)):
        task = Plain()
        with tempfile.TemporaryDirectory() as folder:
            settings = config(microbatches=microbatches, keep_samples=0)
            train(task, source, settings, Path(folder), runtime=RUNTIME, show_progress=False)
        weights.append(task.model.linear.weight.detach())
    assert torch.allclose(weights[0], weights[1], atol=1e-5)


def test_a_bad_batch_costs_one_rollback_and_the_run_goes_on(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        task, result = run(tmp_path, TinyTask(bad_batch=601.0))
    assert result.is_finished
    assert all(torch.isfinite(p).all() for p in task.model.parameters())
    assert "step 7 is not finite: back to step 4" in caplog.text
    assert json.loads((tmp_path / "checkpoint" / "state.json").read_text())["attempt"] == 1


def test_a_loss_that_stays_bad_ends_the_run_with_its_step(tmp_path):
    with pytest.raises(TrainingError, match="step 7 is not finite"):
        run(tmp_path, TinyTask(bad_step=6))
    exported = exported_from(tmp_path)
    assert torch.isfinite(exported.linear.weight).all()
    with pytest.raises(TrainingError, match="step 2"):
        run(tmp_path / "early", TinyTask(bad_step=1))


def test_foreign_run_folders_are_refused(tmp_path):
    run(tmp_path)
    with pytest.raises(ConfigError, match="seed=0"):
        run(tmp_path, seed=1)

    class Other(TinyTask):
        def __init__(self):
            super().__init__()
            self.critic = nn.Linear(3, 2)

    with pytest.raises(CheckpointError, match="critic"):
        run(tmp_path, Other())
    (tmp_path / "checkpoint" / "modules.safetensors").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match="damaged"):
        run(tmp_path)


def test_a_checkpoint_cut_off_in_the_middle_leaves_the_old_one(tmp_path, monkeypatch):
    def full_disk(*_args):
        raise OSError(28, "No space left on device")

    run(tmp_path, num_steps=4)
    monkeypatch.setattr("musiclm.training.run_state.save_file", full_disk)
    with pytest.raises(CheckpointError, match="No space left"):
        run(tmp_path)
    monkeypatch.undo()
    _, result = run(tmp_path)
    assert result.step == 12
    assert not list(tmp_path.glob("checkpoint.*"))


def test_the_schedule_warms_up_and_ends_where_it_should():
    optimizer = OptimizerConfig(learning_rate=2.0, warmup_steps=10, final_fraction=0.1)
    rates = [learning_rate(optimizer, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == 2.0
    assert rates[-1] == pytest.approx(0.2)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_only_matrices_decay():
    module = nn.Sequential(nn.Conv1d(4, 8, 3), nn.LayerNorm(8))
    optimizer = build_adamw(
        OptimizerConfig(learning_rate=1.0, weight_decay=0.3), list(module.parameters())
    )
    decays = {g["weight_decay"]: [p.ndim for p in g["params"]] for g in optimizer.param_groups}
    assert decays == {0.3: [3], 0.0: [1, 1, 1]}
    with pytest.raises(ConfigError):
        build_adamw(OptimizerConfig(learning_rate=1.0), [])


def test_the_average_follows_its_recurrence_and_gives_the_weights_back():
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 0.0)
    average, expected = WeightAverage(module, 0.99), 0.0
    for update in range(50):
        with torch.no_grad():
            module.weight.fill_(float(update))
        average.update()
        decay = min(0.99, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * update
    with average.swapped_in():
        assert module.weight.item() == pytest.approx(expected, rel=1e-5)
    assert module.weight.item() == 49.0


def test_an_alarm_rings_once_and_again_after_it_was_well(caplog):
    alarm = Alarm("codebook", patience=2)
    with caplog.at_level(logging.WARNING):
        rings = [alarm.check(wrong, "perplexity 3") for wrong in map(bool, [1, 1, 1, 0, 1, 1])]
    assert rings == [False, True, True, False, False, True]
    assert len(caplog.records) == 2
