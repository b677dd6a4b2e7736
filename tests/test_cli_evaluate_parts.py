"""`musiclm evaluate codec`, `semantic`, `mulan`, `stages` on random weights: what they write."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

import musiclm.cli.evaluate_codec as codec_verb
from musiclm.cli.main import main
from musiclm.codec.soundstream import SoundStream
from musiclm.conditioning.conditioner import Conditioner, ConditionerConfig
from musiclm.conditioning.mulan import MuLanConfig
from musiclm.core.errors import DependencyError
from musiclm.core.pretrained import save_weights
from musiclm.core.runtime import RandomStreams, Runtime
from musiclm.data.manifest import Caption, Corpus, Note, write_manifest
from musiclm.data.tokenize import TokenizeConfig, tokenize_corpus
from musiclm.evaluation.codec_report import CodecJudges, report_on_codec
from musiclm.evaluation.probes import PROBES
from musiclm.quantization.residual import VectorQuantizer
from musiclm.recipes.components import text_tower_config
from musiclm.recipes.pipeline import load_corpus_models
from musiclm.recipes.registry import load_recipe
from musiclm.semantic.tokenizer import SemanticTokenizer
from musiclm.stages.language_model import StageModel
from tests.support.corpus import tune, write_corpus

pytestmark = pytest.mark.usefixtures("unchecked")
STREAMS = RandomStreams(0)


def fill_codebooks(module: nn.Module) -> None:
    for name, part in module.named_modules():
        if isinstance(part, VectorQuantizer):
            book = part.codebook
            noise = torch.randn(book.shape, generator=STREAMS.generator("codebook", name))
            book.copy_(noise / math.sqrt(book.shape[1]))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, unchecked) -> Path:
    folder = write_corpus(tmp_path_factory.mktemp("evaluate") / "corpus", seconds=7.0)
    clips = [
        clip.model_copy(
            update={
                "labels": clip.labels.model_copy(update={"tempo_bpm": 60.0 + 20 * (index % 4)}),
                "melody": tuple(
                    Note(start_seconds=at / 4, end_seconds=(at + 1) / 4, pitch=60 + at % 2)
                    for at in range(28)
                ),
            }
        )
        for index, clip in enumerate(Corpus.open(folder).clips)
    ]
    write_manifest(folder, clips)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory, unchecked) -> Path:
    """The tiny recipe's parts, untrained, in a folder without a config."""
    folder = tmp_path_factory.mktemp("evaluate") / "model"
    recipe = load_recipe("tiny")
    with STREAMS.layers_draw_from("parts"):
        codec = SoundStream(recipe.codec.task.codec)
        semantic = SemanticTokenizer(recipe.semantic.tokenizer)
        text = text_tower_config(recipe, [])
        mulan = MuLanConfig(audio=recipe.mulan.audio, text=text)
        conditioner = Conditioner(ConditionerConfig(mulan=mulan, tokenizer=recipe.mulan.tokenizer))
    centroids = semantic.get_buffer("centroids")
    centroids.copy_(torch.randn(centroids.shape, generator=STREAMS.generator("centroids")))
    fill_codebooks(codec)
    fill_codebooks(conditioner)
    semantic.save(folder / "semantic.safetensors")
    conditioner.save(folder / "mulan.safetensors")
    config = recipe.codec.task.codec
    save_weights(
        codec, folder / "codec.safetensors", config_json=config.to_json(), storage="float16"
    )
    for name in ("semantic", "coarse", "fine"):
        stage = recipe.stage_task(name).stage
        weights = StageModel(stage, generator=STREAMS.generator(name))
        path = folder / f"{name}_stage.safetensors"
        save_weights(weights, path, config_json=stage.to_json(), storage="float16")
    return folder


def run(verb: str, model: Path, *options: str) -> None:
    main(["evaluate", verb, str(model), *options, "--device", "cpu"])


