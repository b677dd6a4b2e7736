"""The listening study of `musiclm reproduce`: made beside the report, read once people answered."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from musiclm.core.files import write_text_whole
from musiclm.data.manifest import Corpus
from musiclm.evaluation.listening.results import StudyResult, study_result
from musiclm.evaluation.listening.store import STORE_NAME, Answer, AnswerStore
from musiclm.evaluation.listening.study import STUDY_NAME, Study, read_study, study_of_folders
from musiclm.evaluation.plan import EvaluationPlan

REAL = "real"
"""The condition that is the audio of the asked captions."""


def write_real_clips(plan: EvaluationPlan, corpus: Corpus, folder: Path) -> None:
    """The real audio of the asked captions, beside the clips that were made for them."""
    clips = {clip.clip_id: clip for clip in corpus.clips}
    for number, asked in enumerate(plan.asked):
        path = plan.clip_path(folder, number)
        if not path.is_file():
            corpus.audio(
                clips[asked.clip_id],
                start_seconds=asked.start_seconds,
                duration_seconds=plan.clip_seconds,
            ).write(path)


def write_study(plan: EvaluationPlan, folders: Mapping[str, Path], output: Path) -> Study:
    """A study of all folders; one that somebody has answered stays as it is.

    Clips are named as seen from the study's folder, so that a report folder may be moved.

    Returns:
        The study that is there now: without what was added after its first answer.
    """
    captions = {f"{number:04d}": clip.prompt for number, clip in enumerate(plan.asked)}
    wanted = _seen_from(output, study_of_folders(folders, captions, reference=REAL, seed=plan.seed))
    if (output / STUDY_NAME).is_file():
        found = read_study(output)
        if found == wanted or _answers(output, found):
            return found
        for suffix in ("", "-wal", "-shm"):  # sessions of the other study, unanswered
            (output / f"{STORE_NAME}{suffix}").unlink(missing_ok=True)
    write_text_whole(output / STUDY_NAME, wanted.to_json() + "\n")
    return wanted


def read_results(output: Path, study: Study) -> StudyResult | None:
    """What listeners said; None before the first answer."""
    answers = _answers(output, study)
    if not answers:
        return None
    return study_result(study, answers, generator=np.random.default_rng(study.seed))


def _seen_from(folder: Path, study: Study) -> Study:
    """The study with its clips' paths relative to a folder."""
    start = folder.resolve()
    items = tuple(
        item.model_copy(
            update={
                "clips": {
                    name: Path(os.path.relpath(clip, start)).as_posix()
                    for name, clip in item.clips.items()
                }
            }
        )
        for item in study.items
    )
    return study.model_copy(update={"items": items})


def _answers(output: Path, study: Study) -> list[Answer]:
    if not (output / STORE_NAME).is_file():
        return []
    return AnswerStore(output, study).answers()
