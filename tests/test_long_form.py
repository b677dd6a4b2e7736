"""Long pieces of the bundled model: the joins of their windows sound like any other moment."""

import pytest

from musiclm.evaluation.seams import measure_seams
from musiclm.generation.musiclm import MusicLM
from musiclm.generation.windows import sliding_windows

SECONDS = 45.0


def joins(stage, *, is_side_by_side=False):
    """Seconds at which a stage's windows begin to add."""
    spec = stage.layout.target.spec
    rate = spec.frame_rate_hz
    grid = rate // 25
    window = int(stage.config.window_seconds * rate) // (2 * grid) * (2 * grid)
    overlap = 0 if is_side_by_side else window // 2
    pieces = sliding_windows(int(SECONDS * rate), window, overlap)
    return [(piece.start + piece.num_known) / rate for piece in pieces[1:]]


@pytest.mark.slow
def test_no_join_of_windows_is_heard(unchecked):
    model = MusicLM.from_pretrained(device="cpu")
    prompt = "a calm violin melody over soft piano"
    music = model.generate(prompt, duration_seconds=SECONDS, seed=5).waveform
    stages = model.stages
    found = {
        "semantic": measure_seams(music, joins(stages.semantic)),
        "coarse": measure_seams(music, joins(stages.coarse)),
        "fine": measure_seams(music, joins(stages.fine, is_side_by_side=True)),
    }
    for name, report in found.items():
        assert report.num_seams >= 6, name
        assert 0.5 < report.flux_ratio < 1.6, (name, report)
        assert report.level_ratio < 2.0, (name, report)
        assert report.flux_percentile < 0.75, (name, report)
