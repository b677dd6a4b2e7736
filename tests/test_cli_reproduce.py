"""`musiclm reproduce` and `evaluate --captions` with stand-ins: whole, resumed, honest."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import musiclm.cli.evaluate_captions as captions_verb
import musiclm.cli.reproduce as verb
import musiclm.cli.systems as systems
from musiclm.audio.waveform import Waveform
from musiclm.cli.main import main
from musiclm.cli.reproduction_study import write_study
from musiclm.core.errors import DataError
from musiclm.core.runtime import Runtime
from musiclm.data.manifest import Caption, Clip, Corpus, Labels, write_manifest
from musiclm.evaluation.analysis import Judges
from musiclm.evaluation.listening.server import StudyServer
from musiclm.evaluation.listening.store import STORE_NAME, AnswerStore
from musiclm.evaluation.listening.study import read_study, study_of_folders
from musiclm.evaluation.plan import plan_for_captions, read_plan
from musiclm.evaluation.systems import System, fill_folder, read_folder
from musiclm.generation.bundle import BundleConfig
from musiclm.generation.musiclm import MusicLM
from tests.support.corpus import write_corpus
from tests.support.fake_judges import PITCH_OF_LEAD_HZ, FakeMuLan, FakeTagger, tone


class Player:
    """Plays the instrument that the caption names, or always the same one."""

    def __init__(self, name: str, always: str = "", identity: str = "1") -> None:
        self.name = name
        self.identity = identity
        self.always = always
        self.asked: list[str] = []

    def generate(self, prompts: Any, seeds: Any, duration_seconds: float) -> list[Waveform]:
        self.asked += prompts
        return [
            tone(
                self.always or next(lead for lead in PITCH_OF_LEAD_HZ if lead in prompt),
                duration_seconds,
                0.1 + seed % 9 / 50,
            )
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]


@pytest.fixture
def corpus(tmp_path) -> Path:
    folder = tmp_path / "corpus"
    clips: list[Clip] = []
    for number in range(24):
        lead = list(PITCH_OF_LEAD_HZ)[number % 4]
        tone(lead, 10.0, loudness=0.1 + number / 50).write(folder / f"{number}.wav")
        clips.append(
            Clip(
                clip_id=str(number),
                path=f"{number}.wav",
                duration_seconds=10.0,
                sample_rate_hz=8_000,
                split="test",
                captions=(Caption(text=f"{lead} number {number}, 120 bpm", kind="sentence"),),
                labels=Labels(lead=lead),
            )
        )
    write_manifest(folder, clips)
    return folder


class Bundle(MusicLM):
    """What the verbs need of a model."""

    sha256: Any = "abc"

    def __init__(self) -> None:
        self.config = BundleConfig(name="fake")
        self.runtime = Runtime(torch.device("cpu"), 1)


@pytest.fixture
def players(monkeypatch) -> dict[str, Player]:
    made = {
        "musiclm": Player("musiclm"),
        "retrieval": Player("retrieval", always="flute"),
        "resampled": Player("same semantic tokens"),
        "other": Player("same caption", always="cello"),
    }
    judges = Judges(FakeTagger(), {"conditioning": FakeMuLan()}, identity="fakes")
    for module in (verb, captions_verb):
        monkeypatch.setattr(module.MusicLM, "from_pretrained", lambda *_, **__: Bundle())
        monkeypatch.setattr(module, "open_judges", lambda *a: replace(judges, treatments=a[-1]))
        monkeypatch.setattr(module, "codec_treatment", lambda _: lambda clip: clip)
    FakeMusicLMSystem.player = made["musiclm"]
    monkeypatch.setattr(systems, "MusicLMSystem", FakeMusicLMSystem)
    monkeypatch.setattr(captions_verb, "MusicLMSystem", FakeMusicLMSystem)
    monkeypatch.setattr(systems, "RetrievalBaseline", lambda _: made["retrieval"])
    monkeypatch.setattr(verb, "ResampledAcoustic", FakeRelative)
    monkeypatch.setattr(verb, "OtherSeed", FakeOther)
    return made


class FakeMusicLMSystem(Player):
    name = "musiclm"  # pyright: ignore[reportAssignmentType]  # also read from the class
    player = Player("musiclm")

    def __init__(self, _: object) -> None:
        self.identity = "abc"

    def generate(self, prompts: Any, seeds: Any, duration_seconds: float) -> list[Waveform]:
        return self.player.generate(prompts, seeds, duration_seconds)


class FakeRelative(Player):
    name = "same semantic tokens"  # pyright: ignore[reportAssignmentType]  # also read from the class

    def __init__(self, _: object) -> None:
        super().__init__(self.name)


class FakeOther(Player):
    name = "same caption"  # pyright: ignore[reportAssignmentType]  # also read from the class

    def __init__(self, _: object) -> None:
        super().__init__(self.name, always="cello")


def run(corpus: Path, output: Path, **options: Any) -> dict[str, Any]:
    verb.reproduce(output, corpus=corpus, num_captions=10, num_study=10, batch=3, **options)
    return json.loads((output / "report.json").read_text())


@pytest.mark.usefixtures("players")
def test_a_report_is_whole_and_says_what_was_not_measured(corpus, tmp_path):
    output = tmp_path / "out"
    figures = run(corpus, output)
    verdicts = {finding["claim"]: finding["verdict"] for finding in figures["findings"]}
    assert verdicts["MusicLM is ahead of retrieval on MCC (conditioning)"] == "holds"
    assert verdicts["MusicLM is ahead of retrieval on KLD"] == "holds"
    assert verdicts["MusicLM is ahead of spectrogram diffusion on KLD"] == "not measured"
    assert verdicts["The semantic stage improves KLD"] == "not measured"
    assert verdicts["Approximate matches rise with T"] == "not measured"
    assert verdicts["Music that shares semantic tokens keeps the melody"] == "holds"
    assert {"musiclm", "retrieval", "other real pieces", "codec", "noise at 0 dB"} == set(
        figures["scores"]["rows"]
    )
    text = (output / "report.md").read_text()
    page = (output / "report.html").read_text()
    assert "not measured" in text
    # The stand-in for retrieval plays the flute whatever it is asked for.
    assert "Read with care what is said of retrieval:" in text
    assert page.count("<audio") == 3 * 6
    assert (output / "study" / "study.json").is_file()


@pytest.mark.usefixtures("players")
def test_another_corpus_may_ask_and_be_compared_with(corpus, tmp_path):
    trained_on = write_corpus(tmp_path / "trained on", num_clips=4)
    run(corpus, tmp_path / "out")
    run(trained_on, tmp_path / "apart", test_corpus=corpus)
    plans = [read_plan(tmp_path / place / "clips" / "musiclm") for place in ("apart", "out")]
    assert plans[0] == plans[1]


def test_a_resumed_report_makes_nothing_again_and_is_the_same(corpus, players, tmp_path):
    output = tmp_path / "out"
    run(corpus, output)
    first = (output / "report.json").read_text()
    asked = len(players["musiclm"].asked)
    (output / "clips" / "musiclm" / "0003.wav").unlink()
    run(corpus, output)
    assert (output / "report.json").read_text() == first
    assert len(players["musiclm"].asked) == asked + 1


@pytest.mark.usefixtures("players")
def test_listeners_join_the_report_and_their_study_is_kept(corpus, tmp_path, capsys):
    output = tmp_path / "out"
    figures = run(corpus, output)
    verdicts = {finding["claim"]: finding["verdict"] for finding in figures["findings"]}
    assert verdicts["Listeners prefer MusicLM to retrieval"] == "not measured"
    assert figures["listening"] is None
    assert "no study" in (output / "report.md").read_text()
    study = read_study(output / "study")
    assert set(study.conditions) == {"musiclm", "retrieval", "real"}
    store = AnswerStore(output / "study", study)
    for _ in range(2):
        session = store.begin()
        for number, trial in enumerate(store.trials(session)):
            liked = max(trial.conditions, key=("retrieval", "musiclm", "real").index)
            store.answer(session, number, (2 if trial.conditions[1] == liked else -2,))
    figures = run(corpus, output)
    verdicts = {finding["claim"]: finding["verdict"] for finding in figures["findings"]}
    assert verdicts["Listeners prefer MusicLM to retrieval"] == "holds"
    assert verdicts["Listeners prefer real music to MusicLM"] == "holds"
    assert verdicts["Listeners prefer MusicLM to spectrogram diffusion"] == "not measured"
    text = (output / "report.md").read_text()
    assert "wins [95 %]" in text
    assert "no study" not in next(line for line in text.splitlines() if "other real" in line)
    # A system that comes later is not put into a study that has answers.
    wider = write_study(
        read_plan(output / "clips" / "musiclm"),
        dict.fromkeys(("musiclm", "retrieval", "real", "late"), output / "clips" / "real"),
        output / "study",
    )
    assert "late" not in wider.conditions
    capsys.readouterr()


def test_a_report_folder_that_was_moved_can_be_served(tmp_path):
    plan = plan_for_captions(["a flute", "a cello"], clip_seconds=1.0)
    output = tmp_path / "out"
    folders = {name: output / "clips" / name for name in ("musiclm", "real")}
    for folder in folders.values():
        fill_folder(Player("any"), plan, folder)
    (tmp_path / "other").mkdir()
    made = write_study(plan, folders, output / "study")
    assert made.items[0].clips["real"] == "../clips/real/0000.wav"
    moved = tmp_path / "other" / "moved"
    output.rename(moved)
    with StudyServer(moved / "study") as server:
        assert server.study == made
    folders = {name: moved / "clips" / name for name in folders}
    assert write_study(plan, folders, moved / "study") == made


def test_a_study_of_absolute_paths_still_works_and_is_kept_once_answered(tmp_path):
    plan = plan_for_captions(["a flute", "a cello"], clip_seconds=1.0)
    folders = {name: tmp_path / "clips" / name for name in ("musiclm", "real")}
    for folder in folders.values():
        fill_folder(Player("any"), plan, folder)
    old = study_of_folders(folders, {}, reference="real", seed=plan.seed)
    assert Path(old.items[0].clips["real"]).is_absolute()
    old.write(tmp_path / "study")
    with StudyServer(tmp_path / "study") as server:
        store = server.store
        session = store.begin()
        store.answer(session, 0, (2,))
    assert write_study(plan, folders, tmp_path / "study") == old
    for name in ("", "-wal", "-shm"):
        (tmp_path / "study" / f"{STORE_NAME}{name}").unlink(missing_ok=True)
    assert write_study(plan, folders, tmp_path / "study") != old


@pytest.mark.usefixtures("players")
def test_few_captions_and_absent_systems_are_told(corpus, tmp_path):
    output = tmp_path / "out"
    verb.reproduce(output, corpus=corpus, num_captions=50, num_study=2)
    text = (output / "report.md").read_text()
    assert "12 held-out captions (50 were asked for" in text
    assert "--systems.diffusion" in text
    assert "--systems.coarse-only" in text
    verb.reproduce(tmp_path / "two", corpus=corpus, num_captions=2, num_study=2)
    assert "too few windows" not in text
    with pytest.raises(DataError, match="is no token store"):
        verb.reproduce(output, corpus=corpus, tokens=tmp_path / "nowhere")


@pytest.mark.usefixtures("players")
def test_other_captions_in_the_same_folder_are_refused(corpus, tmp_path):
    run(corpus, tmp_path / "out")
    with pytest.raises(DataError, match="another evaluation"):
        run(corpus, tmp_path / "out", seed=5)
    with pytest.raises(DataError, match="1 captions"):
        verb.reproduce(tmp_path / "out", corpus=corpus, num_captions=1)


def test_clips_of_two_systems_are_not_mixed(tmp_path):
    plan = plan_for_captions(["a flute", "a cello"], clip_seconds=1.0)
    first = Player("one")
    assert isinstance(first, System)
    fill_folder(first, plan, tmp_path)
    assert [clip.duration_seconds for clip in read_folder(plan, tmp_path)] == [1.0, 1.0]
    fill_folder(first, plan, tmp_path)
    assert first.asked == ["a flute", "a cello"]
    with pytest.raises(DataError, match="holds clips of one"):
        fill_folder(Player("one", identity="2"), plan, tmp_path)


@pytest.mark.usefixtures("players")
def test_captions_alone_score_a_model_or_a_folder_of_clips(tmp_path, capsys):
    captions = tmp_path / "captions.csv"
    captions.write_text(
        "ytid,caption\na,a flute\nb,a cello\nc,a violin\nd,two pianos at 90 bpm\n".replace(
            "pianos", "piano players"
        )
    )
    report = tmp_path / "report.json"
    main(["evaluate", "--captions", str(captions), "--report", str(report), "--seconds", "3"])
    made = json.loads(report.read_text())
    assert set(made["rows"]) == {"musiclm"}
    assert made["clip_seconds"] == 3
    assert made["seconds_between"] is None
    assert made["rows"]["musiclm"]["similarity"]["conditioning"]["right"] == pytest.approx(1)
    assert made["rows"]["musiclm"]["fad"] == {}
    assert "too few windows" not in capsys.readouterr().out  # nothing to compare with was given
    folder = tmp_path / "mine"
    for name, lead in {"a_30_40": "flute", "b": "cello", "0002": "violin"}.items():
        tone(lead, 3.5).write(folder / f"{name}.wav")
    capsys.readouterr()
    main(["evaluate", str(folder), "--captions", str(captions), "--report", str(report)])
    mine = json.loads(report.read_text())
    assert mine["missing_clips"] == ["d"]
    assert mine["num_clips"] == 3
    assert mine["rows"]["mine"]["similarity"]["conditioning"]["difference"]["low"] > 0.5
    assert mine["clip_seconds"] == 3.5
    assert mine["seconds_between"] == [3.5, 3.5]
    out = capsys.readouterr().out
    assert "1 captions have no clip: d" in out
    assert "3 clips of 3.5 s" in out
    tone("cello", 12.04).write(folder / "b.wav")
    captions.write_text(captions.read_text() + "b,another cello\n")  # two captions of one clip
    main(["evaluate", str(folder), "--captions", str(captions), "--report", str(report)])
    assert json.loads(report.read_text())["num_clips"] == 4
    assert "4 clips of 3.5 to 12 s" in capsys.readouterr().out
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="no clip named by"):
        captions_verb.evaluate_captions(str(empty), captions=captions, report=report)


CAPTIONS = "a flute\na cello\na violin\n"


@pytest.mark.usefixtures("players")
def test_captions_alone_score_retrieval_by_its_name(corpus, players, tmp_path):
    captions, report = tmp_path / "captions.txt", tmp_path / "report.json"
    captions.write_text(CAPTIONS)
    command = ["--captions", str(captions), "--report", str(report), "--seconds", "3"]
    main(["evaluate", "retrieval", *command, "--corpus", str(corpus)])
    made = json.loads(report.read_text())
    assert set(made["rows"]) == {"retrieval"}
    assert made["judge_model"] == "fake"
    assert players["retrieval"].asked == CAPTIONS.splitlines()
    assert not players["musiclm"].asked


class Tones:
    """One window a second: how loud it is, and how bright."""

    name = "tones"
    identity = "tones"

    def embed(self, waveform: Waveform) -> torch.Tensor:
        return FakeTagger().analyse(waveform).embeddings


@pytest.mark.usefixtures("players")
def test_a_reference_gives_fad_and_beside_it_the_floor_and_the_codec(
    corpus, tmp_path, capsys, monkeypatch
):
    judges = Judges(FakeTagger(), {"conditioning": FakeMuLan()}, (Tones(),), identity="fakes")
    monkeypatch.setattr(captions_verb, "open_judges", lambda *a: replace(judges, treatments=a[-1]))
    captions, report = tmp_path / "captions.txt", tmp_path / "report.json"
    captions.write_text(CAPTIONS)
    command = ["evaluate", "--captions", str(captions), "--report", str(report), "--seconds", "3"]
    main([*command, "--reference", str(corpus)])
    rows = json.loads(report.read_text())["rows"]
    assert set(rows) == {"musiclm", "half of the reference", "half of the reference, codec"}
    fads = {name: row["fad"]["tones"] for name, row in rows.items()}
    assert fads["musiclm"]["num_reference_windows"] == 240
    assert fads["half of the reference"]["num_reference_windows"] == 120
    assert fads["half of the reference, codec"]["fad"] == fads["half of the reference"]["fad"]
    assert fads["half of the reference"]["fad"] < fads["musiclm"]["fad"]
    assert "half of the reference" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("retrieval", "give --corpus FOLDER"),
        ("no-semantic-stage", r"`musiclm train coarse-only-stage`: give --systems.coarse-only"),
        ("spectrogram-diffusion", r"`musiclm train-baseline`: give --systems.diffusion FILE"),
        ("riffusion", "published weights: give --systems.riffusion FOLDER"),
    ],
)
@pytest.mark.usefixtures("players")
def test_a_baseline_without_what_it_needs_says_what_to_give(name, line, tmp_path):
    captions = tmp_path / "captions.txt"
    captions.write_text(CAPTIONS)
    with pytest.raises(DataError, match=line):
        captions_verb.evaluate_captions(name, captions=captions, report=tmp_path / "report.json")


def test_a_folder_that_is_there_comes_before_a_baseline_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [systems.baseline_named(name) for name in systems.BASELINES] == [*systems.BASELINES]
    assert systems.baseline_named(None) is None
    assert systems.baseline_named("owner/retrieval") is None
    Path("retrieval").mkdir()
    assert systems.baseline_named("retrieval") is None


@pytest.mark.usefixtures("players")
def test_one_function_opens_the_systems_of_both_verbs(corpus, monkeypatch):
    opened: list[str] = []

    def opener(name: str) -> Any:
        return lambda *_: opened.append(name) or Player(name)

    monkeypatch.setattr(systems, "NoSemanticStage", opener("no semantic stage"))
    monkeypatch.setattr(systems, "SpectrogramDiffusionSystem", opener("spectrogram diffusion"))
    monkeypatch.setattr(systems.RiffusionSystem, "load", opener("riffusion"))
    model, folder, file = Bundle(), Corpus.open(corpus), Path("weights.safetensors")
    both = systems.open_systems(model, folder, systems.OtherSystems(diffusion=file))
    assert [system.name for system in both] == ["musiclm", "retrieval", "spectrogram diffusion"]
    everything = systems.OtherSystems(file, file, file)
    found = [system.name for system in systems.open_systems(model, folder, everything)[2:]]
    assert found == ["no semantic stage", "spectrogram diffusion", "riffusion"]
    for name, wanted in zip(systems.BASELINES[1:], found, strict=True):
        assert systems.open_baseline(name, model, None, everything).name == wanted


def test_help_names_the_verbs(capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    assert "memorization" in capsys.readouterr().out
