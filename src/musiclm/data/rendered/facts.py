"""Facts: what is true of a composition, as words for the slots of the caption templates."""

import tomllib
from collections.abc import Iterable
from functools import lru_cache
from importlib import resources

from musiclm.data.rendered.arranger import Composition
from musiclm.data.rendered.instruments import DRUM_KITS, Instrument
from musiclm.data.rendered.plan import beat_centre
from musiclm.data.rendered.score import PITCH_NAMES

_NOUNS = (
    "waltz", "jig", "reel", "polka", "march", "hymn", "song", "lullaby", "ballad", "dance",
    "minuet", "tango", "samba", "music", "piece", "tune", "shanty", "hornpipe", "tarantella",
    "siciliana", "pastoral", "pastorale", "melody", "chorale", "prelude", "suite", "soundtrack",
    "score", "bolero", "shuffle", "soundscape", "beat", "instrumental", "groove", "choir",
    "ensemble", "setting", "Bach", "oldie", "hoedown", "calypso", "arpeggios", "beats", "swing",
)  # fmt: skip
_PLAIN_KINDS = {
    "unaccompanied": ("traditional folk melody", "unaccompanied melody", "folk tune"),
    "chorale": ("chorale", "four-part chorale", "hymn setting", "baroque chorale by Bach"),
}
_METRE_WORDS = {
    "4/4": ("4/4", "common time", "four-four"), "3/4": ("3/4", "triple metre", "three-four"),
    "2/4": ("2/4", "two-four", "duple metre"), "6/8": ("6/8", "six-eight"),
    "9/8": ("9/8", "nine-eight"), "12/8": ("12/8", "twelve-eight"), "5/4": ("5/4", "five-four"),
    "7/8": ("7/8", "seven-eight"),
}  # fmt: skip


@lru_cache(maxsize=1)
def _words() -> dict[str, dict[str, tuple[str, ...]]]:
    text = resources.files("musiclm.data.rendered").joinpath("wordings.toml").read_text("utf-8")
    tables = tomllib.loads(text)
    return {
        name: {key: tuple(words) for key, words in tables[name].items()}
        for name in ("moods", "tempo", "dynamics", "rooms")
    }


def tempo_class(composition: Composition) -> str:
    """`slow`, `medium` or `fast`, by beats a minute and the metre's own middle."""
    ratio = composition.plan.tempo_bpm / beat_centre(composition.plan.metre)
    return "slow" if ratio < 0.82 else "fast" if ratio > 1.22 else "medium"


def _names(instrument: Instrument) -> tuple[str, ...]:
    return tuple(word for word in (instrument.name, *instrument.words) if word)


def key_name(composition: Composition) -> str:
    """The sounding key, such as `D minor`."""
    return f"{PITCH_NAMES[composition.tonic]} {composition.plan.tune.mode}"


def instrument_names(composition: Composition) -> tuple[str, ...]:
    """Every instrument that sounds, the lead first, each once."""
    names = [
        DRUM_KITS[part.kit][1] if part.role == "drums" else part.instrument.name
        for part in composition.parts
    ]
    return tuple(dict.fromkeys(names))


def _noun_phrase(word: str) -> tuple[str, ...]:
    """A genre word as something one can put an article before."""
    if word.split()[-1] in _NOUNS or " in " in word or " with " in word:
        return (word,)
    return (f"{word} piece", f"{word} track", f"{word} instrumental")


def facts_of(composition: Composition) -> dict[str, tuple[str, ...]]:
    """For every slot the words that are true; slots of what is not there are absent."""
    plan, words = composition.plan, _words()
    pace = tempo_class(composition)
    tone = "minor" if plan.tune.mode in ("minor", "dorian") else "major"
    genres = plan.style.words if plan.style else _PLAIN_KINDS[plan.kind]
    moods = words["moods"][f"{tone}_{pace}"]
    own_moods = plan.style.moods if plan.style else ()
    if plan.style is not None and plan.style.harmony == "power":
        # Distorted guitars are not made merry by a major key.
        moods = own_moods
    facts: dict[str, tuple[str, ...]] = {
        "genre_word": genres,
        "genre": tuple(phrase for genre in genres for phrase in _noun_phrase(genre)),
        "mood": moods + own_moods,
        "mood2": own_moods or moods,
        "tempo": words["tempo"][pace],
        "bpm": (f"{plan.tempo_bpm:.0f}",),
        "key": (key_name(composition), f"the key of {key_name(composition)}"),
        "metre": _METRE_WORDS[plan.metre],
        "loud": words["dynamics"][plan.dynamics],
        "room": words["rooms"][plan.room],
        "tag": _tags(composition),
    }
    if plan.grows:
        facts["growth"] = ("yes",)
        del facts["loud"]
    if plan.kind == "unaccompanied":
        facts["solo"] = tuple(n for n in _names(plan.lead) if not n.startswith("solo "))
        facts.pop("genre")
    elif plan.kind == "chorale":
        facts["ensemble"] = (joined(i.name for i in plan.ensemble),)
    else:
        facts |= _players(composition)
    if not composition.has_drums:
        facts["no_drums"] = ("yes",)
    if not any(part.instrument.family == "voice" for part in composition.parts):
        facts["instrumental"] = ("yes",)
    return facts


