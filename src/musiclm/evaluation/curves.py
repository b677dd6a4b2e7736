"""Pictures of curves: memorization over the length of the prompt."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from musiclm.core.errors import DataError
from musiclm.core.files import written_whole
from musiclm.evaluation.distances import Interval
from musiclm.evaluation.memorization import MemorizationReport

_COLOURS = ("#b3402a", "#2a6db3", "#3c8a4e", "#8a6d3c")


def memorization_picture(report: MemorizationReport, *, frame_rate_hz: int = 25) -> Figure:
    """Exact (dashed) and approximate (solid) matches by set, over seconds of prompt (Figure 3).

    Raises:
        DataError: The report has no curve.
    """
    if not any(report.curves.values()):
        raise DataError("There is no memorization curve to draw; the report is empty.")
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for colour, (name, points) in zip(_COLOURS, report.curves.items(), strict=False):
        seconds = [point.prompt_frames / frame_rate_hz for point in points]
        count = report.num_examples[name]
        approximate = {s: p.approximate for s, p in zip(seconds, points, strict=True)}
        _draw(figure, approximate, f"{name} ({count}), approximate", colour, "-")
        exact = {s: p.exact for s, p in zip(seconds, points, strict=True)}
        _draw(figure, exact, f"{name} ({count}), exact", colour, "--")
    axes.axhline(100 * report.threshold.false_positive_rate, color="grey", linewidth=0.8)
    axes.set_xlabel("seconds of the example that are given")
    axes.set_ylabel("matches (%), 95 %")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7)
    return figure


def write_figure(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG (or what the suffix says), whole or not at all.

    Raises:
        MusicLMError: The disk refuses the file.
    """
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _draw(
    figure: Figure, shares: Mapping[float, Interval], label: str, colour: str, style: str
) -> None:
    axes = figure.axes[0]
    seconds: Sequence[float] = list(shares)
    axes.plot(
        seconds, [100 * share.mean for share in shares.values()], style, color=colour, label=label
    )
    axes.fill_between(
        seconds,
        [100 * share.low for share in shares.values()],
        [100 * share.high for share in shares.values()],
        color=colour,
        alpha=0.12,
        linewidth=0,
    )
