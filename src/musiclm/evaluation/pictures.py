"""Pictures of sound: log-mel spectrograms of one or several waveforms, one beside the other."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from musiclm.audio.spectrogram import LogMel, LogMelConfig
from musiclm.audio.waveform import Waveform
from musiclm.core.errors import AudioError
from musiclm.core.files import written_whole

_DECIBEL_RANGE = 80.0


def log_mel_picture(
    waveforms: Mapping[str, Waveform],
    *,
    num_columns: int = 4,
    seconds_shown: float | None = None,
) -> Figure:
    """A figure with one log-mel panel a waveform, on one scale of loudness (80 dB) and time.

    Args:
        waveforms: Sound by title; rates may differ, frequencies are shown up to each one's half.
        num_columns: Panels in a row.
        seconds_shown: The first so many seconds; everything by default.

    Raises:
        AudioError: There is no waveform, or one is too short for a frame.
    """
    if not waveforms:
        raise AudioError("No waveforms to draw. Give at least one.")
    panels = {name: decibels(waveform, seconds_shown) for name, waveform in waveforms.items()}
    loudest = max(float(panel.max()) for panel in panels.values())
    longest = max(waveform.duration_seconds for waveform in waveforms.values())
    columns = min(num_columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(4 * columns, 2.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for number, (name, panel) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(rows, columns, number)
        shown = min(waveforms[name].duration_seconds, seconds_shown or math.inf)
        axes.imshow(
            panel,
            origin="lower",
            aspect="auto",
            cmap="magma",
            vmin=loudest - _DECIBEL_RANGE,
            vmax=loudest,
            extent=(0.0, shown, 0.0, float(panel.shape[0])),
        )
        axes.set_xlim(0.0, min(longest, seconds_shown or math.inf))
        axes.set_title(name, fontsize=8)
        axes.set_xlabel("seconds", fontsize=7)
        axes.set_ylabel("mel band", fontsize=7)
        axes.tick_params(labelsize=6)
    return figure


def write_log_mel_picture(
    waveforms: Mapping[str, Waveform],
    path: Path,
    *,
    num_columns: int = 4,
    seconds_shown: float | None = None,
) -> None:
    """Writes the figure as PNG (or what the suffix says), whole or not at all.

    Raises:
        AudioError: There is no waveform, or one is too short for a frame.
        MusicLMError: The disk refuses the file.
    """
    figure = log_mel_picture(waveforms, num_columns=num_columns, seconds_shown=seconds_shown)
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=100)


def decibels(waveform: Waveform, seconds_shown: float | None = None) -> np.ndarray:
    """Log-mel magnitudes in dB, `[mels, frames]`: 10 ms frames, 80 bands up to half the rate."""
    rate = waveform.sample_rate_hz
    samples = waveform.samples
    if seconds_shown is not None:
        samples = samples[: round(seconds_shown * rate)]
    hop = max(1, round(rate / 100))
    if samples.shape[0] < hop:
        raise AudioError(
            f"A waveform of {samples.shape[0]} samples is too short to draw; give 10 ms or more."
        )
    fft_size = 2 ** math.ceil(math.log2(rate / 24))
    config = LogMelConfig(
        sample_rate_hz=rate,
        window_length=fft_size,
        fft_size=fft_size,
        hop_length=hop,
        low_hz=30.0,
        high_hz=rate / 2,
    )
    log_mel = LogMel(config)(samples.unsqueeze(0).cpu())[0]
    return log_mel.numpy() * (20 / math.log(10))
