import pytest

from musiclm.core.errors import ConfigError
from musiclm.generation.windows import sliding_windows


@pytest.mark.parametrize("num_frames", [1, 7, 10, 11, 23, 400])
@pytest.mark.parametrize(("window", "overlap"), [(10, 5), (10, 0), (4, 3)])
@pytest.mark.parametrize("num_known", [0, 3, 9, 30])
def test_every_frame_is_made_once_and_in_order(num_frames, window, overlap, num_known):
    done = num_known
    for piece in sliding_windows(num_frames, window, overlap, num_known):
        assert piece.start + piece.num_known == done
        assert piece.num_new > 0
        assert piece.stop - piece.start <= window
        done = piece.stop
    assert done == max(num_frames, num_known)


def test_later_windows_begin_with_the_overlap():
    windows = sliding_windows(40, 10, 5)
    assert [w.num_known for w in windows[1:]] == [5] * (len(windows) - 1)
    assert windows[0].num_known == 0


def test_five_minutes_take_nineteen_semantic_windows():
    # MusicLM, Section 6: 30 s windows advanced by 15 s.
    assert len(sliding_windows(300 * 25, 30 * 25, 15 * 25)) == 19


def test_an_overlap_as_long_as_the_window_is_refused():
    with pytest.raises(ConfigError, match="smaller than the window"):
        sliding_windows(40, 10, 10)
