"""Extending a stage: trained weights go on in a layout with one more optional segment.

Whoever drives a stage by itself and has nothing to say of such segments gives their absent codes.
"""

import torch
from jaxtyping import Int
from torch import Tensor

from musiclm.core.errors import ConfigError
from musiclm.stages.language_model import StageConfig, StageModel
from musiclm.stages.layout import Segment, SegmentLayout
from musiclm.tokens.spec import TokenSpec

_NEW_SCALE = 0.02


def melody_segment(spec: TokenSpec, look_ahead_frames: int) -> Segment:
    """Melody tokens, added to the step of the frame they sound in.

    Aligned, so that a contour is followed in time and costs no positions; it looks ahead, because
    a semantic token hears a little of what follows; optional, so that one model serves with and
    without.
    """
    return Segment(
        spec=spec,
        role="prefix",
        pattern="sum",
        aligned=True,
        look_ahead_frames=look_ahead_frames,
        is_optional=True,
    )


def with_segment(model: StageModel, segment: Segment, generator: torch.Generator) -> StageModel:
    """A copy of a stage that reads one more optional segment.

    Where the segment is absent the copy says exactly what the model said: the row that means
    absence starts at zero. The other rows start small.

    Args:
        model: The trained stage.
        segment: What it should read too; optional and aligned.
        generator: Draws the new rows.

    Raises:
        ConfigError: The segment is not optional and aligned, or the stage reads it already.
    """
    if not (segment.is_optional and segment.aligned):
        raise ConfigError(
            f"Segment {segment.name!r} must be optional and aligned to join a trained stage."
        )
    config: StageConfig = model.config.model_copy(
        update={"layout": model.layout.with_prefix(segment)}
    )
    if config.output_table == "joint":
        raise ConfigError("A stage with a joint output table cannot be extended.")
    extended = StageModel(config, generator=generator)
    missing = extended.load_state_dict(model.state_dict(), strict=False)
    name = f"embeddings.{segment.name}.weight"
    if missing.missing_keys != [name] or missing.unexpected_keys:
        raise ConfigError(f"The stage's weights do not fit: {missing}.")
    table = extended.embedding(segment).weight
    with torch.no_grad():
        table.normal_(std=_NEW_SCALE * config.embedding_std, generator=generator)
        table[-1].zero_()
    return extended


def absent_codes(
    layout: SegmentLayout, batch_size: int, num_frames: int
) -> dict[str, Int[Tensor, "batch quantizers frames"]]:
    """The code that means nothing, for every optional frame-wise prefix (a melody) of a layout.

    Args:
        layout: A stage's.
        batch_size: Rows.
        num_frames: Frames of its target that they should cover.
    """
    rate = layout.target.spec.frame_rate_hz
    return {
        segment.name: torch.full(
            (
                batch_size,
                segment.spec.num_quantizers,
                -(-num_frames * segment.spec.frame_rate_hz // rate),
            ),
            segment.absent_code,
        )
        for segment in layout.prefixes
        if segment.is_optional and segment.spec.frame_rate_hz
    }
