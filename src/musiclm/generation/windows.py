"""How a long piece is cut into windows that a stage can hold, each seeing the end of the last.

MusicLM, Section 6: the semantic stage keeps the last 15 s of a 30 s window as the prefix of the
next; the coarse stage does the same with 10 s windows; fine windows stand side by side.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from musiclm.core.errors import ConfigError


@dataclass(frozen=True)
class Window:
    """Frames `start .. stop` of the piece, of which the first `num_known` exist already."""

    start: int
    num_known: int
    stop: int

    @property
    def num_new(self) -> int:
        """Frames that this window adds."""
        return self.stop - self.start - self.num_known


def sliding_windows(
    num_frames: int,
    window_frames: int,
    overlap_frames: int,
    num_known: int = 0,
    boundaries: Sequence[int] = (),
) -> list[Window]:
    """Windows that cover `num_frames`, each but the first beginning with `overlap_frames` known.

    Args:
        num_frames: Frames of the whole piece.
        window_frames: Most frames a window may hold.
        overlap_frames: Known frames at the start of each later window.
        num_known: Frames at the start of the piece that exist already (a continuation).
        boundaries: Frames at which a window ends early and the next one begins to add, because
            what the music is conditioned on changes there (a story).

    Raises:
        ConfigError: The overlap leaves no room for new frames.
    """
    if not 0 <= overlap_frames < window_frames:
        raise ConfigError(
            f"Windows of {window_frames} frames cannot overlap by {overlap_frames}; "
            "the overlap must be smaller than the window."
        )
    windows: list[Window] = []
    done = num_known
    while done < num_frames:
        fits = not windows and done < window_frames
        known = done if fits else min(overlap_frames, done)
        start = done - known
        ahead = [frame for frame in boundaries if frame > done]
        done = min([start + window_frames, num_frames, *ahead])
        windows.append(Window(start, known, done))
    return windows
