"""The compiled loop: the codes of the PyTorch loop, whatever the layout, guidance and window."""

import threading

import numpy as np
import pytest
import torch

from musiclm.core.pretrained import load_weights, save_weights
from musiclm.stages.decoder import TorchDecoder, make_decoder, why_not_compiled
from musiclm.stages.decoding import SamplingConfig, generate
from tests.support.stages import (
    SIZE,
    STYLES,
    Positions,
    make_codes,
    make_config,
    make_layout,
    make_model,
)

pytest.importorskip("numba")
from musiclm.stages.language_model import StageModel
from musiclm.stages.native import kernels
from musiclm.stages.native.decoder import NativeDecoder

STAGES = pytest.mark.parametrize("stage", ["semantic", "coarse", "fine"])
ALL_STYLES = pytest.mark.parametrize("style", list(STYLES))
NUM_FRAMES = 18
GREEDY = SamplingConfig(temperature=0)


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def make(stage, style, positions: Positions = "rotary", batch_size=3):
    layout = make_layout(stage, STYLES[style])
    codes = make_codes(layout, NUM_FRAMES, batch_size)
    return make_model(layout, positions), {part.name: codes[part.name] for part in layout.prefixes}


def decode(decoder, prefixes, num_frames=NUM_FRAMES, *, seeds=(1, 2, 3), known=None, **sampling):
    blocks = decoder.blocks(
        prefixes,
        num_frames,
        sampling=SamplingConfig(**sampling),
        generators=generators(*seeds),
        known_target=known,
    )
    return torch.cat(list(blocks), dim=2)


def reference(model, prefixes, num_frames=NUM_FRAMES, *, seeds=(1, 2, 3), **options):
    known = options.pop("known", None)
    codes = generate(
        model,
        prefixes,
        num_frames,
        sampling=SamplingConfig(**options),
        generators=generators(*seeds),
        known_target=known,
    )
    return codes if known is None else codes[:, :, known.shape[2] :]


@STAGES
@ALL_STYLES
@pytest.mark.parametrize(
    "sampling", [{"temperature": 0}, {"temperature": 0.8, "top_k": 3}], ids=["greedy", "sampled"]
)
def test_says_what_the_pytorch_loop_says(stage, style, sampling):
    positions = "relative_bias" if style == "paper" else "rotary"
    model, prefixes = make(stage, style, positions)
    said = decode(NativeDecoder(model), prefixes, **sampling)
    assert torch.equal(said, reference(model, prefixes, **sampling))


@STAGES
@ALL_STYLES
def test_a_batch_is_its_singles_on_any_number_of_threads(stage, style):
    model, prefixes = make(stage, style, batch_size=7)
    seeds = tuple(range(7))
    together = decode(NativeDecoder(model), prefixes, seeds=seeds)
    shared = decode(NativeDecoder(model, num_threads=2), prefixes, seeds=seeds)
    assert torch.equal(shared, together)
    decoder = NativeDecoder(model)
    for index in (0, 5):
        single = {name: codes[index : index + 1] for name, codes in prefixes.items()}
        alone = decode(decoder, single, seeds=(index,))
        assert torch.equal(alone, together[index : index + 1])


@torch.inference_mode()
def test_states_are_close_and_the_same_bits_in_every_batch():
    model, prefixes = make("coarse", "summed", batch_size=6)
    decoder = NativeDecoder(model)
    inputs = torch.cat(model.embed_prefixes(prefixes), dim=1)
    states = decoder.states(inputs)
    torch.testing.assert_close(states, model.transformer(inputs), atol=1e-5, rtol=1e-5)
    for first in range(6):
        assert torch.equal(decoder.states(inputs[first : first + 1])[0], states[first])
    assert torch.equal(decoder.states(inputs[:, :5]), states[:, :5])


