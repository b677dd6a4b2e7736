"""`musiclm evaluate story`: does each section of a story sound most like its own text?"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from musiclm.audio.waveform import Waveform
from musiclm.cli.evaluate import progress_bar
from musiclm.cli.held_out import held_out_split, middle, write_report
from musiclm.cli.judges import MuLanJudge, load_judge
from musiclm.cli.pieces import AskedPiece, make_missing
from musiclm.core.errors import DataError
from musiclm.core.pretrained import sha256_of_file
from musiclm.data.manifest import Corpus
from musiclm.evaluation.analysis import TextAudioModel
from musiclm.evaluation.distances import Interval
from musiclm.evaluation.story import StoryPlan, StoryScores, clips_of, plan_stories, score_stories
from musiclm.generation.musiclm import MusicLM
from musiclm.generation.prompt import GenerationSettings, checked_duration, checked_text
from musiclm.generation.request import GenerationRequest, make_request

STORIES = "stories"
CONTROL = "texts of another story"
REAL = "real audio of the texts"


def evaluate_story(  # noqa: PLR0913  (each is an option of the command)
    source: tyro.conf.Positional[str | None] = None,
    *,
    corpus: Path,
    report: Path = Path("evaluation-story.json"),
    clips: Path | None = None,
    judge: Path | None = None,
    num_stories: int = 20,
    num_sections: int = 4,
    section_seconds: float = 15.0,
    margin: float = 0.0,
    blend: float = 0.0,
    guidance: float | None = None,
    batch: int = 4,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Make stories from held-out captions and compare each section with every text of its story.

    Stopped and started again, it goes on where it was.

    Args:
        source: A model folder or hub id; the bundled model by default.
        corpus: The corpus whose test captions are told (validation if there are none), and whose
            real audio is what could be reached.
        report: The .json file to write.
        clips: Where the stories are kept; by default a folder beside the report.
        judge: Weights of an independent space, as `musiclm train mulan-judge` writes them, or of
            another MuLan; the model's own by default, which favours what it conditions.
        num_stories: How many pieces.
        num_sections: Texts of each; they differ in lead and style.
        section_seconds: Length of a section.
        margin: Seconds after each section's start that are not listened to. 0 counts the time that
            the style needs to turn against the model.
        blend: As `musiclm generate --blend`; 0 changes the text at once.
        guidance: As `musiclm generate` takes it; the model's own by default.
        batch: Pieces generated at once.
        seed: Chooses texts and pieces.
        device: auto, cpu or cuda.
    """
    if not 0 <= margin < section_seconds or batch < 1:
        raise DataError(
            f"Of {section_seconds:g} s, {margin:g} s are left out, {batch} pieces at once; leave "
            "out less than a section, and make at least 1."
        )
    if guidance is not None and not 0 <= guidance <= 20:
        raise DataError(f"The guidance is {guidance}; choose a number from 0 to 20.")
    settings = GenerationSettings(
        duration_seconds=checked_duration(num_sections * section_seconds), guidance=guidance
    )
    opened = Corpus.open(corpus)
    split = held_out_split(opened)
    plan = plan_stories(
        opened,
        num_stories=num_stories,
        num_sections=num_sections,
        section_seconds=section_seconds,
        seed=seed,
        split=split,
    )
    folder = clips or report.with_name(f"{report.stem}-clips")
    pieces = _pieces(plan, folder, blend)
    musiclm = MusicLM.from_pretrained(source, device=device)
    plan.write(folder)
    with progress_bar() as say:
        make_missing(musiclm, pieces, settings, batch=batch, say=say)
    own = MuLanJudge(musiclm.mulan)
    space = load_judge(judge, device=musiclm.runtime.device) if judge else own
    rows = _rows(plan, opened, pieces, space, margin)
    judged_by = judge or musiclm.folder / musiclm.config.parts["mulan"]
    document = {
        "model_name": musiclm.config.name,
        "model_sha256": musiclm.sha256,
        "judge": str(judge) if judge else "the model's own MuLan",
        "judge_sha256": sha256_of_file(judged_by),
        "corpus": str(corpus),
        "split": split,
        "seed": seed,
        "num_stories": num_stories,
        "num_sections": num_sections,
        "section_seconds": section_seconds,
        "margin_seconds": margin,
        "blend_seconds": blend,
        "settings": musiclm.decided(settings).model_dump(mode="json"),
        "stories": [story.model_dump(mode="json") for story in plan.stories],
        "rows": {name: asdict(scores) for name, scores in rows.items()},
    }
    write_report(report, "story", document)
    title = f"{num_stories} stories of {num_sections} sections of {section_seconds:g} s"
    Console().print(_table(rows, title))


