"""Layouts have the papers' lengths, take more segments, and refuse nonsense."""

import pytest

from musiclm.core.errors import ConfigError
from musiclm.stages.layout import (
    LayoutStyle,
    Segment,
    SegmentLayout,
    coarse_layout,
    fine_layout,
    semantic_layout,
    split_acoustic,
)
from musiclm.tokens.spec import TokenSpec

CONDITIONING = TokenSpec(
    name="conditioning", num_quantizers=12, codebook_size=1024, frame_rate_hz=0
)
SEMANTIC = TokenSpec(name="semantic", num_quantizers=1, codebook_size=1024, frame_rate_hz=25)
ACOUSTIC = TokenSpec(name="acoustic", num_quantizers=12, codebook_size=1024, frame_rate_hz=50)
COARSE, FINE = split_acoustic(ACOUSTIC)


def test_paper_sequence_lengths():
    """The token counts of the papers: crops of 30, 10 and 3 s."""
    assert semantic_layout(CONDITIONING, SEMANTIC).num_positions(30.0) == 12 + 750
    assert coarse_layout(CONDITIONING, SEMANTIC, COARSE).num_positions(10.0) == 12 + 250 + 2000
    assert fine_layout(COARSE, FINE).num_positions(3.0) == 600 + 1200
    assert coarse_layout(CONDITIONING, None, COARSE).num_positions(10.0) == 12 + 2000


@pytest.mark.parametrize(
    ("frames", "coarse_positions", "fine_positions"),
    [
        ("flatten", 12 + 250 + 503, 600 + 157),
        ("sum", 12 + 250 + 503, 150 + 157),
        ("aligned", 12 + 503, 157),
    ],
)
def test_delay_and_alignment_shorten(frames, coarse_positions, fine_positions):
    style = LayoutStyle(target="delay", frames=frames)
    assert coarse_layout(CONDITIONING, SEMANTIC, COARSE, style).num_positions(10.0) == (
        coarse_positions
    )
    assert fine_layout(COARSE, FINE, style).num_positions(3.0) == fine_positions


def test_levels_are_split():
    assert (COARSE.num_quantizers, FINE.num_quantizers) == (4, 8)
    assert (COARSE.name, FINE.name) == ("coarse", "fine")
    with pytest.raises(ConfigError, match="choose 1 to 11"):
        split_acoustic(ACOUSTIC, 12)


def test_a_melody_is_one_more_segment():
    melody = TokenSpec(name="melody", num_quantizers=12, codebook_size=1024, frame_rate_hz=1)
    segment = Segment(spec=melody, role="prefix", pattern="flatten", is_optional=True)
    layout = semantic_layout(CONDITIONING, SEMANTIC).with_prefix(segment)
    assert [part.name for part in layout.segments] == ["melody", "conditioning", "semantic"]
    assert layout.num_positions(10.0) == 120 + 12 + 250


def test_only_conditioning_is_optional():
    layout = coarse_layout(CONDITIONING, SEMANTIC, COARSE)
    assert [part.is_optional for part in layout.segments] == [True, False, False]


def test_layouts_survive_json():
    style = LayoutStyle(target="delay", frames="aligned", look_ahead_frames=2)
    layout = coarse_layout(CONDITIONING, SEMANTIC, COARSE, style)
    assert SegmentLayout.from_json(layout.to_json()) == layout


def target(spec=FINE):
    return Segment(spec=spec, role="target", pattern="delay")


def prefix(spec=COARSE, **changes):
    fields = {"spec": spec, "role": "prefix", "pattern": "sum", **changes}
    return Segment.model_validate(fields)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: prefix(pattern="delay"), "flatten or sum"),
        (lambda: prefix(role="target"), "flatten or delay"),
        (lambda: prefix(pattern="flatten", aligned=True), "needs the pattern 'sum'"),
        (lambda: prefix(look_ahead_frames=1), "not aligned"),
        (lambda: SegmentLayout(name="x", segments=(target(), prefix())), "comes last"),
        (lambda: SegmentLayout(name="x", segments=(prefix(),)), "exactly one target"),
        (lambda: SegmentLayout(name="x", segments=(prefix(), prefix(), target())), "twice"),
        (
            lambda: SegmentLayout(name="x", segments=(prefix(aligned=True), target(SEMANTIC))),
            "must divide",
        ),
        (lambda: SegmentLayout(name="x", segments=(target(CONDITIONING),)), "above 0 Hz"),
    ],
)
def test_nonsense_is_refused(make, message):
    with pytest.raises((ConfigError, ValueError), match=message):
        make()
