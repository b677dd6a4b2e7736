"""The suite on a tiny corpus of tones: perfect, wrong and noisy generators are told apart."""

from pathlib import Path

import numpy as np
import pytest
import torch

from musiclm.audio.waveform import Waveform
from musiclm.core.errors import DataError
from musiclm.data.manifest import Caption, Clip, Corpus, Labels, write_manifest
from musiclm.evaluation.plan import EvaluationPlan, plan_evaluation, read_plan
from musiclm.evaluation.suite import (
    FLOOR,
    GENERATED,
    GenerationReport,
    Judges,
    caption_similarity,
    evaluate_generations,
    noise_treatment,
)
from tests.support.fake_judges import FakeMuLan, FakeTagger, tone

LEADS = ("flute", "violin", "piano", "cello")
NUM_CLIPS = 8


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    """Sixteen test clips of 3 s, of eight melody clusters, and four training clips."""
    folder = tmp_path_factory.mktemp("corpus")
    clips: list[Clip] = []
    for number in range(20):
        lead = LEADS[number % 4]
        path = f"{number}.wav"
        tone(lead, 3.0, loudness=0.2 + 0.01 * number).write(folder / path)
        clips.append(
            Clip(
                clip_id=f"clip{number:02d}",
                path=path,
                duration_seconds=3.0,
                sample_rate_hz=8_000,
                split="test" if number < 16 else "train",
                captions=(
                    Caption(text=f"a plain {lead}", kind="sentence"),
                    Caption(text=f"{lead} number {number}", kind="sentence", is_held_out=True),
                ),
                labels=Labels(lead=lead, melody_cluster=f"tune{number // 2}"),
            )
        )
    write_manifest(folder, clips)
    return Corpus.open(folder)


@pytest.fixture(scope="module")
def plan(corpus) -> EvaluationPlan:
    return plan_evaluation(corpus, num_clips=NUM_CLIPS, clip_seconds=2.0, seed=3)


def score(plan: EvaluationPlan, corpus: Corpus, clips: list[Waveform]) -> GenerationReport:
    judges = Judges(FakeTagger(), FakeMuLan(), {"noise": noise_treatment(0.0, 0)})
    return evaluate_generations(plan, corpus, clips, judges)


def test_plan_asks_held_out_wordings_of_test_clips_and_never_shares_a_tune(corpus, plan):
    clips = {clip.clip_id: clip for clip in corpus.clips}
    assert len(plan.asked) == len(plan.reference) == NUM_CLIPS
    assert len({asked.clip_id for asked in plan.asked}) == NUM_CLIPS
    assert all("number" in asked.prompt for asked in plan.asked)
    assert all(0 <= piece.start_seconds <= 1.0 for piece in (*plan.asked, *plan.reference))
    asked_tunes, reference_tunes = (
        {clips[piece.clip_id].labels.melody_cluster for piece in side}
        for side in (plan.asked, plan.reference)
    )
    assert not asked_tunes & reference_tunes
    assert all(clips[piece.clip_id].split == "test" for piece in (*plan.asked, *plan.reference))


def test_plan_is_a_pure_function_of_its_seed(corpus, plan):
    assert plan_evaluation(corpus, num_clips=NUM_CLIPS, clip_seconds=2.0, seed=3) == plan
    assert plan_evaluation(corpus, num_clips=NUM_CLIPS, clip_seconds=2.0, seed=4) != plan


def test_plan_on_disk_comes_back_and_is_not_replaced(corpus, plan, tmp_path):
    plan.write(tmp_path)
    plan.write(tmp_path)
    assert read_plan(tmp_path) == plan
    other = plan_evaluation(corpus, num_clips=4, clip_seconds=2.0, seed=3)
    with pytest.raises(DataError, match="another evaluation"):
        other.write(tmp_path)
    with pytest.raises(DataError, match=r"no plan\.json"):
        read_plan(tmp_path / "elsewhere")


def test_plan_needs_long_enough_clips(corpus):
    with pytest.raises(DataError, match="has 0 captioned test clips of 10 s"):
        plan_evaluation(corpus)


def test_a_perfect_generator_scores_as_the_real_audio(corpus, plan):
    clips = {clip.clip_id: clip for clip in corpus.clips}
    perfect = [
        corpus.audio(clips[a.clip_id], start_seconds=a.start_seconds, duration_seconds=2.0)
        for a in plan.asked
    ]
    report = score(plan, corpus, perfect)
    assert report.fad[GENERATED] == report.fad[FLOOR]
    assert report.kld[GENERATED] == pytest.approx(0, abs=1e-9)
    assert report.kld["real, shuffled"] > 0.1
    assert report.instruments[GENERATED].rate == 1.0
    assert report.similarity[GENERATED] == report.similarity[FLOOR]
    assert report.similarity[GENERATED].difference.low > 0.5
    assert report.num_windows == 2 * NUM_CLIPS


def test_a_wrong_generator_scores_worse_and_at_chance(corpus, plan):
    report = score(plan, corpus, [tone("flute", 2.0, loudness=0.05)] * NUM_CLIPS)
    assert report.fad[GENERATED] > 3 * report.fad[FLOOR]
    assert report.fad["noise"] > report.fad[FLOOR]
    assert report.kld[GENERATED] > 0.1
    assert report.instruments[GENERATED].times_chance == pytest.approx(1.0)
    difference = report.similarity[GENERATED].difference
    assert difference.low <= 0 <= difference.high


def test_a_missing_clip_is_reported(corpus, plan):
    with pytest.raises(DataError, match="has 7 clips; the plan has 8"):
        score(plan, corpus, [tone("flute", 2.0)] * 7)


def test_few_windows_and_no_labels_leave_their_rows_out(corpus):
    bare = Corpus(
        corpus.folder, tuple(clip.model_copy(update={"labels": Labels()}) for clip in corpus.clips)
    )
    plan = plan_evaluation(bare, num_clips=2, clip_seconds=1.0)
    judges = Judges(FakeTagger())
    report = evaluate_generations(plan, bare, [tone("flute", 1.0)] * 2, judges)
    assert report.fad == report.instruments == report.similarity == {}
    assert set(report.kld) == {GENERATED, "real, shuffled"}


def test_another_corpus_is_refused(corpus, plan):
    with pytest.raises(DataError, match="lacks clip"):
        score(plan, Corpus(Path("elsewhere"), corpus.clips[:1]), [])


def test_similarity_compares_with_all_other_captions():
    text = torch.eye(3)
    audio = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, 0]])
    captions = ["one", "two", "three"]
    similarity = caption_similarity(text, audio, captions, np.random.default_rng(0))
    assert similarity.right == pytest.approx(2 / 3)
    assert similarity.shuffled == pytest.approx((0 + 0 + 0.5) / 3)
    with pytest.raises(DataError, match="All captions are the same"):
        caption_similarity(text, audio, ["same"] * 3, np.random.default_rng(0))


def test_noise_is_as_loud_as_asked():
    clip = tone("piano", 1.0)
    noise = noise_treatment(20.0, 0)(clip).samples - clip.samples
    ratio = clip.samples.square().mean() / noise.square().mean()
    assert 10 * torch.log10(ratio).item() == pytest.approx(20, abs=0.3)
