"""Long pieces of the bundled model: the joins of their windows sound like any other moment."""

import math

from musiclm.evaluation.seams import measure_seams
from musiclm.generation.musiclm import MusicLM
from musiclm.generation.windows import sliding_windows

SECONDS = 26.0


def sliding_joins(stage):
    """Seconds at which the windows of the semantic or the coarse stage begin to add."""
    rate = stage.layout.target.spec.frame_rate_hz
    window = int(stage.config.window_seconds * rate)
    pieces = sliding_windows(int(SECONDS * rate), window, window // 2)
    return [(piece.start + piece.num_known) / rate for piece in pieces[1:]]


def side_by_side_joins(stage):
    """Seconds at which the windows of the fine stage meet."""
    count = math.ceil(SECONDS / stage.config.window_seconds)
    return [number * stage.config.window_seconds for number in range(1, count)]


def test_no_join_of_windows_is_heard(unchecked):
    model = MusicLM.from_pretrained(device="cpu")
    prompt = "a calm violin melody over soft piano"
    music = model.generate(prompt, duration_seconds=SECONDS, seed=5).waveform
    stages = model.stages
    found = {
        "semantic": measure_seams(music, sliding_joins(stages.semantic)),
        "coarse": measure_seams(music, sliding_joins(stages.coarse)),
        "fine": measure_seams(music, side_by_side_joins(stages.fine)),
    }
    for name, report in found.items():
        assert report.num_seams >= 4, name
        # The rank of a join among all moments is uniform when nothing is heard: the mean of so
        # many stays within three deviations of a half.
        most = 0.5 + 3 * math.sqrt(1 / 12 / report.num_seams)
        assert report.flux_percentile < most, (name, report)
        assert report.level_percentile < most, (name, report)
