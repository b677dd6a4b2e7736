"""Does generated audio have the instrument that was asked for? MusicNN's tags decide.

Conventions: a clip agrees when, among the eleven melody instruments that MagnaTagATune has tags
for, the asked lead's tag is the most probable one. Only leads with such a tag count (no trumpet,
organ, saxophone). Chance is the expected agreement when the asked leads are dealt out to the clips
at random, exactly, without draws; a model that always plays the commonest lead scores chance.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from musiclm.core.errors import DataError

INSTRUMENT_TAGS: Mapping[str, tuple[str, ...]] = {
    "guitar": ("guitar",),
    "piano": ("piano",),
    "violin": ("violin",),
    "cello": ("cello",),
    "strings": ("strings",),
    "flute": ("flute",),
    "harpsichord": ("harpsichord",),
    "sitar": ("sitar",),
    "harp": ("harp",),
    "choir": ("choir", "choral"),
    "synth": ("synth",),
}
"""Instruments and the MagnaTagATune tags that mean them; the most probable one counts."""

_SYNONYMS: Mapping[str, str] = {
    **{name: name for name in INSTRUMENT_TAGS},
    "choral": "choir",
    "fiddle": "violin",
    "oohs": "choir",
    "pad": "synth",
    "polysynth": "synth",
    "string": "strings",
    "synthesizer": "synth",
    "synthesiser": "synth",
    "voices": "choir",
}
_WITHOUT_TAG = re.compile(r"\b(bass|electric piano|drums?)\b")


@dataclass(frozen=True)
class InstrumentAgreement:
    """How often the asked lead is heard, over the clips whose lead has a tag."""

    num_clips: int
    rate: float
    chance: float
    rate_by_instrument: Mapping[str, float]

    @property
    def times_chance(self) -> float:
        """The rate over chance; 1 when nothing was learned."""
        return self.rate / self.chance if self.chance else 0.0


def instrument_of_lead(lead: str) -> str | None:
    """The instrument of `INSTRUMENT_TAGS` that a lead's name means; None if it has no tag.

    `nylon guitar` is a guitar, `synth strings` a synth; a bass guitar and an electric piano are
    neither guitar nor piano to a listener who tags, and are left out.
    """
    name = lead.lower()
    if _WITHOUT_TAG.search(name):
        return None
    meant = [_SYNONYMS[word] for word in re.findall(r"[a-z]+", name) if word in _SYNONYMS]
    if not meant:
        return None
    return "synth" if "synth" in meant else meant[-1]


def heard_instruments(
    tag_probabilities: Float[np.ndarray, "clips tags"], tags: Sequence[str]
) -> list[str]:
    """The most probable instrument of each clip.

    Raises:
        DataError: The tags are not MagnaTagATune's.
    """
    column = {tag: number for number, tag in enumerate(tags)}
    missing = [tag for group in INSTRUMENT_TAGS.values() for tag in group if tag not in column]
    if missing:
        raise DataError(f"The tagger has no tag {missing[0]!r}; use the MTT variant of MusicNN.")
    scores = np.stack(
        [
            tag_probabilities[:, [column[tag] for tag in group]].max(axis=1)
            for group in INSTRUMENT_TAGS.values()
        ],
        axis=1,
    )
    names = tuple(INSTRUMENT_TAGS)
    return [names[best] for best in scores.argmax(axis=1)]


def instrument_agreement(
    leads: Sequence[str], tag_probabilities: Float[np.ndarray, "clips tags"], tags: Sequence[str]
) -> InstrumentAgreement:
    """Compares the leads that were asked for with what is heard.

    Args:
        leads: The asked lead of each clip, as in the corpus labels.
        tag_probabilities: The tagger's verdict on each clip.
        tags: The tagger's tags, in order.

    Raises:
        DataError: The numbers of clips differ, no lead has a tag, or the tags are foreign.
    """
    if len(leads) != tag_probabilities.shape[0]:
        raise DataError(f"{len(leads)} leads for {tag_probabilities.shape[0]} clips.")
    heard = heard_instruments(tag_probabilities, tags)
    asked = [instrument_of_lead(lead) for lead in leads]
    pairs = [(name, sound) for name, sound in zip(asked, heard, strict=True) if name is not None]
    if not pairs:
        raise DataError("No clip's lead is an instrument that MusicNN has a tag for.")
    asked_counts = Counter(name for name, _ in pairs)
    heard_counts = Counter(sound for _, sound in pairs)
    agreed_counts = Counter(name for name, sound in pairs if name == sound)
    chance = sum(asked_counts[name] * heard_counts[name] for name in asked_counts) / len(pairs) ** 2
    return InstrumentAgreement(
        num_clips=len(pairs),
        rate=agreed_counts.total() / len(pairs),
        chance=chance,
        rate_by_instrument={
            name: agreed_counts[name] / count for name, count in sorted(asked_counts.items())
        },
    )
