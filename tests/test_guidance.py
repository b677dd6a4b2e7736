"""Guidance: copies where they tell something, and parts of a prompt that are followed apart."""

import pytest
import torch

from musiclm.stages.decoding import SamplingConfig, generate
from musiclm.stages.graph.decoder import GraphDecoder
from musiclm.stages.guidance import contrasted, contrasts, with_copies
from tests.support.stages import (
    SIZE,
    STYLES,
    make_codes,
    make_layout,
    make_model,
    with_melody,
)

NUM_FRAMES = 18
MELODIC = pytest.mark.parametrize("stage", ["semantic", "coarse"])
ALL_STYLES = pytest.mark.parametrize("style", list(STYLES))


def make(stage, style="aligned"):
    layout = with_melody(make_layout(stage, STYLES[style]))
    codes = make_codes(layout, NUM_FRAMES, 3)
    return make_model(layout), {part.name: codes[part.name] for part in layout.prefixes}


def without(prefixes, *names):
    return {**prefixes, **{name: torch.full_like(prefixes[name], SIZE) for name in names}}


def said(model, prefixes, melody=None, **options):
    own = {} if melody is None else {"melody": melody}
    return generate(
        model,
        prefixes,
        NUM_FRAMES,
        sampling=SamplingConfig(guidance_of=own, **options),
        generators=[torch.Generator().manual_seed(seed) for seed in (1, 2, 3)],
    )


def chosen(prefixes, guidance, melody, layout):
    return [
        (set(copy.absent), copy.scale)
        for copy in contrasts(layout.prefixes, prefixes, guidance, {"melody": melody})
    ]


def test_copies_are_made_only_where_they_tell_something():
    model, prefixes = make("coarse")
    layout, both = model.layout, {"conditioning", "melody"}
    assert chosen(prefixes, 1.0, 1.0, layout) == []
    assert chosen(prefixes, 2.0, 2.0, layout) == [(both, 2.0)]
    assert chosen(prefixes, 2.0, 4.0, layout) == [({"melody"}, 4.0), (both, 2.0)]
    assert chosen(prefixes, 1.0, 4.0, layout) == [({"melody"}, 4.0)]
    assert chosen(prefixes, 2.0, 1.0, layout) == [({"melody"}, 1.0), (both, 2.0)]
    silent = without(prefixes, "melody")
    assert chosen(silent, 2.0, 4.0, layout) == [(both, 2.0)]
    assert chosen(silent, 1.0, 4.0, layout) == []
    plain = make_layout("fine", STYLES["aligned"])
    assert contrasts(plain.prefixes, make_codes(plain, NUM_FRAMES), 2.0, {"melody": 4.0}) == ()


def test_copies_lack_what_they_should_and_nothing_else():
    model, prefixes = make("coarse")
    copies = contrasts(model.layout.prefixes, prefixes, 2.0, {"melody": 4.0})
    rows = with_copies(model.layout.prefixes, prefixes, copies)
    for name, codes in rows.items():
        first, second, third = codes.chunk(3)
        assert torch.equal(first, prefixes[name])
        assert bool((second == SIZE).all()) == (name == "melody")
        assert bool((third == SIZE).all()) == (name in {"melody", "conditioning"})


def test_logits_move_from_the_last_copy_by_each_scale():
    given, half, none = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    logits = torch.cat([given, half, none])
    assert torch.equal(contrasted(given, ()), given)
    moved = contrasted(logits, (4.0, 2.0))
    torch.testing.assert_close(moved, none + 2 * (half - none) + 4 * (given - half))
    torch.testing.assert_close(contrasted(logits, (1.0, 1.0)), given)
    torch.testing.assert_close(contrasted(logits, (0.0, 1.0)), half)
    assert torch.equal(contrasted(logits, torch.tensor([4.0, 2.0])), moved)


@MELODIC
@ALL_STYLES
def test_a_melody_has_its_own_scale(stage, style):
    model, prefixes = make(stage, style)
    free = without(prefixes, "melody")
    greedy = {"temperature": 0.0, "guidance": 2.0}
    assert torch.equal(said(model, prefixes, 0.0, **greedy), said(model, free, **greedy))
    assert torch.equal(said(model, prefixes, 2.0, **greedy), said(model, prefixes, **greedy))
    assert torch.equal(said(model, free, 4.0, **greedy), said(model, free, **greedy))
    assert not torch.equal(said(model, prefixes, 8.0, **greedy), said(model, prefixes, **greedy))
    nothing = without(prefixes, "melody", "conditioning")
    unguided = said(model, nothing, temperature=0.0)
    assert torch.equal(said(model, prefixes, 0.0, temperature=0.0, guidance=0.0), unguided)


@MELODIC
@ALL_STYLES
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_every_loop_says_the_same(stage, style, guidance):
    native = pytest.importorskip("musiclm.stages.native.decoder")
    model, prefixes = make(stage, style)
    prefixes["melody"][0] = SIZE  # one of the batch has no tune
    expected = said(model, prefixes, 4.0, guidance=guidance)
    for decoder in (native.NativeDecoder(model, num_threads=2), GraphDecoder(model)):
        blocks = decoder.blocks(
            prefixes,
            NUM_FRAMES,
            sampling=SamplingConfig(guidance=guidance, guidance_of={"melody": 4.0}),
            generators=[torch.Generator().manual_seed(seed) for seed in (1, 2, 3)],
        )
        assert torch.equal(torch.cat(list(blocks), dim=2), expected)


@MELODIC
def test_a_batch_with_and_without_a_tune_is_its_singles(stage):
    native = pytest.importorskip("musiclm.stages.native.decoder")
    model, prefixes = make(stage)
    prefixes["melody"][1] = SIZE
    decoder = native.NativeDecoder(model)
    sampling = SamplingConfig(guidance=2.0, guidance_of={"melody": 4.0})

    def decoded(codes, seeds):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        blocks = decoder.blocks(codes, NUM_FRAMES, sampling=sampling, generators=generators)
        return torch.cat(list(blocks), dim=2)

    together = decoded(prefixes, (0, 1, 2))
    for index in range(3):
        single = {name: codes[index : index + 1] for name, codes in prefixes.items()}
        assert torch.equal(decoded(single, (index,)), together[index : index + 1])
