"""Tracks: codes of a stage that are made when somebody asks for them."""

from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor

from musiclm.stages.language_model import Codes


class Track:
    """The target codes of one stage, from the start of a piece.

    Args:
        known: First frames that exist already (perhaps none).
        num_frames: Frames of the whole piece.
    """

    def __init__(self, known: Codes, num_frames: int) -> None:
        known = known[:, :, :num_frames].cpu()
        self.num_frames = num_frames
        self.num_known = known.shape[2]
        self.num_made = self.num_known
        with torch.inference_mode(mode=False):  # a thread without that mode may write to it
            self._codes = torch.zeros(known.shape[0], known.shape[1], num_frames, dtype=torch.long)
        self._codes[:, :, : self.num_known] = known
        self._blocks: Iterator[Codes] = iter(())

    def made_by(self, blocks: Iterator[Codes]) -> "Track":
        """Names what makes the frames after the known ones, in order; gives the track itself."""
        self._blocks = blocks
        return self

    def upto(self, stop: int) -> Int[Tensor, "batch quantizers frames"]:
        """The frames before `stop`; makes those that are missing."""
        while self.num_made < min(stop, self.num_frames):
            self.append(next(self._blocks))
        if self.num_made >= self.num_frames:
            self._blocks = iter(())  # what made them may end
        return self._codes[:, :, :stop]

    def append(self, block: Codes) -> None:
        """Writes the next frames."""
        following = self.num_made + block.shape[2]
        self._codes[:, :, self.num_made : following] = block.cpu()
        self.num_made = following
