"""A generated piece: its audio, its tokens and how it was made."""

from dataclasses import dataclass, field
from pathlib import Path

from musiclm.audio.waveform import Waveform
from musiclm.core.pretrained import sha256_of_file
from musiclm.generation.prompt import GenerationSettings
from musiclm.generation.record import GenerationRecord
from musiclm.generation.request import GenerationRequest
from musiclm.generation.token_file import TokenSet


@dataclass(frozen=True)
class Generation:
    """One generated piece and how it was made."""

    waveform: Waveform
    tokens: TokenSet
    prompt: str
    seed: int
    settings: GenerationSettings
    unknown_words: tuple[str, ...]
    model_name: str
    model_sha256: str
    device: str
    request: GenerationRequest = field(default_factory=GenerationRequest)
    decoding: str = ""

    def write(self, path: Path | str, *, similarity: float | None = None) -> None:
        """Writes the audio and, beside it, `NAME.json` with all that is needed to make it again.

        Args:
            path: The audio file.
            similarity: How like its request the piece sounds, where that was measured.
        """
        path = Path(path)
        self.waveform.write(path)
        record = GenerationRecord(
            prompt=self.prompt,
            seed=self.seed,
            settings=self.settings,
            model_name=self.model_name,
            model_sha256=self.model_sha256,
            audio_sha256=sha256_of_file(path),
            device=self.device,
            unknown_words=self.unknown_words,
            request=self.request,
            decoding=self.decoding,
            similarity=similarity,
        )
        record.write(path.with_suffix(".json"))
