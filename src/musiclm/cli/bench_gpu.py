"""What `musiclm bench` measures on a GPU: the paper's sizes beside what the device itself can do.

Three bars: decoding one sample against the time that reading weights and cache takes; a batch
against one sample; a training step against matrix products.
"""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from musiclm.cli.bench_figures import Figure, Ratio, ratio_of, timed
from musiclm.cli.bench_measures import random_codes, stage_speed
from musiclm.core.runtime import RandomStreams
from musiclm.recipes.recipe import Recipe, StageRecipe
from musiclm.stages.decoder import make_decoder
from musiclm.stages.language_model import StageConfig, StageModel
from musiclm.training.optimizer import WeightAverage, build_adamw

COPY = "device: copy"
PRODUCTS = "device: matrix products, bf16"
ONE = "paper semantic stage, batch 1, bf16"
LIMIT = "paper semantic stage, batch 1, bf16: limit of the memory's bandwidth"
MANY = "paper semantic stage, batch 32, bf16"
TRAINING = "paper semantic stage, training step, bf16"
_REPEATS = 10


@dataclass(frozen=True)
class Bar:
    """What one figure has to be of another one."""

    over: str
    under: str
    least: float

    @property
    def name(self) -> str:
        """Both figures and the least ratio."""
        return f"{self.over} / {self.under} (at least {self.least:g})"


BARS = (Bar(ONE, LIMIT, 0.6), Bar(MANY, ONE, 15.0), Bar(TRAINING, PRODUCTS, 0.45))


@dataclass(frozen=True)
class Sizes:
    """How much is computed for a figure."""

    copy_bytes: int = 2**30
    """Far more than any cache holds."""
    product_dim: int = 8192
    """Square matrices."""
    decode_seconds: float = 30.0
    """The paper's window of the semantic stage."""
    batch_size: int = 32
    """Samples decoded together."""
    training_batch: int = 16
    """Crops of a training step: a quarter of the recipe's, to fit into most memories."""
    training_seconds: float = 30.0
    """The recipe's crops."""


_SIZES = Sizes()


def not_measured(reason: str) -> list[Figure]:
    """A line for each bar that says why it was not measured."""
    return [Figure(name=bar.name, unit="", note=f"not measured: {reason}") for bar in BARS]


def bar_ratios(figures: Sequence[Figure]) -> list[Ratio]:
    """The ratio of each bar whose figures were measured."""
    by_name = {figure.name: figure for figure in figures}
    ratios: list[Ratio] = []
    for bar in BARS:
        if bar.over in by_name and bar.under in by_name:
            ratios += ratio_of(bar.name, by_name[bar.over], by_name[bar.under], "higher")
    return ratios


def gpu_figures(
    recipe: Recipe, device: torch.device, runs: int, *, sizes: Sizes = _SIZES
) -> list[Figure]:
    """All figures of a device, with random weights.

    Args:
        recipe: Whose semantic stage is measured: `paper`, for the figures to be what they are
            called.
        device: Where.
        runs: Of each figure.
        sizes: How much is computed.
    """
    copy = copy_speed(device, runs, num_bytes=sizes.copy_bytes)
    products = product_speed(device, runs, dim=sizes.product_dim)
    model = random_stage(recipe.stage_task("semantic").stage, device)
    training = _unless_full(
        TRAINING, "TFLOP/s", lambda: training_speed(model, recipe.semantic_stage, runs, sizes=sizes)
    )
    decoder = make_decoder(model.to(torch.bfloat16).eval())
    speeds = [
        _unless_full(
            name,
            "tokens/s",
            lambda name=name, size=size: stage_speed(
                decoder, name, runs, batch_size=size, seconds=sizes.decode_seconds
            ),
        )
        for name, size in ((ONE, 1), (MANY, sizes.batch_size))
    ]
    speeds = [
        speed.model_copy(update={"note": decoder.description}) if speed.values else speed
        for speed in speeds
    ]
    limit = bandwidth_limit(model, copy, sizes.decode_seconds)
    return [copy, products, speeds[0], limit, speeds[1], training]


def random_stage(config: StageConfig, device: torch.device) -> StageModel:
    """A stage with random weights."""
    with RandomStreams(0).layers_draw_from("bench weights"), device:
        return StageModel(config)