def _pieces(plan: StoryPlan, folder: Path, blend_seconds: float) -> list[AskedPiece]:
    return [
        AskedPiece(
            folder / f"{number:04d}.wav", "", story.seed, _request(texts, plan, blend_seconds)
        )
        for number, story in enumerate(plan.stories)
        for texts in [[section.prompt for section in story.sections]]
    ]


def _request(texts: list[str], plan: StoryPlan, blend_seconds: float) -> GenerationRequest:
    story = [(place * plan.section_seconds, checked_text(text)) for place, text in enumerate(texts)]
    return make_request(story=story, blend_seconds=blend_seconds)


@torch.no_grad()
def _rows(
    plan: StoryPlan, corpus: Corpus, pieces: list[AskedPiece], judge: TextAudioModel, margin: float
) -> Mapping[str, StoryScores]:
    """The stories, their control, and the real audio."""
    texts = torch.stack(
        [
            judge.embed_text([checked_text(section.prompt) for section in story.sections])
            for story in plan.stories
        ]
    )
    heard_seconds = plan.section_seconds - margin

    def real(number: int) -> Iterator[Waveform]:
        rate = judge.sample_rate_hz
        for clip in sources[number]:
            yield middle(corpus, clip, seconds=heard_seconds, sample_rate_hz=rate)

    def embedded(waveforms: Iterator[Waveform]) -> Tensor:
        resampled = (waveform.resampled(judge.sample_rate_hz) for waveform in waveforms)
        return torch.cat([judge.embed_audio(waveform.samples[None]) for waveform in resampled])

    sources = clips_of(plan, corpus)
    made: list[Tensor] = []
    described: list[Tensor] = []
    for number, piece in enumerate(track(pieces, "listening", console=Console(stderr=True))):
        made.append(embedded(_sections(Waveform.read(piece.path), plan, margin)))
        described.append(embedded(real(number)))
    compared = {
        STORIES: (torch.stack(made), texts),
        CONTROL: (torch.stack(made), texts.roll(1, dims=0)),
        REAL: (torch.stack(described), texts),
    }
    return {
        name: score_stories(sound, words, generator=np.random.default_rng(plan.seed))
        for name, (sound, words) in compared.items()
    }


def _sections(waveform: Waveform, plan: StoryPlan, margin: float) -> Iterator[Waveform]:
    """Each section from `margin` seconds after its start to its end."""
    rate, seconds = waveform.sample_rate_hz, plan.section_seconds
    for place in range(plan.num_sections):
        first, last = ((place * seconds + margin) * rate, (place + 1) * seconds * rate)
        yield waveform.crop(round(first), round(last) - round(first))


def _table(rows: Mapping[str, StoryScores], title: str) -> Table:
    table = Table("figure", *rows, title=title)
    scores = list(rows.values())
    table.add_row("similarity with the own text", *(_shown(row.own) for row in scores))
    table.add_row("with the story's other texts", *(_shown(row.others) for row in scores))
    table.add_row("own - others", *(_shown(row.difference) for row in scores))
    for place in range(len(scores[0].difference_by_section)):
        cells = (_shown(row.difference_by_section[place]) for row in scores)
        table.add_row(f"  section {place + 1}", *cells)
    chance = scores[0].chance
    table.add_row(f"own is first (chance {chance:.0%})", *(_share(row.own_first) for row in scores))
    return table


def _shown(value: Interval) -> str:
    return f"{value.mean:+.3f} [{value.low:+.3f}, {value.high:+.3f}]"


def _share(value: Interval) -> str:
    return f"{value.mean:.0%} [{value.low:.0%}, {value.high:.0%}]"
