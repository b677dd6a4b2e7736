"""Guidance: logits with a prompt, moved on from what the stage says without parts of it.

The batch comes several times: as it is, without the segments that have a scale of their own, and
without anything optional. The logits of the last copy are the start; from there they move towards
each copy before it, as far as its scale says. Scale 1 arrives there, larger ones go beyond. With
one scale this is classifier-free guidance (Ho and Salimans, 2022); with several, each part of the
prompt is followed as closely as it should be (Brooks et al., 2023, InstructPix2Pix, Section 3.2.1).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from musiclm.stages.layout import Segment

Scale = float | Tensor


@dataclass(frozen=True)
class Contrast:
    """One more copy of the batch.

    Attributes:
        absent: Names of the segments that this copy goes without.
        scale: How far logits move from this copy's to those of the copy before.
    """

    absent: frozenset[str]
    scale: float


def contrasts(
    prefixes: Sequence[Segment],
    segments: Mapping[str, Tensor],
    guidance: float,
    guidance_of: Mapping[str, float],
) -> tuple[Contrast, ...]:
    """The copies that a request takes; none where nothing is contrasted.

    Args:
        prefixes: What the stage reads.
        segments: Its codes, by name; a segment that says nothing takes no copy of its own.
        guidance: Scale of all optional segments together.
        guidance_of: Scales of some of them, by name; the same as `guidance` takes no copy.
    """
    found: list[Contrast] = []
    absent: set[str] = set()
    optional = [segment for segment in prefixes if segment.is_optional]
    for segment in optional:
        scale = guidance_of.get(segment.name, guidance)
        if scale != guidance and bool((segments[segment.name] != segment.absent_code).any()):
            absent.add(segment.name)
            found.append(Contrast(frozenset(absent), scale))
    rest = {segment.name for segment in optional} - absent
    if guidance != 1 and rest:
        found.append(Contrast(frozenset(absent | rest), guidance))
    return tuple(found)


def with_copies(
    prefixes: Sequence[Segment], segments: Mapping[str, Tensor], chosen: Sequence[Contrast]
) -> dict[str, Tensor]:
    """The codes of each prefix, with its copies below one another."""
    copied: dict[str, Tensor] = {}
    for segment in prefixes:
        codes = segments[segment.name]
        nothing = torch.full_like(codes, segment.absent_code)
        others = [nothing if segment.name in copy.absent else codes for copy in chosen]
        copied[segment.name] = torch.cat([codes, *others])
    return copied


def contrasted(
    logits: Float[Tensor, "rows levels entries"], scales: Sequence[Scale] | Tensor
) -> Float[Tensor, "batch levels entries"]:
    """The logits to choose from.

    Args:
        logits: Those of the batch and of its copies, below one another.
        scales: Of the copies, in order; on the device of the logits, if a tensor.
    """
    if not len(scales):
        return logits
    copies = logits.chunk(len(scales) + 1)
    moved = torch.lerp(copies[-1], copies[-2], scales[-1])
    for place in range(len(scales) - 2, -1, -1):
        moved = moved + scales[place] * (copies[place] - copies[place + 1])
    return moved
