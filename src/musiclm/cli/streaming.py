"""`musiclm generate --stream`: audio is written while the rest of it is still being made."""

import struct
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable

import soundfile
import torch

from musiclm.audio.waveform import Waveform
from musiclm.core.errors import PromptError
from musiclm.core.files import written_whole
from musiclm.generation.stream import MusicStream

STANDARD_OUTPUT = Path("-")
_ENDLESS = 0xFFFF_FFFF


@runtime_checkable
class BytesPipe(Protocol):
    """What bytes are written to."""

    def write(self, data: bytes, /) -> int:
        """Takes all of them."""
        ...

    def flush(self) -> None:
        """Hands them on."""
        ...


def write_stream(stream: MusicStream, output: Path, started: float) -> float:
    """Writes a stream to a WAV file (and its record beside it), or to standard output.

    The file has a temporary name until it is whole. On standard output it is 16-bit WAV whose
    header leaves the length open, as players that read a pipe expect.

    Args:
        stream: What to write.
        output: A .wav name, or `-`.
        started: When the command began, by `time.perf_counter`.

    Returns:
        Seconds from `started` to the first sound.
    """
    if output == STANDARD_OUTPUT:
        return _write_to(sys.stdout.buffer, stream, started)
    first_sound = 0.0
    with (
        written_whole(output) as temporary,
        soundfile.SoundFile(
            temporary, "w", stream.sample_rate_hz, channels=1, subtype="PCM_16", format="WAV"
        ) as file,
    ):
        for piece in stream:
            file.write(_clamped(piece).numpy())
            file.flush()
            first_sound = first_sound or time.perf_counter() - started
        # The record tells the hash of the file, so it comes last.
    stream.write_record(output)
    return first_sound


def check_stream_output(output: Path) -> None:
    """Refuses what cannot be written piece by piece.

    Raises:
        PromptError: The output is neither a .wav name nor `-`.
    """
    if output != STANDARD_OUTPUT and output.suffix.lower() != ".wav":
        raise PromptError(f"Cannot stream to {output.name}: use a .wav name, or - for a pipe.")


@contextmanager
def closing(stream: MusicStream) -> Generator[MusicStream, None, None]:
    """Stops making the rest when the block is left early."""
    try:
        yield stream
    finally:
        stream.close()


def _write_to(pipe: BytesPipe, stream: MusicStream, started: float) -> float:
    rate, first_sound = stream.sample_rate_hz, 0.0
    pipe.write(b"RIFF" + struct.pack("<I", _ENDLESS) + b"WAVEfmt ")
    pipe.write(struct.pack("<IHHIIHH", 16, 1, 1, rate, 2 * rate, 2, 16))
    pipe.write(b"data" + struct.pack("<I", _ENDLESS))
    for piece in stream:
        pipe.write((_clamped(piece) * 32_767).round().to(torch.int16).numpy().tobytes())
        pipe.flush()
        first_sound = first_sound or time.perf_counter() - started
    return first_sound


def _clamped(piece: Waveform) -> torch.Tensor:
    return piece.samples.clamp(-1, 1)
