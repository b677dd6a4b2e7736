"""Styles: the table of accompaniment patterns, read from the two `.toml` files beside this."""

import tomllib
from functools import lru_cache
from importlib import resources
from typing import Literal

from pydantic import Field, field_validator, model_validator

from musiclm.core.config import Config
from musiclm.data.rendered.instruments import DRUM_KEYS, DRUM_KITS, INSTRUMENTS
from musiclm.data.rendered.score import bar_quarters

Harmony = Literal["triad", "seventh", "power", "blues", "open", "drone"]


class Style(Config):
    """One accompaniment style: patterns, instruments, tempo and the words for it."""

    name: str
    """Unique name; the key of the table."""
    words: tuple[str, ...] = Field(min_length=1)
    """Genre words for captions."""
    metre: str
    """Time signature of the patterns."""
    steps: int = Field(gt=0)
    """Pattern characters in a bar."""
    tempo: tuple[float, float]
    """Lowest and highest beats a minute (dotted quarters in compound metres)."""
    swing: float = Field(default=0.5, ge=0.5, le=0.7)
    """Where the second half of a beat falls."""
    kit: str = "standard"
    """Drum kit, one of `DRUM_KITS`."""
    harmony: Harmony = "triad"
    """How chords are coloured."""
    drums: tuple[dict[str, str], ...] = ({},)
    """One-bar drum patterns to choose from."""
    bass: tuple[str, ...] = Field(min_length=1)
    """One-bar bass patterns."""
    comp: tuple[str, ...] = Field(min_length=1)
    """One-bar chord patterns."""
    bass_instruments: tuple[str, ...] = Field(min_length=1)
    """Instruments that may play the bass."""
    comp_instruments: tuple[str, ...] = Field(min_length=1)
    """Instruments that may play the chords."""
    pad_instruments: tuple[str, ...] = ()
    """Instruments for a pad or counter line; none in solo styles."""
    lead_instruments: tuple[str, ...] = Field(min_length=1)
    """Instruments that fit the melody."""
    same_player: bool = False
    """Whether one player does it all: bass and chords on the lead's instrument."""
    held_out: bool = False
    """Whether the style is kept out of training."""
    moods: tuple[str, ...] = Field(min_length=1)
    """Words for its character."""

    @field_validator("bass", "comp", mode="before")
    @classmethod
    def _close_up(cls, value: list[str]) -> tuple[str, ...]:
        return tuple(pattern.replace(" ", "") for pattern in value)

    @model_validator(mode="after")
    def _check(self) -> "Style":
        patterns = [*self.bass, *self.comp, *(p for bar in self.drums for p in bar.values())]
        for pattern in patterns:
            if len(pattern) != self.steps:
                raise ValueError(f"pattern {pattern!r} has {len(pattern)} steps, not {self.steps}")
        for voice in (voice for bar in self.drums for voice in bar):
            if voice not in DRUM_KEYS:
                raise ValueError(f"drum voice {voice!r} is unknown")
        if self.kit not in DRUM_KITS:
            raise ValueError(f"drum kit {self.kit!r} is unknown")
        named = (
            *self.bass_instruments, *self.comp_instruments, *self.pad_instruments,
            *self.lead_instruments,
        )  # fmt: skip
        for name in named:
            if name not in INSTRUMENTS:
                raise ValueError(f"instrument {name!r} is unknown")
        return self

    @property
    def bar_quarters(self) -> float:
        """Length of a bar in quarter notes."""
        return bar_quarters(self.metre)

    @property
    def step_quarters(self) -> float:
        """Length of a pattern step in quarter notes."""
        return self.bar_quarters / self.steps


@lru_cache(maxsize=1)
def all_styles() -> tuple[Style, ...]:
    """Every style of the tables, in their order."""
    styles: list[Style] = []
    for file_name in ("styles.toml", "styles_popular.toml"):
        text = resources.files("musiclm.data.rendered").joinpath(file_name).read_text("utf-8")
        styles += [
            Style.model_validate({"name": k, **row}) for k, row in tomllib.loads(text).items()
        ]
    return tuple(styles)
