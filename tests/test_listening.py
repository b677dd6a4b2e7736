"""The listening study: blind and balanced trials, kept answers, statistics, the page itself."""

import collections
import csv
import io
import json
import os
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from musiclm.audio.waveform import Waveform
from musiclm.core.errors import DataError
from musiclm.evaluation.listening.results import study_result
from musiclm.evaluation.listening.server import StudyServer
from musiclm.evaluation.listening.store import Answer, AnswerStore, answers_csv
from musiclm.evaluation.listening.study import (
    Study,
    checked_answer,
    read_study,
    study_of_folders,
    trials_of,
)
from tests.support.browser import Browser

CONDITIONS = ("good", "fair", "poor")


@pytest.fixture
def folders(tmp_path) -> dict[str, Path]:
    """Three systems with four clips each; the pitch of a clip tells the system."""
    times = torch.arange(4_000) / 8_000
    for number, name in enumerate(CONDITIONS):
        for clip in range(4):
            sound = 0.2 * torch.sin(2 * torch.pi * (220 * (number + 1) + clip) * times)
            Waveform(sound, 8_000).write(tmp_path / name / f"{clip:04d}.wav")
    return {name: tmp_path / name for name in CONDITIONS}


def make_study(
    folders: dict[str, Path], kind: Literal["ab", "mushra"] = "ab", trials=6, reference=""
) -> Study:
    captions = {f"{clip:04d}": f'tune {clip} with <b>"quotes"</b>' for clip in range(4)}
    return study_of_folders(
        folders, captions, kind=kind, reference=reference, trials_per_listener=trials, seed=1
    )


def test_trials_are_balanced_repeatable_and_never_twice_in_a_session(folders):
    study = make_study(folders)
    counts: collections.Counter[tuple[str, frozenset[str]]] = collections.Counter()
    sides: collections.Counter[str] = collections.Counter()
    for listener in range(8):
        trials = trials_of(study, listener)
        assert trials == trials_of(study, listener)
        shown = [(trial.item.item_id, frozenset(trial.conditions)) for trial in trials]
        assert len(set(shown)) == len(shown) == 6
        counts.update(shown)
        sides.update(trial.conditions[0] for trial in trials)
    assert len(counts) == 12
    assert set(counts.values()) == {4}  # 8 listeners, 6 trials each, of 12
    assert min(sides.values()) > 8


def test_mushra_trials_show_every_condition_in_any_order(folders):
    trials = trials_of(make_study(folders, "mushra", trials=4), 0)
    assert all(set(trial.conditions) == set(CONDITIONS) for trial in trials)
    assert len({trial.item.item_id for trial in trials}) == 4


def test_a_study_on_disk_comes_back_and_is_not_replaced(folders, tmp_path):
    study = make_study(folders)
    study.write(tmp_path / "study")
    study.write(tmp_path / "study")
    assert read_study(tmp_path / "study") == study
    with pytest.raises(DataError, match="holds another study"):
        make_study(folders, trials=5).write(tmp_path / "study")
    with pytest.raises(DataError, match="holds no study"):
        read_study(tmp_path)


def test_folders_must_share_names(folders, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="share no file name"):
        study_of_folders({**folders, "empty": tmp_path / "empty"}, {})
    with pytest.raises(DataError, match="No folder at"):
        study_of_folders({"one": tmp_path / "nowhere"}, {})


@pytest.mark.parametrize("answer", [3, -3, 1.5, "1", None, [1, 2], [], True and [None]])
def test_odd_answers_are_refused(folders, answer):
    with pytest.raises(DataError, match="from -2 to 2"):
        checked_answer(make_study(folders), answer)


def test_answers_survive_and_the_last_one_counts(folders, tmp_path):
    study = make_study(folders)
    store = AnswerStore(tmp_path / "study", study)
    session = store.begin()
    assert store.next_trial(session) == 0
    store.answer(session, 0, (1,))
    store.answer(session, 0, (-2,))
    store.answer(session, 2, (0,))
    reopened = AnswerStore(tmp_path / "study", study)
    assert reopened.next_trial(session) == 1
    answers = reopened.answers()
    assert [(answer.values, answer.trial) for answer in answers] == [
        ((-2,), trials_of(study, 0)[0]),
        ((0,), trials_of(study, 0)[2]),
    ]
    assert reopened.begin() != session
    with pytest.raises(DataError, match="no such session"):
        reopened.answer("made up", 0, (1,))
    with pytest.raises(DataError, match="not among the session's 6"):
        reopened.answer(session, 6, (1,))


def test_an_answer_of_a_killed_process_is_kept(folders, tmp_path):
    study = make_study(folders)
    session = AnswerStore(tmp_path / "study", study).begin()
    child = os.fork()
    if child == 0:
        AnswerStore(tmp_path / "study", study).answer(session, 0, (2,))
        os._exit(9)  # no clean-up of any kind
    os.waitpid(child, 0)
    assert [a.values for a in AnswerStore(tmp_path / "study", study).answers()] == [(2,)]


