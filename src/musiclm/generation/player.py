"""From acoustic codes to audio, piece by piece: the same samples however the codes are cut."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from musiclm.audio.limiter import Limiter
from musiclm.codec.soundstream import SoundStream
from musiclm.core.runtime import one_thread

_PIECE_FRAMES = 50


class Player:
    """Decodes the codes of one piece and keeps it from clipping.

    The codec always gets pieces of one second, so that rounding is the same in a stream and at
    once, and memory does not grow with the piece.

    Args:
        codec: The neural codec.
        num_samples: Length of the piece; what the codes hold beyond is dropped.
    """

    def __init__(self, codec: SoundStream, num_samples: int) -> None:
        self._codec = codec
        self._state = codec.decoder_state()
        self._limiter = Limiter(codec.hop_length, codec.sample_rate_hz)
        self._waiting: Tensor | None = None
        self._num_left = num_samples

    def push(self, codes: Int[Tensor, "quantizers frames"]) -> Float[Tensor, " samples"]:
        """Takes the next codes and gives the audio that is ready (perhaps none)."""
        waiting = codes if self._waiting is None else torch.cat([self._waiting, codes], dim=1)
        num_ready = waiting.shape[1] - waiting.shape[1] % _PIECE_FRAMES
        self._waiting = waiting[:, num_ready:]
        return self._keep([self._decoded(piece) for piece in _pieces(waiting[:, :num_ready])])

    def flush(self) -> Float[Tensor, " samples"]:
        """The rest, after the last codes."""
        rest = [] if self._waiting is None else [self._decoded(p) for p in _pieces(self._waiting)]
        self._waiting = None
        return self._keep([*rest, self._limiter.flush()])

    def _decoded(self, codes: Tensor) -> Tensor:
        device = self._codec.quantizer.quantizers[0].codebook.device
        with torch.inference_mode(), one_thread():
            samples, self._state = self._codec.decode_stream(codes[None].to(device), self._state)
            return self._limiter.push(samples[0])

    def _keep(self, samples: list[Tensor]) -> Tensor:
        joined = torch.cat([torch.zeros(0), *samples])[: self._num_left]
        self._num_left -= joined.shape[0]
        return joined


def _pieces(codes: Tensor) -> list[Tensor]:
    return [piece for piece in codes.split(_PIECE_FRAMES, dim=1) if piece.shape[1]]
