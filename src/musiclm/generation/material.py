"""Material: what the stages are given before the first code is drawn.

A request (texts, clips, a tune, a token file) becomes tensors here: conditioning tokens with the
times at which they change, melody tokens, and codes that exist already.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor

from musiclm.audio.waveform import Waveform
from musiclm.conditioning.conditioner import Conditioner
from musiclm.core.errors import PromptError
from musiclm.generation.mixing import (
    blended,
    clip_embedding,
    embedding_codes,
    mixed_embedding,
    text_embedding,
)
from musiclm.generation.request import GenerationRequest, Section, StylePart
from musiclm.stages.layout import SegmentLayout

_BLEND_STEP_SECONDS = 2.5


@dataclass(frozen=True)
class ConditioningSpan:
    """Conditioning tokens of every sample, and when they begin to hold."""

    start_seconds: float
    codes: Int[Tensor, "batch levels 1"]


@dataclass(frozen=True)
class Material:
    """Everything the cascade begins with; each tensor has one row a sample.

    Attributes:
        spans: Conditioning, in order; the first begins at 0.
        frames: Codes of frame-wise prefixes from the start of the piece, by segment (`melody`,
            `semantic`); what an optional segment has nothing for is absent.
        known: First codes of a stage's target that are kept, by stage (`semantic`, `coarse`,
            `fine`); a piece that continues another has them.
    """

    spans: tuple[ConditioningSpan, ...]
    frames: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    known: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    def conditioning_at(self, seconds: float) -> Int[Tensor, "batch levels 1"]:
        """The tokens that hold at a time."""
        latest = [span for span in self.spans if span.start_seconds <= seconds + 1e-6]
        return (latest or self.spans[:1])[-1].codes

    def cut(
        self, layout: SegmentLayout, start: int, stop: int, first_new: int
    ) -> dict[str, Tensor]:
        """The codes of a stage's prefixes for a window of its target's frames.

        Args:
            layout: The stage's.
            start: First frame of the window.
            stop: The frame after its last.
            first_new: The first frame that the window adds: the conditioning is that of its time.
        """
        rate = layout.target.spec.frame_rate_hz
        pieces: dict[str, Tensor] = {}
        for segment in layout.prefixes:
            if segment.name == "conditioning":
                pieces[segment.name] = self.conditioning_at(first_new / rate)
                continue
            own = segment.spec.frame_rate_hz
            first, last = start * own // rate, -(-stop * own // rate)
            codes = self.frames.get(segment.name)
            if codes is None:
                batch_size = self.spans[0].codes.shape[0]
                shape = (batch_size, segment.spec.num_quantizers, last - first)
                codes = torch.full(shape, segment.absent_code)
                first, last = 0, last - first
            pieces[segment.name] = codes[:, :, first:last]
        return pieces

    def changes(self, frame_rate_hz: int) -> list[int]:
        """Frames at which the tokens change."""
        return [round(span.start_seconds * frame_rate_hz) for span in self.spans[1:]]


def plain(conditioning: Int[Tensor, "batch levels 1"]) -> Material:
    """One prompt for the whole piece."""
    return Material((ConditioningSpan(0.0, conditioning),))


def story_spans(
    conditioner: Conditioner, sections: Sequence[Section], blend_seconds: float, batch_size: int
) -> tuple[ConditioningSpan, ...]:
    """Tokens of each section; between two of them, where asked, tokens of points in between.

    The points lie on the way from one text's embedding to the next one's, a new one every 2.5 s,
    and the way ends where the section begins to be itself: `blend_seconds` after its start.
    """
    vectors = [text_embedding(conditioner, section.text) for section in sections]
    spans: list[ConditioningSpan] = []
    for number, (section, vector) in enumerate(zip(sections, vectors, strict=True)):
        start = section.start_seconds
        if number and blend_seconds:
            ends = [later.start_seconds for later in sections[number + 1 : number + 2]]
            length = min(blend_seconds, *(end - start for end in ends)) if ends else blend_seconds
            count = max(round(length / _BLEND_STEP_SECONDS), 1)
            for step in range(count):
                point = blended(vectors[number - 1], vector, (step + 1) / (count + 1))
                codes = embedding_codes(conditioner, point)
                spans.append(_span(start + step * length / count, codes, batch_size))
            start += length
            if ends and start >= ends[0] - 1e-6:
                continue
        spans.append(_span(start, embedding_codes(conditioner, vector), batch_size))
    return tuple(spans)


def style_span(
    conditioner: Conditioner, text: str, request: GenerationRequest, batch_size: int
) -> ConditioningSpan:
    """Tokens of a mix; the prompt, where there is one, counts as a part of weight 1."""
    own = (StylePart(weight=1.0, text=text),) if text else ()
    vector = mixed_embedding(conditioner, (*own, *request.mix))
    return _span(0.0, embedding_codes(conditioner, vector), batch_size)


def clip_span(conditioner: Conditioner, waveform: Waveform, batch_size: int) -> ConditioningSpan:
    """Tokens of a clip: music that goes on should sound as it did."""
    vector = clip_embedding(conditioner, waveform)
    return _span(0.0, embedding_codes(conditioner, vector), batch_size)


def _span(
    start_seconds: float, codes: Int[Tensor, "levels 1"], batch_size: int
) -> ConditioningSpan:
    return ConditioningSpan(start_seconds, codes[None].expand(batch_size, -1, -1))


def looped(
    codes: Int[Tensor, "levels frames"], num_frames: int
) -> Int[Tensor, "levels all_frames"]:
    """A tune played again and again until the piece is over."""
    if not codes.shape[1]:
        return codes
    return codes.repeat(1, -(-num_frames // codes.shape[1]))[:, :num_frames]


def stacked(codes: Tensor, batch_size: int) -> Tensor:
    """The same codes for every sample."""
    return codes[None].expand(batch_size, *codes.shape).contiguous()


def concatenated(materials: Sequence[Material]) -> Material:
    """Materials of single samples, side by side.

    Raises:
        PromptError: They are of different kinds: other times, or codes that only some have.
    """
    first = materials[0]
    if len({_kind(material) for material in materials}) > 1:
        raise PromptError(
            "Requests of different kinds (with and without a tune, stories of other times) cannot "
            "be made at once. Make them one by one."
        )
    spans = tuple(
        ConditioningSpan(span.start_seconds, torch.cat([m.spans[number].codes for m in materials]))
        for number, span in enumerate(first.spans)
    )
    return Material(
        spans,
        {name: torch.cat([m.frames[name] for m in materials]) for name in first.frames},
        {name: torch.cat([m.known[name] for m in materials]) for name in first.known},
    )


def _kind(material: Material) -> tuple[tuple[object, ...], ...]:
    """What must be alike in materials that are put side by side."""
    times = tuple(span.start_seconds for span in material.spans)
    codes = (*material.frames.items(), *material.known.items())
    return times, tuple((name, tuple(tensor.shape)) for name, tensor in codes)
