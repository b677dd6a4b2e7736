"""`musiclm evaluate` with stand-ins for the models: resumes, refuses a mix, writes its report."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import musiclm.cli.evaluate as verb
from musiclm.audio.waveform import Waveform
from musiclm.core.errors import DataError, PromptError
from musiclm.core.runtime import Runtime
from musiclm.data.manifest import Caption, Clip, Labels, write_manifest
from musiclm.evaluation.analysis import Judges
from musiclm.evaluation.plan import read_plan
from musiclm.generation.bundle import BundleConfig
from musiclm.generation.musiclm import MusicLM
from musiclm.generation.prompt import GenerationSettings
from musiclm.generation.record import GenerationRecord
from tests.support.fake_judges import PITCH_OF_LEAD_HZ, FakeMuLan, FakeTagger, tone


class FakePiece:
    def __init__(self, prompt: str, seed: int, settings: GenerationSettings, sha256: str) -> None:
        lead = next(lead for lead in PITCH_OF_LEAD_HZ if lead in prompt)
        self.waveform = tone(lead, settings.duration_seconds, loudness=0.1 + seed % 7 / 50)
        self.record = GenerationRecord(
            prompt=prompt,
            seed=seed,
            settings=settings,
            model_name="fake",
            model_sha256=sha256,
            audio_sha256="",
            device="cpu",
        )

    def write(self, path: Path) -> None:
        self.waveform.write(path)
        self.record.write(path.with_suffix(".json"))


class FakeCodec(nn.Linear):
    """The identity, at 8 kHz."""

    sample_rate_hz = 8_000

    def __init__(self) -> None:
        super().__init__(1, 1)

    def tokenize(self, samples: torch.Tensor) -> torch.Tensor:
        return samples

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return codes


class FakeMusicLM(MusicLM):
    """Plays the instrument that the caption names."""

    mulan: Any = FakeMuLan()
    codec: Any = FakeCodec()
    sha256: Any = "abc"
    config: Any = BundleConfig(name="fake")

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def generate_batch(self, prompts: Any, *, seeds: Any, settings: Any = None, **_: Any) -> Any:
        self.prompts += prompts
        return [
            FakePiece(prompt, seed, self.decided(settings), self.sha256)
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]


def fake_judges(musiclm: Any, *rest: Any) -> Judges:
    spaces = {} if musiclm is None else {"conditioning": FakeMuLan()}
    return Judges(FakeTagger(), spaces, treatments=rest[-1])


@pytest.fixture
def corpus(tmp_path) -> Path:
    folder = tmp_path / "corpus"
    clips: list[Clip] = []
    for number in range(8):
        lead = list(PITCH_OF_LEAD_HZ)[number % 4]
        tone(lead, 10.0, loudness=0.1 + number / 50).write(folder / f"{number}.wav")
        clips.append(
            Clip(
                clip_id=str(number),
                path=f"{number}.wav",
                duration_seconds=10.0,
                sample_rate_hz=8_000,
                split="test",
                captions=(Caption(text=f"{lead} number {number}", kind="sentence"),),
                labels=Labels(lead=lead),
            )
        )
    write_manifest(folder, clips)
    return folder


@pytest.fixture
def model(monkeypatch) -> FakeMusicLM:
    fake = FakeMusicLM()
    monkeypatch.setattr(verb.MusicLM, "from_pretrained", lambda *_, **__: fake)
    monkeypatch.setattr(verb, "open_judges", fake_judges)
    monkeypatch.setattr(verb.Runtime, "choose", lambda *_: Runtime(torch.device("cpu"), 1))
    return fake


def test_scores_a_model_and_goes_on_where_it_was(corpus, model, tmp_path, capsys):
    report = tmp_path / "report.json"
    verb.evaluate(corpus=corpus, report=report, num_clips=4, batch=3)
    first = report.read_text()
    figures = json.loads(first)
    assert figures["model_sha256"] == "abc"
    rows = figures["rows"]
    fads = {row: scores["fad"]["musicnn"]["fad"] for row, scores in rows.items()}
    assert rows["generated"]["instruments"]["rate"] == 1.0
    assert fads["codec"] == pytest.approx(fads["other real pieces"], abs=1e-6)
    assert rows["generated"]["similarity"]["conditioning"]["difference"]["low"] > 0
    assert "musicnn-FAD" in capsys.readouterr().out
    assert len(model.prompts) == 4

    folder = tmp_path / "report-clips"
    (folder / "0002.wav").unlink()
    verb.evaluate(corpus=corpus, report=report, num_clips=4, batch=3)
    assert model.prompts[4:] == [read_plan(folder).asked[2].prompt]
    assert report.read_text() == first

    verb.evaluate(str(folder), corpus=corpus, report=tmp_path / "again.json")
    again = json.loads((tmp_path / "again.json").read_text())
    assert again["rows"]["generated"]["instruments"] == rows["generated"]["instruments"]
    assert again["rows"]["generated"]["similarity"] == {}
    assert len(model.prompts) == 5


@pytest.mark.usefixtures("model")
def test_clips_of_another_model_are_not_mixed_in(corpus, model, tmp_path):
    report = tmp_path / "report.json"
    verb.evaluate(corpus=corpus, report=report, num_clips=2)
    model.sha256 = "other"
    with pytest.raises(PromptError, match="was made with model fake"):
        verb.evaluate(corpus=corpus, report=report, num_clips=2)
    with pytest.raises(DataError, match="another evaluation"):
        verb.evaluate(corpus=corpus, report=report, num_clips=3)


@pytest.mark.usefixtures("model")
def test_clips_of_other_settings_are_not_mixed_in(corpus, tmp_path):
    report = tmp_path / "report.json"
    verb.evaluate(corpus=corpus, report=report, num_clips=2, guidance=2.0)
    assert json.loads(report.read_text())["settings"]["guidance"] == 2.0
    with pytest.raises(DataError, match="clips of other settings"):
        verb.evaluate(corpus=corpus, report=report, num_clips=2, guidance=3.0)


def test_impossible_numbers_are_refused(corpus):
    with pytest.raises(DataError, match="1 clips, 8 at once"):
        verb.evaluate(corpus=corpus, num_clips=1)


def test_the_codec_row_keeps_length_and_rate():
    reconstruct = verb.codec_treatment(FakeMusicLM())
    sound = Waveform(torch.linspace(-0.5, 0.5, 8_000), 8_000)
    assert torch.equal(reconstruct(sound).samples, sound.samples)
