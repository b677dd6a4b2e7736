"""Baselines: retrieval finds the music its words name; the ablation is whole and repeatable."""

import pytest
import torch

from musiclm.baselines.acoustic import acoustic_codes, coarse_codes
from musiclm.baselines.retrieval import RetrievalBaseline, RetrievalConfig, cross_faded
from musiclm.core.errors import ConfigError, DataError
from musiclm.core.runtime import RandomStreams
from musiclm.data.manifest import Corpus
from musiclm.evaluation.systems import System
from musiclm.generation.prompt import GenerationSettings
from musiclm.recipes.tiny import tiny
from musiclm.stages.decoder import make_decoder
from musiclm.stages.extension import melody_segment, with_segment
from musiclm.stages.layout import coarse_layout
from musiclm.tokens.spec import TokenSpec
from tests.support.corpus import write_corpus
from tests.support.stages import COARSE, CONDITIONING, PAPER, SEMANTIC, make_layout, make_model


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    return Corpus.open(write_corpus(tmp_path_factory.mktemp("corpus"), num_clips=10, seconds=4.0))


def test_retrieval_plays_training_clips_that_the_words_name(corpus):
    baseline = RetrievalBaseline(corpus)
    assert isinstance(baseline, System)
    leads = {clip.clip_id: clip.labels.lead for clip in corpus.clips}
    splits = {clip.clip_id: clip.split for clip in corpus.clips}
    found = baseline.nearest("a violin that plays alone", 2)
    assert {leads[clip_id] for clip_id in found} == {"violin"}
    everything = baseline.nearest("a violin", 10)
    assert {splits[clip_id] for clip_id in everything} == {"train"}


def test_retrieval_has_the_asked_length_and_follows_the_seed(corpus):
    baseline = RetrievalBaseline(corpus, RetrievalConfig(num_candidates=3, fade_seconds=0.25))
    first, again, other = baseline.generate(["solo flute"] * 3, [1, 1, 2], 5.0)
    assert first.duration_seconds == 5.0
    assert torch.equal(first.samples, again.samples)
    assert not torch.equal(first.samples, other.samples)
    assert baseline.identity == RetrievalBaseline(corpus, baseline._config).identity
    assert baseline.identity != RetrievalBaseline(corpus).identity


def test_retrieval_needs_captions(corpus):
    bare = Corpus(corpus.folder, tuple(c.model_copy(update={"captions": ()}) for c in corpus.clips))
    with pytest.raises(DataError, match="no captioned training clips"):
        RetrievalBaseline(bare)


def test_cross_fades_keep_power_and_ends():
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 40_000, generator=generator)
    whole = cross_faded([one, other], 10_000)
    assert len(whole) == 70_000
    assert torch.equal(whole[:30_000], one[:30_000])
    assert torch.equal(whole[-30_000:], other[-30_000:])
    assert float(whole[30_000:40_000].std()) == pytest.approx(1, abs=0.05)
    assert torch.equal(cross_faded([one, other], 0), torch.cat([one, other]))
    with pytest.raises(DataError, match="shorter than the cross-fade"):
        cross_faded([one[:5], other], 10)


@pytest.fixture(scope="module")
def stages():
    """A coarse stage without semantic tokens, one with them, and a fine stage; windows of 1 s."""
    models = (
        make_model(coarse_layout(CONDITIONING, None, COARSE, PAPER)),
        make_model(make_layout("coarse", PAPER)),
        make_model(make_layout("fine", PAPER)),
    )
    return tuple(make_decoder(model) for model in models)


def codes(batch: int, frames: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        "conditioning": torch.randint(0, 20, (batch, 3, 1), generator=generator),
        "semantic": torch.randint(0, 20, (batch, 1, frames), generator=generator),
    }


@pytest.mark.parametrize("which", [0, 1])
def test_acoustic_codes_are_the_same_alone_and_in_a_batch(stages, which):
    given, settings = codes(2, 40), GenerationSettings()
    streams = [RandomStreams(seed) for seed in (5, 6)]
    both = acoustic_codes(stages[which], stages[2], given, 80, settings, streams)
    assert both.shape == (2, 5, 80)
    second = {name: value[1:] for name, value in given.items()}
    alone = acoustic_codes(stages[which], stages[2], second, 80, settings, streams[1:])
    assert torch.equal(both[1:], alone)


def test_no_more_levels_are_made_than_asked_for(stages):
    given, streams = codes(1, 40), [RandomStreams(5)]
    whole = acoustic_codes(stages[1], stages[2], given, 80, GenerationSettings(), streams)
    for num_levels in (1, 2, 4):
        settings = GenerationSettings(num_levels=num_levels)
        some = acoustic_codes(stages[1], stages[2], given, 80, settings, streams)
        assert torch.equal(some, whole[:, :num_levels])


def test_a_coarse_stage_that_reads_melodies_does_without(stages):
    plain = stages[1].model
    melody = TokenSpec(name="melody", frame_rate_hz=25, num_quantizers=2, codebook_size=8)
    generator = torch.Generator().manual_seed(0)
    melodic = make_decoder(with_segment(plain, melody_segment(melody, 2), generator))
    given, settings, streams = codes(1, 40), GenerationSettings(), [RandomStreams(5)]
    said = coarse_codes(melodic, given, 80, settings, streams)
    assert torch.equal(said, coarse_codes(stages[1], given, 80, settings, streams))


def test_a_longer_piece_begins_like_a_shorter_one(stages):
    given, settings, streams = codes(1, 60), GenerationSettings(), [RandomStreams(1)]
    short = coarse_codes(stages[1], given, 75, settings, streams)
    long = coarse_codes(stages[1], given, 100, settings, streams)
    assert torch.equal(short[:, :, :50], long[:, :, :50])


def test_a_stage_that_reads_semantic_tokens_must_get_them(stages):
    with pytest.raises(ConfigError, match="semantic"):
        coarse_codes(
            stages[1],
            {"conditioning": codes(1, 1)["conditioning"]},
            20,
            GenerationSettings(),
            [RandomStreams(0)],
        )


def test_the_ablation_is_a_recipe_whose_coarse_stage_reads_conditioning_alone():
    recipe = tiny()
    ablated = recipe.model_copy(update={"has_semantic_prefix": False})
    names = [segment.name for segment in ablated.layout("coarse").prefixes]
    assert names == ["conditioning"]
    assert [s.name for s in recipe.layout("coarse").prefixes] == ["conditioning", "semantic"]
    assert ablated.layout("semantic") == recipe.layout("semantic")


def test_semantic_tokens_change_what_is_played(stages):
    given, settings, streams = codes(1, 25), GenerationSettings(), [RandomStreams(1)]
    other = {**given, "semantic": (given["semantic"] + 7) % SEMANTIC.codebook_size}
    one = coarse_codes(stages[1], given, 50, settings, streams)
    assert not torch.equal(one, coarse_codes(stages[1], other, 50, settings, streams))
