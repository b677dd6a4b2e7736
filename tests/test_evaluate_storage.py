"""`musiclm evaluate storage`: the same weights lose nothing, and fewer bits lose a little."""

import json
import shutil

import numpy as np
import pytest
import torch

from musiclm.audio.waveform import Waveform
from musiclm.cli.main import main
from musiclm.codec.soundstream import SoundStream, SoundStreamConfig
from musiclm.core.errors import DataError
from musiclm.core.pretrained import load_weights, read_config_json, save_weights, storage_of
from musiclm.core.runtime import Runtime
from musiclm.data.manifest import Corpus
from musiclm.data.tokenize import TokenizeConfig, tokenize_corpus
from musiclm.evaluation.storage import compare_codecs, compare_stages
from musiclm.recipes.pipeline import load_corpus_models
from musiclm.recipes.registry import load_recipe
from musiclm.stages.language_model import StageConfig, StageModel
from tests.support.bundle import write_random_bundle
from tests.support.corpus import write_corpus
from tests.support.stages import ALIGNED, PAPER, STYLES, make_codes, make_layout, make_model

pytestmark = pytest.mark.usefixtures("unchecked")
PARTS = ("semantic_stage", "coarse_stage", "fine_stage", "codec")


@pytest.fixture(scope="module")
def exact(tmp_path_factory, unchecked):
    """A model in float32, whose semantic stage may follow melodies."""
    return write_random_bundle(tmp_path_factory.mktemp("storage") / "exact")


@pytest.fixture(scope="module")
def stored(exact):
    """The same in 8-bit integers."""
    folder = shutil.copytree(exact, exact.with_name("stored"))
    for part in PARTS:
        path = folder / f"{part}.safetensors"
        text = read_config_json(path)
        if part == "codec":
            module = SoundStream(SoundStreamConfig.from_json(text))
        else:
            module = StageModel(StageConfig.from_json(text))
        load_weights(module, path)
        save_weights(module, path, config_json=text, storage="int8")
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("storage") / "corpus", seconds=6.5)


@pytest.fixture(scope="module")
def tokens(exact, corpus):
    runtime = Runtime.choose("cpu", 1)
    models = load_corpus_models(exact, runtime)
    store = corpus.with_name("tokens")
    tokenize_corpus(Corpus.open(corpus), store, models, TokenizeConfig(), device=runtime.device)
    return store


def run(model, report, *options):
    main(
        [
            *("evaluate", "storage", str(model), "--report", str(report), "--device", "cpu"),
            *("--num-crops", "2", "--num-clips", "2", "--clip-seconds", "0.5"),
            *map(str, options),
        ]
    )
    return json.loads(report.read_text())


def compare(one, other, codes):
    return compare_stages(one, other, [codes], generator=np.random.default_rng(0))


def noise(count, seed=0):
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("style", ["paper", "summed", "aligned"])
def test_losses_are_those_of_the_stage_and_the_same_weights_differ_by_nothing(style):
    layout = make_layout("coarse", STYLES[style])
    model, other = make_model(layout), make_model(layout, seed=1)
    codes = make_codes(layout, 6, batch_size=3)
    same = compare(model, model, codes)
    assert same.same_top_token.mean == 1
    assert same.kl_nats.mean == same.loss_added_nats.mean == 0
    found = compare(model, other, codes)
    with torch.no_grad():
        losses = [float(stage.loss(codes).loss) for stage in (other, model)]
    assert found.loss_nats.mean == pytest.approx(losses[0], rel=1e-5)
    assert found.exact_loss_nats.mean == pytest.approx(losses[1], rel=1e-5)
    assert found.loss_added_nats.mean == pytest.approx(losses[0] - losses[1], abs=1e-5)
    assert found.num_tokens == 3 * 2 * 6
    assert found.kl_nats.low > 0
    assert np.mean(found.level_kl_nats) == pytest.approx(found.kl_nats.mean)
    assert np.mean(found.level_same_top_token) == pytest.approx(found.same_top_token.mean)


