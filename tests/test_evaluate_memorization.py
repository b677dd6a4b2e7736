"""`musiclm evaluate memorization` on random weights: planted continuations are found."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from musiclm.cli.evaluate_memorization import store_examples
from musiclm.cli.held_out import ModelParts
from musiclm.cli.main import main
from musiclm.core.pretrained import load_weights, read_config_json, sha256_of_file
from musiclm.data.manifest import Caption, Labels, Split
from musiclm.data.token_store import StoreHeader, TokenizedClip, TokenStoreWriter
from musiclm.evaluation.memorization import MemorizationConfig, continue_examples
from musiclm.stages.decoder import make_decoder
from musiclm.stages.language_model import StageConfig, StageModel
from tests.support.bundle import write_random_bundle

pytestmark = pytest.mark.usefixtures("unchecked")

SECONDS = 6.0  # the stage's window: 25 tokens and the 125 that follow
NUM_TRAINING = 72  # 2 x 72 x 71 wrong pairs are more than the 10,000 that are needed
NUM_HELD_OUT = 2
PLANTED = (0, 40, 71)


@pytest.fixture(scope="module")
def parts(tmp_path_factory, unchecked) -> ModelParts:
    folder = tmp_path_factory.mktemp("memorization") / "model"
    return ModelParts(str(write_random_bundle(folder)), "cpu")


def random_clip(parts: ModelParts, number: int, split: Split) -> TokenizedClip:
    draw = np.random.default_rng(number)
    semantic, acoustic = parts.semantic.token_spec, parts.codec.token_spec
    embedding = draw.normal(size=(1, parts.conditioner.mulan.config.embedding_dim))
    return TokenizedClip(
        clip_id=f"{split}-{number}",
        split=split,
        duration_seconds=SECONDS,
        captions=(Caption(text="a piano", kind="sentence"),),
        labels=Labels(melody_cluster=f"{split}-{number}"),
        semantic=_codes(draw, semantic.codebook_size, (1, semantic.num_frames(SECONDS))),
        acoustic=_codes(
            draw,
            acoustic.codebook_size,
            (acoustic.num_quantizers, acoustic.num_frames(SECONDS)),
        ),
        embeddings=(embedding / np.linalg.norm(embedding)).astype(np.float16),
    )


def _codes(draw: np.random.Generator, size: int, shape: tuple[int, int]) -> np.ndarray:
    return draw.integers(0, size, shape).astype(np.uint16)


def write_store(folder: Path, parts: ModelParts, clips: list[TokenizedClip], **hashes: str) -> Path:
    header = StoreHeader(
        semantic=parts.semantic.token_spec,
        acoustic=parts.codec.token_spec,
        embedding_dim=parts.conditioner.mulan.config.embedding_dim,
        weight_hashes=hashes,
    )
    with TokenStoreWriter(folder, header) as writer:
        for clip in clips:
            writer.add(clip)
    return folder


@pytest.fixture(scope="module")
def clips(parts) -> list[TokenizedClip]:
    training = [random_clip(parts, number, "train") for number in range(NUM_TRAINING)]
    return training + [random_clip(parts, n, "validation") for n in range(NUM_HELD_OUT)]


@pytest.fixture(scope="module")
def planted(parts, clips, tmp_path_factory) -> Path:
    """A store in which some training clips are what the stage says by itself."""
    base = tmp_path_factory.mktemp("stores")
    plain = write_store(base / "plain", parts, clips)
    examples = store_examples(parts, plain, "train", NUM_TRAINING, SECONDS)
    assert examples is not None
    path = parts.path("semantic_stage")
    stage = StageModel(StageConfig.from_json(read_config_json(path)))
    load_weights(stage, path)
    frames = parts.semantic.token_spec.num_frames(SECONDS)
    whole = MemorizationConfig(continuation_frames=frames)
    said = continue_examples(make_decoder(stage.prepare_for_decoding()), examples, 0, whole)
    changed = list(clips)
    for number in PLANTED:
        own = said.generated[number : number + 1].numpy().astype(np.uint16)
        changed[number] = replace(clips[number], semantic=own)
    hashes = {part: sha256_of_file(parts.path(part)) for part in ("semantic", "mulan")}
    return write_store(base / "planted", parts, changed, **hashes)


def command(parts: ModelParts, tokens: Path, report: Path, num_examples: int) -> list[str]:
    return [
        "evaluate", "memorization", str(parts.folder), "--tokens", str(tokens),
        "--report", str(report), "--num-examples", str(num_examples), "--device", "cpu",
    ]  # fmt: skip


def test_planted_clips_are_found_and_the_curves_are_written(parts, planted, tmp_path, capsys):
    report = tmp_path / "report.json"
    main(command(parts, planted, report, NUM_TRAINING))
    found = json.loads(report.read_text())
    assert found["measured"] == "memorization"
    assert found["weights_sha256"]["semantic_stage"] == sha256_of_file(parts.path("semantic_stage"))
    assert found["num_examples"] == {"training": NUM_TRAINING, "held out": NUM_HELD_OUT}
    assert found["threshold"]["num_negatives"] == 2 * NUM_TRAINING * (NUM_TRAINING - 1)
    for name, exact in {"training": len(PLANTED) / NUM_TRAINING, "held out": 0.0}.items():
        points = found["curves"][name]
        assert [point["prompt_frames"] for point in points] == [0, 25]  # what the window lets in
        assert [point["exact"]["mean"] for point in points] == pytest.approx([exact, exact])
    assert report.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "held out" in capsys.readouterr().out


def test_a_store_of_other_tokenizers_and_too_few_examples_are_told(
    parts, clips, planted, tmp_path, capsys
):
    report = tmp_path / "report.json"
    other = write_store(tmp_path / "other", parts, clips[-3:], semantic="ab")
    for tokens, num_examples, line in (
        (other, 2, "tokens of another semantic model"),
        (planted, 3, "12 negative pairs cannot show a rate below 0.0001"),
        (planted, 1, "1 examples"),
        (tmp_path / "nowhere", 2, "is no token store"),
    ):
        with pytest.raises(SystemExit):
            main(command(parts, tokens, report, num_examples))
        assert line in capsys.readouterr().err
    assert not report.exists()
