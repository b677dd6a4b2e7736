"""Stage models: the paper's sizes, what each step may know, and that they learn."""

import math

import pytest
import torch
from torch.nn import functional

from musiclm.core.errors import ConfigError
from musiclm.layers.transformer import TransformerConfig
from musiclm.stages.language_model import StageConfig, StageModel
from musiclm.stages.layout import coarse_layout, fine_layout, semantic_layout, split_acoustic
from musiclm.tokens.spec import TokenSpec
from tests.support.stages import SIZE, STYLES, make_codes, make_config, make_layout, make_model

STAGES = pytest.mark.parametrize("stage", ["semantic", "coarse", "fine"])
ALL_STYLES = pytest.mark.parametrize("style", list(STYLES))


def paper_layouts():
    conditioning = TokenSpec(
        name="conditioning", num_quantizers=12, codebook_size=1024, frame_rate_hz=0
    )
    semantic = TokenSpec(name="semantic", num_quantizers=1, codebook_size=1024, frame_rate_hz=25)
    acoustic = TokenSpec(name="acoustic", num_quantizers=12, codebook_size=1024, frame_rate_hz=50)
    coarse, fine = split_acoustic(acoustic)
    return {
        "semantic": semantic_layout(conditioning, semantic),
        "coarse": coarse_layout(conditioning, semantic, coarse),
        "fine": fine_layout(coarse, fine),
    }


@pytest.mark.parametrize(("stage", "millions"), [("semantic", 430), ("coarse", 438), ("fine", 428)])
def test_paper_parameter_counts(stage, millions):
    transformer = TransformerConfig(
        dim=1024,
        num_layers=24,
        num_heads=16,
        head_dim=64,
        feed_forward_dim=4096,
        dropout=0.1,
        attention_dropout=0.1,
        positions="relative_bias",
    )
    config = StageConfig(
        layout=paper_layouts()[stage],
        transformer=transformer,
        window_seconds=30,
        output_table="joint",
    )
    with torch.device("meta"):
        model = StageModel(config)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert round(count / 1e6) == millions


@STAGES
@ALL_STYLES
def test_steps_know_their_past_only(stage, style):
    """Changing the codes said at a step leaves the states up to that step as they were."""
    layout = make_layout(stage, STYLES[style])
    model, codes = make_model(layout), make_codes(layout, 8)
    with torch.inference_mode():
        before = model.target_states(codes)
        steps = model.pattern.apply(codes[layout.target.name])
        for step in range(0, steps.shape[2] - 1, 3):
            level = model.pattern.levels_at(step, 8)[0]
            frame = step // layout.target.spec.num_quantizers
            if layout.target.pattern == "delay":
                frame = step - level
            changed = {**codes, layout.target.name: codes[layout.target.name].clone()}
            changed[layout.target.name][:, level, frame] += 1
            changed[layout.target.name] %= SIZE
            after = model.target_states(changed)
            torch.testing.assert_close(
                after[:, : step + 1], before[:, : step + 1], atol=1e-5, rtol=0
            )
            assert not torch.allclose(after[:, step + 1], before[:, step + 1], atol=1e-3)


@STAGES
@ALL_STYLES
def test_prefixes_are_read(stage, style):
    layout = make_layout(stage, STYLES[style])
    model, codes = make_model(layout), make_codes(layout, 8)
    with torch.inference_mode():
        before = model.target_states(codes)
        for segment in layout.prefixes:
            changed = {**codes, segment.name: (codes[segment.name] + 1) % SIZE}
            assert not torch.allclose(model.target_states(changed)[:, -1], before[:, -1], atol=1e-3)


@pytest.mark.parametrize("look_ahead", [0, 2])
def test_aligned_frames_reach_only_so_far_ahead(look_ahead):
    style = STYLES["aligned"].model_copy(update={"look_ahead_frames": look_ahead})
    layout = make_layout("coarse", style)
    model, codes = make_model(layout), make_codes(layout, 20)
    changed = {**codes, "semantic": codes["semantic"].clone()}
    changed["semantic"][:, :, 6] = (changed["semantic"][:, :, 6] + 1) % SIZE
    with torch.inference_mode():
        difference = model.target_states(changed) - model.target_states(codes)
    first_changed = int((difference.abs().amax(dim=(0, 2)) > 1e-4).nonzero()[0])
    assert first_changed == 2 * (6 - look_ahead)  # 25 Hz under 50 Hz


@STAGES
@ALL_STYLES
def test_loss_equals_slow_reference(stage, style):
    layout = make_layout(stage, STYLES[style])
    model, codes = make_model(layout, "relative_bias"), make_codes(layout, 6)
    with torch.inference_mode():
        output = model.loss(codes)
        states = model.target_states(codes)
        target = codes[layout.target.name]
        levels = layout.target.spec.num_quantizers
        losses = torch.zeros(2, levels, 6)
        for level in range(levels):
            for frame in range(6):
                is_delay = layout.target.pattern == "delay"
                step = frame + level if is_delay else frame * levels + level
                logits = model.level_logits(states[:, step], range(level, level + 1))[:, 0]
                wanted = target[:, level, frame]
                losses[:, level, frame] = functional.cross_entropy(logits, wanted, reduction="none")
    torch.testing.assert_close(output.loss, losses.mean())
    torch.testing.assert_close(output.level_losses, losses.mean(dim=(0, 2)))


@ALL_STYLES
def test_shorter_crops_fit_in_one_batch(style):
    """Absent target codes at the end carry no loss and change nobody else's."""
    layout = make_layout("semantic", STYLES[style])
    model, codes = make_model(layout), make_codes(layout, 8)
    short = {name: value[1:] for name, value in codes.items()}
    short["semantic"] = short["semantic"][:, :, :5]
    codes["semantic"][1, :, 5:] = SIZE
    with torch.inference_mode():
        both = model.loss(codes).loss * 13
        first = model.loss({name: value[:1] for name, value in codes.items()}).loss * 8
        torch.testing.assert_close(both, first + model.loss(short).loss * 5)


@ALL_STYLES
@pytest.mark.parametrize("positions", ["rotary", "relative_bias"])
def test_overfits_one_batch(style, positions):
    layout = make_layout("coarse", STYLES[style])
    config = make_config(layout, positions, embedding_std=0.3)
    model = StageModel(config, generator=torch.Generator().manual_seed(0))
    codes = make_codes(layout, 8, batch_size=4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        output = model.loss(codes)
        output.loss.backward()
        optimizer.step()
    assert float(model.loss(codes).loss.detach()) < 0.1 * math.log(SIZE)
    idle = [name for name, value in model.named_parameters() if value.grad is None]
    assert idle == []


def test_bfloat16_autocast_agrees():
    layout = make_layout("coarse", STYLES["aligned"])
    model, codes = make_model(layout), make_codes(layout, 8)
    exact = model.loss(codes).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model.loss(codes).loss
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, atol=0.05, rtol=0.02)


def test_misfits_are_refused():
    layout = make_layout("coarse", STYLES["paper"])
    model, codes = make_model(layout), make_codes(layout, 8)
    with pytest.raises(ConfigError, match="reads 'semantic' codes"):
        model.loss({name: value for name, value in codes.items() if name != "semantic"})
    with pytest.raises(ConfigError, match="have 3 levels"):
        model.loss({**codes, "coarse": codes["conditioning"].expand(-1, -1, 8)})


def test_config_survives_json():
    config = make_config(make_layout("fine", STYLES["aligned"]))
    assert StageConfig.from_json(config.to_json()) == config