def copy_speed(device: torch.device, runs: int, *, num_bytes: int) -> Figure:
    """Bytes a second that the device's memory moves, read and written ones together."""
    source = torch.ones(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def run() -> None:
        for _ in range(_REPEATS):
            target.copy_(source)
        _wait_for(device)

    moved = 2 * num_bytes * _REPEATS
    values = tuple(moved / seconds / 1e9 for seconds in timed(run, runs))
    return Figure(name=COPY, unit="GB/s", values=values)


def product_speed(device: torch.device, runs: int, *, dim: int) -> Figure:
    """Floating-point operations a second of products of square bfloat16 matrices."""
    noise = torch.randn(2, dim, dim, generator=RandomStreams(0).generator("bench matrices"))
    left, right = noise.to(device, torch.bfloat16)
    result = torch.empty_like(left)

    def run() -> None:
        for _ in range(_REPEATS):
            torch.mm(left, right, out=result)
        _wait_for(device)

    operations = 2 * dim**3 * _REPEATS
    values = tuple(operations / seconds / 1e12 for seconds in timed(run, runs))
    return Figure(name=PRODUCTS, unit="TFLOP/s", values=values)


def bandwidth_limit(model: StageModel, copy: Figure, seconds: float) -> Figure:
    """Tokens a second of one sample if a step only read what it must, as fast as a copy does."""
    if copy.median is None:
        return Figure(name=LIMIT, unit="tokens/s", note="not measured: there is no bandwidth")
    layout = model.layout
    num_frames = layout.num_frames(seconds)[layout.target.name]
    num_bytes = bytes_of_window(model, seconds, batch_size=1)
    tokens = num_frames * layout.target.spec.num_quantizers
    return Figure(
        name=LIMIT,
        unit="tokens/s",
        values=(tokens * copy.median * 1e9 / num_bytes,),
        note=f"{num_bytes / 1e9:.3g} GB of weights and cache a window",
    )


def bytes_of_window(model: StageModel, seconds: float, *, batch_size: int) -> int:
    """Bytes that the steps of a window have to read: weights, and the cache as far as it is filled.

    Each step reads every matrix of the transformer, the logit rows of the levels it says, and the
    keys and values of all positions up to its own. Embeddings are single rows and left out.
    """
    layout, sizes = model.layout, model.config.transformer
    spec = layout.target.spec
    num_steps = layout.pattern.num_steps(layout.num_frames(seconds)[layout.target.name])
    num_positions = layout.num_positions(seconds)
    logit_rows = layout.pattern.num_columns * spec.codebook_size
    weights = _matrix_sizes(model) + logit_rows * sizes.dim
    first = num_positions - num_steps + 1
    filled = (first + num_positions) * num_steps // 2  # summed over the steps
    per_position = 2 * sizes.num_layers * sizes.num_heads * sizes.head_dim
    numbers = num_steps * weights + batch_size * filled * per_position
    return numbers * model.begin.element_size()


def training_speed(model: StageModel, recipe: StageRecipe, runs: int, *, sizes: Sizes) -> Figure:
    """Floating-point operations a second of whole training steps, as `training.trainer` takes them.

    Forward and backward pass under bfloat16 autocast, clipping, AdamW, average of the weights;
    compiled on a GPU where triton is installed (`TrainerConfig.compile`).
    """
    device = model.begin.device
    is_compiled = device.type == "cuda" and importlib.util.find_spec("triton") is not None
    codes = {
        name: value.to(device)
        for name, value in random_codes(
            model.layout.segments, sizes.training_batch, sizes.training_seconds
        ).items()
    }
    model.train()
    optimizer = build_adamw(recipe.optimizer, list(model.parameters()))
    average = WeightAverage(model, recipe.trainer.ema_decay)
    if is_compiled:
        model.compile()

    def run() -> None:
        with RandomStreams(0).layers_draw_from("bench layers"):
            with torch.autocast(device.type, dtype=torch.bfloat16):
                loss = model.loss(codes).loss
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(model.parameters(), recipe.optimizer.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        average.update()
        _wait_for(device)

    operations = training_operations(model, sizes.training_batch, sizes.training_seconds)
    values = tuple(operations / seconds / 1e12 for seconds in timed(run, runs))
    note = f"{sizes.training_batch} crops of {sizes.training_seconds:g} s"
    return Figure(
        name=TRAINING,
        unit="TFLOP/s",
        values=values,
        note=f"{note}, {'compiled' if is_compiled else 'not compiled'}",
    )


def training_operations(model: StageModel, batch_size: int, seconds: float) -> int:
    """Floating-point operations that a training step has to do in matrix products.

    Twice the weights a position and twice the logit rows a target token, and in attention products
    with every position up to each one; the backward pass takes twice as many as the forward pass.
    """
    layout, sizes = model.layout, model.config.transformer
    spec = layout.target.spec
    num_positions = layout.num_positions(seconds)
    num_tokens = layout.num_frames(seconds)[layout.target.name] * spec.num_quantizers
    products = num_positions * _matrix_sizes(model) + num_tokens * spec.codebook_size * sizes.dim
    pairs = num_positions * (num_positions + 1) // 2
    attention = 2 * pairs * sizes.num_layers * sizes.num_heads * sizes.head_dim
    return 3 * 2 * batch_size * (products + attention)


def _matrix_sizes(model: StageModel) -> int:
    """Numbers in the matrices of the transformer."""
    linears = [part for part in model.transformer.modules() if isinstance(part, nn.Linear)]
    return sum(linear.weight.numel() for linear in linears)


def _unless_full(name: str, unit: str, measure: Callable[[], Figure]) -> Figure:
    try:
        return measure()
    except torch.cuda.OutOfMemoryError:
        return Figure(name=name, unit=unit, note="not measured: the device's memory is too small")


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
