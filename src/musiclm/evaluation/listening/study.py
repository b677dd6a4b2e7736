"""A listening study: what is compared, and which trials a listener gets, blind and balanced.

Conventions: a *condition* is a system (or the reference audio); an *item* is a caption with one
clip of each condition. `ab` is the paper's study (MusicLM, Section 4.4 and Appendix B): two clips
of one item, which fits the text better, from -2 (strongly A) to 2 (strongly B). `mushra` is after
ITU-R BS.1534: all conditions of an item at once, from 0 to 100, the reference hidden among them.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, model_validator

from musiclm.core.config import Config
from musiclm.core.errors import DataError
from musiclm.core.files import write_text_whole
from musiclm.core.runtime import RandomStreams

STUDY_NAME = "study.json"
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
AB_ANSWERS = range(-2, 3)
MUSHRA_ANSWERS = range(101)
_QUESTIONS = {
    "ab": "Which clip fits the text better? Please ignore how well it was recorded.",
    "mushra": "How well does each clip fit the text? 0 is not at all, 100 is perfectly.",
}


class StudyItem(Config):
    """A caption and one clip of each condition."""

    item_id: str
    """Unique in the study."""
    caption: str
    """What the clips were made for; may be empty."""
    clips: Mapping[str, str]
    """Audio file by condition, absolute or relative to the study's folder."""


class Study(Config):
    """Everything that decides a study but its listeners."""

    format_version: Literal[1] = 1
    """Of the file."""
    kind: Literal["ab", "mushra"] = "ab"
    """Two clips on a 5-point scale, or all of them from 0 to 100."""
    question: str = _QUESTIONS["ab"]
    """What listeners are asked."""
    items: tuple[StudyItem, ...] = Field(min_length=1)
    """What is compared."""
    reference: str = ""
    """The condition that is the real audio, if one is."""
    trials_per_listener: int = Field(default=20, gt=0)
    """Length of a session."""
    seed: int = Field(default=0, ge=0)
    """Of the order of trials."""

    @model_validator(mode="after")
    def _check(self) -> "Study":
        conditions = set(self.items[0].clips)
        if len(conditions) < 2:
            raise ValueError("a study needs at least two conditions")
        for item in self.items:
            if set(item.clips) != conditions:
                raise ValueError(f"item {item.item_id!r} lacks a clip of some condition")
        if len({item.item_id for item in self.items}) < len(self.items):
            raise ValueError("two items have the same item_id")
        if self.reference and self.reference not in conditions:
            raise ValueError(f"the reference {self.reference!r} is no condition")
        return self

    @property
    def conditions(self) -> tuple[str, ...]:
        """In the order of the first item."""
        return tuple(self.items[0].clips)

    def write(self, folder: Path) -> None:
        """Writes the study into its folder, unless the same is there.

        Raises:
            DataError: The folder holds another study, whose answers would be lost.
        """
        path = folder / STUDY_NAME
        if path.is_file() and read_study(folder) != self:
            raise DataError(f"{folder} holds another study. Choose another folder.")
        write_text_whole(path, self.to_json() + "\n")


@dataclass(frozen=True)
class Trial:
    """One question to one listener: an item, and its conditions in the order they are shown."""

    item: StudyItem
    conditions: tuple[str, ...]


def read_study(folder: Path) -> Study:
    """Reads the study of a folder.

    Raises:
        DataError: There is none.
        ConfigError: It does not say what it should.
    """
    path = folder / STUDY_NAME
    if not path.is_file():
        raise DataError(f"{folder} holds no study. Make one with `musiclm study create`.")
    return Study.from_json(path.read_text(encoding="utf-8"))


def trials_of(study: Study, listener: int) -> tuple[Trial, ...]:
    """The trials of the `listener`-th listener, always the same ones.

    Every item (with every pair of conditions, in `ab`) is one of a shuffled round; listeners take
    consecutive pieces of endless rounds, so that no trial is ever judged twice more often than
    another. Sides are drawn anew for each trial.
    """
    size = 2 if study.kind == "ab" else len(study.conditions)
    groups = list(itertools.combinations(study.conditions, size))
    round_of_trials = [(item, group) for item in study.items for group in groups]
    streams = RandomStreams(study.seed)
    count = min(study.trials_per_listener, len(round_of_trials))
    trials: list[Trial] = []
    for place in range(listener * count, (listener + 1) * count):
        number, index = divmod(place, len(round_of_trials))
        order = torch.randperm(len(round_of_trials), generator=streams.generator("round", number))
        item, group = round_of_trials[int(order[index])]
        sides = torch.randperm(size, generator=streams.generator("sides", listener, place))
        trials.append(Trial(item, tuple(group[side] for side in sides.tolist())))
    return tuple(trials)


def study_of_folders(
    folders: Mapping[str, Path],
    captions: Mapping[str, str],
    *,
    kind: Literal["ab", "mushra"] = "ab",
    reference: str = "",
    trials_per_listener: int = 20,
    seed: int = 0,
) -> Study:
    """A study of folders whose files of the same name belong together.

    Args:
        folders: Folder by condition.
        captions: Caption by file name without suffix; a missing one is empty.
        kind: `ab` or `mushra`.
        reference: The condition that is real audio.
        trials_per_listener: Length of a session.
        seed: Of the order.

    Raises:
        DataError: There is no name that all folders have.
    """
    files = {name: _audio_files(folder) for name, folder in folders.items()}
    shared = sorted(set.intersection(*(set(found) for found in files.values())) if files else [])
    if not shared:
        raise DataError(
            "The folders share no file name: clips for the same caption must be named alike, such "
            "as A/0001.wav and B/0001.wav."
        )
    items = tuple(
        StudyItem(
            item_id=stem,
            caption=captions.get(stem, ""),
            clips={name: str(found[stem].resolve()) for name, found in files.items()},
        )
        for stem in shared
    )
    return Study(
        kind=kind,
        items=items,
        reference=reference,
        trials_per_listener=trials_per_listener,
        seed=seed,
        question=_QUESTIONS[kind],
    )


def checked_answer(study: Study, answer: object) -> tuple[int, ...]:
    """An answer as integers: one for `ab`, one for each shown clip for `mushra`.

    Raises:
        DataError: It is of another shape or out of range.
    """
    values: Sequence[object] = answer if isinstance(answer, list) else [answer]
    size = 1 if study.kind == "ab" else len(study.conditions)
    allowed = AB_ANSWERS if study.kind == "ab" else MUSHRA_ANSWERS
    numbers = [value for value in values if isinstance(value, int) and value in allowed]
    if len(values) != size or len(numbers) != size:
        raise DataError(
            f"The answer must be {size} whole number(s) from {allowed.start} to {allowed.stop - 1}."
        )
    return tuple(numbers)


def _audio_files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"No folder at {folder}. Give a folder of clips.")
    return {
        path.stem: path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in AUDIO_SUFFIXES
    }
