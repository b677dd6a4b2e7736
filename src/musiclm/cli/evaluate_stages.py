"""`musiclm evaluate stages`: what a held-out token costs each stage, beside its unigram entropy."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from musiclm.cli.held_out import ModelParts, write_report
from musiclm.core.errors import DataError
from musiclm.core.pretrained import load_weights, read_config_json
from musiclm.data.manifest import Split
from musiclm.data.token_source import TokenCropConfig, TokenCropSource
from musiclm.evaluation.stage_metrics import unigram_entropy_nats
from musiclm.stages.extension import absent_codes
from musiclm.stages.language_model import Codes, StageConfig, StageModel
from musiclm.training.tasks.stage import StageTask, StageTaskConfig

STAGES = ("semantic", "coarse", "fine")


@dataclass(frozen=True)
class StageCrops:
    """Which held-out crops: at most one a clip, spread evenly, in batches."""

    tokens: Path
    split: Split
    num_crops: int
    batch_size: int


def evaluate_stages(  # noqa: PLR0913  (each is an option of the command)
    source: tyro.conf.Positional[str | None] = None,
    *,
    tokens: Path,
    report: Path = Path("evaluation-stages.json"),
    split: Split = "validation",
    num_crops: int = 128,
    batch: int = 8,
    device: str = "auto",
) -> None:
    """Cross-entropy of the three stages on held-out tokens, with and without conditioning.

    Without conditioning, its place is left empty, which a stage knows only if it was trained with
    gaps; with another's conditioning, each crop gets that of a crop far from it.

    Args:
        source: A model folder or hub id; mulan.safetensors and the three stages are needed.
        tokens: The token store that `musiclm tokenize` wrote with this model.
        report: The .json file to write.
        split: validation or test.
        num_crops: Crops of each stage's own length, one a clip.
        batch: Crops that go through a stage at once.
        device: auto, cpu or cuda.
    """
    if num_crops < 1 or batch < 1:
        raise DataError(f"{num_crops} crops, {batch} at once; at least 1 and 1 are needed.")
    parts = ModelParts(source, device)
    stages: dict[str, dict[str, Any]] = {}
    for name in STAGES:
        task = open_stage(parts, parts.path(f"{name}_stage"))
        crops = StageCrops(tokens, split, num_crops, batch)
        stages[name] = _figures(task, held_out_codes(task, crops, parts.runtime.device))
    document = {
        **parts.described("mulan", *(f"{name}_stage" for name in STAGES)),
        "tokens": str(tokens),
        "split": split,
        "stages": stages,
    }
    write_report(report, "stages", document)
    Console().print(_table(stages, split))


def open_stage(parts: ModelParts, path: Path) -> StageTask:
    """A stage from its weights, beside the conditioning tokenizer of a model.

    Raises:
        CheckpointError: A file is missing, damaged, or of another model.
    """
    config = StageConfig.from_json(read_config_json(path))
    task = StageTask(StageTaskConfig(stage=config), parts.conditioner.tokenizer.tokenize)
    load_weights(task.model, path)
    task.model.eval().to(parts.runtime.device)
    return task


def held_out_codes(
    task: StageTask, crops: StageCrops, device: torch.device
) -> list[dict[str, Codes]]:
    """The codes that a stage reads and predicts, batch by batch; crops of the stage's own length.

    A stage that may follow melodies is given none.

    Raises:
        DataError: No clip is long enough.
    """
    stage = task.config.stage
    config = TokenCropConfig(
        crop_seconds=stage.window_seconds, batch_size=crops.batch_size, validation_crops=1
    )
    source = TokenCropSource(crops.tokens, config, seed=0)
    batches = source.fixed_batches(crops.split, crops.num_crops)
    if not batches:
        raise DataError(
            f"{crops.tokens} has no {crops.split} clip of {config.crop_seconds:g} s, which the "
            f"{stage.layout.name} stage reads at once. Tokenize longer clips, or choose another "
            "split."
        )
    num_frames = stage.layout.target.spec.num_frames(stage.window_seconds)
    told = track(batches, f"{stage.layout.name} codes", console=Console(stderr=True))
    return [
        task.codes(
            {
                key: value.to(device) if isinstance(value, Tensor) else value
                for key, value in {
                    **absent_codes(stage.layout, len(batch["semantic"]), num_frames),
                    **batch,
                }.items()
            }
        )
        for batch in told
    ]


@torch.no_grad()
def _figures(task: StageTask, batches: list[dict[str, Codes]]) -> dict[str, Any]:
    """Means over all target tokens; every crop has the same number of them."""
    model = task.model
    assert isinstance(model, StageModel)
    target = model.layout.target
    joined = {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}
    sizes = [len(batch[target.name]) for batch in batches]
    losses, level_losses = _losses(model, joined, sizes)
    unigram = unigram_entropy_nats(joined[target.name].cpu(), target.spec.codebook_size)
    figures: dict[str, Any] = {
        "num_crops": sum(sizes),
        "crop_seconds": task.config.stage.window_seconds,
        "num_tokens": joined[target.name].numel(),
        "loss_nats": losses,
        "unigram_nats": float(unigram.mean()),
        "level_loss_nats": level_losses,
        "level_unigram_nats": unigram.tolist(),
        "loss_without_conditioning_nats": None,
        "loss_with_other_conditioning_nats": None,
    }
    optional = [segment for segment in model.layout.prefixes if segment.is_optional]
    if optional:
        half = sum(sizes) // 2
        absent = {s.name: torch.full_like(joined[s.name], s.absent_code) for s in optional}
        other = {s.name: joined[s.name].roll(half, dims=0) for s in optional}
        figures["loss_without_conditioning_nats"] = _losses(model, joined | absent, sizes)[0]
        if half:
            swapped = _losses(model, joined | other, sizes)[0]
            figures["loss_with_other_conditioning_nats"] = swapped
    return figures


def _losses(
    model: StageModel, codes: Mapping[str, Codes], sizes: list[int]
) -> tuple[float, list[float]]:
    """The mean loss over all crops, and that of each level, batch by batch."""
    total = 0.0
    levels = torch.zeros(model.layout.target.spec.num_quantizers, dtype=torch.float64)
    pieces = {name: value.split(sizes) for name, value in codes.items()}
    for number, size in enumerate(sizes):
        output = model.loss({name: piece[number] for name, piece in pieces.items()})
        total += float(output.loss) * size
        levels += output.level_losses.double().cpu() * size
    return total / sum(sizes), (levels / sum(sizes)).tolist()


def _table(stages: Mapping[str, Mapping[str, Any]], split: str) -> Table:
    table = Table(
        "stage",
        "level",
        "loss",
        "unigram",
        "without conditioning",
        "another's conditioning",
        title=f"nats a token, {split} clips",
    )
    for name, figures in stages.items():
        others = [
            figures["loss_without_conditioning_nats"],
            figures["loss_with_other_conditioning_nats"],
        ]
        table.add_row(
            name,
            "all",
            f"{figures['loss_nats']:.3f}",
            f"{figures['unigram_nats']:.3f}",
            *("-" if value is None else f"{value:.3f}" for value in others),
        )
        pairs = zip(figures["level_loss_nats"], figures["level_unigram_nats"], strict=True)
        if len(figures["level_loss_nats"]) > 1:
            for level, (loss, entropy) in enumerate(pairs, start=1):
                table.add_row("", str(level), f"{loss:.3f}", f"{entropy:.3f}")
    return table