def test_many_listeners_at_once_get_different_trials(folders, tmp_path):
    store = AnswerStore(tmp_path / "study", make_study(folders))
    sessions: list[str] = []

    def listen() -> None:
        session = store.begin()
        store.answer(session, 0, (1,))
        sessions.append(session)

    threads = [threading.Thread(target=listen) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(sessions)) == 8
    assert sorted(answer.listener for answer in store.answers()) == list(range(8))


def answered(study: Study, num_listeners: int, noise: float, seed: int = 0) -> list[Answer]:
    """Listeners who like conditions in the order of `CONDITIONS`, more or less."""
    draw = np.random.default_rng(seed)
    worth = {name: 1.0 - number for number, name in enumerate(CONDITIONS)}
    answers: list[Answer] = []
    for listener in range(num_listeners):
        for trial in trials_of(study, listener):
            values = [worth[name] + noise * draw.standard_normal() for name in trial.conditions]
            if study.kind == "ab":
                given = (int(np.clip(round(values[1] - values[0]), -2, 2)),)
            else:
                given = tuple(int(np.clip(60 + 40 * value, 0, 100)) for value in values)
            answers.append(Answer(listener, trial, given, "2026-01-01T00:00:00Z"))
    return answers


def test_the_better_system_wins_whatever_side_it_is_on(folders):
    study = make_study(folders)
    result = study_result(study, answered(study, 16, 0.4), generator=np.random.default_rng(0))
    wins = {row.condition: row.num_wins for row in result.conditions}
    assert wins["good"] > wins["fair"] > wins["poor"]
    assert result.num_answers == 96
    pair = next(pair for pair in result.pairs if (pair.first, pair.second) == ("good", "poor"))
    assert pair.num_trials == 32
    assert pair.preference is not None
    assert 1.5 < pair.preference.low <= pair.preference.high <= 2
    assert pair.p_value < 0.001


def test_listeners_who_do_not_care_show_nothing(folders):
    study = make_study(folders)
    ties = [
        Answer(listener, trial, (0,), "")
        for listener in range(4)
        for trial in trials_of(study, listener)
    ]
    result = study_result(study, ties, generator=np.random.default_rng(0))
    assert all(pair.p_value == 1 and pair.num_first == 0 for pair in result.pairs)
    assert all(row.num_wins == 0 for row in result.conditions)
    noise = answered(study, 10, 50.0, seed=3)
    result = study_result(study, noise, generator=np.random.default_rng(0))
    assert all(pair.p_value > 0.01 for pair in result.pairs)


def test_mushra_leaves_out_listeners_who_miss_the_reference(folders):
    study = make_study(folders, "mushra", trials=4, reference="good")
    answers = answered(study, 5, 0.02)
    careless = [
        Answer(9, trial, tuple(10 for _ in trial.conditions), "") for trial in trials_of(study, 9)
    ]
    result = study_result(study, answers + careless, generator=np.random.default_rng(0))
    assert (result.num_listeners, result.num_left_out) == (5, 1)
    scores = {row.condition: row.score.mean for row in result.conditions}
    assert scores["good"] > 90 > scores["fair"] > scores["poor"]
    assert all(pair.p_value < 0.01 for pair in result.pairs)
    with pytest.raises(DataError, match="No listener recognised"):
        study_result(study, careless, generator=np.random.default_rng(0))
    with pytest.raises(DataError, match="Nobody has answered"):
        study_result(study, [], generator=np.random.default_rng(0))


def test_the_csv_has_a_line_for_each_judged_clip(folders):
    study = make_study(folders)
    answers = answered(study, 2, 0.1)
    rows = list(csv.DictReader(io.StringIO(answers_csv(answers))))
    assert len(rows) == 2 * len(answers)
    assert rows[0]["caption"].endswith('<b>"quotes"</b>')
    assert int(rows[0]["answer"]) == -int(rows[1]["answer"]) == -answers[0].values[0]
    assert rows[0]["compared_with"] == rows[1]["condition"]


@pytest.fixture
def server(folders, tmp_path):
    make_study(folders, trials=2).write(tmp_path / "study")
    with StudyServer(tmp_path / "study") as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.05,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def fetch(url: str, body: object = None, headers: dict[str, str] | None = None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers or {})
    with urllib.request.urlopen(request, timeout=20) as response:
        return response.status, response.headers, response.read()


