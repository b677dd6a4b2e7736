"""Gathering: a request and a text become the material that the cascade begins with."""

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from musiclm.audio.waveform import Waveform
from musiclm.codec.soundstream import SoundStream
from musiclm.conditioning.conditioner import Conditioner
from musiclm.conditioning.melody_tokenizer import MelodyTokenizer
from musiclm.core.errors import PromptError
from musiclm.generation.cascade import Cascade
from musiclm.generation.material import (
    ConditioningSpan,
    Material,
    clip_span,
    looped,
    story_spans,
    style_span,
)
from musiclm.generation.melody_prompt import melody_of_tokens, read_melody
from musiclm.generation.prompt import checked_duration
from musiclm.generation.request import GenerationRequest, checked_sections
from musiclm.generation.token_file import TokenSet


@runtime_checkable
class PromptModels(Protocol):
    """The parts of a model that read prompts."""

    @property
    def codec(self) -> SoundStream:
        """Whose rate pieces have."""
        ...

    @property
    def conditioner(self) -> Conditioner:
        """Texts and clips to conditioning tokens."""
        ...

    @property
    def melody(self) -> MelodyTokenizer:
        """Tunes to melody tokens."""
        ...

    @property
    def stages(self) -> Cascade:
        """Says what is read."""
        ...

    def encode(self, waveform: Waveform) -> TokenSet:
        """All tokens of a clip."""
        ...


@dataclass(frozen=True)
class Gathered:
    """What one sample begins with.

    Attributes:
        material: For the cascade, with one row.
        duration_seconds: Of the whole piece, what it continues included.
    """

    material: Material
    duration_seconds: float


def gather(
    models: PromptModels, text: str, request: GenerationRequest, duration_seconds: float
) -> Gathered:
    """Reads the files of a request and lays out what the stages are given.

    A piece that continues a clip begins with the clip (through the codec), and the asked duration
    is that of the new music; story and melody begin with the new music. A piece that keeps the
    semantic tokens of a file is as long as that file.

    Raises:
        PromptError: A file is gone or has changed, the piece becomes too long, or the model cannot
            do what is asked.
        AudioError: An audio file cannot be read.
    """
    kept = None if request.keep_from is None else TokenSet.read(request.keep_from.checked_path())
    clip = (
        None
        if request.continue_from is None
        else Waveform.read(request.continue_from.checked_path())
    )
    if kept is not None and clip is not None:
        raise PromptError("A piece can continue a clip or keep a file's tokens, not both.")
    known: dict[str, Tensor] = {}
    offset = 0.0
    if kept is not None:
        known = {"semantic": kept.semantic[None, None]}
        duration_seconds = kept.num_samples / models.codec.sample_rate_hz
    if clip is not None:
        known, offset = _known_codes(models, clip)
        duration_seconds = checked_duration(offset + checked_duration(duration_seconds))
    checked_sections(request.story, duration_seconds - offset)
    spans = _spans(models, text, request, kept, clip)
    moved = tuple(
        replace(span, start_seconds=span.start_seconds + (offset if number else 0.0))
        for number, span in enumerate(spans)
    )
    frames: dict[str, Tensor] = {}
    melody = _melody(models, request, duration_seconds, offset)
    if melody is not None:
        frames["melody"] = melody[None]
    return Gathered(Material(moved, frames, known), duration_seconds)


def _spans(
    models: PromptModels,
    text: str,
    request: GenerationRequest,
    kept: TokenSet | None,
    clip: Waveform | None,
) -> tuple[ConditioningSpan, ...]:
    conditioner = models.conditioner
    if request.story:
        return story_spans(conditioner, request.story, request.blend_seconds, 1)
    if request.mix:
        return (style_span(conditioner, text, request, 1),)
    if text:
        return (ConditioningSpan(0.0, conditioner.tokenize_text([text]).cpu()),)
    if kept is not None:
        return (ConditioningSpan(0.0, kept.conditioning[None, :, None]),)
    if clip is not None:
        return (clip_span(conditioner, clip, 1),)
    raise PromptError('Say what to play, such as: musiclm generate "a calm solo piano".')


def _known_codes(models: PromptModels, clip: Waveform) -> tuple[dict[str, Tensor], float]:
    """The codes of the clip that is continued, cut to whole semantic frames, and its length."""
    tokens = models.encode(clip)
    scale, num_coarse = models.stages.frames_per_semantic, models.stages.num_coarse
    frames = min(len(tokens.semantic), tokens.acoustic.shape[1] // scale)
    if not frames:
        raise PromptError(
            f"The clip to continue is {clip.duration_seconds:.3f} s long; give at least 0.1 s."
        )
    acoustic = tokens.acoustic[None, :, : frames * scale]
    known = {
        "semantic": tokens.semantic[None, None, :frames],
        "coarse": acoustic[:, :num_coarse],
        "fine": acoustic[:, num_coarse:],
    }
    return known, frames / models.stages.semantic_rate_hz


def _melody(
    models: PromptModels, request: GenerationRequest, duration_seconds: float, offset: float
) -> Tensor | None:
    """Melody tokens for the whole piece: absent before the new music, then the tune, repeated."""
    if request.melody is None:
        return None
    if not models.stages.reads("melody"):
        raise PromptError(
            "This model follows no melodies: its semantic stage was trained without them. Use a "
            "model that was, or leave --melody out."
        )
    spec = models.melody.token_spec
    codes = _tune(models.melody, request.melody.checked_path())
    before = torch.full(
        (spec.num_quantizers, round(offset * spec.frame_rate_hz)), spec.codebook_size
    )
    count = -(-int((duration_seconds - offset) * spec.frame_rate_hz * 1000) // 1000) + 1
    if codes is None:
        absent = torch.full((spec.num_quantizers, count), spec.codebook_size)
        return torch.cat([before, absent], dim=1)
    return torch.cat([before, looped(codes, count)], dim=1)


def _tune(tokenizer: MelodyTokenizer, path: Path) -> Tensor | None:
    """The melody tokens of a recording or of a token file; None where no tune is heard."""
    if path.suffix == ".safetensors":
        return melody_of_tokens(TokenSet.read(path).melody, tokenizer.token_spec, str(path))
    prompt = read_melody(tokenizer, Waveform.read(path))
    if prompt.warning:
        warnings.warn(prompt.warning, stacklevel=2)
    return prompt.codes
