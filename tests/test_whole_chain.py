"""The tiny recipe from a corpus to music: every part trained, saved, loaded and run."""

import json
import warnings

import pytest
import torch

from musiclm.audio.waveform import Waveform
from musiclm.cli.main import main
from musiclm.codec.soundstream import SoundStream, SoundStreamConfig
from musiclm.core.errors import CheckpointError, PromptError
from musiclm.core.pretrained import load_weights, read_config_json
from musiclm.core.runtime import Runtime
from musiclm.generation.bundle import read_bundle_config, write_bundle_config
from musiclm.generation.musiclm import MusicLM
from musiclm.generation.prompt import GenerationSettings
from musiclm.generation.token_file import TokenSet
from musiclm.recipes.pipeline import build_model
from musiclm.recipes.registry import load_recipe
from tests.support.corpus import tune, write_corpus


@pytest.fixture(scope="module")
def folder(tmp_path_factory, unchecked):
    """A tiny model, built once."""
    base = tmp_path_factory.mktemp("chain")
    corpus = write_corpus(base / "corpus")
    runtime = Runtime.choose("cpu", 1)
    said: list[str] = []
    recipe = load_recipe("tiny")
    build_model(recipe, corpus, base / "work", base / "model", runtime=runtime, say=said.append)
    assert said[-1].endswith("the model is whole")
    assert len([line for line in said if "does not know its notes" in line]) == 1
    again: list[str] = []
    build_model(recipe, corpus, base / "work", base / "model", runtime=runtime, say=again.append)
    assert not [line for line in again if "training" in line]
    return base / "model"


@pytest.fixture(scope="module")
def model(folder):
    return MusicLM.from_pretrained(folder, device="cpu")


def test_a_sentence_becomes_music_of_the_asked_length(model):
    piece = model.generate("solo flute", duration_seconds=2.5, seed=3)
    assert piece.waveform.num_samples == 60_000
    assert piece.waveform.sample_rate_hz == 24_000
    assert bool(torch.isfinite(piece.waveform.samples).all())
    assert piece.tokens.semantic.numel() == 63
    assert piece.tokens.acoustic.shape == (12, 126)


def test_the_same_seed_gives_the_same_music_and_another_seed_other_music(model):
    first = model.generate("solo flute", duration_seconds=1.0, seed=3)
    again = model.generate("solo flute", duration_seconds=1.0, seed=3)
    other = model.generate("solo flute", duration_seconds=1.0, seed=4)
    assert torch.equal(first.waveform.samples, again.waveform.samples)
    assert not torch.equal(first.tokens.acoustic, other.tokens.acoustic)


def test_a_batch_equals_its_singles(model):
    settings = GenerationSettings(duration_seconds=1.0)
    batch = model.generate_batch(["solo flute", "a piano"], seeds=[3, 5], settings=settings)
    for piece in batch:
        single = model.generate(piece.prompt, seed=piece.seed, settings=settings)
        assert torch.equal(single.tokens.acoustic, piece.tokens.acoustic)


def test_the_models_own_guidance_is_taken_unless_another_is_asked_for(folder, tmp_path):
    for part in folder.iterdir():
        (tmp_path / part.name).write_bytes(part.read_bytes())
    config = read_bundle_config(tmp_path)
    own = {"guidance": 4.0, "coarse_guidance": 4.0, "melody_guidance": 6.0}
    write_bundle_config(tmp_path, config.model_copy(update=own))
    guided = MusicLM.from_pretrained(tmp_path, device="cpu")
    plain = MusicLM.from_pretrained(folder, device="cpu")
    pieces = {
        (name, guidance): model.generate(
            "solo flute", settings=GenerationSettings(duration_seconds=1.0, guidance=guidance)
        )
        for name, model in (("guided", guided), ("plain", plain))
        for guidance in (None, 1.0, 4.0)
    }
    assert pieces["guided", None].settings.guidance == 4.0
    assert pieces["plain", None].settings.guidance == 1.0
    assert pieces["guided", None].settings.melody_guidance == 6.0
    assert pieces["plain", None].settings.melody_guidance is None
    assert pieces["guided", None].settings.coarse_guidance == 4.0
    assert pieces["guided", 1.0].settings.coarse_guidance is None
    for name, own in (("guided", 4.0), ("plain", 1.0)):
        acoustic = pieces[name, None].tokens.acoustic
        assert torch.equal(acoustic, pieces["plain", own].tokens.acoustic)


def test_the_coarse_stage_may_have_its_own_guidance(model):
    def tokens(**guidance):
        settings = GenerationSettings(duration_seconds=1.0, **guidance)
        piece = model.generate("solo flute", settings=settings)
        assert model.decided(piece.settings) == piece.settings
        return piece.tokens

    both, own = tokens(guidance=4.0), tokens(guidance=4.0, coarse_guidance=8.0)
    assert torch.equal(both.semantic, own.semantic)
    assert not torch.equal(both.acoustic, own.acoustic)
    assert torch.equal(tokens(guidance=4.0, coarse_guidance=4.0).acoustic, both.acoustic)


def test_pieces_longer_than_every_window_go_on(model):
    piece = model.generate("a piano", duration_seconds=9.0, seed=1)
    assert piece.tokens.semantic.numel() == 225
    assert piece.tokens.acoustic.shape[1] == 450


