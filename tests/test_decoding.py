"""Decoding: cached equals recomputed, batch equals singles, streamed equals whole, always legal."""

from functools import partial
from typing import Any

import pytest
import torch

from musiclm.core.errors import ConfigError, PromptError
from musiclm.stages.decoding import SamplingConfig, generate, generate_frames, sample_codes
from tests.support.stages import SIZE, STYLES, Positions, make_codes, make_layout, make_model

STAGES = pytest.mark.parametrize("stage", ["semantic", "coarse", "fine"])
ALL_STYLES = pytest.mark.parametrize("style", list(STYLES))
NUM_FRAMES = 8


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def make(stage, style, positions: Positions = "rotary"):
    layout = make_layout(stage, STYLES[style])
    codes = make_codes(layout, NUM_FRAMES)
    return make_model(layout, positions), {part.name: codes[part.name] for part in layout.prefixes}


def recomputed_greedily(model, prefixes, known=None):
    """The likeliest codes, running the whole model anew for each step."""
    target = model.layout.target
    num_known = 0 if known is None else known.shape[2]
    codes = torch.zeros(2, target.spec.num_quantizers, NUM_FRAMES, dtype=torch.long)
    if known is not None:
        codes[:, :, :num_known] = known
    for step in range(model.pattern.num_steps(NUM_FRAMES)):
        states = model.target_states({**prefixes, target.name: codes})[:, step]
        for level in model.pattern.levels_at(step, NUM_FRAMES, num_known):
            is_delay = target.pattern == "delay"
            frame = step - level if is_delay else model.pattern.frame_of(step)
            logits = model.level_logits(states, range(level, level + 1))[:, 0]
            codes[:, level, frame] = logits.argmax(-1)
    return codes


@STAGES
@ALL_STYLES
@pytest.mark.parametrize("positions", ["rotary", "relative_bias"])
@torch.inference_mode()
def test_cached_equals_full_recomputation(stage, style, positions):
    model, prefixes = make(stage, style, positions)
    greedy = SamplingConfig(temperature=0)
    codes = generate(model, prefixes, NUM_FRAMES, sampling=greedy, generators=generators(0, 0))
    assert torch.equal(codes, recomputed_greedily(model, prefixes))
    known = codes[:, :, :3].flip(0)
    continued = generate(
        model,
        prefixes,
        NUM_FRAMES,
        sampling=greedy,
        generators=generators(0, 0),
        known_target=known,
    )
    assert torch.equal(continued, recomputed_greedily(model, prefixes, known))


@STAGES
@ALL_STYLES
def test_batch_equals_singles_and_codes_are_legal(stage, style):
    model, prefixes = make(stage, style)
    sampling = SamplingConfig(temperature=1.5)
    both = generate(model, prefixes, NUM_FRAMES, sampling=sampling, generators=generators(3, 4))
    target = model.layout.target.spec
    assert both.shape == (2, target.num_quantizers, NUM_FRAMES)
    assert int(both.min()) >= 0
    assert int(both.max()) < target.codebook_size
    for index, seed in enumerate((3, 4)):
        single = {name: codes[index : index + 1] for name, codes in prefixes.items()}
        alone = generate(model, single, NUM_FRAMES, sampling=sampling, generators=generators(seed))
        assert torch.equal(alone, both[index : index + 1])


@STAGES
@ALL_STYLES
@pytest.mark.parametrize("num_known", [0, 1, 5])
def test_streamed_equals_whole_and_keeps_what_is_known(stage, style, num_known):
    model, prefixes = make(stage, style)
    known = make_codes(model.layout, NUM_FRAMES, seed=9)[model.layout.target.name][:, :, :num_known]
    options: Any = {"sampling": SamplingConfig(), "known_target": known if num_known else None}
    whole = generate(model, prefixes, NUM_FRAMES, generators=generators(1, 2), **options)
    assert torch.equal(whole[:, :, :num_known], known)
    frames = generate_frames(model, prefixes, NUM_FRAMES, generators=generators(1, 2), **options)
    streamed = torch.stack(list(frames), dim=2)
    assert torch.equal(streamed, whole[:, :, num_known:])


@ALL_STYLES
def test_seeds_decide(style):
    model, prefixes = make("coarse", style)
    pieces = [
        generate(model, prefixes, NUM_FRAMES, sampling=SamplingConfig(), generators=generators(*s))
        for s in [(1, 2), (1, 2), (1, 3)]
    ]
    assert torch.equal(pieces[0], pieces[1])
    assert torch.equal(pieces[0][0], pieces[2][0])
    assert not torch.equal(pieces[0][1], pieces[2][1])


def test_everything_known_leaves_nothing_to_do():
    model, prefixes = make("coarse", "aligned")
    known = make_codes(model.layout, NUM_FRAMES)["coarse"]
    codes = generate(
        model,
        prefixes,
        NUM_FRAMES,
        sampling=SamplingConfig(),
        generators=generators(1, 2),
        known_target=known,
    )
    assert torch.equal(codes, known)


def test_sampled_frequencies_follow_the_softmax():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0]).expand(1, 20_000, 4)
    chosen = sample_codes(logits, SamplingConfig(temperature=0.5), generators(0))
    frequencies = torch.bincount(chosen.flatten(), minlength=4) / 20_000
    torch.testing.assert_close(frequencies, (logits[0, 0] / 0.5).softmax(0), atol=0.015, rtol=0)
    chosen = sample_codes(logits, SamplingConfig(top_k=2), generators(0))
    assert set(chosen.flatten().tolist()) == {0, 1}


@ALL_STYLES
@torch.inference_mode()
def test_guidance_contrasts_with_absence(style):
    """Scale 0 is generation without conditioning; scale 1 is plain generation."""
    model, prefixes = make("semantic", style)
    absent = {"conditioning": torch.full_like(prefixes["conditioning"], SIZE)}

    def greedy(codes, guidance):
        sampling = SamplingConfig(temperature=0, guidance=guidance)
        return generate(model, codes, NUM_FRAMES, sampling=sampling, generators=generators(0, 0))

    assert torch.equal(greedy(prefixes, 0.0), greedy(absent, 1.0))
    assert torch.equal(greedy(prefixes, 1.0 + 1e-6), greedy(prefixes, 1.0))
    assert not torch.equal(greedy(prefixes, 8.0), greedy(prefixes, 1.0))


def test_misfits_are_refused():
    model, prefixes = make("coarse", "paper")
    ask = partial(generate, model, sampling=SamplingConfig())
    with pytest.raises(PromptError, match="2 samples of 'conditioning' codes but 1 generators"):
        ask(prefixes, 4, generators=generators(1))
    with pytest.raises(PromptError, match="0 frames"):
        ask(prefixes, 0, generators=generators(1, 2))
    with pytest.raises(ConfigError, match="reads 'conditioning' codes"):
        ask({}, 4, generators=generators(1, 2))
    known = torch.zeros(2, 2, 6, dtype=torch.long)
    with pytest.raises(PromptError, match="6 known"):
        ask(prefixes, 4, generators=generators(1, 2), known_target=known)


@ALL_STYLES
@torch.inference_mode()
def test_memory_turned_for_decoding_changes_nothing(style):
    model, prefixes = make("coarse", style)
    codes = {**prefixes, "coarse": make_codes(model.layout, NUM_FRAMES)["coarse"]}
    before, state = (
        model.target_states(codes),
        {k: v.clone() for k, v in model.state_dict().items()},
    )
    model.prepare_for_decoding()
    torch.testing.assert_close(model.target_states(codes), before, atol=1e-5, rtol=1e-5)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
