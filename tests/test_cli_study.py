"""`musiclm study` from the command line: make it, answer it, see what it shows."""

import json
from pathlib import Path

import pytest
import torch

from musiclm.audio.waveform import Waveform
from musiclm.cli.main import main
from musiclm.evaluation.listening.store import AnswerStore
from musiclm.evaluation.listening.study import read_study
from musiclm.evaluation.plan import plan_for_captions


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    plan = plan_for_captions(["a flute", "a drum"], clip_seconds=0.5)
    made = tmp_path / "ours", tmp_path / "theirs"
    for folder in made:
        for number in range(2):
            Waveform(torch.zeros(4_000), 8_000).write(plan.clip_path(folder, number))
    plan.write(made[0])
    return made


def test_a_study_from_folders_to_results(folders, tmp_path, capsys):
    study = tmp_path / "study"
    main(["study", "create", str(study), f"ours={folders[0]}", f"theirs={folders[1]}"])
    found = read_study(study)
    assert [item.caption for item in found.items] == ["a flute", "a drum"]
    with pytest.raises(SystemExit):
        main(["study", "results", str(study)])
    assert "Nobody has answered yet" in capsys.readouterr().err
    store = AnswerStore(study, found)
    session = store.begin()
    for number, trial in enumerate(store.trials(session)):
        store.answer(session, number, (2 if trial.conditions[1] == "ours" else -2,))
    report, table = tmp_path / "report.json", tmp_path / "answers.csv"
    main(["study", "results", str(study), "--report", str(report), "--csv", str(table)])
    wins = {
        row["condition"]: row["num_wins"] for row in json.loads(report.read_text())["conditions"]
    }
    assert wins == {"ours": 2, "theirs": 0}
    assert len(table.read_text().splitlines()) == 1 + 2 * 2


@pytest.mark.parametrize("systems", [["ours"], ["ours=somewhere"], ["=a", "b=c"]])
def test_systems_must_be_named_and_at_least_two(systems, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["study", "create", str(tmp_path), *systems])
    assert "NAME=FOLDER" in capsys.readouterr().err
