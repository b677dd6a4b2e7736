"""Segments and layouts: what a stage reads and what it predicts, as data.

A stage is no class: the semantic, coarse and fine stages are one model with three layouts
(MusicLM, Section 3.2; AudioLM, Section III).
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from musiclm.core.config import Config
from musiclm.core.errors import ConfigError
from musiclm.stages.pattern import Pattern, PatternName, make_pattern
from musiclm.tokens.spec import TokenSpec


class Segment(Config):
    """One typed run of codes inside a stage's sequence."""

    spec: TokenSpec
    """The codes; its name names the segment."""
    role: Literal["prefix", "target"]
    """Read only, or predicted (and carrying the loss)."""
    pattern: Literal["flatten", "delay", "sum"]
    """`flatten`: a position a code; `delay` (targets): a position a frame, level k shifted by k;
    `sum` (prefixes): a position a frame, the sum of its levels' embeddings."""
    aligned: bool = False
    """Takes no positions: the frame that covers a target step is added to that step's input
    (`sum` prefixes only); a segment of one frame a clip is added to every step."""
    look_ahead_frames: int = Field(default=0, ge=0)
    """Aligned segments only: following frames that are added too, each through its own table."""
    is_optional: bool = False
    """May be absent: left out at random in training, so that guidance can contrast the two."""

    @model_validator(mode="after")
    def _check(self) -> "Segment":
        allowed = ("flatten", "delay") if self.role == "target" else ("flatten", "sum")
        if self.pattern not in allowed:
            raise ConfigError(
                f"Segment {self.spec.name!r} is a {self.role} with pattern {self.pattern!r}; "
                f"a {self.role} may be {' or '.join(allowed)}."
            )
        if self.aligned and self.pattern != "sum":
            raise ConfigError(f"Aligned segment {self.spec.name!r} needs the pattern 'sum'.")
        if self.look_ahead_frames and not self.aligned:
            raise ConfigError(
                f"Segment {self.spec.name!r} looks ahead but is not aligned; set aligned=True."
            )
        return self

    @property
    def name(self) -> str:
        """Its codes' name."""
        return self.spec.name

    @property
    def absent_code(self) -> int:
        """The code that means "nothing here"."""
        return self.spec.codebook_size

    def num_prefix_positions(self, num_frames: int) -> int:
        """Positions that `num_frames` frames take before the target."""
        if self.aligned or self.role == "target":
            return 0
        return num_frames * (self.spec.num_quantizers if self.pattern == "flatten" else 1)


class SegmentLayout(Config):
    """The segments of a stage: prefixes in reading order, then the one target."""

    name: str
    """`semantic`, `coarse`, `fine`, or the name of a variant."""
    segments: tuple[Segment, ...]
    """Prefixes first, the target last."""

    @model_validator(mode="after")
    def _check(self) -> "SegmentLayout":
        roles = [segment.role for segment in self.segments]
        if roles.count("target") != 1 or roles[-1] != "target":
            raise ConfigError(f"Layout {self.name!r} needs exactly one target, and it comes last.")
        names = [segment.name for segment in self.segments]
        if len(set(names)) < len(names):
            raise ConfigError(f"Layout {self.name!r} names a segment twice: {', '.join(names)}.")
        rate = self.target.spec.frame_rate_hz
        if not rate:
            raise ConfigError(f"The target {self.target.name!r} needs a frame rate above 0 Hz.")
        for segment in self.prefixes:
            if segment.aligned and rate % (segment.spec.frame_rate_hz or 1):
                raise ConfigError(
                    f"Segment {segment.name!r} at {segment.spec.frame_rate_hz} Hz cannot be "
                    f"aligned with {self.target.name!r} at {rate} Hz: the rates must divide."
                )
        return self

    @property
    def target(self) -> Segment:
        """The predicted segment."""
        return self.segments[-1]

    @property
    def prefixes(self) -> tuple[Segment, ...]:
        """The segments that are only read, aligned ones included."""
        return self.segments[:-1]

    @property
    def pattern(self) -> Pattern:
        """The target's pattern."""
        name: PatternName = "delay" if self.target.pattern == "delay" else "flatten"
        return make_pattern(name, self.target.spec)

    def num_frames(self, duration_seconds: float) -> Mapping[str, int]:
        """Frames of every segment in a crop, by name."""
        return {
            segment.name: segment.spec.num_frames(duration_seconds) for segment in self.segments
        }

    def num_positions(self, duration_seconds: float) -> int:
        """Length of the model's sequence for a crop: prefix positions and target steps.

        The first target step reads the stage's own begin vector (BOS), so a crop needs no
        position beyond these.
        """
        frames = self.num_frames(duration_seconds)
        prefix = sum(
            segment.num_prefix_positions(frames[segment.name]) for segment in self.prefixes
        )
        return prefix + self.pattern.num_steps(frames[self.target.name])

    def with_prefix(self, segment: Segment) -> "SegmentLayout":
        """The same stage reading one more segment (a melody, for instance), before the others."""
        return SegmentLayout(name=self.name, segments=(segment, *self.segments))


class LayoutStyle(Config):
    """How a layout is laid out; the defaults are the paper's."""

    target: PatternName = "flatten"
    """Pattern of the predicted codes."""
    conditioning: Literal["flatten", "sum", "aligned"] = "flatten"
    """Conditioning tokens as a prefix of one position a token, as a prefix of one position, or
    added to every target step."""
    frames: Literal["flatten", "sum", "aligned"] = "flatten"
    """The same choice for frame-wise prefixes: semantic tokens (coarse), coarse tokens (fine)."""
    look_ahead_frames: int = Field(default=0, ge=0)
    """Following frames that an aligned frame-wise prefix shows."""


def conditioning_segment(spec: TokenSpec, style: LayoutStyle) -> Segment:
    """Conditioning tokens; a stage can do without them, so that guidance is possible."""
    return _prefix(spec, style.conditioning, is_optional=True)


def semantic_layout(
    conditioning: TokenSpec, semantic: TokenSpec, style: LayoutStyle | None = None
) -> SegmentLayout:
    """Conditioning ► semantic tokens (Section 3.2, first stage)."""
    style = style or LayoutStyle()
    segments = (conditioning_segment(conditioning, style), _target(semantic, style))
    return SegmentLayout(name="semantic", segments=segments)


def coarse_layout(
    conditioning: TokenSpec,
    semantic: TokenSpec | None,
    coarse: TokenSpec,
    style: LayoutStyle | None = None,
) -> SegmentLayout:
    """Conditioning and semantic tokens ► the first acoustic levels (Section 3.2, second stage).

    Without `semantic` it is the paper's ablation: acoustic tokens directly from conditioning.
    """
    style = style or LayoutStyle()
    segments = [conditioning_segment(conditioning, style)]
    if semantic is not None:
        segments.append(_prefix(semantic, style.frames, style.look_ahead_frames))
    return SegmentLayout(name="coarse", segments=(*segments, _target(coarse, style)))


def fine_layout(
    coarse: TokenSpec, fine: TokenSpec, style: LayoutStyle | None = None
) -> SegmentLayout:
    """The first acoustic levels ► the rest; neither conditioning nor semantic tokens."""
    style = style or LayoutStyle()
    prefix = _prefix(coarse, style.frames, style.look_ahead_frames)
    return SegmentLayout(name="fine", segments=(prefix, _target(fine, style)))


def split_acoustic(acoustic: TokenSpec, num_coarse: int = 4) -> tuple[TokenSpec, TokenSpec]:
    """The specs of the coarse levels (the first `num_coarse`) and of the fine ones (the rest).

    Raises:
        ConfigError: A side would be empty.
    """
    num_fine = acoustic.num_quantizers - num_coarse
    if num_coarse < 1 or num_fine < 1:
        raise ConfigError(
            f"{num_coarse} coarse levels of {acoustic.num_quantizers}: choose 1 to "
            f"{acoustic.num_quantizers - 1}."
        )
    return (
        acoustic.model_copy(update={"name": "coarse", "num_quantizers": num_coarse}),
        acoustic.model_copy(update={"name": "fine", "num_quantizers": num_fine}),
    )


def _prefix(
    spec: TokenSpec,
    way: Literal["flatten", "sum", "aligned"],
    look_ahead_frames: int = 0,
    *,
    is_optional: bool = False,
) -> Segment:
    is_aligned = way == "aligned"
    return Segment(
        spec=spec,
        role="prefix",
        pattern="sum" if is_aligned else way,
        aligned=is_aligned,
        look_ahead_frames=look_ahead_frames if is_aligned else 0,
        is_optional=is_optional,
    )


def _target(spec: TokenSpec, style: LayoutStyle) -> Segment:
    return Segment(spec=spec, role="target", pattern=style.target)
