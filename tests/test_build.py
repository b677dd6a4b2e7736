"""`musiclm build` with its melody part: what is trained, and what is not trained again."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from musiclm.audio.waveform import Waveform
from musiclm.cli.main import main
from musiclm.core.pretrained import sha256_of_file
from musiclm.core.runtime import Runtime
from musiclm.data.melody.line import Line
from musiclm.data.melody.tokens import has_melody_tokens
from musiclm.data.melody.voices import sing
from musiclm.recipes.melody import reads_melody
from musiclm.recipes.pipeline import build_model
from musiclm.recipes.registry import load_recipe
from tests.support.corpus import tune_notes, write_corpus


def build(base: Path, *, corpus="corpus", recipe=None) -> list[str]:
    """Builds `base/model` with `base/work`, and gives what was said."""
    said: list[str] = []
    build_model(
        recipe or load_recipe("tiny"),
        base / corpus,
        base / "work",
        base / "model",
        runtime=Runtime.choose("cpu", 1),
        say=said.append,
    )
    return said


@pytest.fixture(scope="module")
def base(tmp_path_factory, unchecked):
    """A tiny model of a corpus with notes, built once."""
    base = tmp_path_factory.mktemp("build")
    write_corpus(base / "corpus", has_notes=True)
    said = build(base)
    trained = [line.split(":")[0] for line in said if line.endswith(": training")]
    assert trained == [
        *(
            "codec",
            "codec-decoder",
            "semantic",
            "mulan",
            "melody",
            "semantic-stage",
            "melody-stage",
        ),
        *("coarse-stage", "melody-coarse-stage", "fine-stage"),
    ]
    return base


@pytest.fixture
def plain(base, tmp_path):
    """A copy of the model and its tokens, as they were without melody."""
    shutil.copytree(base / "model", tmp_path / "model")
    shutil.copytree(base / "work" / "tokens", tmp_path / "work" / "tokens")
    (tmp_path / "model" / "melody.safetensors").unlink()
    (tmp_path / "work" / "tokens" / "melody.safetensors").unlink()
    for name in ("semantic", "coarse"):
        stage = base / "work" / "runs" / f"{name}-stage" / "last.safetensors"
        shutil.copy(stage, tmp_path / "model" / f"{name}_stage.safetensors")
    return tmp_path


@pytest.fixture
def hum(tmp_path):
    """A hummed tune, as a microphone gives it."""
    line = Line.from_notes(tune_notes(3, 4.0))
    samples = sing(np.random.default_rng(1), line, 4.0, "whistle", 16_000)
    Waveform(torch.from_numpy(samples), 16_000).write(tmp_path / "hum.wav")
    return tmp_path / "hum.wav"


def modified(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}


def test_the_model_reads_melodies_and_the_store_holds_them(base):
    model = base / "model"
    for name in ("semantic", "coarse"):
        assert reads_melody(model / f"{name}_stage.safetensors")
        assert not reads_melody(base / "work" / "runs" / f"{name}-stage" / "last.safetensors")
    assert has_melody_tokens(base / "work" / "tokens", sha256_of_file(model / "melody.safetensors"))


def test_nothing_is_done_twice(base):
    before = modified(base)
    said = build(base)
    assert said == ["tokenizing the corpus", f"{base / 'model'}: the model is whole"]
    assert modified(base) == before


def test_music_follows_a_hummed_file(base, hum, tmp_path):
    out = tmp_path / "out.wav"
    main(
        [
            *("generate", "solo flute", "--melody", str(hum), "--duration", "2"),
            *("--output", str(out), "--model", str(base / "model"), "--device", "cpu"),
        ]
    )
    music = Waveform.read(out)
    assert music.num_samples == 48_000
    assert bool(torch.isfinite(music.samples).all())
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["request"]["melody"]["sha256"] == sha256_of_file(hum)


def test_the_part_alone_by_its_commands_is_complete_already(base, capsys):
    arguments = [str(base / "corpus"), str(base / "work" / "tokens")]
    before = modified(base / "model")
    main(["tokenize-melody", *arguments, "--model", str(base / "model")])
    assert "10 melodies" in " ".join(capsys.readouterr().err.split())
    assert modified(base / "model") == before


def test_a_plain_model_learns_to_follow_melodies_later(base, plain):
    shutil.copytree(base / "corpus", plain / "corpus")
    trained = [line for line in build(plain) if line.endswith(": training")]
    names = ("melody", "melody-stage", "melody-coarse-stage")
    assert trained == [f"{name}: training" for name in names]
    assert reads_melody(plain / "model" / "semantic_stage.safetensors")
    assert reads_melody(plain / "model" / "coarse_stage.safetensors")


def test_a_corpus_without_notes_gives_a_model_without_melody_and_says_so_once(plain):
    write_corpus(plain / "bare")
    (plain / "model" / "semantic_stage.safetensors").unlink()
    said = build(plain, corpus="bare")
    assert len([line for line in said if "does not know its notes" in line]) == 1
    assert [line for line in said if line.endswith(": training")] == ["semantic-stage: training"]
    assert not (plain / "model" / "melody.safetensors").exists()
    assert not reads_melody(plain / "model" / "semantic_stage.safetensors")


def test_a_recipe_may_leave_melody_out(base, plain):
    shutil.copytree(base / "corpus", plain / "corpus")
    recipe = load_recipe("tiny").model_copy(update={"has_melody": False})
    assert not [
        line for line in build(plain, recipe=recipe) if "training" in line or "note" in line
    ]
    assert not (plain / "model" / "melody.safetensors").exists()
