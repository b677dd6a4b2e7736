"""What a person asks for: the prompt and its settings, checked once at the border."""

import math
import unicodedata

from pydantic import Field

from musiclm.core.config import Config
from musiclm.core.errors import PromptError

MAX_DURATION_SECONDS = 600.0
MAX_PROMPT_CHARACTERS = 2_000
MAX_SEED = 2**63 - 1


class Temperatures(Config):
    """Sampling temperature of each stage (MusicLM, Section 4.2)."""

    semantic: float = Field(default=1.0, ge=0)
    """Of the semantic stage; 0 is greedy."""
    coarse: float = Field(default=0.95, ge=0)
    """Of the coarse stage."""
    fine: float = Field(default=0.4, ge=0)
    """Of the fine stage."""

    def scaled(self, factor: float) -> "Temperatures":
        """All three multiplied by one factor."""
        return Temperatures(
            semantic=self.semantic * factor, coarse=self.coarse * factor, fine=self.fine * factor
        )


class GenerationSettings(Config):
    """Everything beside the prompt and the seed that decides what is heard."""

    duration_seconds: float = 10.0
    """Length of the piece."""
    temperatures: Temperatures | None = None
    """Sampling temperature of each stage; by default the model's own."""
    temperature_scale: float = Field(default=1.0, ge=0, le=10)
    """Multiplies them; lower is safer, higher is wilder."""
    num_levels: int | None = Field(default=None, ge=1, le=64)
    """Acoustic levels that are made and heard; by default as many as the model's folder says. With
    the coarse ones alone the fine stage does not run."""
    guidance: float | None = Field(default=None, ge=0, le=20, allow_inf_nan=False)
    """How far logits move from those without the prompt (0) to those with it (1) and beyond; by
    default as far as the model's folder says."""
    coarse_guidance: float | None = Field(default=None, ge=0, le=20, allow_inf_nan=False)
    """That of the coarse stage; by default `guidance`, or as the model's folder says where that is
    not given either."""
    melody_guidance: float | None = Field(default=None, ge=0, le=20, allow_inf_nan=False)
    """How far the last stage that reads a melody moves from logits without it to those with it; by
    default as the model's folder says, or as far as for the rest of the prompt."""

    @property
    def decided_temperatures(self) -> Temperatures:
        """The scaled temperatures; the papers' where nobody has decided."""
        return (self.temperatures or Temperatures()).scaled(self.temperature_scale)

    @property
    def decided_guidance(self) -> float:
        """The guidance, or 1 (none) where nobody has decided."""
        return 1.0 if self.guidance is None else self.guidance

    def guidance_of(self, stage: str) -> float:
        """The guidance of `semantic` or `coarse`."""
        own = self.coarse_guidance if stage == "coarse" else None
        return self.decided_guidance if own is None else own


def checked_text(text: str) -> str:
    """A usable text prompt: trimmed, Unicode-normalised.

    Raises:
        PromptError: The text is empty or absurdly long.
    """
    cleaned = " ".join(unicodedata.normalize("NFKC", text).split())
    if not cleaned:
        raise PromptError('The prompt is empty. Describe some music, such as "a calm solo piano".')
    if len(cleaned) > MAX_PROMPT_CHARACTERS:
        raise PromptError(
            f"The prompt has {len(cleaned):,} characters; at most {MAX_PROMPT_CHARACTERS:,} are "
            "allowed. Describe the music in a few sentences."
        )
    return cleaned


def checked_duration(duration_seconds: float) -> float:
    """A usable duration in seconds.

    Raises:
        PromptError: It is not a number, not positive, or above the limit.
    """
    if not math.isfinite(duration_seconds) or not 0 < duration_seconds <= MAX_DURATION_SECONDS:
        raise PromptError(
            f"The duration is {duration_seconds} s; choose more than 0 and at most "
            f"{MAX_DURATION_SECONDS:g} s."
        )
    return duration_seconds


def checked_seed(seed: int) -> int:
    """A usable seed.

    Raises:
        PromptError: It is negative or does not fit in 63 bits.
    """
    if not 0 <= seed <= MAX_SEED:
        raise PromptError(f"The seed is {seed}; choose a whole number from 0 to {MAX_SEED}.")
    return seed
