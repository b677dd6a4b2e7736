"""`musiclm bench`: how fast this model and its peers are, side by side on this machine."""

import platform
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from musiclm.cli.bench_figures import (
    Figure,
    Ratio,
    Report,
    StoredRatios,
    check_ratios,
    ratio_of,
)
from musiclm.cli.bench_gpu import bar_ratios, gpu_figures, not_measured
from musiclm.cli.bench_measures import (
    codec_speeds,
    cold_start,
    first_sound,
    peak_memory,
    real_time_factors,
    stage_speeds,
)
from musiclm.cli.bench_peers import PEERS, PeerName, peer_figures
from musiclm.core.errors import PromptError
from musiclm.core.files import write_text_whole
from musiclm.core.runtime import Runtime
from musiclm.generation.musiclm import MusicLM
from musiclm.recipes.paper import paper

_MEMORY_SECONDS = 30.0


def bench(  # noqa: PLR0913  (each is an option of the command)
    *,
    durations: tuple[float, ...] = (10.0, 30.0, 120.0, 300.0),
    against: tuple[PeerName, ...] = PEERS,
    runs: int = 5,
    output: Path = Path("bench.json"),
    check: Path | None = None,
    store_ratios: Path | None = None,
    tolerance: float = 0.25,
    model: str | None = None,
    device: str = "auto",
) -> None:
    """Measure speed, latency and memory of this model and of its peers in one run.

    Args:
        durations: Seconds of music that are made.
        against: Peers to measure beside it; --against with nothing after it for none.
        runs: Runs of each figure; the median counts.
        output: The .json file with every value.
        check: A file of stored ratios: fails when one has become worse.
        store_ratios: Write the ratios of this run to this file.
        tolerance: How much worse a ratio may be: 0.25 is a quarter.
        model: A model folder or hub id; the bundled model by default.
        device: auto, cpu or cuda.
    """
    if not 1 <= runs <= 100:
        raise PromptError(f"The number of runs is {runs}; choose 1 to 100.")
    stored = None if check is None else StoredRatios.read(check)
    console = Console()
    runtime = Runtime.choose(device)
    musiclm = MusicLM.from_pretrained(model, device=device)
    figures: list[Figure] = []

    def add(*measured: Figure) -> None:
        for figure in measured:
            console.print(_line(figure), soft_wrap=True)
            figures.append(figure)

    for seconds in durations:
        add(real_time_factors(musiclm, seconds, runs))
    add(first_sound(musiclm, runs), *stage_speeds(musiclm, runs), *codec_speeds(musiclm, runs))
    for seconds in sorted({_MEMORY_SECONDS, max(durations)}):
        add(peak_memory(musiclm, seconds))
    add(cold_start(musiclm, runs))
    for name in against:
        add(*peer_figures(name, runtime.device, runs))
    if runtime.device.type == "cpu":
        add(*not_measured("the device is the CPU"))
    else:
        add(*gpu_figures(paper(), runtime.device, runs))
    report = Report(machine=_machine(runtime), figures=tuple(figures), ratios=_ratios(figures))
    console.print(_table(report))
    write_text_whole(output, report.to_json() + "\n")
    if store_ratios is not None:
        kept = StoredRatios(machine=report.machine, ratios=report.ratios)
        write_text_whole(store_ratios, kept.to_json() + "\n")
    if stored is not None:
        check_ratios(report.ratios, stored, tolerance)
        console.print(f"no ratio is worse than in {check} by more than {tolerance:.0%}")


def _ratios(figures: list[Figure]) -> tuple[Ratio, ...]:
    """Every pair of figures that says something on a machine of any speed."""
    by_name = {figure.name: figure for figure in figures}
    ratios: list[Ratio] = []
    for stage in ("semantic", "coarse", "fine"):
        ratios += _pair(by_name, f"{stage} stage", f"{stage} stage, PyTorch loop", "higher")
    ratios += _pair(by_name, "text to wav, 300 s", "text to wav, 30 s", "lower")
    ratios += _pair(by_name, "peak memory, 300 s", "peak memory, 30 s", "lower")
    for peer in ("stable-audio-3-small bf16", "musicgen-small bf16", "musicgen-small fp32"):
        ratios += _pair(by_name, "text to wav, 30 s", peer, "lower")
    for peer in ("encodec-24khz", "dac-24khz", "mimi"):
        for codec in ("codec", "seanet codec", "seanet codec fp32"):
            for what in ("encode", "decode"):
                ratios += _pair(by_name, f"{codec}: {what}", f"{peer} fp32: {what}", "higher")
    return (*ratios, *bar_ratios(figures))


def _pair(by_name: dict[str, Figure], over: str, under: str, better: str) -> list[Ratio]:
    if over not in by_name or under not in by_name:
        return []
    way = "higher" if better == "higher" else "lower"
    return ratio_of(f"{over} / {under}", by_name[over], by_name[under], way)


def _line(figure: Figure) -> str:
    value = figure.note if figure.median is None else f"{figure.median:.3g} {figure.unit}"
    return f"{figure.name}: {value}"


def _table(report: Report) -> Table:
    table = Table("what", "median", "least", "most", "unit", "note", title=report.machine)
    for figure in report.figures:
        if figure.median is None:
            table.add_row(figure.name, "", "", "", figure.unit, figure.note)
            continue
        shown = (figure.median, min(figure.values), max(figure.values))
        table.add_row(figure.name, *(f"{v:.3g}" for v in shown), figure.unit, figure.note)
    table.add_section()
    for ratio in report.ratios:
        table.add_row(
            ratio.name, f"{ratio.value:.3g}", "", "", "ratio", f"{ratio.better} is better"
        )
    return table


def _machine(runtime: Runtime) -> str:
    processor = platform.processor() or platform.machine()
    return (
        f"{processor}, {runtime.num_threads} threads, {runtime.device}, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )
