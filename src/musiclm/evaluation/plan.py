"""The plan of an evaluation: which captions are asked, and which real audio they are held against.

The held-out clips are dealt into two sides by melody cluster, so that no tune is on both. The
captions come from the *asked* side; the *reference* side is what FAD compares with. The real audio
of the asked side against the reference side is then the floor: the score of a perfect generator.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import Field

from musiclm.core.config import Config
from musiclm.core.errors import DataError
from musiclm.core.files import write_text_whole
from musiclm.core.runtime import RandomStreams
from musiclm.data.manifest import Caption, Clip, Corpus, Split

PLAN_NAME = "plan.json"


class ReferenceClip(Config):
    """A piece of real audio."""

    clip_id: str
    """In the corpus."""
    start_seconds: float = Field(ge=0)
    """Where the piece starts."""


class AskedClip(ReferenceClip):
    """What one generation was asked for, and the real audio whose caption it is."""

    prompt: str
    """The caption, word for word."""
    lead: str
    """The melody instrument that the caption's clip has."""
    seed: int = Field(ge=0)
    """Of the generation."""


class EvaluationPlan(Config):
    """Everything that decides an evaluation beside the model."""

    format_version: int = Field(default=1, ge=1, le=1)
    """Of the plan file."""
    seed: int = Field(default=0, ge=0)
    """Of the choice."""
    clip_seconds: float = Field(default=10.0, gt=0)
    """Length of every clip, generated and real."""
    asked: tuple[AskedClip, ...]
    """One a generation, in order."""
    reference: tuple[ReferenceClip, ...]
    """The other side."""

    def clip_path(self, folder: Path, number: int) -> Path:
        """Where generation `number` is kept."""
        if not 0 <= number < len(self.asked):
            raise DataError(f"Clip {number} is not among the plan's {len(self.asked)}.")
        return folder / f"{number:04d}.wav"

    def write(self, folder: Path) -> None:
        """Writes the plan into the folder of generations; refuses to replace another one.

        Raises:
            DataError: The folder holds generations of another plan.
        """
        if (folder / PLAN_NAME).exists() and read_plan(folder) != self:
            raise DataError(
                f"{folder} holds clips of another evaluation. Choose another folder, or the same "
                "corpus, number of clips and seed."
            )
        write_text_whole(folder / PLAN_NAME, self.to_json() + "\n")


def read_plan(folder: Path) -> EvaluationPlan:
    """Reads the plan of a folder of generations.

    Raises:
        DataError: There is none.
        ConfigError: It does not say what it should.
    """
    path = folder / PLAN_NAME
    if not path.is_file():
        raise DataError(f"{folder} has no {PLAN_NAME}: it holds no generations to score.")
    return EvaluationPlan.from_json(path.read_text(encoding="utf-8"))


def plan_evaluation(
    corpus: Corpus,
    *,
    num_clips: int = 200,
    clip_seconds: float = 10.0,
    seed: int = 0,
    split: Split = "test",
) -> EvaluationPlan:
    """Chooses captions and reference audio from one split of a corpus.

    Settings are to be chosen on `validation` and then scored once on `test`.

    Of each clip's captions a held-out wording is taken if there is one. With fewer clips than
    asked for, both sides get as many as there are, and the same number.

    Raises:
        DataError: The split has no captioned clips long enough on both sides.
    """
    streams = RandomStreams(seed)
    usable = [
        clip
        for clip in corpus.split(split).clips
        if clip.captions and clip.duration_seconds >= clip_seconds
    ]
    asked, reference = _two_sides(usable, streams)
    num_clips = min(num_clips, len(asked), len(reference))
    if num_clips == 0:
        raise DataError(
            f"{corpus.folder} has {len(usable)} captioned {split} clips of {clip_seconds:g} s or "
            "more; two melody clusters with at least one each are needed. Prepare more hours."
        )
    return EvaluationPlan(
        seed=seed,
        clip_seconds=clip_seconds,
        asked=tuple(
            AskedClip(
                clip_id=clip.clip_id,
                start_seconds=_start_seconds(clip, clip_seconds, streams),
                prompt=drawn_caption(clip, streams).text,
                lead=clip.labels.lead,
                seed=_draw(streams, 2**31, "seed", number),
            )
            for number, clip in enumerate(_chosen(asked, num_clips, streams.generator("asked")))
        ),
        reference=tuple(
            ReferenceClip(
                clip_id=clip.clip_id, start_seconds=_start_seconds(clip, clip_seconds, streams)
            )
            for clip in _chosen(reference, num_clips, streams.generator("reference"))
        ),
    )


def plan_for_captions(
    captions: Sequence[str], *, clip_seconds: float = 10.0, seed: int = 0
) -> EvaluationPlan:
    """A plan of captions alone: no real audio is known, so nothing is compared with any.

    Raises:
        DataError: There are no captions.
    """
    if not captions:
        raise DataError("There are no captions to ask for. Give at least two.")
    streams = RandomStreams(seed)
    return EvaluationPlan(
        seed=seed,
        clip_seconds=clip_seconds,
        asked=tuple(
            AskedClip(
                clip_id="",
                start_seconds=0.0,
                prompt=caption,
                lead="",
                seed=_draw(streams, 2**31, "seed", number),
            )
            for number, caption in enumerate(captions)
        ),
        reference=(),
    )


def _two_sides(clips: list[Clip], streams: RandomStreams) -> tuple[list[Clip], list[Clip]]:
    """Whole melody clusters, in random order, each to the side that has fewer clips."""
    clusters: dict[str, list[Clip]] = {}
    for clip in clips:
        clusters.setdefault(clip.labels.melody_cluster or clip.clip_id, []).append(clip)
    names = sorted(clusters)
    order = torch.randperm(len(names), generator=streams.generator("clusters")).tolist()
    asked: list[Clip] = []
    reference: list[Clip] = []
    for number in order:
        side = asked if len(asked) < len(reference) else reference
        side.extend(clusters[names[number]])
    return asked, reference


def _chosen(clips: list[Clip], num_clips: int, generator: torch.Generator) -> list[Clip]:
    order = torch.randperm(len(clips), generator=generator)
    return [clips[number] for number in order[:num_clips].tolist()]


def drawn_caption(clip: Clip, streams: RandomStreams) -> Caption:
    """One of a clip's captions, the same for the same seed; a held-out wording if there is one."""
    candidates = [caption for caption in clip.captions if caption.is_held_out]
    candidates = candidates or list(clip.captions)
    return candidates[_draw(streams, len(candidates), "caption", clip.clip_id)]


def _start_seconds(clip: Clip, clip_seconds: float, streams: RandomStreams) -> float:
    """A random start on a tenth of a second at which the piece still fits."""
    tenths = int((clip.duration_seconds - clip_seconds) * 10 + 1e-6)
    return _draw(streams, tenths + 1, "start", clip.clip_id) / 10


def _draw(streams: RandomStreams, limit: int, *name: str | int) -> int:
    return int(torch.randint(limit, (), generator=streams.generator(*name)))