@STAGES
@ALL_STYLES
@pytest.mark.parametrize("num_known", [1, 7])
def test_continues_what_is_known(stage, style, num_known):
    model, prefixes = make(stage, style)
    known = make_codes(model.layout, NUM_FRAMES, 3, seed=9)[model.layout.target.name]
    known = known[:, :, :num_known]
    said = decode(NativeDecoder(model), prefixes, known=known)
    assert torch.equal(said, reference(model, prefixes, known=known))


@ALL_STYLES
def test_guidance_and_absent_conditioning(style):
    model, prefixes = make("semantic", style)
    decoder = NativeDecoder(model, num_threads=2)
    absent = {"conditioning": torch.full_like(prefixes["conditioning"], SIZE)}
    for guidance in (0.0, 3.0):
        said = decode(decoder, prefixes, guidance=guidance)
        assert torch.equal(said, reference(model, prefixes, guidance=guidance))
    assert torch.equal(decode(decoder, prefixes, guidance=0.0), decode(decoder, absent))


def test_joint_output_table():
    layout = make_layout("coarse", STYLES["paper"])
    config = make_config(layout, output_table="joint")
    model = StageModel(config, generator=torch.Generator().manual_seed(0)).eval()
    codes = make_codes(layout, NUM_FRAMES, 3)
    assert torch.equal(decode(NativeDecoder(model), codes), reference(model, codes))


def test_what_was_stored_in_8_bits_is_kept_in_them_and_says_the_same(tmp_path):
    model, prefixes = make("coarse", "aligned")
    assert NativeDecoder(model).precision == "float32"
    save_weights(model, tmp_path / "stage.safetensors", config_json="{}", storage="int8")
    load_weights(model, tmp_path / "stage.safetensors")
    decoder = NativeDecoder(model)
    assert decoder.precision == "int8"
    assert torch.equal(decode(decoder, prefixes), reference(model, prefixes))
    assert torch.equal(
        decode(decoder, prefixes), decode(NativeDecoder(model, precision="float32"), prefixes)
    )


def test_blocks_come_while_later_ones_are_still_to_be_made():
    model, prefixes = make("semantic", "aligned")
    sizes = [
        block.shape[2]
        for block in NativeDecoder(model).blocks(
            prefixes, 100, sampling=GREEDY, generators=generators(1, 2, 3)
        )
    ]
    assert len(sizes) > 2
    assert sum(sizes) == 100


def test_what_is_left_half_used_holds_no_threads():
    model, prefixes = make("coarse", next(iter(STYLES)), batch_size=4)
    decoder = NativeDecoder(model, num_threads=2)
    decode(decoder, prefixes, seeds=(1, 2, 3, 4))
    before = threading.active_count()
    left = []
    for _ in range(8):
        blocks = decoder.blocks(
            prefixes, NUM_FRAMES, sampling=GREEDY, generators=generators(1, 2, 3, 4)
        )
        next(blocks)
        left.append(blocks)
    assert threading.active_count() == before


def test_exponential_is_exact_to_single_precision():
    values = np.linspace(-87, 88, 100_003, dtype=np.float32)
    computed = values.copy()
    kernels._exponentiate(computed, np.empty(len(values), np.int32))
    np.testing.assert_allclose(computed, np.exp(values.astype(np.float64)), rtol=3e-7)


def test_the_reference_runs_where_the_loop_cannot(monkeypatch):
    model, prefixes = make("coarse", "aligned")
    assert why_not_compiled(model) is None
    assert "compiled" in make_decoder(model).description
    with monkeypatch.context() as patched:
        patched.setattr("importlib.util.find_spec", lambda name: None)
        assert "musiclm[fast]" in (why_not_compiled(model) or "")
        fallback = make_decoder(model)
    assert isinstance(fallback, TorchDecoder)
    assert torch.equal(decode(fallback, prefixes), decode(make_decoder(model), prefixes))
    assert "bfloat16" in (why_not_compiled(model.to(torch.bfloat16)) or "")
