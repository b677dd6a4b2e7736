"""Candidates: several pieces of one request, ranked by how well MuLan hears the request in them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from musiclm.audio.waveform import Waveform
from musiclm.conditioning.conditioner import Conditioner
from musiclm.generation.mixing import clip_embedding, mixed_embedding
from musiclm.generation.request import GenerationRequest, StylePart


@dataclass(frozen=True)
class Similarity:
    """How like its request a piece sounds.

    Attributes:
        score: MuLan's cosine; for a story the mean over its sections.
        sections: Each section's sound against each section's text, one row a section; for other
            requests one row with one number.
    """

    score: float
    sections: Float[Tensor, "sections texts"]


@torch.no_grad()
def similarity(
    conditioner: Conditioner, waveform: Waveform, text: str, request: GenerationRequest
) -> Similarity | None:
    """Compares a piece with what was asked for; None where no text and no mix says it.

    What a piece continues counts as part of it. A story's sections are compared one by one: each
    with every text, so that one sees whether each sounds most like its own.
    """
    if request.story:
        rows: list[Tensor] = []
        texts = conditioner.mulan.embed_text([section.text for section in request.story])
        ends = [section.start_seconds for section in request.story[1:]]
        starts = [section.start_seconds for section in request.story]
        offset = _added_before(waveform, request)
        for start, end in zip(starts, [*ends, None], strict=True):
            rate = waveform.sample_rate_hz
            last = waveform.num_samples if end is None else int((offset + end) * rate)
            first = min(int((offset + start) * rate), last - 1)
            piece = waveform.crop(first, max(last - first, rate // 10))
            rows.append(texts @ clip_embedding(conditioner, piece))
        matrix = torch.stack(rows).cpu()
        return Similarity(float(matrix.diagonal().mean()), matrix)
    if request.mix:
        own = (StylePart(weight=1.0, text=text),) if text else ()
        wanted = mixed_embedding(conditioner, (*own, *request.mix))
    elif text:
        wanted = conditioner.mulan.embed_text([text])[0]
    else:
        return None
    score = (wanted @ clip_embedding(conditioner, waveform)).cpu()
    return Similarity(float(score), score.reshape(1, 1))


def ranked(scores: Sequence[float]) -> list[int]:
    """Places of the scores, the best first; of equal ones the earlier first."""
    return sorted(range(len(scores)), key=lambda index: (-scores[index], index))


def _added_before(waveform: Waveform, request: GenerationRequest) -> float:
    """How much older music lies before the story's first section."""
    if request.continue_from is None:
        return 0.0
    older = Waveform.read(request.continue_from.checked_path()).duration_seconds
    return min(older, waveform.duration_seconds)
