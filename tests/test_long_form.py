"""Long pieces of the bundled model: no join of windows is heard, and the level is kept."""

import math

import pytest
import torch

from musiclm.evaluation.seams import measure_seams
from musiclm.generation.musiclm import MusicLM
from musiclm.generation.windows import sliding_windows

PROMPT = "a calm violin melody over soft piano"


def sliding_joins(stage, seconds):
    """Seconds at which the windows of the semantic or the coarse stage begin to add."""
    rate = stage.layout.target.spec.frame_rate_hz
    window = int(stage.config.window_seconds * rate)
    pieces = sliding_windows(int(seconds * rate), window, window // 2)
    return [(piece.start + piece.num_known) / rate for piece in pieces[1:]]


def side_by_side_joins(stage, seconds):
    """Seconds at which the windows of the fine stage meet."""
    count = math.ceil(seconds / stage.config.window_seconds)
    return [number * stage.config.window_seconds for number in range(1, count)]


def check_joins(music, stages):
    seconds = music.duration_seconds
    joins = {
        "semantic": sliding_joins(stages.semantic, seconds),
        "coarse": sliding_joins(stages.coarse, seconds),
        "fine": side_by_side_joins(stages.fine, seconds),
    }
    for name, places in joins.items():
        report = measure_seams(music, places)
        assert report.num_seams >= 4, name
        # The rank of a join among all moments is uniform when nothing is heard: the mean of so
        # many stays within three deviations of a half.
        most = 0.5 + 3 * math.sqrt(1 / 12 / report.num_seams)
        assert report.flux_percentile < most, (name, report)
        assert report.level_percentile < most, (name, report)


def levels_db(music, seconds):
    """Level of each stretch of so many seconds, in dB of full scale."""
    rows = music.samples.reshape(-1, round(seconds * music.sample_rate_hz))
    return 10 * torch.log10(rows.square().mean(dim=1) + 1e-10)


def test_no_join_of_windows_is_heard(unchecked):
    model = MusicLM.from_pretrained(device="cpu")
    music = model.generate(PROMPT, duration_seconds=26.0, seed=5).waveform
    check_joins(music, model.stages)


@pytest.mark.slow
def test_five_minutes_in_one_call_neither_die_nor_explode(unchecked):
    model = MusicLM.from_pretrained(device="cpu")
    music = model.generate(PROMPT, duration_seconds=300.0, seed=5).waveform
    assert music.num_samples == 300 * 24_000
    assert bool(torch.isfinite(music.samples).all())
    minutes = levels_db(music, 60.0)
    assert float(minutes.max() - minutes.min()) < 6, minutes
    # Quiet passages are music; a quarter of a minute of silence is none.
    assert float(levels_db(music, 15.0).min()) > float(minutes.median()) - 15
    check_joins(music, model.stages)
