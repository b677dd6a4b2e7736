"""A limiter that can be run piece by piece: no sample above a peak, whatever comes."""

import itertools

import torch
from jaxtyping import Float
from torch import Tensor


class Limiter:
    """Turns loud moments down, and back up slowly; quiet audio is left as it is.

    Audio is cut into blocks. The gain is linear within a block, so low that the block's loudest
    sample just reaches the peak, and rises by at most `release_db_per_second`. A block can only be
    given out when the next one is known. How the audio is cut into pieces changes nothing.

    Args:
        block_length: Samples of a block.
        sample_rate_hz: Samples per second.
        peak: What no sample exceeds.
        release_db_per_second: How fast the gain returns to 1.
    """

    def __init__(
        self,
        block_length: int,
        sample_rate_hz: int,
        *,
        peak: float = 0.97,
        release_db_per_second: float = 12.0,
    ) -> None:
        self._block_length = block_length
        self._peak = peak
        self._rise = 10 ** (release_db_per_second * block_length / sample_rate_hz / 20)
        self._waiting = torch.zeros(0)
        self._gain = 1.0  # at the start of the first waiting block
        self._ramp = torch.arange(block_length) / block_length

    def push(self, samples: Float[Tensor, " samples"]) -> Float[Tensor, " ready"]:
        """Takes the next samples and gives those that are ready (perhaps none)."""
        self._waiting = torch.cat([self._waiting, samples.float().cpu()])
        return self._take(max(self._waiting.shape[0] // self._block_length - 1, 0))

    def flush(self) -> Float[Tensor, " ready"]:
        """The rest, after the last samples."""
        length = self._waiting.shape[0]
        num_blocks = -(-length // self._block_length)
        silence = torch.zeros((num_blocks + 1) * self._block_length - length)
        self._waiting = torch.cat([self._waiting, silence])
        ready = self._take(num_blocks)[:length]
        self._waiting = self._waiting[:0]
        return ready

    def _take(self, num_blocks: int) -> Tensor:
        """The first blocks, turned down; one block more has to be waiting."""
        if not num_blocks:
            return self._waiting[:0]
        blocks = self._waiting[: (num_blocks + 1) * self._block_length]
        blocks = blocks.view(num_blocks + 1, self._block_length)
        loudest = blocks.abs().amax(dim=1).clamp(min=self._peak)
        allowed: list[float] = (self._peak / loudest).tolist()
        gains = [min(self._gain, allowed[0])]
        for this, following in itertools.pairwise(allowed):
            gains.append(min(this, following, gains[-1] * self._rise, 1.0))
        self._gain = gains[-1]
        starts = torch.tensor(gains)[:, None]
        ramps = starts[:-1] + (starts[1:] - starts[:-1]) * self._ramp
        self._waiting = self._waiting[num_blocks * self._block_length :]
        return (blocks[:-1] * ramps).flatten()
