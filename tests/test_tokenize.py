"""Tokenizing a corpus: pieces, batches and interruptions change nothing."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from musiclm.audio.waveform import Waveform
from musiclm.core.errors import ConfigError, DataError
from musiclm.data.manifest import Caption, Clip, Corpus, write_manifest
from musiclm.data.token_store import Share, read_header, read_split
from musiclm.data.tokenize import CorpusModels, TokenizeConfig, tokenize_corpus
from musiclm.tokens.spec import TokenSpec

DURATIONS = [1.0, 3.0, 3.0, 12.34, 2.0, 0.01, 11.0]


class LoudnessTokenizer:
    """The louder a frame, the higher its code; each level has half the range of the one before."""

    def __init__(self, name: str, levels: int, frame_rate_hz: int, sample_rate_hz: int) -> None:
        self.token_spec = TokenSpec(
            name=name, num_quantizers=levels, codebook_size=1024, frame_rate_hz=frame_rate_hz
        )
        self.sample_rate_hz = sample_rate_hz
        self.seen: list[tuple[int, ...]] = []

    def tokenize(self, samples: Tensor) -> Tensor:
        self.seen.append(tuple(samples.shape))
        hop = self.sample_rate_hz // self.token_spec.frame_rate_hz
        loud = samples.unflatten(1, (-1, hop)).square().mean(dim=2).sqrt()
        levels = range(self.token_spec.num_quantizers)
        return torch.stack([(loud * 1000 / 2**level).long() for level in levels], dim=1)


class LoudnessEmbedder:
    sample_rate_hz = 2000

    def embed_windows(self, samples: Tensor, *, every: int = 1) -> Tensor:
        if samples.shape[1] < 20_000:
            samples = torch.nn.functional.pad(samples, (0, 20_000 - samples.shape[1]))
        windows = samples.unfold(1, 20_000, 2000)[:, ::every]
        loud, peak = windows.square().mean(dim=2), windows.amax(dim=2)
        return torch.nn.functional.normalize(torch.stack([loud, peak], dim=2), dim=2)


def models(semantic_rate_hz: int = 2000, **changes) -> CorpusModels:
    settings: dict[str, Any] = {
        "semantic": LoudnessTokenizer("semantic", 1, 25, semantic_rate_hz),
        "acoustic": LoudnessTokenizer("acoustic", 3, 50, 2000),
        "embedder": LoudnessEmbedder(),
        "embedding_dim": 2,
        "weight_hashes": {"codec": "ab"},
    }
    return CorpusModels(**(settings | changes))


def seen_by(models: CorpusModels) -> list[list[tuple[int, ...]]]:
    """Shapes of what the semantic and the acoustic tokenizer were given."""
    return [cast(LoudnessTokenizer, one).seen for one in (models.semantic, models.acoustic)]


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    clips = []
    for number, seconds in enumerate(DURATIONS):
        time = torch.arange(round(seconds * 2000)) / 2000
        loud = 0.1 + 0.8 * torch.rand(
            len(time) // 80 + 1, generator=torch.Generator().manual_seed(number)
        )
        samples = torch.sin(900 * time) * loud.repeat_interleave(80)[: len(time)]
        Waveform(samples, 2000).write(tmp_path / "corpus" / f"{number}.wav")
        clips.append(
            Clip(
                clip_id=f"c{number}",
                path=f"{number}.wav",
                duration_seconds=seconds,
                sample_rate_hz=2000,
                split="validation" if number == 4 else "train",
                captions=(Caption(text=f"number {number}", kind="sentence"),),
            )
        )
    write_manifest(tmp_path / "corpus", clips)
    return Corpus.open(tmp_path / "corpus")


def tokens_of(folder: Path) -> tuple[Any, ...]:
    split = read_split(folder, "train")
    return split.clip_ids, split.semantic, split.acoustic, split.embeddings, split.window_offsets


def test_a_corpus_becomes_its_tokens(corpus, tmp_path):
    result = tokenize_corpus(corpus, tmp_path / "store", models(), show_progress=False)
    assert (result.num_clips, result.num_skipped) == (6, 1)
    header = read_header(tmp_path / "store")
    assert header.acoustic.num_quantizers == 3
    assert header.weight_hashes == {"codec": "ab"}
    split = read_split(tmp_path / "store", "train")
    assert split.clip_ids == ("c0", "c1", "c2", "c3", "c6")
    assert np.diff(split.semantic_offsets).tolist() == [25, 75, 75, 308, 275]
    assert np.diff(split.acoustic_offsets).tolist() == [50, 150, 150, 616, 550]
    assert np.diff(split.window_offsets).tolist() == [1, 1, 1, 3, 2]
    audio = corpus.audio(corpus.clips[3])
    expected = models().acoustic.tokenize(audio.crop(0, 616 * 40).samples[None])[0]
    assert np.array_equal(split.acoustic[:, 250 + 100 : 250 + 100 + 616], expected.numpy())
    assert split.captions[3][0].text == "number 3"
    assert read_split(tmp_path / "store", "validation").clip_ids == ("c4",)


def test_pieces_and_batches_change_nothing(corpus, tmp_path):
    tokenize_corpus(corpus, tmp_path / "whole", models(), show_progress=False)
    cut = models()
    config = TokenizeConfig(
        piece_seconds=2.0, context_seconds=0.2, batch_size=3, clips_ahead=2, clips_per_shard=2
    )
    tokenize_corpus(corpus, tmp_path / "pieces", cut, config, show_progress=False)
    for one, other in zip(
        tokens_of(tmp_path / "whole"), tokens_of(tmp_path / "pieces"), strict=True
    ):
        assert np.array_equal(one, other)
    assert isinstance(cut.acoustic, LoudnessTokenizer)
    shapes = cut.acoustic.seen
    assert max(shape[1] for shape in shapes) == round(2.4 * 2000)
    assert max(shape[0] for shape in shapes) == 3


def test_an_interrupted_corpus_goes_on(corpus, tmp_path):
    tokenize_corpus(corpus, tmp_path / "whole", models(), show_progress=False)
    config = TokenizeConfig(clips_ahead=2)
    (corpus.folder / "3.wav").rename(corpus.folder / "hidden.wav")
    with pytest.raises(Exception, match=r"3\.wav"):
        tokenize_corpus(corpus, tmp_path / "parts", models(), config, show_progress=False)
    (corpus.folder / "hidden.wav").rename(corpus.folder / "3.wav")
    result = tokenize_corpus(corpus, tmp_path / "parts", models(), config, show_progress=False)
    assert 0 < result.num_clips < 6
    for one, other in zip(
        tokens_of(tmp_path / "whole"), tokens_of(tmp_path / "parts"), strict=True
    ):
        assert np.array_equal(one, other)
    again = tokenize_corpus(corpus, tmp_path / "parts", models(), show_progress=False)
    assert again.num_clips == 0


def test_shares_fill_one_store(corpus, tmp_path):
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    tokenize_corpus(corpus, whole, models(), show_progress=False)
    for index in (1, 0):
        config = TokenizeConfig(clips_per_shard=1, share=Share(index=index, count=2))
        tokenize_corpus(corpus, shared, models(), config, show_progress=False)
        again = tokenize_corpus(corpus, shared, models(), config, show_progress=False)
        assert again.num_clips == 0
    one, other = read_split(whole, "train"), read_split(shared, "train")
    assert sorted(other.clip_ids) == sorted(one.clip_ids)
    for clip, clip_id in enumerate(one.clip_ids):
        twin = other.clip_ids.index(clip_id)
        assert np.array_equal(
            one.acoustic[:, one.acoustic_offsets[clip] : one.acoustic_offsets[clip + 1]],
            other.acoustic[:, other.acoustic_offsets[twin] : other.acoustic_offsets[twin + 1]],
        )


@pytest.mark.parametrize("text", ["2/2", "1", "a/b", "-1/2", "0/0"])
def test_a_share_that_does_not_exist_is_refused(text):
    with pytest.raises(ConfigError, match=r"[Ss]hare"):
        Share.parse(text)


def test_wider_strides_keep_every_so_many_windows(corpus, tmp_path):
    tokenize_corpus(corpus, tmp_path / "all", models(), show_progress=False)
    config = TokenizeConfig(stride_seconds=2, piece_seconds=2.0)
    tokenize_corpus(corpus, tmp_path / "few", models(), config, show_progress=False)
    every, few = read_split(tmp_path / "all", "train"), read_split(tmp_path / "few", "train")
    assert np.diff(few.window_offsets).tolist() == [1, 1, 1, 2, 1]
    start, end = every.window_offsets[3], every.window_offsets[4]
    rows = slice(few.window_offsets[3], few.window_offsets[4])
    assert np.array_equal(every.embeddings[start:end:2], few.embeddings[rows])


def test_tokenizers_of_another_rate_get_resampled_audio_of_the_same_length(corpus, tmp_path):
    tokenize_corpus(corpus, tmp_path / "store", models(1500), show_progress=False)
    split = read_split(tmp_path / "store", "train")
    assert np.diff(split.semantic_offsets).tolist() == [25, 75, 75, 308, 275]


def test_what_cannot_fit_is_refused(corpus, tmp_path):
    tokenize_corpus(corpus, tmp_path / "store", models(), show_progress=False)
    with pytest.raises(DataError, match="weight_hashes"):
        tokenize_corpus(corpus, tmp_path / "store", models(weight_hashes={}), show_progress=False)
    with pytest.raises(ConfigError, match="whole number"):
        tokenize_corpus(
            corpus,
            tmp_path / "other",
            models(),
            TokenizeConfig(piece_seconds=0.05),
            show_progress=False,
        )


def test_what_the_same_weights_made_is_copied(corpus, tmp_path):
    old = models(weight_hashes={"codec": "old", "semantic": "same", "mulan": "same"})
    new = models(weight_hashes={"codec": "new", "semantic": "same", "mulan": "same"})
    tokenize_corpus(corpus, tmp_path / "old", old, show_progress=False)
    tokenize_corpus(corpus, tmp_path / "whole", new, show_progress=False)
    fresh = models(weight_hashes=new.weight_hashes)
    tokenize_corpus(
        corpus, tmp_path / "reused", fresh, reuse=[tmp_path / "old"], show_progress=False
    )
    for one, other in zip(
        tokens_of(tmp_path / "reused"), tokens_of(tmp_path / "whole"), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert seen_by(fresh) == [[], seen_by(new)[1]]


def test_parts_can_come_from_several_stores(corpus, tmp_path):
    hashes = {"codec": "old", "semantic": "old", "mulan": "same"}
    for name in ("codec", "semantic"):
        one_new = models(weight_hashes=hashes | {name: "new"})
        tokenize_corpus(corpus, tmp_path / name, one_new, show_progress=False)
    merged = models(weight_hashes={"codec": "new", "semantic": "new", "mulan": "same"})
    stores = [tmp_path / "codec", tmp_path / "semantic"]
    tokenize_corpus(corpus, tmp_path / "merged", merged, reuse=stores, show_progress=False)
    assert seen_by(merged) == [[], []]
    tokenize_corpus(corpus, tmp_path / "whole", models(), show_progress=False)
    for one, other in zip(
        tokens_of(tmp_path / "merged"), tokens_of(tmp_path / "whole"), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_other_weights_leave_nothing_to_copy(corpus, tmp_path):
    tokenize_corpus(corpus, tmp_path / "old", models(), show_progress=False)
    other = models(weight_hashes={"codec": "other"})
    with pytest.raises(DataError, match="nothing that these weights"):
        tokenize_corpus(corpus, tmp_path / "new", other, reuse=[tmp_path / "old"])
