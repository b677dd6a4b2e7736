"""The record beside every piece: what was asked and how it was made, enough to make it again."""

from pathlib import Path
from typing import Literal

from musiclm.core.config import Config
from musiclm.core.errors import DataError, PromptError
from musiclm.core.files import write_text_whole
from musiclm.generation.prompt import GenerationSettings
from musiclm.generation.request import GenerationRequest


class GenerationRecord(Config):
    """Contents of `NAME.json`."""

    format_version: Literal[1] = 1
    """Of this file."""
    prompt: str
    """The text."""
    seed: int
    """Of all random draws."""
    settings: GenerationSettings
    """Duration and temperatures."""
    model_name: str
    """Name in the model's config."""
    model_sha256: str
    """Hash of the model's config and weights."""
    audio_sha256: str
    """Hash of the audio file's bytes."""
    device: str
    """Kind of device it was made on; the same kind gives the same bits."""
    unknown_words: tuple[str, ...] = ()
    """Words of the prompt that the text tower does not know."""
    request: GenerationRequest = GenerationRequest()
    """Story, mix, melody, and what is continued or kept."""
    decoding: str = ""
    """What ran the stages' loops, and why if it was not the fastest; rounding depends on it."""
    similarity: float | None = None
    """MuLan's cosine of the piece and what was asked for, when it was one of several candidates."""

    @classmethod
    def read(cls, path: Path) -> "GenerationRecord":
        """Reads a record.

        Raises:
            DataError: There is no such file.
            ConfigError: It is not a record.
        """
        if not path.is_file():
            raise DataError(f"No record at {path}. Give the .json that lies beside a piece.")
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is no record: it is not text.") from error

    def write(self, path: Path) -> None:
        """Writes the record, whole or not at all."""
        write_text_whole(path, self.to_json() + "\n")

    def check_model(self, model_sha256: str) -> None:
        """Refuses to repeat a piece with another model.

        Raises:
            PromptError: The hashes differ.
        """
        if model_sha256 != self.model_sha256:
            raise PromptError(
                f"The piece was made with model {self.model_name} ({self.model_sha256[:12]}), this "
                f"one is {model_sha256[:12]}. Give the same model with --model."
            )
