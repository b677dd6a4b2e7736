"""Systems that make music from captions, and folders of their clips that fill up run by run."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from musiclm.audio.waveform import Waveform
from musiclm.core.config import Config
from musiclm.core.errors import DataError
from musiclm.core.files import write_text_whole
from musiclm.evaluation.analysis import ProgressReport
from musiclm.evaluation.plan import EvaluationPlan

SYSTEM_NAME = "system.json"


@runtime_checkable
class System(Protocol):
    """What is compared: MusicLM, a baseline, an ablation, or anything that takes captions."""

    @property
    def name(self) -> str:
        """As in reports and folder names."""
        ...

    @property
    def identity(self) -> str:
        """A hash of all that decides its output beside prompt, seed and duration."""
        ...

    def generate(
        self, prompts: Sequence[str], seeds: Sequence[int], duration_seconds: float
    ) -> list[Waveform]:
        """One clip a prompt; the same prompt and seed give the same clip."""
        ...


class SystemRecord(Config):
    """Whose clips a folder holds."""

    name: str
    """Of the system."""
    identity: str
    """Its hash."""


def fill_folder(
    system: System,
    plan: EvaluationPlan,
    folder: Path,
    *,
    batch: int = 8,
    on_progress: ProgressReport | None = None,
) -> None:
    """Generates the clips of a plan that the folder lacks; stopped and started again, it goes on.

    Raises:
        DataError: The folder holds clips of another plan, or of another system.
    """
    plan.write(folder)
    record = SystemRecord(name=system.name, identity=system.identity)
    path = folder / SYSTEM_NAME
    if path.is_file():
        found = SystemRecord.from_json(path.read_text(encoding="utf-8"))
        if found != record:
            raise DataError(
                f"{folder} holds clips of {found.name} ({found.identity[:12]}), not of "
                f"{record.name} ({record.identity[:12]}). Choose another folder, or delete it."
            )
    write_text_whole(path, record.to_json() + "\n")
    missing = [n for n in range(len(plan.asked)) if not plan.clip_path(folder, n).is_file()]
    done = len(plan.asked) - len(missing)
    for start in range(0, len(missing), batch):
        numbers = missing[start : start + batch]
        clips = system.generate(
            [plan.asked[number].prompt for number in numbers],
            [plan.asked[number].seed for number in numbers],
            plan.clip_seconds,
        )
        for number, clip in zip(numbers, clips, strict=True):
            clip.write(plan.clip_path(folder, number))
        done += len(numbers)
        if on_progress is not None:
            on_progress(system.name, done, len(plan.asked))


def read_folder(plan: EvaluationPlan, folder: Path) -> Iterator[Waveform]:
    """The clips of a folder in the plan's order, one at a time.

    Raises:
        AudioError: One is missing or unreadable.
    """
    for number in range(len(plan.asked)):
        yield Waveform.read(plan.clip_path(folder, number))