def test_encode_then_decode_keeps_the_length(model, tmp_path):
    waveform, _ = tune(1, 2.013)
    tokens = model.encode(Waveform(waveform.samples[:-7], 24_000).resampled(44_100))
    tokens.write(tmp_path / "tokens.safetensors")
    read = TokenSet.read(tmp_path / "tokens.safetensors")
    assert torch.equal(read.acoustic, tokens.acoustic)
    assert torch.equal(read.semantic, tokens.semantic)
    decoded = model.decode(read, num_levels=4)
    assert decoded.num_samples == tokens.num_samples
    assert abs(decoded.num_samples - (waveform.num_samples - 7)) <= 2


def test_the_decoder_learns_on_while_the_codes_stay(folder, model, tmp_path, unchecked):
    arguments = ["--recipe", "tiny", "--model", str(folder), "--device", "cpu", "--threads", "1"]
    for steps in ("1", "2"):
        command = ["train", "codec-decoder", str(folder.parent / "corpus"), "--num-steps", steps]
        main([*command, "--run-folder", str(tmp_path / "run"), *arguments])
    weights = tmp_path / "run" / "last.safetensors"
    codec = SoundStream(SoundStreamConfig.from_json(read_config_json(weights)))
    load_weights(codec, weights)
    samples = tune(1, 2.0)[0].samples[None]
    codes = codec.eval().tokenize(samples)
    assert torch.equal(codes, model.codec.tokenize(samples))
    assert not torch.equal(codec.decode(codes), model.codec.decode(codes))


def test_unknown_words_are_told_once_and_music_comes_all_the_same(model):
    with pytest.warns(UserWarning, match="does not know"):
        piece = model.generate("静かな flute 🎹", duration_seconds=0.5)
    assert piece.unknown_words


@pytest.mark.parametrize(
    ("prompt", "seconds", "seed"),
    [("", 1.0, 0), ("a", 0.0, 0), ("a", float("nan"), 0), ("a", 10_000.0, 0), ("a", 1.0, -1)],
)
def test_impossible_requests_are_refused(model, prompt, seconds, seed):
    with pytest.raises(PromptError):
        model.generate(prompt, duration_seconds=seconds, seed=seed)


def test_the_command_writes_music_and_its_record_and_repeats_it(folder, tmp_path, capsys):
    out = tmp_path / "a.wav"
    arguments = ["--model", str(folder), "--device", "cpu"]
    main(["generate", "solo flute", "--duration", "1", "--output", str(out), *arguments])
    assert "real-time factor" in capsys.readouterr().err
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["prompt"] == "solo flute"
    again = tmp_path / "b.wav"
    main(["generate", "--from", str(out.with_suffix(".json")), "--output", str(again), *arguments])
    assert again.read_bytes() == out.read_bytes()


def test_the_command_makes_batches_with_seeds_that_count_up(folder, tmp_path):
    out = tmp_path / "a.wav"
    main(
        [
            *("generate", "a piano", "--duration", "0.5", "--batch", "2", "--seed", "7"),
            *("--output", str(out), "--model", str(folder), "--device", "cpu"),
        ]
    )
    seeds = [json.loads((tmp_path / f"a-{n}.json").read_text())["seed"] for n in (1, 2)]
    assert seeds == [7, 8]


def test_the_commands_encode_and_decode(folder, tmp_path):
    waveform, _ = tune(0, 1.0)
    waveform.write(tmp_path / "in.wav")
    tokens = tmp_path / "tokens.safetensors"
    main(["encode", str(tmp_path / "in.wav"), str(tokens), "--model", str(folder)])
    main(["decode", str(tokens), str(tmp_path / "out.wav"), "--model", str(folder)])
    assert Waveform.read(tmp_path / "out.wav").num_samples == 24_000


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate"],
        ["generate", " "],
        ["generate", "piano " * 1000],
        ["generate", "piano", "--duration", "0"],
        ["generate", "piano", "--duration", "-3"],
        ["generate", "piano", "--duration", "nan"],
        ["generate", "piano", "--duration", "10000"],
        ["generate", "piano", "--output", "music.xyz"],
        ["generate", "piano", "--batch", "0"],
        ["generate", "piano", "--model", "./nowhere"],
        ["generate", "--from", "nowhere.json"],
        ["encode", "nowhere.wav", "tokens.safetensors"],
        ["decode", "nowhere.safetensors", "out.wav"],
        ["sing"],
    ],
)
def test_bad_requests_give_one_line_and_exit_code_2(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_missing_truncated_and_foreign_parts_are_named(folder, tmp_path):
    def copy():
        broken = tmp_path / "broken"
        broken.mkdir(exist_ok=True)
        for path in folder.iterdir():
            (broken / path.name).write_bytes(path.read_bytes())
        return broken

    broken = copy()
    (broken / "codec.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"codec\.safetensors"):
        MusicLM.from_pretrained(broken)
    broken = copy()
    data = (broken / "mulan.safetensors").read_bytes()
    (broken / "mulan.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="mulan"):
        MusicLM.from_pretrained(broken).generate("piano", duration_seconds=0.5)
    broken = copy()
    (broken / "fine_stage.safetensors").write_bytes((broken / "codec.safetensors").read_bytes())
    with warnings.catch_warnings(), pytest.raises((CheckpointError, ValueError)):
        MusicLM.from_pretrained(broken).generate("piano", duration_seconds=0.5)