def test_a_whole_session_over_http(server):
    base = server.url
    state = json.loads(fetch(base + "api/session", {})[2])
    assert (state["trial"], state["num_trials"], state["num_clips"]) == (0, 2, 2)
    seen = json.dumps(state)
    assert not any(name in seen for name in CONDITIONS)  # blind
    trial = trials_of(server.study, 0)[0]
    for position, condition in enumerate(trial.conditions):
        url = f"{base}audio/{state['session']}/0/{position}"
        status, headers, data = fetch(url)
        assert (status, headers["Content-Type"]) == (200, "audio/x-wav")
        assert data == Path(trial.item.clips[condition]).read_bytes()
        status, headers, piece = fetch(url, headers={"Range": "bytes=10-19"})
        assert (status, piece) == (206, data[10:20])
        assert headers["Content-Range"] == f"bytes 10-19/{len(data)}"
    answer = {"session": state["session"], "trial": 0, "answer": -1}
    assert json.loads(fetch(base + "api/answer", answer)[2])["trial"] == 1
    answer = {"session": state["session"], "trial": 1, "answer": 2}
    assert json.loads(fetch(base + "api/answer", answer)[2])["is_done"]
    again = json.loads(fetch(f"{base}api/session/{state['session']}")[2])
    assert again["is_done"]
    assert [answer.values for answer in server.store.answers()] == [(-1,), (2,)]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("api/session/unknown", None, 400),
        ("audio/unknown/0/0", None, 404),
        ("../../etc/passwd", None, 404),
        ("api/answer", {"session": "x", "trial": 0, "answer": 1}, 400),
        ("api/answer", {"trial": "many"}, 400),
        ("api/answer", [1, 2], 400),
        ("api/answer", {"a": "x" * 20_000}, 413),
        ("other", {}, 404),
    ],
)
def test_nonsense_over_http_is_an_error_and_not_a_crash(server, path, body, status):
    with pytest.raises(urllib.error.HTTPError) as caught:
        fetch(server.url + path, body)
    assert caught.value.code == status
    assert "error" in json.loads(caught.value.read())
    caught.value.close()


def test_a_missing_clip_is_told_before_anyone_listens(folders, tmp_path):
    make_study(folders).write(tmp_path / "study")
    (folders["fair"] / "0002.wav").unlink()
    with pytest.raises(DataError, match="clip of 'fair' for item '0002'"):
        StudyServer(tmp_path / "study")


def test_a_mushra_listener_in_a_real_browser(folders, tmp_path):
    make_study(folders, "mushra", trials=1, reference="good").write(tmp_path / "study")
    browser = Browser(tmp_path / "profile")
    try:
        with StudyServer(tmp_path / "study") as running:
            thread = threading.Thread(target=running.serve_forever, args=(0.05,))
            thread.start()
            try:
                browser.open(running.url)
                browser.wait_for("document.getElementById('start') !== null")
                browser.run("document.getElementById('start').click()")
                browser.wait_for("document.querySelectorAll('input[type=range]').length === 3")
                assert not any(
                    name in browser.run("document.body.innerText") for name in CONDITIONS
                )
                browser.run(
                    "Promise.all([...document.querySelectorAll('audio')]"
                    ".map(a => a.play().catch(e => 0))).then(() => 1)"
                )
                browser.wait_for("[...document.querySelectorAll('button')].every(b => !b.disabled)")
                browser.run(
                    "[...document.querySelectorAll('input')].forEach((slider, place) => {"
                    "slider.value = 30 * place + 7; slider.oninput(); })"
                )
                assert browser.run("document.querySelectorAll('output')[2].textContent") == "67"
                browser.run("document.querySelector('[data-answer=next]').click()")
                browser.wait_for("document.getElementById('done') !== null")
            finally:
                running.shutdown()
                thread.join()
            assert [answer.values for answer in running.store.answers()] == [(7, 37, 67)]
    finally:
        browser.close()


def test_a_listener_in_a_real_browser(server, tmp_path):
    browser = Browser(tmp_path / "profile")
    try:
        browser.open(server.url)
        browser.wait_for("document.getElementById('start') !== null")
        browser.run("document.getElementById('start').click()")
        browser.wait_for("document.querySelectorAll('audio').length === 2")
        text = browser.run("document.body.innerText")
        assert '<b>"quotes"</b>' in text  # shown, not read as markup
        assert not any(name in text for name in CONDITIONS)
        assert browser.run("[...document.querySelectorAll('.scale button')].every(b => b.disabled)")
        play = (
            "Promise.all([...document.querySelectorAll('audio')].map(a => a.play().catch(e => 0)))"
        )
        browser.run(f"{play}.then(() => 1)")
        browser.wait_for("[...document.querySelectorAll('button')].every(b => !b.disabled)")
        if "MUSICLM_SCREENSHOTS" in os.environ:
            browser.screenshot(Path(os.environ["MUSICLM_SCREENSHOTS"]) / "study.png")
        browser.run("document.querySelector('[data-answer=\"2\"]').click()")
        browser.wait_for("document.body.innerText.includes('2 of 2')")
        browser.open(server.url)  # come back later: the second trial waits
        browser.wait_for("document.body.innerText.includes('2 of 2')")
        browser.run(f"{play}.then(() => 1)")
        browser.wait_for("[...document.querySelectorAll('button')].every(b => !b.disabled)")
        browser.run("document.querySelector('[data-answer=\"-1\"]').click()")
        browser.wait_for("document.getElementById('done') !== null")
        if "MUSICLM_SCREENSHOTS" in os.environ:
            browser.screenshot(Path(os.environ["MUSICLM_SCREENSHOTS"]) / "done.png")
    finally:
        browser.close()
    assert [answer.values for answer in server.store.answers()] == [(2,), (-1,)]
