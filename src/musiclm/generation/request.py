"""Request: everything a person can ask for beside a sentence and its settings, as one value.

It stands in the record beside every piece: texts as they are, files by their path and hash.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from musiclm.core.config import Config
from musiclm.core.errors import PromptError
from musiclm.core.pretrained import sha256_of_file
from musiclm.generation.prompt import MAX_DURATION_SECONDS, checked_text

MAX_SECTIONS = 200
MAX_STYLE_PARTS = 16
_MAX_WEIGHT = 10.0
_STORY_LINE = re.compile(r"(?:(\d+):)?(\d{1,3}):(\d{2}(?:\.\d+)?)\s+(.+)")


class FileReference(Config):
    """A file that a piece was made from."""

    path: str
    """Where it was."""
    sha256: str
    """Hash of its bytes."""

    @classmethod
    def of(cls, path: Path | str) -> "FileReference":
        """The reference of a file that is there.

        Raises:
            PromptError: It is not.
        """
        path = Path(path)
        if not path.is_file():
            raise PromptError(f"No file at {path}. Check the name.")
        return cls(path=str(path), sha256=sha256_of_file(path))

    def checked_path(self) -> Path:
        """The path, when the file there is still the same.

        Raises:
            PromptError: It is gone, or holds something else.
        """
        path = Path(self.path)
        if not path.is_file():
            raise PromptError(f"The piece was made from {path}, which is not there any more.")
        if sha256_of_file(path) != self.sha256:
            raise PromptError(f"{path} has changed since the piece was made from it.")
        return path


class Section(Config):
    """A text and when it begins to hold."""

    start_seconds: float = Field(ge=0)
    """From the start of the piece."""
    text: str
    """What it should sound like from then on."""


class StylePart(Config):
    """One part of a mix of styles: a text or a clip, and its weight."""

    weight: float
    """Above 0 draws the music towards it, below 0 away from it."""
    text: str = ""
    """A text; empty when there is a clip."""
    clip: FileReference | None = None
    """An audio file."""


class GenerationRequest(Config):
    """What a piece is made from beside its prompt; nothing at all by default."""

    story: tuple[Section, ...] = ()
    """Texts that take turns; the first one begins at 0."""
    blend_seconds: float = Field(default=0.0, ge=0, le=60)
    """How long the style takes to move from one section's text to the next one's."""
    mix: tuple[StylePart, ...] = ()
    """Texts and clips whose weighted sum takes the place of the prompt, or is added to it."""
    melody: FileReference | None = None
    """A tune to follow: hummed, sung, whistled or played, or a token file that holds one."""
    continue_from: FileReference | None = None
    """Music to go on with."""
    keep_from: FileReference | None = None
    """A token file whose semantic tokens are kept, and played with new sound."""

    @property
    def needs_text(self) -> bool:
        """Whether a prompt must say what it sounds like, because nothing else does.

        A mix that only leads away from something does not.
        """
        is_drawn = any(part.weight > 0 for part in self.mix)
        return not (self.story or is_drawn or self.continue_from or self.keep_from)


def parse_story(text: str, name: str = "The story") -> tuple[Section, ...]:
    """Sections of a story: a line each, `0:15 drums enter` (minutes, seconds, text).

    Empty lines and lines that begin with `#` are skipped.

    Raises:
        PromptError: A line is no section, the first does not begin at 0:00, or times go back.
    """
    sections: list[Section] = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        match = _STORY_LINE.fullmatch(line)
        if match is None or float(match[3]) >= 60:
            raise PromptError(
                f'{name}, line {number}: "{line[:40]}" is no section. Write minutes:seconds and a '
                "text, such as: 0:15 drums enter"
            )
        start = 3600 * int(match[1] or 0) + 60 * int(match[2]) + float(match[3])
        if sections and start <= sections[-1].start_seconds:
            raise PromptError(
                f"{name}, line {number}: {start:g} s does not come after the section before it. "
                "Put the sections in order."
            )
        sections.append(Section(start_seconds=start, text=checked_text(match[4])))
    if not sections:
        raise PromptError(f"{name} has no section. Write one a line, such as: 0:00 calm piano")
    if sections[0].start_seconds != 0:
        raise PromptError(
            f"{name} begins at {sections[0].start_seconds:g} s. Its first section must be at 0:00."
        )
    if len(sections) > MAX_SECTIONS:
        raise PromptError(f"{name} has {len(sections)} sections; {MAX_SECTIONS} are allowed.")
    return tuple(sections)


def read_story(path: Path | str) -> tuple[Section, ...]:
    """The sections in a story file.

    Raises:
        PromptError: The file is missing, no text, or no story.
    """
    path = Path(path)
    if not path.is_file():
        raise PromptError(f"No story at {path}. Check the name.")
    try:
        return parse_story(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise PromptError(f"{path} is no story: it is not text (UTF-8).") from error


def checked_sections(sections: Sequence[Section], duration_seconds: float) -> None:
    """Refuses a story that has not begun its last section when the piece ends.

    Raises:
        PromptError: A section begins at or after the end.
    """
    if sections and sections[-1].start_seconds >= duration_seconds:
        raise PromptError(
            f"The last section begins at {sections[-1].start_seconds:g} s, but the piece ends at "
            f"{duration_seconds:g} s. Give a longer duration."
        )


def parse_style_part(text: str) -> StylePart:
    """A part of a mix: `0.7:jazz`, `-0.3:drums`, or `0.5:@clip.wav` for an audio file.

    Raises:
        PromptError: It has no weight, the weight is 0 or absurd, or the file is not there.
    """
    weight_text, colon, rest = text.partition(":")
    try:
        weight = float(weight_text)
    except ValueError:
        weight = math.nan
    if not colon or not rest.strip() or not 0 < abs(weight) <= _MAX_WEIGHT:
        raise PromptError(
            f'"{text[:40]}" is no part of a mix. Write a weight from -{_MAX_WEIGHT:g} to '
            f'{_MAX_WEIGHT:g} and a text or @file: "0.7:jazz", "-0.3:drums", "0.5:@clip.wav".'
        )
    rest = rest.strip()
    if rest.startswith("@"):
        return StylePart(weight=weight, clip=FileReference.of(rest[1:]))
    return StylePart(weight=weight, text=checked_text(rest))


def checked_mix(parts: Sequence[StylePart]) -> tuple[StylePart, ...]:
    """A mix of no more parts than can be told apart.

    Raises:
        PromptError: There are too many parts.
    """
    if len(parts) > MAX_STYLE_PARTS:
        raise PromptError(f"The mix has {len(parts)} parts; {MAX_STYLE_PARTS} are allowed.")
    return tuple(parts)


def make_request(
    *,
    story: Path | str | Sequence[tuple[float, str]] | None = None,
    blend_seconds: float = 0.0,
    mix: Sequence[str] = (),
    melody: Path | str | None = None,
    continue_from: Path | str | None = None,
    keep_from: Path | str | None = None,
) -> GenerationRequest:
    """A request from what the command line and Python are given.

    Args:
        story: A story file, or its sections as (seconds, text).
        blend_seconds: How long the style moves from one section's text to the next one's.
        mix: Parts such as `0.7:jazz`, `-0.3:drums`, `0.5:@clip.wav`.
        melody: An audio file with a tune, or a token file (`.safetensors`) that holds one.
        continue_from: An audio file to go on with.
        keep_from: A token file whose semantic tokens are kept.

    Raises:
        PromptError: One of them makes no sense, or a file is missing.
    """
    if not 0 <= blend_seconds <= 60:
        raise PromptError(f"Styles blend for {blend_seconds:g} s; choose 0 to 60.")
    sections: tuple[Section, ...] = ()
    if isinstance(story, (str, Path)):
        sections = read_story(story)
    elif story is not None:
        lines = [f"{int(start // 60)}:{start % 60:06.3f} {text}" for start, text in story]
        sections = parse_story("\n".join(lines))

    if blend_seconds and not sections:
        raise PromptError("Styles blend from one section of a story to the next: give a story.")
    if sections and mix:
        raise PromptError("A story says what to play: leave the mix out, or make it a section.")
    if melody is not None and keep_from is not None:
        raise PromptError(
            "Kept tokens have their tune already: give a melody to follow or a file to keep, not "
            "both."
        )

    def reference(path: Path | str | None) -> FileReference | None:
        return None if path is None else FileReference.of(path)

    return GenerationRequest(
        story=sections,
        blend_seconds=blend_seconds,
        mix=checked_mix([parse_style_part(part) for part in mix]),
        melody=reference(melody),
        continue_from=reference(continue_from),
        keep_from=reference(keep_from),
    )


def story_duration(sections: Sequence[Section], last_seconds: float = 15.0) -> float:
    """How long a story is when nobody says: its last section lasts so many seconds."""
    return min(sections[-1].start_seconds + last_seconds, MAX_DURATION_SECONDS)
