"""Recorded steps: the codes of the PyTorch loop, whatever the layout, guidance and window."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from musiclm.stages.decoder import TorchDecoder, make_decoder
from musiclm.stages.decoding import SamplingConfig, generate, prepare
from musiclm.stages.graph.decoder import GraphDecoder, why_not_fused
from musiclm.stages.graph.recording import run_as_it_is
from musiclm.stages.graph.step import PLAIN
from musiclm.stages.graph.workspace import Room, Workspace
from musiclm.stages.language_model import StageModel
from tests.support.stages import (
    SIZE,
    STYLES,
    Positions,
    make_codes,
    make_config,
    make_layout,
    make_model,
)
from tests.support.tape import Tape, TapeRecorder

STAGES = pytest.mark.parametrize("stage", ["semantic", "coarse", "fine"])
ALL_STYLES = pytest.mark.parametrize("style", list(STYLES))
NUM_FRAMES = 18
BUCKET = 16
GREEDY = SamplingConfig(temperature=0)


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def make(stage, style, positions: Positions = "rotary", batch_size=3):
    layout = make_layout(stage, STYLES[style])
    codes = make_codes(layout, NUM_FRAMES, batch_size)
    return make_model(layout, positions), {part.name: codes[part.name] for part in layout.prefixes}


def make_decoder_of(model, **options):
    return GraphDecoder(model, bucket=BUCKET, **options)


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
    said = decode(make_decoder_of(model), prefixes, **sampling)
    assert torch.equal(said, reference(model, prefixes, **sampling))


@STAGES
@ALL_STYLES
def test_recorded_steps_say_the_same_at_all_positions(stage, style):
    model, prefixes = make(stage, style, "relative_bias" if style == "summed" else "rotary")
    recorder = TapeRecorder()
    decoder = make_decoder_of(model, record=recorder)
    guidance = 2.0 if stage != "fine" else 1.0
    options = {"temperature": 0.9, "guidance": guidance}
    said = decode(decoder, prefixes, NUM_FRAMES, **options)
    assert torch.equal(said, reference(model, prefixes, NUM_FRAMES, **options))
    # Each tape serves all positions of its bucket, and the next request needs no other.
    num_tapes = len(recorder.tapes)
    assert max(tape.num_played for tape in recorder.tapes) > 1
    options["temperature"] = 0.5
    again = decode(decoder, prefixes, NUM_FRAMES, seeds=(4, 5, 6), **options)
    assert torch.equal(again, reference(model, prefixes, NUM_FRAMES, seeds=(4, 5, 6), **options))
    assert len(recorder.tapes) == num_tapes


@STAGES
@ALL_STYLES
def test_everything_a_step_touches_lies_where_the_weights_are(stage, style):
    model, prefixes = make(stage, style, "relative_bias" if style == "paper" else "rotary")
    prefixes = {name: codes.to("meta") for name, codes in prefixes.items()}
    start = prepare(
        model.to("meta"),
        prefixes,
        NUM_FRAMES,
        batch_size=3,
        sampling=SamplingConfig(top_k=3, guidance=2.0),
        known_target=None,
    )
    recorder, num_steps = TapeRecorder(), start.steps.shape[2]
    room = Room(3, num_copies=len(start.scales), num_positions=128, bucket=BUCKET, chunk_steps=32)
    workspace = Workspace(model, room, kernels=PLAIN, record=recorder)
    is_said = torch.ones(num_steps, model.pattern.num_columns, dtype=torch.bool)
    workspace.begin(start, SamplingConfig(top_k=3, guidance=2.0), is_said)
    touched = [tensor for tape in recorder.tapes for tensor in tape.tensors()]
    assert touched
    assert {tensor.device.type for tensor in touched} == {"meta"}


@STAGES
@ALL_STYLES
@pytest.mark.parametrize("num_known", [1, 7])
def test_continues_what_is_known(stage, style, num_known):
    model, prefixes = make(stage, style)
    known = make_codes(model.layout, NUM_FRAMES, 3, seed=9)[model.layout.target.name]
    known = known[:, :, :num_known]
    said = decode(make_decoder_of(model), prefixes, known=known)
    assert torch.equal(said, reference(model, prefixes, known=known))


@STAGES
@ALL_STYLES
def test_a_batch_is_its_singles(stage, style):
    model, prefixes = make(stage, style, batch_size=5)
    decoder, seeds = make_decoder_of(model), tuple(range(5))
    together = decode(decoder, prefixes, seeds=seeds)
    for index in (0, 4):
        single = {name: codes[index : index + 1] for name, codes in prefixes.items()}
        alone = decode(decoder, single, seeds=(index,))
        assert torch.equal(alone, together[index : index + 1])


@ALL_STYLES
def test_guidance_and_absent_conditioning(style):
    model, prefixes = make("semantic", style)
    decoder = make_decoder_of(model)
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
    assert torch.equal(decode(make_decoder_of(model), codes), reference(model, codes))


def test_bfloat16_says_nearly_always_the_same():
    model, prefixes = make("semantic", "paper", "relative_bias")
    model = model.to(torch.bfloat16)
    said = decode(make_decoder_of(model), prefixes, num_frames=1)
    assert torch.equal(said, reference(model, prefixes, num_frames=1))
    assert "bfloat16" in make_decoder_of(model).description


def test_windows_longer_than_the_usual_get_room():
    model, prefixes = make("semantic", "aligned")
    decoder = make_decoder_of(model)
    for num_frames in (5, 100, 5):
        said = decode(decoder, prefixes, num_frames)
        assert torch.equal(said, reference(model, prefixes, num_frames))


def test_blocks_come_while_later_ones_are_still_to_be_made():
    model, prefixes = make("semantic", "aligned")
    sizes = [
        block.shape[2]
        for block in make_decoder_of(model).blocks(
            prefixes, 100, sampling=GREEDY, generators=generators(1, 2, 3)
        )
    ]
    assert len(sizes) > 2
    assert sum(sizes) == 100


def test_two_requests_at_once_do_not_disturb_one_another():
    model, prefixes = make("coarse", "summed")
    decoder, pieces = make_decoder_of(model), {1: [], 2: []}
    running = {
        seed: decoder.blocks(
            prefixes,
            80,
            sampling=SamplingConfig(),
            generators=generators(seed, seed + 10, seed + 20),
        )
        for seed in pieces
    }
    for one, other in zip(running[1], running[2], strict=True):
        pieces[1].append(one)
        pieces[2].append(other)
    for seed, blocks in pieces.items():
        expected = reference(model, prefixes, 80, seeds=(seed, seed + 10, seed + 20))
        assert torch.equal(torch.cat(blocks, dim=2), expected)


def test_what_is_left_half_used_serves_the_next_request():
    model, prefixes = make("semantic", "paper")
    recorder = TapeRecorder()
    decoder = make_decoder_of(model, record=recorder)
    left = decoder.blocks(prefixes, 60, sampling=SamplingConfig(), generators=generators(1, 2, 3))
    next(left)
    del left
    num_tapes = len(recorder.tapes)
    assert torch.equal(decode(decoder, prefixes, 60), reference(model, prefixes, 60))
    assert len(recorder.tapes) == num_tapes


def test_a_caller_in_inference_mode_and_one_without_share_a_decoder():
    model, prefixes = make("coarse", "aligned")
    decoder, expected = make_decoder_of(model), reference(model, prefixes)
    with torch.inference_mode():
        assert torch.equal(decode(decoder, prefixes), expected)
    assert torch.equal(decode(decoder, prefixes), expected)


def test_a_tape_notices_a_step_that_asks_the_host():
    with pytest.raises(RuntimeError, match="makes the host wait"), Tape():
        torch.ones(1).item()


def test_what_cannot_be_recorded_is_decoded_by_the_reference(caplog):
    def refuse(step):
        raise RuntimeError("no graphs here\nmore")

    model, prefixes = make("coarse", "paper")
    decoder = make_decoder_of(model, record=refuse)
    assert torch.equal(decode(decoder, prefixes), reference(model, prefixes))
    assert "no graphs here" in caplog.text
    assert decoder.description == "PyTorch (its steps could not be recorded: no graphs here)"


def test_steps_that_cannot_be_compiled_are_recorded_as_they_are(caplog, monkeypatch):
    monkeypatch.setattr("musiclm.stages.graph.decoder.fused_kernels", lambda: PLAIN)
    calls = []

    def refuse_once(step):
        calls.append(step)
        if len(calls) == 1:
            raise RuntimeError("no compiler")
        return run_as_it_is(step)

    model, prefixes = make("fine", "paper")
    decoder = make_decoder_of(model, record=refuse_once, is_fused=True)
    assert "compiled" in decoder.description
    assert torch.equal(decode(decoder, prefixes), reference(model, prefixes))
    assert "no compiler" in caplog.text
    assert decoder.description == "recorded steps, float32 weights"


def test_compiled_parts_have_no_gaps_and_say_the_same():
    # In a process of its own: the run-time checks of these tests cannot be compiled.
    program = Path(__file__).parent / "support" / "compiled_steps.py"
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root}
    subprocess.run([sys.executable, str(program)], check=True, cwd=root, env=environment)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() == 0, reason="there is no GPU")
@STAGES
@ALL_STYLES
def test_graphs_say_what_the_pytorch_loop_says_on_a_gpu(stage, style):
    model, prefixes = make(stage, style, "relative_bias" if style == "paper" else "rotary")
    decoder = make_decoder_of(model.to("cuda"))
    for seeds in ((1, 2, 3), (4, 5, 6)):
        said = decode(decoder, prefixes, NUM_FRAMES, seeds=seeds, guidance=2.0)
        expected = reference(model, prefixes, NUM_FRAMES, seeds=seeds, guidance=2.0)
        assert torch.equal(said, expected.cpu())
    assert decoder.description == "recorded steps, float32 weights"


def test_a_gpu_gets_recorded_steps():
    model, _ = make("coarse", "aligned")
    with FakeTensorMode():
        model.begin = torch.nn.Parameter(torch.empty(32, device="cuda"))
        decoder = make_decoder(model)
    assert isinstance(decoder, GraphDecoder)
    assert decoder.description == "recorded steps, float32 weights"
    assert why_not_fused(model) == "it has only 0 million parameters"


def test_a_cpu_keeps_its_own_loops():
    model, _ = make("coarse", "aligned")
    assert not isinstance(make_decoder(model), GraphDecoder)
    assert isinstance(make_decoder(model.to(torch.bfloat16)), TorchDecoder)
    assert why_not_fused(model) == "the model is on cpu"
