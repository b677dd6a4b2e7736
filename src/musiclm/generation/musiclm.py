"""MusicLM: prompt to tokens to waveform; three frozen tokenizers and three stages, joined."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from musiclm.audio.waveform import Waveform
from musiclm.codec.soundstream import SoundStream, SoundStreamConfig
from musiclm.core.config import Config
from musiclm.core.errors import PromptError
from musiclm.core.pretrained import load_weights, read_config_json, sha256_of_file
from musiclm.core.runtime import RandomStreams, Runtime
from musiclm.generation.bundle import BundleConfig, bundle_sha256, find_bundle, read_bundle_config
from musiclm.generation.prompt import (
    GenerationSettings,
    checked_duration,
    checked_seed,
    checked_text,
)
from musiclm.generation.record import GenerationRecord
from musiclm.generation.token_file import TokenSet
from musiclm.generation.windows import sliding_windows

ProgressReport = Callable[[str, float], None]
_Part = TypeVar("_Part", bound=nn.Module)


@dataclass(frozen=True)
class Generation:
    """One generated piece and how it was made."""

    waveform: Waveform
    tokens: TokenSet
    prompt: str
    seed: int
    settings: GenerationSettings
    unknown_words: tuple[str, ...]
    model_name: str
    model_sha256: str
    device: str

    def write(self, path: Path | str) -> None:
        """Writes the audio and, beside it, `NAME.json` with all that is needed to make it again."""
        path = Path(path)
        self.waveform.write(path)
        record = GenerationRecord(
            prompt=self.prompt,
            seed=self.seed,
            settings=self.settings,
            model_name=self.model_name,
            model_sha256=self.model_sha256,
            audio_sha256=sha256_of_file(path),
            device=self.device,
            unknown_words=self.unknown_words,
        )
        record.write(path.with_suffix(".json"))
