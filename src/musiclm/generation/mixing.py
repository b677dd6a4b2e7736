"""Mixing styles: texts and clips as one point of MuLan's space, with weights of either sign."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from musiclm.audio.waveform import Waveform
from musiclm.conditioning.conditioner import Conditioner
from musiclm.core.errors import PromptError
from musiclm.generation.request import StylePart

_SMALLEST_NORM = 0.05


@torch.no_grad()
def text_embedding(conditioner: Conditioner, text: str) -> Float[Tensor, " dim"]:
    """A text where audio lies: its embedding, moved across the modality gap, of unit length."""
    shift = conditioner.tokenizer.text_shift
    return functional.normalize(conditioner.mulan.embed_text([text])[0] + shift, dim=0)


@torch.no_grad()
def clip_embedding(conditioner: Conditioner, waveform: Waveform) -> Float[Tensor, " dim"]:
    """A clip's embedding: windows of 10 s averaged, of unit length."""
    samples = waveform.resampled(conditioner.sample_rate_hz).samples
    return conditioner.mulan.embed_audio(samples[None].to(conditioner.tokenizer.text_shift))[0]


def mixed_embedding(conditioner: Conditioner, parts: Sequence[StylePart]) -> Float[Tensor, " dim"]:
    """The weighted sum of the parts, of unit length.

    Raises:
        PromptError: Every weight is below 0, the parts cancel out, or a clip has changed or cannot
            be used.
        AudioError: A clip cannot be read.
    """
    if all(part.weight < 0 for part in parts):
        raise PromptError(
            "Every weight of the mix is below 0: say with a prompt or a positive weight what to "
            'play, such as "1:calm piano".'
        )
    vectors = [
        part.weight
        * (
            clip_embedding(conditioner, Waveform.read(part.clip.checked_path()))
            if part.clip is not None
            else text_embedding(conditioner, part.text)
        )
        for part in parts
    ]
    total = torch.stack(vectors).sum(dim=0)
    if float(total.norm()) < _SMALLEST_NORM:
        raise PromptError("The parts of the mix cancel out: nothing is left to play. Change them.")
    return functional.normalize(total, dim=0)


def blended(
    before: Float[Tensor, " dim"], after: Float[Tensor, " dim"], share: float
) -> Float[Tensor, " dim"]:
    """A point between two unit vectors, of unit length; `share` 0 is the first."""
    return functional.normalize(torch.lerp(before, after, share), dim=0)


def embedding_codes(
    conditioner: Conditioner, embedding: Float[Tensor, " dim"]
) -> Int[Tensor, "quantizers 1"]:
    """The conditioning tokens of a point of the space."""
    return conditioner.tokenizer.tokenize(embedding[None])[0]