@pytest.mark.filterwarnings("always:.*is left out")
def test_codec_scores_each_depth_and_level_of_held_out_clips(
    corpus, model, tmp_path, monkeypatch, capsys
):
    def not_installed() -> None:
        raise DependencyError("not here")

    monkeypatch.setattr(codec_verb, "NoteListener", not_installed)
    monkeypatch.setattr(codec_verb, "Visqol", not_installed)
    monkeypatch.setattr(codec_verb.shutil, "which", lambda _: None)
    options = ["--corpus", str(corpus), "--num-clips", "2", "--clip-seconds", "1"]
    run("codec", model, *options, "--report", str(tmp_path / "one.json"))
    said = capsys.readouterr()
    assert "Note F1 is left out. not here" in said.err
    assert "not installed" in said.out
    figures = json.loads((tmp_path / "one.json").read_text())
    assert figures["split"] == "test"
    assert figures["num_clips"] == 2
    assert set(figures["codings"]) == {"12 levels", "8 levels", "4 levels"}
    assert figures["not_installed"] == ["note_f1", "visqol", "opus"]
    assert figures["codings"]["12 levels"]["visqol"] is None
    assert all(-100 <= coding["si_sdr_db"]["value"] < 100 for coding in figures["codings"].values())
    levels = figures["levels"]
    assert [level["level"] for level in levels] == list(range(1, 13))
    assert levels[7]["log_mel_db"] == figures["codings"]["8 levels"]["log_mel_db"]
    drop = levels[3]["log_mel_db"]["value"] - levels[4]["log_mel_db"]["value"]
    assert levels[4]["gain_db"]["value"] == pytest.approx(drop)
    assert all(1 <= level["perplexity"] <= figures["codebook_size"] for level in levels)
    helps = all(level["gain_db"]["value"] > 0 for level in levels[1:])
    assert figures["does_each_level_help"] is helps
    run("codec", model, *options, "--report", str(tmp_path / "two.json"))
    assert (tmp_path / "two.json").read_text() == (tmp_path / "one.json").read_text()


