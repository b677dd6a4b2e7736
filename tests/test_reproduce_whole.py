"""The whole evaluation on the tiny recipe: every system, every section, and again for nothing."""

import json

import pytest

from musiclm.cli.main import main
from musiclm.core.pretrained import load_weights, read_config_json, save_weights
from musiclm.core.runtime import Runtime
from musiclm.recipes.components import component_run
from musiclm.recipes.pipeline import build_model
from musiclm.recipes.registry import load_recipe
from musiclm.stages.language_model import StageConfig, StageModel
from musiclm.training.trainer import LAST_NAME, train
from tests.support.corpus import write_corpus

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory, unchecked):
    """A tiny corpus, model and token store, and the coarse stage without semantic tokens."""
    base = tmp_path_factory.mktemp("chain")
    corpus = write_corpus(base / "corpus", num_clips=20, seconds=12.0)
    runtime, recipe = Runtime.choose("cpu", 1), load_recipe("tiny")
    build_model(recipe, corpus, base / "work", base / "model", runtime=runtime)
    tokens = base / "work" / "tokens"
    run = component_run(recipe, "coarse-only-stage", tokens, base / "model")
    train(run.task, run.source, run.trainer, base / "coarse-only", runtime=runtime)
    weights = base / "coarse-only" / LAST_NAME
    stage = StageModel(StageConfig.from_json(read_config_json(weights)))
    load_weights(stage, weights)
    save_weights(stage, base / "coarse_only.safetensors", config_json=read_config_json(weights))
    return base


def test_the_paper_in_miniature_from_a_corpus_to_a_page(made):
    pytest.importorskip("diffusers", reason="diffusers is not installed")
    output = made / "report"
    main(
        [
            "train-baseline", str(made / "corpus"), "--run-folder", str(made / "diffusion"),
            "--num-steps", "2", "--batch", "2", "--device", "cpu", "--threads", "1",
        ]
    )  # fmt: skip
    command = [
        "reproduce", str(output), "--corpus", str(made / "corpus"), "--model", str(made / "model"),
        "--tokens", str(made / "work" / "tokens"), "--num-captions", "2", "--num-study", "2",
        "--device", "cpu", "--systems.coarse-only", str(made / "coarse_only.safetensors"),
        "--systems.diffusion", str(made / "diffusion" / "last.safetensors"),
        "--judges.judge", str(made / "model" / "mulan.safetensors"),
    ]  # fmt: skip
    main(command)
    figures = json.loads((output / "report.json").read_text())
    rows = figures["scores"]["rows"]
    assert {"musiclm", "retrieval", "no semantic stage", "spectrogram diffusion"} < set(rows)
    assert set(rows["musiclm"]["similarity"]) == {"conditioning", "independent"}
    verdicts = {finding["claim"]: finding["verdict"] for finding in figures["findings"]}
    assert verdicts["The semantic stage improves MCC (independent)"] != "not measured"
    assert verdicts["MusicLM is ahead of spectrogram diffusion on KLD"] != "not measured"
    assert verdicts["Approximate matches rise with T"] == "not measured"  # a tiny store
    assert "Not measured." in (output / "report.md").read_text()
    page = (output / "report.html").read_text()
    assert page.count("<audio") == 2 * 5
    main(command)
    assert json.loads((output / "report.json").read_text()) == figures
