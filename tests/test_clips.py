"""Crops: pure functions of the step, cut where they say, cached or not."""

import math

import numpy as np
import pytest
import soundfile
import torch

from musiclm.core.errors import DataError
from musiclm.data.clips import CropSource, CropSourceConfig
from musiclm.data.manifest import Clip, Corpus, Split, write_manifest

RATE = 24_000


@pytest.fixture
def corpus(tmp_path):
    random = np.random.default_rng(0)
    clips = []
    shapes: list[tuple[int, float, Split]] = [
        (RATE, 2.0, "train"),
        (RATE, 0.3, "train"),
        (48_000, 1.0, "train"),
        (RATE, 1.5, "validation"),
    ]
    for number, (rate, seconds, split) in enumerate(shapes):
        data = random.uniform(-0.5, 0.5, int(rate * seconds)).astype(np.float32)
        soundfile.write(tmp_path / f"{number}.wav", data, rate, subtype="PCM_16")
        clips.append(
            Clip(clip_id=str(number), path=f"{number}.wav", duration_seconds=seconds,
                 sample_rate_hz=rate, split=split)
        )  # fmt: skip
    write_manifest(tmp_path, clips)
    return Corpus.open(tmp_path)


def source(corpus, **changes):
    return CropSource(corpus, CropSourceConfig(crop_seconds=0.5, batch_size=4, **changes), seed=3)


def test_batches_are_a_pure_function_of_the_step(corpus):
    first, second = source(corpus), source(corpus)
    second.batch(0, 0)
    assert torch.equal(first.batch(7, 1)["samples"], second.batch(7, 1)["samples"])
    assert not torch.equal(first.batch(7, 1)["samples"], first.batch(7, 0)["samples"])
    other_rank = CropSource(corpus, first.config, seed=3, rank=1)
    assert not torch.equal(first.batch(7, 1)["samples"], other_rank.batch(7, 1)["samples"])


def test_crops_hold_the_audio_they_name(corpus):
    for step in range(4):
        batch = source(corpus).batch(step, 0)
        assert batch["samples"].shape == (4, RATE // 2)
        assert batch["samples"].dtype == torch.float32
        for row, clip, start in zip(
            batch["samples"], batch["clips"], batch["start_seconds"], strict=True
        ):
            if clip.sample_rate_hz == RATE:
                whole = corpus.audio(clip)
                expected = whole.crop(round(float(start) * RATE), RATE // 2).samples
                assert torch.equal(row, expected)


def test_cache_changes_nothing(corpus):
    uncached, cached = source(corpus).batch(5, 0), source(corpus, cache_hours=1.0).batch(5, 0)
    same_rate = [clip.sample_rate_hz == RATE for clip in uncached["clips"]]
    assert uncached["clip_ids"] == cached["clip_ids"]
    assert any(same_rate)
    assert torch.equal(uncached["samples"][same_rate], cached["samples"][same_rate])


def test_gain_and_peak(corpus):
    louder = source(corpus, gain_db_range=(6.0, 6.0), peak=0.9).batch(0, 0)["samples"]
    plain = source(corpus).batch(0, 0)["samples"]
    ratio = louder.norm(dim=1) / plain.norm(dim=1)
    assert bool((louder.abs().amax(dim=1) <= 0.9 + 1e-6).all())
    assert bool((ratio > 1).all())
    assert bool((ratio <= 10 ** (6 / 20) + 1e-3).all())


def test_validation_crops_are_fixed_and_from_the_middle(corpus):
    (batch,) = source(corpus, validation_seconds=1.0).validation_batches()
    assert batch["clip_ids"] == ["3"]
    assert math.isclose(float(batch["start_seconds"][0]), 0.25)
    (again,) = source(corpus, validation_seconds=1.0).validation_batches()
    assert torch.equal(batch["samples"], again["samples"])


def test_a_corpus_without_training_clips_is_refused(corpus):
    with pytest.raises(DataError, match="train split"):
        source(corpus.split("validation"))