def test_other_stages_are_not_storages_of_one_another():
    layout = make_layout("fine", PAPER)
    with pytest.raises(DataError, match="not one model in two storages"):
        compare(make_model(layout), make_model(make_layout("fine", ALIGNED)), make_codes(layout, 4))


def test_the_kind_of_storage_is_read_from_a_file(tmp_path):
    path = tmp_path / "weights.safetensors"
    for kind in ("float32", "float16", "int8"):
        save_weights(torch.nn.Linear(3, 2), path, config_json="{}", storage=kind)
        assert storage_of(path) == kind


def test_fewer_bits_cost_a_little(exact, stored, tokens, corpus, tmp_path, capsys):
    data = ("--tokens", tokens, "--corpus", corpus)
    found = run(stored, tmp_path / "a.json", "--against", exact, *data)
    assert "same top token" in capsys.readouterr().out
    assert set(found["exact_weights"]) == set(PARTS)
    assert found["not_compared"] == []
    for part in PARTS:
        small, large = found["weights"][part], found["exact_weights"][part]
        assert (small["storage"], large["storage"]) == ("int8", "float32")
        assert small["size_bytes"] < large["size_bytes"]
    for figures in found["stages"].values():
        assert figures["num_crops"] == 2
        assert 0.5 < figures["same_top_token"]["mean"] <= 1
        assert 0 < figures["kl_nats"]["mean"] < 0.1
    codec = found["codec"]
    assert codec["num_clips"] == 2
    assert 0.1 < codec["same_codes"]["mean"] <= 1
    assert -100 <= codec["si_sdr_db"]["mean"] < codec["si_sdr_of_the_same_codes_db"]["mean"] < 100
    added = codec["log_mel_db"]["mean"] - codec["exact_log_mel_db"]["mean"]
    assert codec["log_mel_added_db"]["mean"] == pytest.approx(added)


def test_single_files_are_compared_and_the_same_files_lose_nothing(exact, tokens, tmp_path):
    path = exact / "coarse_stage.safetensors"
    found = run(exact, tmp_path / "a.json", "--exact.coarse-stage", path, "--tokens", tokens)
    assert set(found["stages"]) == {"coarse_stage"}
    assert found["not_compared"] == ["semantic_stage", "fine_stage", "codec"]
    assert found["codec"] is None
    assert found["stages"]["coarse_stage"]["kl_nats"]["mean"] == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "--tokens"),
        (("--corpus", "no"), "--exact.codec"),
        (("--corpus", "no", "--exact.codec", "no.safetensors"), "no is no corpus"),
        (("--corpus", "CORPUS", "--exact.codec", "no.safetensors"), "No weights at"),
        (("--corpus", "CORPUS", "--exact.codec", "STAGE"), "SoundStreamConfig"),
        (("--tokens", "no", "--against", "STORED", "--num-crops", "1"), "at least 2"),
        (("--tokens", "no", "--against", "STORED", "--batch", "0"), "at least 2"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    exact, stored, corpus, tmp_path, options, said, capsys
):
    places = {"CORPUS": corpus, "STORED": stored, "STAGE": exact / "fine_stage.safetensors"}
    with pytest.raises(SystemExit) as stop:
        run(stored, tmp_path / "a.json", *(places.get(option, option) for option in options))
    assert stop.value.code == 2
    assert said in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "a.json").exists()


def test_the_same_sound_is_heard_in_another_rate():
    """A clip of another rate than the codec's is resampled once, for both."""
    codec = SoundStream(load_recipe("tiny").codec.task.codec).eval()
    clips = [Waveform(0.1 * noise(8_000, seed), 16_000) for seed in (0, 1)]
    found = compare_codecs(codec, codec, clips, generator=np.random.default_rng(0))
    assert found.same_codes.mean == 1
    assert found.si_sdr_db.mean == found.si_sdr_of_the_same_codes_db.mean == 100
    assert found.log_mel_added_db.mean == 0
    with pytest.raises(DataError, match="at least 2 clips"):
        compare_codecs(codec, codec, clips[:1], generator=np.random.default_rng(0))
