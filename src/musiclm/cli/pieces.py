"""Pieces that a folder lacks: made in batches, each with its record, so that a run goes on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from musiclm.core.errors import DataError
from musiclm.generation.musiclm import MusicLM
from musiclm.generation.prompt import GenerationSettings
from musiclm.generation.record import GenerationRecord
from musiclm.generation.request import GenerationRequest

Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class AskedPiece:
    """One piece: where it is kept, and what it is made from."""

    path: Path
    prompt: str
    seed: int
    request: GenerationRequest = field(default_factory=GenerationRequest)


def make_missing(
    musiclm: MusicLM,
    pieces: Sequence[AskedPiece],
    settings: GenerationSettings,
    *,
    batch: int,
    say: Report,
) -> None:
    """Generates the pieces that are not there yet, each a .wav and its record.

    Args:
        musiclm: Makes them.
        pieces: All of them, of one kind and length.
        settings: The same for all.
        batch: How many at once.
        say: Told the row (`generating`), the pieces done and those in all.

    Raises:
        PromptError: A piece is there that another model made.
        DataError: A piece is there that has other settings or another request.
    """
    wanted = musiclm.decided(settings)
    missing: list[AskedPiece] = []
    for piece in pieces:
        if not (piece.path.is_file() and piece.path.with_suffix(".json").is_file()):
            missing.append(piece)
            continue
        record = GenerationRecord.read(piece.path.with_suffix(".json"))
        record.check_model(musiclm.sha256)
        if record.settings != wanted:
            raise DataError(
                f"{piece.path.parent} holds clips of other settings ({record.settings}). Choose "
                "another folder (--clips), or the same guidance and temperatures."
            )
        if record.request != piece.request:
            raise DataError(
                f"{piece.path} was made from another request. Choose another folder (--clips), or "
                "ask for the same."
            )
    done = len(pieces) - len(missing)
    say("generating", done, len(pieces))
    for start in range(0, len(missing), batch):
        chosen = missing[start : start + batch]
        made = musiclm.generate_batch(
            [piece.prompt for piece in chosen],
            seeds=[piece.seed for piece in chosen],
            settings=settings,
            request=[piece.request for piece in chosen],
        )
        for piece, generation in zip(chosen, made, strict=True):
            generation.write(piece.path)
        done += len(chosen)
        say("generating", done, len(pieces))
