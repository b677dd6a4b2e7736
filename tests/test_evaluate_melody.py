"""`musiclm evaluate melody` on random weights: what it makes, keeps, measures and refuses."""

import json

import numpy as np
import pytest

from musiclm.cli.main import main
from musiclm.cli.melody_following import (
    MEASURES,
    Followed,
    HummedPieces,
    followed_estimates,
    notes_of_prompt,
)
from musiclm.core.errors import DataError
from musiclm.data.melody.line import Line
from tests.support.bundle import write_random_bundle
from tests.support.corpus import write_corpus

pytest.importorskip("onnxruntime")
pytest.importorskip("musicnn")
pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.fixture(scope="module")
def model(tmp_path_factory, unchecked):
    return write_random_bundle(tmp_path_factory.mktemp("melody") / "model")


def run(model, report, *options):
    main(
        [
            *("evaluate", "melody", str(model), "--report", str(report), "--device", "cpu"),
            *map(str, options),
        ]
    )
    return json.loads(report.read_text())


def test_pieces_with_and_without_hums_are_made_once_and_scored(model, tmp_path, capsys):
    report = tmp_path / "melody.json"
    options = ("--num-melodies", 0, "--num-hums", 3, "--batch", 2)
    found = run(model, report, *options)
    assert "s of processor time" in capsys.readouterr().err
    assert len(found["following_by_hum"]) == 3
    for row in found["following_by_hum"]:
        for place in ("with_hum", "without_hum", "wrong_hum", "wrong_hum_moved", "in_the_hum"):
            assert all(0 <= value <= 1 for value in row[place].values())
            for measure in ("note recall", "sounding recall"):
                assert row[place][f"{measure} in any key"] >= row[place][measure]
    assert found["following"]["sounding recall, in the hum itself"]["value"] > 0.5
    folder = tmp_path / "melody-pieces"
    kinds = ("hum", "with", "without")
    wavs = {f"{kind}-000{number}.wav" for kind in kinds for number in range(3)}
    assert {path.name for path in folder.glob("*.wav")} == wavs
    lost = (folder / "with-0001.wav").read_bytes()
    (folder / "with-0001.wav").unlink()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.wav")}
    assert run(model, report, *options) == found
    assert (folder / "with-0001.wav").read_bytes() == lost
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for other in (("--seed", 1), ("--melody-guidance", 3)):
        with pytest.raises(SystemExit) as stop:
            run(model, report, *options, *other)
        assert stop.value.code == 2
        assert "another model, seed or guidance" in capsys.readouterr().err


def test_real_pieces_show_how_far_each_measure_goes(model, tmp_path):
    corpus = write_corpus(tmp_path / "corpus", num_clips=10, seconds=12.0, has_notes=True)
    options = ("--num-melodies", 0, "--num-hums", 2, "--batch", 2, "--corpus", corpus)
    found = run(model, tmp_path / "melody.json", *options)["following"]
    for measure in MEASURES:
        assert 0 <= found[f"{measure}, in real pieces"]["value"] <= 1
        assert f"{measure}, in real pieces, times of a wrong tune" in found


def test_hums_of_other_tunes_can_be_asked_for(model, tmp_path):
    first, later = tmp_path / "a.json", tmp_path / "b.json"
    options = ("--num-melodies", 0, "--num-hums", 2, "--batch", 2)
    run(model, first, *options)
    assert run(model, later, *options, "--first-hum", 1)["first_hum"] == 1
    hum = "{}-pieces/hum-000{}.wav"
    assert (tmp_path / hum.format("a", 0)).read_bytes() != (
        tmp_path / hum.format("b", 0)
    ).read_bytes()


def test_how_closely_hums_are_followed_can_be_chosen(model, tmp_path):
    options = ("--num-melodies", 0, "--num-hums", 2, "--batch", 2)
    run(model, tmp_path / "a.json", *options)
    closely = run(model, tmp_path / "b.json", *options, "--melody-guidance", 8)
    assert closely["melody_guidance"] == 8
    for kind, is_same in (("without", True), ("with", False)):
        first, second = (tmp_path / f"{run}-pieces/{kind}-0000.wav" for run in "ab")
        assert (first.read_bytes() == second.read_bytes()) == is_same


def test_tunes_are_found_by_queries_of_each_kind(model, tmp_path):
    options = ("--num-melodies", 4, "--num-queries", 2, "--num-hums", 0)
    found = run(model, tmp_path / "melody.json", *options)["retrieval_recall_at_1"]
    assert set(found) == {"hum", "whistle", "another instrument"}


@pytest.mark.parametrize(
    "options",
    [
        ("--num-hums", 1),
        ("--batch", 0),
        ("--melody-guidance", 21),
        ("--num-melodies", 1),
        ("--num-melodies", 4, "--num-queries", 5),
    ],
)
def test_what_cannot_be_measured_is_refused(model, tmp_path, options, capsys):
    with pytest.raises(SystemExit) as stop:
        run(model, tmp_path / "melody.json", *options)
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_one_tune_has_no_wrong_one(tmp_path):
    with pytest.raises(DataError, match="at least 2"):
        HummedPieces(tmp_path, [Line(np.zeros(1), np.ones(1), np.full(1, 60.0))], seed=0)


def test_the_notes_of_a_prompt_begin_with_the_first_one():
    line = Line(np.array([0.7, 1.0]), np.array([1.0, 1.5]), np.array([60.0, 62.0]))
    notes = notes_of_prompt(line)
    assert [note.start_seconds for note in notes] == pytest.approx([0.0, 0.3])
    assert notes[1].end_seconds == pytest.approx(0.8)


def test_ratios_are_taken_over_hums():
    def row(with_hum, without):
        recalls = [dict.fromkeys(MEASURES, value) for value in (with_hum, without, 0.1, 0.2, 1.0)]
        return Followed(*recalls, wins_with_hum=1.0, wins_without_hum=0.0)

    figures = followed_estimates([row(0.9, 0.3), row(0.3, 0.1)], 0)
    ratio = figures["note recall, times without it"]
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((3.0, 3.0, 3.0))
    assert figures["sounding recall, with the hum"].value == pytest.approx(0.6)
    assert figures["note recall in any key, times of a wrong hum"].value == pytest.approx(6.0)
    assert figures["note recall, times of a wrong hum in another key"].value == pytest.approx(3.0)
    assert figures["asked instrument wins, with the hum"].value == 1.0
