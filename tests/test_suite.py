"""The suite on a tiny corpus of tones: perfect, wrong and noisy generators are told apart."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from musiclm.audio.waveform import Waveform
from musiclm.core.errors import DataError
from musiclm.data.manifest import Caption, Clip, Corpus, Labels, write_manifest
from musiclm.evaluation.analysis import AnalysisCache, Judges, analyse_clips
from musiclm.evaluation.distances import GaussianStatistics
from musiclm.evaluation.musicnn import MusicNNOutput
from musiclm.evaluation.plan import EvaluationPlan, plan_evaluation, read_plan
from musiclm.evaluation.reference import reference_statistics
from musiclm.evaluation.suite import (
    FLOOR,
    GENERATED,
    EvaluationReport,
    caption_similarity,
    evaluate_systems,
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


def score(plan: EvaluationPlan, corpus: Corpus, clips: list[Waveform]) -> EvaluationReport:
    judges = Judges(
        FakeTagger(), {"mulan": FakeMuLan()}, treatments={"noise": noise_treatment(0.0, 0)}
    )
    return evaluate_systems(plan, corpus, {GENERATED: lambda: clips}, judges)


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


def test_settings_can_be_chosen_on_other_clips_than_they_are_scored_on(corpus, plan):
    chosen = plan_evaluation(corpus, num_clips=2, clip_seconds=2.0, split="train")
    scored = {clip.clip_id for clip in (*plan.asked, *plan.reference)}
    assert not scored & {clip.clip_id for clip in (*chosen.asked, *chosen.reference)}
    assert len(chosen.asked) == 2


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
    made, floor = report.rows[GENERATED], report.rows[FLOOR]
    assert made.fad == floor.fad
    assert made.kld is not None
    assert made.kld.mean == pytest.approx(0, abs=1e-9)
    assert report.shuffled_kld is not None
    assert report.shuffled_kld.mean > 0.1
    assert made.instruments is not None
    assert made.instruments.rate == 1.0
    assert made.similarity == floor.similarity
    assert made.similarity["mulan"].difference.low > 0.5
    assert made.retrieval["mulan"].num_pairs == NUM_CLIPS
    assert made.num_windows == 2 * NUM_CLIPS
    assert report.kld_direction.startswith("KL(real || made), softmax")


def test_a_wrong_generator_scores_worse_and_at_chance(corpus, plan):
    levels = [0.04 + 0.001 * number for number in range(NUM_CLIPS)]
    report = score(plan, corpus, [tone("flute", 2.0, loudness=level) for level in levels])
    made, floor = report.rows[GENERATED], report.rows[FLOOR]
    assert made.fad["musicnn"].fad > 3 * floor.fad["musicnn"].fad
    assert report.rows["noise"].fad["musicnn"].fad > floor.fad["musicnn"].fad
    assert made.kld is not None
    assert made.kld.mean > 0.1
    assert floor.kld is None
    assert made.instruments is not None
    assert made.instruments.times_chance == pytest.approx(1.0)
    difference = made.similarity["mulan"].difference
    assert difference.low <= 0 <= difference.high


def test_a_missing_clip_is_reported(corpus, plan):
    with pytest.raises(DataError, match="has 7 clips; the plan has 8"):
        score(plan, corpus, [tone("flute", 2.0)] * 7)


def test_few_windows_and_no_labels_leave_their_rows_out(corpus):
    bare = Corpus(
        corpus.folder, tuple(clip.model_copy(update={"labels": Labels()}) for clip in corpus.clips)
    )
    plan = plan_evaluation(bare, num_clips=2, clip_seconds=1.0)
    clips = [tone("flute", 1.0)] * 2
    report = evaluate_systems(plan, bare, {GENERATED: lambda: clips}, Judges(FakeTagger()))
    made = report.rows[GENERATED]
    assert made.fad == made.similarity == made.adherence == {}
    assert report.too_few_windows == {"musicnn": "2 windows, more than 2 are needed"}
    assert made.instruments is None
    assert made.kld is not None


def test_captions_alone_have_similarity_and_nothing_that_needs_real_audio(plan):
    clips = [tone(asked.lead, 3.0) for asked in plan.asked]
    judges = Judges(FakeTagger(), {"mulan": FakeMuLan()})
    report = evaluate_systems(plan, None, {"a": lambda: clips, "b": lambda: clips}, judges)
    assert set(report.rows) == {"a", "b"}
    assert report.rows["a"].similarity["mulan"].difference.low > 0.5
    assert report.rows["a"].fad == {}
    assert report.rows["a"].kld is report.shuffled_kld is None


def test_a_row_too_small_for_its_reference_is_told(plan):
    wide = np.random.default_rng(0).standard_normal((40, 2))
    for name, count in (("enough", 3), ("few", 1)):
        asked = plan.model_copy(update={"asked": plan.asked[:2]})
        made = [tone("flute", float(count), 0.1 + 0.1 * number) for number in range(2)]
        report = evaluate_systems(
            asked,
            None,
            {name: lambda made=made: made},
            Judges(FakeTagger()),
            reference={"musicnn": GaussianStatistics.fit(wide)},
        )
        assert set(report.rows[name].fad) == ({"musicnn"} if name == "enough" else set())
        told = {} if name == "enough" else {"musicnn": "2 windows, more than 2 are needed"}
        assert report.too_few_windows == told


class Loudness:
    """One number a second."""

    name = "loudness"
    identity = "loudness"

    def embed(self, waveform: Waveform) -> torch.Tensor:
        return FakeTagger().analyse(waveform).embeddings[:, :1]


def test_too_little_reference_audio_for_one_judge_does_not_cost_the_others(tmp_path):
    folder = tmp_path / "reference"
    for number in range(2):
        tone("flute", 1.0, 0.1 + 0.1 * number).write(folder / f"{number}.wav")
    judges = Judges(FakeTagger(), {}, (CountingEmbedder(), Loudness()))
    assert set(reference_statistics(folder, judges, tmp_path / "cache")) == {"loudness"}
    alone = replace(judges, embedders=(CountingEmbedder(),))
    with pytest.raises(DataError, match=r"too little audio to compare with.* more than 2 windows"):
        reference_statistics(folder, alone, tmp_path / "cache")


class CountingTagger(FakeTagger):
    def __init__(self) -> None:
        self.num_heard = 0

    def analyse(self, waveform: Waveform) -> MusicNNOutput:
        self.num_heard += 1
        return super().analyse(waveform)


def test_nothing_is_heard_twice_and_a_cached_report_is_the_same(corpus, plan, tmp_path):
    clips = [tone(asked.lead, 3.5, loudness=0.1) for asked in plan.asked]
    tagger = CountingTagger()
    judges = Judges(
        tagger,
        {"mulan": FakeMuLan()},
        treatments={"noise": noise_treatment(0.0, 0)},
        identity="fakes",
    )
    reports = [
        evaluate_systems(
            plan, corpus, {GENERATED: lambda: clips}, judges, cache=AnalysisCache(tmp_path)
        )
        for _ in range(2)
    ]
    assert tagger.num_heard == 4 * NUM_CLIPS  # generated, real, noise, reference
    assert repr(reports[0]) == repr(reports[1])
    assert reports[0].rows[GENERATED].adherence == {}  # the captions ask for no tempo or key
    clips[0] = tone("cello", 3.5, loudness=0.2)
    evaluate_systems(
        plan, corpus, {GENERATED: lambda: clips}, judges, cache=AnalysisCache(tmp_path)
    )
    assert tagger.num_heard == 5 * NUM_CLIPS


class CountingEmbedder:
    """One window a second: how loud it is, and how bright."""

    name = "tones"
    identity = "tones"

    def embed(self, waveform: Waveform) -> torch.Tensor:
        return FakeTagger().analyse(waveform).embeddings


class Deaf(FakeMuLan):
    def embed_audio(self, samples: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the space must be taken from the embedder's windows")


def test_a_space_can_be_the_mean_of_an_embedders_windows_and_threads_change_nothing(corpus, plan):
    clips = [tone(asked.lead, 2.0, 0.1 + 0.01 * n) for n, asked in enumerate(plan.asked)]
    judges = Judges(
        FakeTagger(), {"tones": Deaf()}, (CountingEmbedder(),), joint_of={"tones": "tones"}
    )
    alone, together = (
        analyse_clips("row", clips, NUM_CLIPS, replace(judges, num_threads=count))
        for count in (1, 3)
    )
    mean = torch.from_numpy(alone.embeddings["tones"]).reshape(NUM_CLIPS, 2, 2).mean(dim=1)
    assert torch.allclose(alone.joint["tones"], torch.nn.functional.normalize(mean, dim=1))
    assert repr(alone) == repr(together)
    assert np.array_equal(alone.embeddings["musicnn"], together.embeddings["musicnn"])


def test_another_corpus_is_refused(corpus, plan):
    with pytest.raises(DataError, match="lacks clip"):
        score(plan, Corpus(Path("elsewhere"), corpus.clips[:1]), [tone("flute", 2.0)] * NUM_CLIPS)


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
