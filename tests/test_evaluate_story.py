"""`musiclm evaluate story`: which texts are told, what is compared, and that it goes on."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from musiclm.cli.main import main
from musiclm.core.errors import DataError
from musiclm.data.manifest import Corpus
from musiclm.evaluation.story import StoryPlan, plan_stories, score_stories
from tests.support.bundle import write_random_bundle
from tests.support.corpus import write_corpus

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.fixture(scope="module")
def model(tmp_path_factory, unchecked):
    return write_random_bundle(tmp_path_factory.mktemp("story") / "model", has_melody=False)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("story") / "corpus", num_clips=30, seconds=2.0)


def plan(corpus, **changes) -> StoryPlan:
    asked: dict[str, Any] = {"num_stories": 2, "num_sections": 2, "section_seconds": 1.0}
    return plan_stories(Corpus.open(corpus), **(asked | changes))


def run(model, corpus, report, *options):
    main(
        [
            *("evaluate", "story", str(model), "--corpus", str(corpus)),
            *("--report", str(report), "--device", "cpu", "--section-seconds", "1"),
            *("--num-stories", "2", "--num-sections", "2", *map(str, options)),
        ]
    )
    return json.loads(report.read_text())


def score(sound, texts):
    return score_stories(sound, texts, generator=np.random.default_rng(0))


def random_vectors(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape) + shape[0]))


def test_sections_differ_and_no_clip_is_told_twice(corpus):
    found = plan(corpus)
    sections = [section for story in found.stories for section in story.sections]
    assert len({section.clip_id for section in sections}) == 4
    for story in found.stories:
        assert len({section.lead for section in story.sections}) == 2
        assert all(section.prompt.startswith("quiet") for section in story.sections)
    assert len({story.seed for story in found.stories}) == 2
    assert plan(corpus) == found
    assert plan(corpus, seed=1) != found


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_stories": 1}, "at least 2"),
        ({"num_sections": 1}, "at least 2"),
        ({"section_seconds": 0.0}, "longer than 0"),
        ({"num_sections": 4}, "enough for 0 stories"),
        ({"num_stories": 9}, "6 captioned test clips"),
    ],
)
def test_stories_that_cannot_be_told_are_refused(corpus, changes, said):
    with pytest.raises(DataError, match=said):
        plan(corpus, **changes)


def test_sections_that_are_their_texts_are_first():
    texts = random_vectors(5, 3, 16)
    scores = score(texts * 2, texts)
    assert scores.own.mean == pytest.approx(1)
    assert scores.own_first.mean == 1
    assert scores.chance == pytest.approx(1 / 3)
    assert scores.difference.mean == pytest.approx(scores.own.mean - scores.others.mean)
    assert scores.difference.low > 0
    places = [interval.mean for interval in scores.difference_by_section]
    assert np.mean(places) == pytest.approx(scores.difference.mean)
    first = scores.sections[4]
    assert (first.story, first.section, first.rank) == (1, 1, 1)
    assert first.similarities[1] == pytest.approx(first.own)


def test_the_texts_of_another_story_are_a_control_at_chance():
    texts = random_vectors(400, 4, 32)
    scores = score(texts, texts.roll(1, dims=0))
    assert scores.difference.low < 0 < scores.difference.high
    assert scores.own_first.mean == pytest.approx(0.25, abs=0.04)


def test_a_text_that_is_near_to_everything_gains_nothing():
    sound = random_vectors(3, 2, 8)
    texts = sound[:, :1].expand(-1, 2, -1) + 0 * sound  # both texts say the first section
    scores = score(sound, texts)
    assert scores.difference.mean == pytest.approx(0)
    assert scores.own_first.mean == 0  # a tie is no win


def test_sides_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="must be as many"):
        score(random_vectors(3, 2, 8), random_vectors(2, 2, 8))
    with pytest.raises(DataError, match="at least two"):
        score(random_vectors(1, 2, 8), random_vectors(1, 2, 8))


@pytest.mark.filterwarnings("ignore:.*does not know")
def test_stories_are_made_once_and_scored(model, corpus, tmp_path, capsys):
    report = tmp_path / "story.json"
    found = run(model, corpus, report)
    assert "own - others" in capsys.readouterr().out
    assert set(found["rows"]) == {"stories", "texts of another story", "real audio of the texts"}
    for scores in found["rows"].values():
        assert len(scores["sections"]) == 4
        assert scores["difference"]["low"] <= scores["difference"]["mean"]
    mine, control = found["rows"]["stories"], found["rows"]["texts of another story"]
    assert mine["own"]["mean"] != control["own"]["mean"]
    record = json.loads((tmp_path / "story-clips" / "0001.json").read_text())
    told = [section["text"] for section in record["request"]["story"]]
    assert told == [section["prompt"] for section in found["stories"][1]["sections"]]
    assert record["settings"]["duration_seconds"] == 2

    lost = tmp_path / "story-clips" / "0001.wav"
    before = lost.read_bytes()
    lost.unlink()
    kept = (tmp_path / "story-clips" / "0000.wav").stat().st_mtime_ns
    assert run(model, corpus, report) == found
    assert lost.read_bytes() == before
    assert (tmp_path / "story-clips" / "0000.wav").stat().st_mtime_ns == kept

    margin = run(model, corpus, report, "--margin", 0.5)
    assert margin["rows"]["stories"]["own"] != mine["own"]
    for options, said in (
        (("--seed", 1), "holds other stories"),
        (("--blend", 0.5), "another request"),
        (("--guidance", 2), "other settings"),
    ):
        with pytest.raises(SystemExit) as stop:
            run(model, corpus, report, *options)
        assert stop.value.code == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ("--margin", 1),
        ("--margin", -1),
        ("--batch", 0),
        ("--guidance", 21),
        ("--section-seconds", 400),
        ("--blend", 100),
        ("--num-stories", 99),
        ("--judge", "no.safetensors"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*does not know")
def test_what_cannot_be_done_is_one_line(model, corpus, tmp_path, options, capsys):
    with pytest.raises(SystemExit) as stop:
        run(model, corpus, tmp_path / "story.json", *options)
    assert stop.value.code == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "story.json").exists()
