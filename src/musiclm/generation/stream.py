"""One piece as a stream: audio that is handed out while later tokens are still to be made."""

from collections.abc import Generator, Iterator
from pathlib import Path

from torch import Tensor

from musiclm.audio.waveform import Waveform
from musiclm.codec.soundstream import SoundStream
from musiclm.core.pretrained import sha256_of_file
from musiclm.generation.cascade import ProgressReport, TokenStream
from musiclm.generation.player import Player
from musiclm.generation.record import GenerationRecord


class MusicStream:
    """An iterator of pieces of audio that together are the piece `MusicLM.generate` gives.

    Args:
        tokens: Codes of one sample, as they are made.
        codec: Decodes them.
        num_samples: Length of the piece.
        record: How it is made; the hash of the audio is still to be filled in.
        progress: Told how much was decoded.
    """

    def __init__(
        self,
        tokens: TokenStream,
        codec: SoundStream,
        num_samples: int,
        record: GenerationRecord,
        progress: ProgressReport,
    ) -> None:
        self.num_samples = num_samples
        self.sample_rate_hz = codec.sample_rate_hz
        self._record = record
        self._progress = progress
        self._pieces = self._played(tokens, Player(codec, num_samples))

    def __iter__(self) -> Iterator[Waveform]:
        return self

    def __next__(self) -> Waveform:
        return Waveform(next(self._pieces), self.sample_rate_hz)

    def close(self) -> None:
        """Stops making the rest."""
        self._pieces.close()

    def write_record(self, path: Path) -> None:
        """Writes `NAME.json` beside the audio file that holds all of the stream."""
        hashed = self._record.model_copy(update={"audio_sha256": sha256_of_file(path)})
        hashed.write(path.with_suffix(".json"))

    def _played(self, tokens: TokenStream, player: Player) -> Generator[Tensor, None, None]:
        num_done = 0
        for codes in tokens.acoustic:
            samples = player.push(codes[0])
            num_done += samples.shape[0]
            self._progress("codec", num_done / self.num_samples)
            if samples.shape[0]:
                yield samples
        rest = player.flush()
        self._progress("codec", 1.0)
        if rest.shape[0]:
            yield rest
