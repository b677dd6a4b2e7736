"""The token store and its crops: what goes in comes out; crops are aligned and repeatable."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from musiclm.core.errors import ConfigError, DataError
from musiclm.data.manifest import Caption, Labels, Split
from musiclm.data.token_source import TokenCropConfig, TokenCropSource, mean_embedding
from musiclm.data.token_store import (
    StoreHeader,
    TokenizedClip,
    TokenStoreWriter,
    read_header,
    read_split,
    shard_paths,
)
from musiclm.tokens.spec import TokenSpec
from musiclm.training.task import BatchSource

HEADER = StoreHeader(
    semantic=TokenSpec(name="semantic", num_quantizers=1, codebook_size=1024, frame_rate_hz=25),
    acoustic=TokenSpec(name="acoustic", num_quantizers=3, codebook_size=65_536, frame_rate_hz=50),
    embedding_dim=4,
    weight_hashes={"codec": "ab"},
)


def clip(number: int, seconds: int, split: Split = "train") -> TokenizedClip:
    """Codes that name their own place: semantic = frame, acoustic = 1000 level + frame."""
    frames = np.arange(seconds * 25)
    embeddings = np.random.default_rng(number).normal(size=(max(seconds - 9, 1), 4))
    return TokenizedClip(
        clip_id=f"clip{number}",
        split=split,
        duration_seconds=float(seconds),
        captions=(Caption(text="soft piano", kind="tags"), Caption(text="Ode.", kind="prose")),
        labels=Labels(lead="piano", tempo_bpm=90.0 + number),
        semantic=(frames[None] % 1024).astype(np.uint16),
        acoustic=(20_000 * np.arange(3)[:, None] + np.arange(seconds * 50)).astype(np.uint16),
        embeddings=(embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(
            np.float16
        ),
    )


@pytest.fixture
def clips():
    lengths = [12, 30, 8, 15, 40, 21]
    splits: list[Split] = ["train", "train", "train", "validation", "train", "validation"]
    return [clip(i, s, split) for i, (s, split) in enumerate(zip(lengths, splits, strict=True))]


@pytest.fixture
def store(tmp_path, clips):
    with TokenStoreWriter(tmp_path / "store", HEADER, clips_per_shard=2) as writer:
        for one in clips:
            writer.add(one)
    return tmp_path / "store"


def test_what_goes_in_comes_out(store, clips):
    assert read_header(store) == HEADER
    assert len(shard_paths(store)) == 3
    loaded = read_split(store, "train")
    wanted = [one for one in clips if one.split == "train"]
    assert loaded.clip_ids == tuple(one.clip_id for one in wanted)
    for index, one in enumerate(wanted):
        ends = slice(*loaded.semantic_offsets[index : index + 2])
        assert np.array_equal(loaded.semantic[:, ends], one.semantic)
        ends = slice(*loaded.acoustic_offsets[index : index + 2])
        assert np.array_equal(loaded.acoustic[:, ends], one.acoustic)
        ends = slice(*loaded.window_offsets[index : index + 2])
        assert np.array_equal(loaded.embeddings[ends], one.embeddings)
        assert loaded.captions[index] == one.captions
        assert loaded.labels[index] == one.labels
    assert read_split(store, "test").num_clips == 0


def test_a_store_goes_on_where_it_was_cut_off(tmp_path, clips):
    def write_some():
        with TokenStoreWriter(tmp_path, HEADER, clips_per_shard=2) as writer:
            for one in clips[:3]:
                writer.add(one)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_some()
    with TokenStoreWriter(tmp_path, HEADER, clips_per_shard=2) as writer:
        assert writer.done_clip_ids == {"clip0", "clip1", "clip2"}
        for one in clips[3:]:
            writer.add(one)
    assert read_split(tmp_path, "train").clip_ids == ("clip0", "clip1", "clip2", "clip4")


def test_other_tokens_versions_and_damage_are_refused(store, tmp_path):
    other = HEADER.model_copy(update={"weight_hashes": {"codec": "cd"}})
    with pytest.raises(DataError, match="weight_hashes"):
        TokenStoreWriter(store, other)
    with pytest.raises(DataError, match="no token store"):
        read_split(tmp_path / "nothing", "train")
    shard_paths(store)[0].write_bytes(b"PAR1")
    with pytest.raises(DataError, match="damaged"):
        read_split(store, "train")
    header = json.loads((store / "store.json").read_text()) | {"format_version": 99}
    (store / "store.json").write_text(json.dumps(header))
    with pytest.raises(DataError, match="version 99"):
        read_header(store)
    (store / "store.json").write_text("[1")
    with pytest.raises(DataError, match="damaged"):
        read_header(store)


def source(store, **changes) -> TokenCropSource:
    values: dict[str, Any] = {"crop_seconds": 10.0, "batch_size": 16} | changes
    config = TokenCropConfig(**values)
    return TokenCropSource(store, config, seed=4)


def test_crops_are_aligned_and_inside_their_clip(store):
    batch = source(store).batch(3, 1)
    assert batch["semantic"].shape == (16, 1, 250)
    assert batch["acoustic"].shape == (16, 3, 500)
    assert batch["semantic"].dtype == batch["acoustic"].dtype == torch.int64
    assert batch["embedding"].dtype == torch.float32
    lengths = {"clip0": 12, "clip1": 30, "clip4": 40}
    for row, (clip_id, start) in enumerate(
        zip(batch["clip_ids"], batch["start_seconds"].tolist(), strict=True)
    ):
        assert 0 <= start <= lengths[clip_id] - 10
        frame = round(start * 25)
        assert frame == pytest.approx(start * 25)
        assert torch.equal(batch["semantic"][row, 0], torch.arange(frame, frame + 250))
        places = torch.arange(2 * frame, 2 * frame + 500)
        assert torch.equal(batch["acoustic"][row, 2], 40_000 + places)
    assert torch.allclose(batch["embedding"].norm(dim=1), torch.ones(16), atol=1e-5)


def test_batches_are_a_function_of_seed_step_and_microbatch(store):
    one, other = source(store), source(store)
    other.batch(0, 0)
    first, second = one.batch(5, 2), other.batch(5, 2)
    assert all(torch.equal(first[k], second[k]) for k in ("semantic", "acoustic", "embedding"))
    assert not torch.equal(first["start_seconds"], one.batch(5, 3)["start_seconds"])
    assert not torch.equal(first["start_seconds"], one.batch(6, 2)["start_seconds"])
    assert isinstance(one, BatchSource)


def test_every_start_is_equally_likely(store):
    crops = source(store, crop_seconds=30.0, batch_size=512)
    ids = [clip_id for step in range(4) for clip_id in crops.batch(step, 0)["clip_ids"]]
    assert set(ids) == {"clip1", "clip4"}
    assert ids.count("clip1") / len(ids) < 0.02  # 1 start of the 30 s clip, 251 of the 40 s one


def test_validation_crops_are_fixed_and_from_the_middle(store):
    batches = source(store).validation_batches()
    assert [batch["clip_ids"] for batch in batches] == [["clip3", "clip5"]]
    assert batches[0]["start_seconds"].tolist() == [2.48, 5.48]
    again = source(store).validation_batches()
    assert torch.equal(batches[0]["acoustic"], again[0]["acoustic"])
    few = source(store, batch_size=1).fixed_batches("train", 2)
    assert [batch["clip_ids"] for batch in few] == [["clip0"], ["clip1"]]


def test_crops_that_cannot_be_cut_are_refused(store):
    with pytest.raises(DataError, match=r"longest has 40.00 s"):
        source(store, crop_seconds=41.0)
    with pytest.raises(ConfigError, match="whole number of frames"):
        source(store, crop_seconds=0.05)


def test_the_embedding_is_the_mean_of_the_windows_inside():
    windows = torch.nn.functional.normalize(torch.arange(93.0).reshape(31, 3).sin(), dim=1)

    def embedding(start, crop):
        return mean_embedding(
            windows,
            start_seconds=start,
            crop_seconds=crop,
            window_seconds=10.0,
            stride_seconds=1.0,
        )

    def unit(rows):
        return torch.nn.functional.normalize(rows.mean(dim=0), dim=0)

    assert torch.allclose(embedding(4.0, 30.0), unit(windows[4:25]))  # 21 windows
    assert torch.allclose(embedding(4.2, 30.0), unit(windows[5:25]))  # 20
    assert torch.allclose(embedding(7.0, 10.0), windows[7])
    assert torch.allclose(embedding(7.6, 10.0), windows[8])  # none inside: the nearest
    assert torch.allclose(embedding(0.0, 3.0), windows[0])
    assert torch.allclose(embedding(39.0, 3.0), windows[30])