def joined(names: Iterable[str]) -> str:
    """Names, each once, as a list in a sentence."""
    listed = list(dict.fromkeys(names))
    return listed[0] if len(listed) == 1 else ", ".join(listed[:-1]) + " and " + listed[-1]


def _players(composition: Composition) -> dict[str, tuple[str, ...]]:
    plan = composition.plan
    facts = {"lead": _names(plan.lead)}
    second = composition.part("second lead")
    if second is not None:
        facts["lead2"] = _names(second.instrument)
    style = plan.style
    if style is not None and style.same_player:
        facts["solo"] = (plan.lead.name,)
        return facts
    for role, slot in (("bass", "bass"), ("chords", "chords"), ("pad", "pad")):
        part = composition.part(role)
        if part is not None:
            facts[slot] = _names(part.instrument)
    counter = composition.part("counter line")
    if counter is not None:
        facts["counter"] = _names(counter.instrument)
    backing = [name for name in instrument_names(composition) if name != plan.lead.name]
    if second is not None and second.instrument.name in backing:
        backing.remove(second.instrument.name)
    drums = composition.part("drums")
    if drums is not None:
        facts["drums"] = _drum_words(composition)
    if len(backing) >= 2 or (backing and drums is not None):
        # All of it, and shorter lists that leave something out.
        shorter = [backing[:2], backing[-2:]] if len(backing) > 2 else []
        facts["backing"] = tuple(joined(b) for b in (backing, *shorter))
    event = _event(composition)
    if event:
        facts["event"] = event
    return facts


def _drum_words(composition: Composition) -> tuple[str, ...]:
    plan = composition.plan
    voices = set(plan.drums)
    kit = DRUM_KITS[plan.style.kit][1] if plan.style else "drums"
    if voices & {"k", "s"} and voices & {"s", "l", "r", "h", "H", "y"}:
        return (kit, "a drum beat", "percussion") if kit == "drums" else (kit, "drums")
    if voices <= set("aTBDnNmlCGow"):
        return ("light percussion", "percussion", "hand percussion")
    return (kit, "percussion")


def _event(composition: Composition) -> tuple[str, ...]:
    """What happens in the course of the clip."""
    form = composition.form
    events: list[str] = []
    if composition.has_drums and form.drums_from_bar > 0:
        events += [
            "The drums enter later on.",
            "It begins without drums, which join in after a while.",
        ]
    if form.intro_bars >= 2:
        events += ["It opens with a short introduction before the melody comes in."]
    if len(form.silent_lead_bars):
        events += ["In the middle the melody rests and only the accompaniment plays."]
    if not form.ends_well:
        events += ["It fades out at the end."]
    return tuple(events)


def _tags(composition: Composition) -> tuple[str, ...]:
    """Further short tags: other players, metre, production, what is absent."""
    plan = composition.plan
    tags = [*instrument_names(composition)[1:], plan.metre, f"{plan.tempo_bpm:.0f} bpm"]
    if not composition.has_drums:
        tags += ["no drums", "no percussion"]
    if plan.kind == "unaccompanied":
        tags += ["solo", plan.lead.name, "monophonic melody", "unaccompanied"]
    elif plan.kind == "chorale":
        tags += ["four-part harmony", "polyphonic", plan.lead.name]
    elif plan.style is not None and plan.style.swing > 0.59:
        tags += ["swung rhythm", "shuffle feel"]
    if plan.room == "hall":
        tags += ["reverb", "spacious"]
    if not any(part.instrument.family == "voice" for part in composition.parts):
        tags += ["instrumental", "no vocals"]
    tags.append("minor key" if plan.tune.mode in ("minor", "dorian") else "major key")
    return tuple(tags)