def test_codec_judges_are_asked_for_every_coding_and_visqol_for_the_first_clips():
    class FakeListener:
        def posteriors(self, waveform):
            return torch.ones(waveform.num_samples // 256, 88).numpy()

    class FakeVisqol:
        def score(self, reference, degraded):
            assert reference.num_samples == degraded.num_samples
            return 3.0

    codec = SoundStream(load_recipe("tiny").codec.task.codec).eval()
    fill_codebooks(codec)
    clips = [tune(index, 0.5)[0] for index in range(3)]
    judges = CodecJudges(FakeListener(), FakeVisqol(), 2)  # type: ignore[arg-type]
    report = report_on_codec(codec, clips, judges, num_levels=(12, 4, 99), opus_kbps=())
    assert set(report.codings) == {"12 levels", "4 levels"}
    for coding in report.codings.values():
        assert coding.note_f1 is not None
        assert coding.note_f1.value == 1
        assert coding.note_f1.num_clips == 3
        assert coding.visqol is not None
        assert coding.visqol.num_clips == 2
        assert coding.visqol.value == 3


def test_semantic_probes_tokens_features_and_mels(corpus, model, tmp_path):
    path = tmp_path / "semantic.json"
    run("semantic", model, "--corpus", str(corpus), "--report", str(path), "--clip-seconds", "4")
    figures = json.loads(path.read_text())
    assert set(figures["probes"]) == {"tokens", "features", "log-mel", "log-mel tokens"}
    assert set(figures["tokens_above_log_mel_tokens"]) == set(PROBES)
    assert figures["num_tokens"] == 2 * 100
    assert 1 <= figures["token_perplexity"] <= figures["num_codes_used"] + 1e-3
    for probe in PROBES:
        tokens, mel = (figures["probes"][name][probe]["accuracy"] for name in ("tokens", "log-mel"))
        gain = figures["tokens_above_log_mel"][probe]
        assert gain["mean"] == pytest.approx(tokens - mel, abs=0.05)
        assert gain["low"] <= gain["mean"] <= gain["high"]


def test_mulan_ranks_held_out_wordings(corpus, model, tmp_path):
    path = tmp_path / "mulan.json"
    run("mulan", model, "--corpus", str(corpus), "--report", str(path))
    figures = json.loads(path.read_text())
    assert figures["num_pairs"] == 2
    assert figures["has_held_out_wordings"]
    assert figures["recall_at_10"]["value"] == 1
    assert 1 <= figures["median_rank"]["value"] <= 2
    gain = figures["similarity_right"] - figures["similarity_shuffled"]
    assert gain == pytest.approx(figures["similarity_gain"]["value"])
    assert len(figures["agreement"]["right"]) == 12
    assert figures["num_levels_used"] == 3


def test_mulan_without_captions_is_one_line(corpus, model, tmp_path, capsys):
    bare = Corpus.open(corpus).clips
    write_manifest(tmp_path, [clip.model_copy(update={"captions": ()}) for clip in bare])
    with pytest.raises(SystemExit) as stopped:
        run("mulan", model, "--corpus", str(tmp_path), "--report", str(tmp_path / "no.json"))
    assert stopped.value.code == 2
    assert "0 captioned test clips" in capsys.readouterr().err
    assert not (tmp_path / "no.json").exists()


def test_stages_cost_what_their_models_say(corpus, model, tmp_path):
    runtime = Runtime.choose("cpu", 1)
    models = load_corpus_models(model, runtime)
    store, path = tmp_path / "tokens", tmp_path / "stages.json"
    opened = Corpus.open(corpus)
    tokenize_corpus(opened, store, models, TokenizeConfig(), device=runtime.device)
    run("stages", model, "--tokens", str(store), "--report", str(path), "--batch", "1")
    stages = json.loads(path.read_text())["stages"]
    assert [stages[name]["num_crops"] for name in ("semantic", "coarse", "fine")] == [2, 2, 2]
    assert stages["semantic"]["num_tokens"] == 2 * 6 * 25
    for figures, levels in zip(stages.values(), (1, 4, 8), strict=True):
        losses = figures["level_loss_nats"]
        assert len(losses) == len(figures["level_unigram_nats"]) == levels
        assert figures["loss_nats"] == pytest.approx(sum(losses) / levels, rel=1e-4)
        assert figures["unigram_nats"] <= math.log(32)
    for name in ("semantic", "coarse"):
        assert stages[name]["loss_without_conditioning_nats"] != stages[name]["loss_nats"]
        assert stages[name]["loss_with_other_conditioning_nats"] is not None
    assert stages["fine"]["loss_without_conditioning_nats"] is None
    run("stages", model, "--tokens", str(store), "--report", str(path), "--batch", "2")
    together = json.loads(path.read_text())["stages"]
    for name, figures in stages.items():
        assert together[name]["loss_nats"] == pytest.approx(figures["loss_nats"], rel=1e-4)


def test_a_missing_part_is_one_line(corpus, tmp_path, capsys):
    (tmp_path / "model").mkdir()
    with pytest.raises(SystemExit) as stopped:
        run("codec", tmp_path / "model", "--corpus", str(corpus))
    assert stopped.value.code == 2
    assert "lacks codec.safetensors" in capsys.readouterr().err


def test_validation_stands_in_for_an_empty_test_split(corpus, model, tmp_path):
    from musiclm.cli.evaluate_mulan import held_out_text
    from musiclm.cli.held_out import held_out_split

    clips = [clip for clip in Corpus.open(corpus).clips if clip.split != "test"]
    assert held_out_split(Corpus(corpus, tuple(clips))) == "validation"
    captions = (Caption(text="seen", kind="tags"), Caption(text="also seen", kind="tags"))
    assert held_out_text(clips[0], 1).startswith("quiet")
    assert held_out_text(clips[0].model_copy(update={"captions": captions}), 1) == "also seen"
