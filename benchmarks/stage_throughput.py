"""Measures how fast stages of given sizes train and decode.

python benchmarks/stage_throughput.py --stage fine --dim 256 --layers 4 --style aligned
"""

import itertools
import time
from dataclasses import dataclass
from typing import Literal

import torch
import tyro

from musiclm.core.runtime import RandomStreams, Runtime
from musiclm.layers.transformer import TransformerConfig
from musiclm.stages.decoding import SamplingConfig, generate
from musiclm.stages.language_model import StageConfig, StageModel
from musiclm.stages.layout import (
    LayoutStyle,
    SegmentLayout,
    coarse_layout,
    fine_layout,
    semantic_layout,
    split_acoustic,
)
from musiclm.tokens.spec import TokenSpec

STYLES = {
    "paper": LayoutStyle(),
    "delay": LayoutStyle(target="delay"),
    "aligned": LayoutStyle(target="delay", frames="aligned", look_ahead_frames=1),
    "all_aligned": LayoutStyle(
        target="delay", conditioning="aligned", frames="aligned", look_ahead_frames=1
    ),
}
CROP_SECONDS = {"semantic": 30.0, "coarse": 10.0, "fine": 3.0}


@dataclass(frozen=True)
class Arguments:
    """What to measure; several values of a size are all tried."""

    stage: tuple[Literal["semantic", "coarse", "fine"], ...] = ("semantic", "coarse", "fine")
    dim: tuple[int, ...] = (256,)
    layers: tuple[int, ...] = (6,)
    style: Literal["paper", "delay", "aligned", "all_aligned"] = "aligned"
    conditioning_levels: int = 12
    """Levels of the conditioning tokens."""
    crop_seconds: float | None = None
    """Length of the training crops; the paper's when not given."""
    batch_size: int = 4
    """Crops a training step, and samples decoded side by side."""
    precision: tuple[Literal["float32", "bfloat16"], ...] = ("float32",)
    """bfloat16: autocast in training, weights in decoding."""
    seconds: float = 4.0
    """Time spent on each figure."""
    decode_seconds: float = 1.0
    """Music decoded at once."""
    device: str = "auto"
    threads: int | None = None


def make_layout(stage: str, arguments: Arguments) -> SegmentLayout:
    """The layout of a stage with the project's token rates."""
    style = STYLES[arguments.style]
    conditioning = TokenSpec(
        name="conditioning",
        num_quantizers=arguments.conditioning_levels,
        codebook_size=1024,
        frame_rate_hz=0,
    )
    semantic = TokenSpec(name="semantic", num_quantizers=1, codebook_size=1024, frame_rate_hz=25)
    acoustic = TokenSpec(name="acoustic", num_quantizers=12, codebook_size=1024, frame_rate_hz=50)
    coarse, fine = split_acoustic(acoustic)
    if stage == "semantic":
        return semantic_layout(conditioning, semantic, style)
    if stage == "coarse":
        return coarse_layout(conditioning, semantic, coarse, style)
    return fine_layout(coarse, fine, style)


def make_model(layout: SegmentLayout, dim: int, num_layers: int) -> StageModel:
    """A stage with heads of 64 and a feed-forward of 8/3 of the width."""
    transformer = TransformerConfig(
        dim=dim,
        num_layers=num_layers,
        num_heads=max(1, dim // 64),
        head_dim=64,
        feed_forward_dim=round(dim * 8 / 3 / 64) * 64,
    )
    config = StageConfig(layout=layout, transformer=transformer, window_seconds=1.0)
    return StageModel(config, generator=RandomStreams(0).generator("weights"))


def random_codes(
    layout: SegmentLayout, seconds: float, batch_size: int, device: torch.device
) -> dict[str, torch.Tensor]:
    """Random codes of every segment."""
    generator = RandomStreams(0).generator("codes")
    return {
        segment.name: torch.randint(
            segment.spec.codebook_size,
            (batch_size, segment.spec.num_quantizers, segment.spec.num_frames(seconds)),
            generator=generator,
        ).to(device)
        for segment in layout.segments
    }


def wait_for(device: torch.device) -> None:
    """Lets a GPU finish before the clock is read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def music_trained_per_second(
    model: StageModel, arguments: Arguments, crop_seconds: float, precision: str
) -> float:
    """Seconds of crops a second of training steps (forward, backward, AdamW)."""
    device = model.begin.device
    model.float().train()
    codes = random_codes(model.layout, crop_seconds, arguments.batch_size, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            loss = model.loss(codes).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    wait_for(device)
    start, num_steps = time.perf_counter(), 0
    while num_steps < 2 or time.perf_counter() - start < arguments.seconds:
        step()
        wait_for(device)
        num_steps += 1
    return num_steps * arguments.batch_size * crop_seconds / (time.perf_counter() - start)


def steps_decoded_per_second(
    model: StageModel, arguments: Arguments, batch_size: int, precision: str
) -> float:
    """Decode steps a second, at the given number of samples side by side."""
    device = model.begin.device
    model.to(torch.bfloat16 if precision == "bfloat16" else torch.float32).eval()
    seconds = arguments.decode_seconds
    codes = random_codes(model.layout, seconds, batch_size, device)
    num_frames = model.layout.target.spec.num_frames(seconds)
    prefixes = {segment.name: codes[segment.name] for segment in model.layout.prefixes}
    streams = RandomStreams(0)

    def run(frames: int) -> None:
        generators = [streams.generator("decode", sample) for sample in range(batch_size)]
        generate(model, prefixes, frames, sampling=SamplingConfig(), generators=generators)
        wait_for(device)

    run(2)
    start, num_runs = time.perf_counter(), 0
    while not num_runs or time.perf_counter() - start < arguments.seconds / 2:
        run(num_frames)
        num_runs += 1
    elapsed = time.perf_counter() - start
    return num_runs * model.pattern.num_steps(num_frames) / elapsed


def main() -> None:
    """Prints one line a size."""
    arguments = tyro.cli(Arguments, description=__doc__)
    runtime = Runtime.choose(arguments.device, arguments.threads)
    print(f"{runtime.device}, {runtime.num_threads} threads, batch {arguments.batch_size}")
    print(
        f"{'stage':9}{'dim':>5}{'layers':>7}{'params/M':>10}{'precision':>10}{'positions':>10}"
        f"{'train x':>9}{'positions/s':>12}{'steps/s b1':>11}{'steps/s b':>10}"
    )
    sizes = itertools.product(arguments.stage, arguments.dim, arguments.layers, arguments.precision)
    for stage, dim, num_layers, precision in sizes:
        layout = make_layout(stage, arguments)
        model = make_model(layout, dim, num_layers).to(runtime.device)
        crop = arguments.crop_seconds or CROP_SECONDS[stage]
        positions = layout.num_positions(crop)
        trained = music_trained_per_second(model, arguments, crop, precision)
        single = steps_decoded_per_second(model, arguments, 1, precision)
        batched = steps_decoded_per_second(model, arguments, arguments.batch_size, precision)
        millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        print(
            f"{stage:9}{dim:5}{num_layers:7}{millions:10.2f}{precision:>10}{positions:10}"
            f"{trained:9.1f}{trained / crop * positions:12.0f}{single:11.0f}{batched:10.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
