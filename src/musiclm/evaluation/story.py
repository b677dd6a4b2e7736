"""Stories: does each section of a piece sound more like its own text than like the story's others?

Conventions: a story has sections of one length, each with a text of its own; similarity is the
cosine of unit vectors of a section's sound and of a text, in a joint space. `own` is that of the
section's own text, `others` the mean of those of the story's other texts. Every text is own once
and other for all the rest, so one that is near to all music gains nothing. Intervals resample
stories, because sections of one story hang together.

Controls: the same sections against the texts of another story (`texts.roll(1, dims=0)`) give a
difference by chance alone; the real audio that the texts describe gives what a perfect model would.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from musiclm.core.config import Config
from musiclm.core.errors import DataError
from musiclm.core.files import write_text_whole
from musiclm.core.runtime import RandomStreams
from musiclm.data.manifest import Clip, Corpus, Split
from musiclm.evaluation.distances import Interval, bootstrap_mean
from musiclm.evaluation.plan import PLAN_NAME, drawn_caption


class AskedSection(Config):
    """What one section was asked for, and the clip whose caption it is."""

    clip_id: str
    """In the corpus."""
    prompt: str
    """The caption, word for word."""
    lead: str
    """The melody instrument of the clip; empty where it is not known."""
    style: str
    """Its style; empty where it is not known."""


class AskedStory(Config):
    """The sections of one piece."""

    seed: int = Field(ge=0)
    """Of the generation."""
    sections: tuple[AskedSection, ...] = Field(min_length=2)
    """In order."""


class StoryPlan(Config):
    """Everything that decides the stories beside the model and how they are generated."""

    format_version: Literal[1] = 1
    """Of the plan file."""
    seed: int = Field(ge=0)
    """Of the choice."""
    section_seconds: float = Field(gt=0)
    """Length of every section."""
    stories: tuple[AskedStory, ...]
    """One a generation, with equally many sections."""

    @property
    def num_sections(self) -> int:
        """Of each story."""
        return len(self.stories[0].sections)

    def write(self, folder: Path) -> None:
        """Writes the plan into the folder of the stories; refuses to replace another one.

        Raises:
            DataError: The folder holds stories of another plan.
            ConfigError: What stands there is no plan of stories.
        """
        path = folder / PLAN_NAME
        if path.is_file() and StoryPlan.from_json(path.read_text(encoding="utf-8")) != self:
            raise DataError(
                f"{folder} holds other stories. Choose another folder, or the same corpus, number "
                "and length of stories and sections, and seed."
            )
        write_text_whole(path, self.to_json() + "\n")


@dataclass(frozen=True)
class SectionScore:
    """One section; places count from 0, `rank` (of its own text among the story's) from 1."""

    story: int
    section: int
    own: float
    others: float
    rank: int
    similarities: tuple[float, ...]


@dataclass(frozen=True)
class StoryScores:
    """Sections against the texts of their stories.

    Attributes:
        own: Mean similarity with the own text.
        others: With the other texts.
        difference: Own minus others.
        own_first: Share of sections whose own text is the nearest; ties count against it.
        chance: What that share is for music that knows nothing of its text.
        difference_by_section: Of the first sections, the second ones, and so on; only later ones
            had to turn away from another text.
        sections: Each of them.
    """

    own: Interval
    others: Interval
    difference: Interval
    own_first: Interval
    chance: float
    difference_by_section: tuple[Interval, ...]
    sections: tuple[SectionScore, ...]


def plan_stories(
    corpus: Corpus,
    *,
    num_stories: int,
    num_sections: int,
    section_seconds: float,
    seed: int = 0,
    split: Split = "test",
) -> StoryPlan:
    """Draws the texts of stories from the captions of one split; each clip is used once at most.

    The sections of a story differ in lead and in style where the corpus knows them, and in their
    words. A held-out wording is taken where there is one.

    Raises:
        DataError: Fewer than two stories or sections are asked for, or the split has too few
            captioned clips that differ.
    """
    if num_stories < 2 or num_sections < 2 or section_seconds <= 0:
        raise DataError(
            f"{num_stories} stories of {num_sections} sections of {section_seconds:g} s cannot be "
            "compared; at least 2 of 2 are needed, longer than 0 s."
        )
    streams = RandomStreams(seed)
    clips = [clip for clip in corpus.split(split).clips if clip.captions]
    order = torch.randperm(len(clips), generator=streams.generator("story clips")).tolist()
    waiting = [
        AskedSection(
            clip_id=clip.clip_id,
            prompt=drawn_caption(clip, streams).text,
            lead=clip.labels.lead,
            style=clip.labels.style,
        )
        for clip in (clips[place] for place in order)
    ]
    stories: list[AskedStory] = []
    for number in range(num_stories):
        chosen = _that_differ(waiting, num_sections)
        if len(chosen) < num_sections:
            raise DataError(
                f"{corpus.folder} has {len(clips)} captioned {split} clips, enough for {number} "
                f"stories of {num_sections} sections that differ in lead, style and words. Ask for "
                "fewer or shorter stories, or prepare a larger corpus."
            )
        used = {section.clip_id for section in chosen}
        waiting = [section for section in waiting if section.clip_id not in used]
        draw = torch.randint(2**31, (), generator=streams.generator("story seed", number))
        stories.append(AskedStory(seed=int(draw), sections=tuple(chosen)))
    return StoryPlan(seed=seed, section_seconds=section_seconds, stories=tuple(stories))


def score_stories(
    sound: Float[Tensor, "stories sections dim"],
    texts: Float[Tensor, "stories sections dim"],
    *,
    generator: np.random.Generator,
) -> StoryScores:
    """Compares every section with every text of its story.

    Args:
        sound: Embeddings of the sections.
        texts: Embeddings of their texts, in the same order and of the same space.
        generator: Of the bootstrap.

    Raises:
        DataError: The sides differ in shape, or there are fewer than two stories or sections.
    """
    if sound.shape != texts.shape or min(sound.shape[:2]) < 2:
        raise DataError(
            f"Sections {list(sound.shape)} and texts {list(texts.shape)} (stories, sections, dim) "
            "must be as many, and at least two stories of two."
        )
    sound = torch.nn.functional.normalize(sound.double(), dim=2)
    texts = torch.nn.functional.normalize(texts.double(), dim=2)
    cosines = torch.einsum("nsd,ntd->nst", sound, texts)
    num_sections = cosines.shape[1]
    own = cosines.diagonal(dim1=1, dim2=2)
    others = (cosines.sum(dim=2) - own) / (num_sections - 1)
    ranks = (cosines >= own[:, :, None]).sum(dim=2)
    is_first = (ranks == 1).double()

    def interval(by_section: Float[Tensor, "stories some_sections"]) -> Interval:
        return bootstrap_mean(by_section.mean(dim=1).numpy(), generator=generator)

    return StoryScores(
        own=interval(own),
        others=interval(others),
        difference=interval(own - others),
        own_first=interval(is_first),
        chance=1 / num_sections,
        difference_by_section=tuple(
            interval((own - others)[:, place : place + 1]) for place in range(num_sections)
        ),
        sections=tuple(
            SectionScore(
                story,
                section,
                float(own[story, section]),
                float(others[story, section]),
                int(ranks[story, section]),
                tuple(cosines[story, section].tolist()),
            )
            for story in range(len(cosines))
            for section in range(num_sections)
        ),
    )


def clips_of(plan: StoryPlan, corpus: Corpus) -> list[list[Clip]]:
    """The clips whose captions the sections have, story by story.

    Raises:
        DataError: The corpus lacks one.
    """
    clips = {clip.clip_id: clip for clip in corpus.clips}
    wanted = [section.clip_id for story in plan.stories for section in story.sections]
    for clip_id in wanted:
        if clip_id not in clips:
            raise DataError(f"{corpus.folder} lacks clip {clip_id!r} of the plan; use its corpus.")
    return [[clips[section.clip_id] for section in story.sections] for story in plan.stories]


def _that_differ(waiting: Sequence[AskedSection], count: int) -> list[AskedSection]:
    """The first so many sections that share no lead, no style and no words."""
    chosen: list[AskedSection] = []
    for section in waiting:
        if len(chosen) == count:
            break
        if not any(_is_alike(section, other) for other in chosen):
            chosen.append(section)
    return chosen


def _is_alike(one: AskedSection, other: AskedSection) -> bool:
    return (
        one.prompt == other.prompt
        or (one.lead == other.lead and one.lead != "")
        or (one.style == other.style and one.style != "")
    )
