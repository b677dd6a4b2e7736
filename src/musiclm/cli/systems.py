"""The systems a command can compare, opened by name."""

from collections.abc import Sequence
from pathlib import Path

from musiclm.audio.waveform import Waveform
from musiclm.core.errors import DataError
from musiclm.data.corpora.musiccaps import files_by_id
from musiclm.evaluation.plan import EvaluationPlan
from musiclm.generation.musiclm import MusicLM
from musiclm.generation.prompt import GenerationSettings


class MusicLMSystem:
    """MusicLM as the evaluation sees it."""

    name = "musiclm"

    def __init__(self, musiclm: MusicLM) -> None:
        self._musiclm = musiclm
        self.identity = musiclm.sha256

    def generate(
        self, prompts: Sequence[str], seeds: Sequence[int], duration_seconds: float
    ) -> list[Waveform]:
        """One clip a prompt and seed."""
        settings = GenerationSettings(duration_seconds=duration_seconds)
        pieces = self._musiclm.generate_batch(prompts, seeds=seeds, settings=settings)
        return [piece.waveform for piece in pieces]


def clips_by_name(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """The audio files of a folder that are named by a caption's id or number.

    An id may be followed by times, as in `-0Gj8-vB1q4_30_40.wav`; folders within count too.

    Raises:
        DataError: There is none.
    """
    numbers = {name: f"{number:04d}" for number, name in enumerate(names)}
    files = files_by_id(folder, {*names, *numbers.values()})
    found = {
        name: files.get(name) or files[number]
        for name, number in numbers.items()
        if name in files or number in files
    }
    if not found:
        raise DataError(
            f"{folder} holds no clip named by a caption's id or number, such as {names[0]}.wav or "
            "0000.wav."
        )
    return found


def without(plan: EvaluationPlan, kept: Sequence[int]) -> EvaluationPlan:
    """The plan with only some of its captions."""
    return plan.model_copy(update={"asked": tuple(plan.asked[number] for number in kept)})
