"""The systems a command can compare, opened by name."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from musiclm.audio.waveform import Waveform
from musiclm.baselines.diffusion_system import SpectrogramDiffusionSystem
from musiclm.baselines.no_semantic import NoSemanticStage
from musiclm.baselines.retrieval import RetrievalBaseline
from musiclm.baselines.riffusion import RiffusionSystem
from musiclm.core.errors import DataError
from musiclm.data.corpora.musiccaps import files_by_id
from musiclm.data.manifest import Corpus
from musiclm.evaluation.plan import EvaluationPlan
from musiclm.evaluation.systems import System
from musiclm.generation.musiclm import MusicLM
from musiclm.generation.prompt import GenerationSettings

BaselineName = Literal["retrieval", "no-semantic-stage", "spectrogram-diffusion", "riffusion"]
"""What MusicLM is compared with, as commands name it."""
BASELINES: tuple[BaselineName, ...] = get_args(BaselineName)


@dataclass(frozen=True)
class OtherSystems:
    """Where the systems are that MusicLM is compared with, beside retrieval."""

    coarse_only: Path | None = None
    """Weights of `musiclm train coarse-only-stage`: the ablation without semantic stage."""
    diffusion: Path | None = None
    """Weights that `musiclm train-baseline` wrote: spectrogram diffusion."""
    riffusion: Path | None = None
    """A folder with Riffusion's published weights."""


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


def baseline_named(source: str | None) -> BaselineName | None:
    """The baseline that a command's SYSTEM names; None where a folder of that name is there."""
    if source is None or Path(source).is_dir():
        return None
    return next((name for name in BASELINES if name == source), None)


def open_baseline(
    name: BaselineName, musiclm: MusicLM, corpus: Corpus | None, others: OtherSystems
) -> System:
    """A baseline, of the corpus or the files it is made from.

    Args:
        name: Which.
        musiclm: Gives the ablation its other parts, and all of them their device.
        corpus: What retrieval plays.
        others: Files of the rest.

    Raises:
        DataError: What it is made from was not given.
        CheckpointError: A file is missing or of another model.
        DependencyError: `diffusers` is needed and not installed.
    """
    match name:
        case "retrieval":
            if corpus is None:
                raise DataError("retrieval plays training clips of a corpus: give --corpus FOLDER.")
            return RetrievalBaseline(corpus)
        case "no-semantic-stage":
            weights = _needed(
                name, others.coarse_only, "coarse-only FILE", "train coarse-only-stage"
            )
            return NoSemanticStage(musiclm, weights)
        case "spectrogram-diffusion":
            weights = _needed(name, others.diffusion, "diffusion FILE", "train-baseline")
            return SpectrogramDiffusionSystem(weights, musiclm.runtime)
        case "riffusion":
            return RiffusionSystem.load(
                _needed(name, others.riffusion, "riffusion FOLDER"), musiclm.runtime
            )


def open_systems(musiclm: MusicLM, corpus: Corpus, others: OtherSystems) -> list[System]:
    """MusicLM, retrieval, and every other system whose files are given.

    Raises:
        CheckpointError: A file is missing or of another model.
        DependencyError: `diffusers` is needed and not installed.
    """
    is_given = {
        "retrieval": True,
        "no-semantic-stage": others.coarse_only is not None,
        "spectrogram-diffusion": others.diffusion is not None,
        "riffusion": others.riffusion is not None,
    }
    names: list[BaselineName] = [name for name in BASELINES if is_given[name]]
    return [
        MusicLMSystem(musiclm),
        *(open_baseline(name, musiclm, corpus, others) for name in names),
    ]


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


def _needed(name: str, path: Path | None, option: str, made_by: str = "") -> Path:
    if path is None:
        source = f"weights of `musiclm {made_by}`" if made_by else "published weights"
        raise DataError(f"{name} needs its {source}: give --systems.{option}.")
    return path
