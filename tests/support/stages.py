"""Small stages of every kind for tests."""

from typing import Literal

import torch

from musiclm.layers.transformer import TransformerConfig
from musiclm.stages.extension import melody_segment
from musiclm.stages.language_model import StageConfig, StageModel
from musiclm.stages.layout import LayoutStyle, coarse_layout, fine_layout, semantic_layout
from musiclm.tokens.spec import TokenSpec

Positions = Literal["rotary", "relative_bias"]

SIZE = 20
CONDITIONING = TokenSpec(name="conditioning", num_quantizers=3, codebook_size=SIZE, frame_rate_hz=0)
SEMANTIC = TokenSpec(name="semantic", num_quantizers=1, codebook_size=SIZE, frame_rate_hz=25)
COARSE = TokenSpec(name="coarse", num_quantizers=2, codebook_size=SIZE, frame_rate_hz=50)
MELODY = TokenSpec(name="melody", num_quantizers=2, codebook_size=SIZE, frame_rate_hz=25)
FINE = TokenSpec(name="fine", num_quantizers=3, codebook_size=SIZE, frame_rate_hz=50)

PAPER = LayoutStyle()
SUMMED = LayoutStyle(target="delay", conditioning="sum", frames="sum")
ALIGNED = LayoutStyle(target="delay", frames="aligned", look_ahead_frames=2)
ALL_ALIGNED = LayoutStyle(conditioning="aligned", frames="aligned", look_ahead_frames=1)
STYLES = {
    "paper": PAPER,
    "summed": SUMMED,
    "aligned": ALIGNED,
    "all_aligned": ALL_ALIGNED,
}


def make_layout(stage, style):
    """The layout of a stage over the small specs."""
    if stage == "semantic":
        return semantic_layout(CONDITIONING, SEMANTIC, style)
    if stage == "coarse":
        return coarse_layout(CONDITIONING, SEMANTIC, COARSE, style)
    return fine_layout(COARSE, FINE, style)


def with_melody(layout, look_ahead_frames=1):
    """The layout of a stage that reads a melody too."""
    return layout.with_prefix(melody_segment(MELODY, look_ahead_frames))


def make_config(layout, positions: Positions = "rotary", **changes):
    """A stage of two layers."""
    transformer = TransformerConfig(
        dim=32,
        num_layers=2,
        num_heads=2,
        head_dim=16,
        feed_forward_dim=48,
        positions=positions,
    )
    return StageConfig(layout=layout, transformer=transformer, window_seconds=1, **changes)


def make_model(layout, positions: Positions = "rotary", seed=0):
    """A random stage in eval mode, with logits far enough apart to have clear winners."""
    generator = torch.Generator().manual_seed(seed)
    model = StageModel(make_config(layout, positions), generator=generator).eval()
    for name, parameter in model.named_parameters():
        if name.startswith("transformer.positions"):
            torch.nn.init.normal_(parameter, generator=generator)
    model.output.data *= 3
    return model


def make_codes(layout, num_frames, batch_size=2, seed=0):
    """Random codes of every segment; `num_frames` of the target."""
    generator = torch.Generator().manual_seed(seed)
    rate = layout.target.spec.frame_rate_hz
    codes = {}
    for segment in layout.segments:
        spec = segment.spec
        frames = max(1, num_frames * spec.frame_rate_hz // rate)
        shape = (batch_size, spec.num_quantizers, frames)
        codes[segment.name] = torch.randint(0, spec.codebook_size, shape, generator=generator)
    return codes
