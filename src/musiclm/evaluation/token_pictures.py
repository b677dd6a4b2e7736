"""Pictures of tokens: the streams of a piece under its mel spectrogram, on one axis of time."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Int
from torch import Tensor

from musiclm.audio.waveform import Waveform
from musiclm.core.errors import ConfigError, DependencyError
from musiclm.core.files import written_whole

try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
except ImportError as error:
    raise DependencyError(
        "Pictures need matplotlib, which is not installed. Run: pip install 'musiclm[eval]'."
    ) from error

from musiclm.evaluation.pictures import decibels

_INCHES_PER_SECOND = 1.2
_SPREAD = 0.618034  # near codes get far colours


def token_picture(
    waveform: Waveform, streams: Mapping[str, Int[Tensor, "levels frames"]]
) -> Figure:
    """A log-mel spectrogram above one band a stream; a colour stands for a code.

    Args:
        waveform: The audio.
        streams: Codes by name, over the whole length of the audio; one frame stands for all of
            it, and a code below 0 is left white.

    Raises:
        ConfigError: There is no stream.
        AudioError: The audio is too short to draw.
    """
    if not streams:
        raise ConfigError("No tokens to draw. Give at least one stream.")
    seconds = waveform.duration_seconds
    levels = [codes.shape[0] for codes in streams.values()]
    heights = [5.0, *(0.5 + 0.3 * count for count in levels)]
    width = float(np.clip(seconds * _INCHES_PER_SECOND, 8, 60))
    figure = Figure(figsize=(width, sum(heights) * 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    panel = decibels(waveform)
    extent = (0.0, seconds, 0.0, float(panel.shape[0]))
    loudest = float(panel.max())
    axes[0].imshow(
        panel,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=loudest - 80,
        vmax=loudest,
        extent=extent,
    )
    axes[0].set_ylabel("mel band", fontsize=7)
    for axis, (name, codes) in zip(axes[1:], streams.items(), strict=True):
        numbers = codes.cpu().numpy()
        colours = np.ma.masked_where(numbers < 0, np.mod(numbers * _SPREAD, 1.0))
        axis.imshow(
            colours,
            aspect="auto",
            cmap="hsv",
            vmin=0,
            vmax=1,
            interpolation="nearest",
            extent=(0.0, seconds, codes.shape[0] + 0.5, 0.5),
        )
        axis.set_ylabel(f"{name}\nlevel", fontsize=7)
    axes[-1].set_xlabel("seconds", fontsize=7)
    for axis in axes:
        axis.tick_params(labelsize=6)
    return figure


def write_token_picture(
    waveform: Waveform, streams: Mapping[str, Int[Tensor, "levels frames"]], path: Path
) -> None:
    """Writes the figure as PNG (or what the suffix says), whole or not at all.

    Raises:
        ConfigError: There is no stream.
        AudioError: The audio is too short to draw.
        MusicLMError: The disk refuses the file.
    """
    figure = token_picture(waveform, streams)
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=100)
