"""Captions: what a composition is, said in many ways, and never more than is true of it."""

import re
import tomllib
from functools import lru_cache
from importlib import resources
from string import Formatter

import numpy as np

from musiclm.data.manifest import Caption
from musiclm.data.rendered.arranger import Composition
from musiclm.data.rendered.facts import facts_of
from musiclm.data.rendered.splits import is_held_out_wording

Slots = dict[str, tuple[str, ...]]
_PROSE_REST = ("prose_lead", "prose_backing", "prose_end")
# Slots whose words may be kept for tests, as templates may.
_ADJECTIVES = ("mood", "mood2", "tempo", "loud", "room")
# Slots that only say "this is so" and are printed as nothing.
_SILENT = ("growth", "instrumental", "no_drums")


@lru_cache(maxsize=1)
def templates() -> dict[str, tuple[str, ...]]:
    """All templates by kind; prose is in parts."""
    text = resources.files("musiclm.data.rendered").joinpath("wordings.toml").read_text("utf-8")
    return {kind: tuple(rows) for kind, rows in tomllib.loads(text)["templates"].items()}


@lru_cache(maxsize=1024)
def _slots_of(template: str) -> tuple[str, ...]:
    return tuple(name for _, name, _, _ in Formatter().parse(template) if name)


class _Writer:
    """Fills templates with one clip's facts, with or without the wordings kept for tests."""

    def __init__(self, draw: np.random.Generator, facts: Slots, *, held_out: bool) -> None:
        self.draw = draw
        self.held_out = held_out
        self.used_held_out = False
        allowed = {name: self._allowed(name, words) for name, words in facts.items()}
        self.facts = {name: words for name, words in allowed.items() if words}

    def _allowed(self, slot: str, words: tuple[str, ...]) -> tuple[str, ...]:
        """In training the adjectives not held out; in tests the held-out ones, where there are."""
        if slot not in _ADJECTIVES:
            return words
        kept = tuple(word for word in words if is_held_out_wording(word) == self.held_out)
        return kept or (words if self.held_out else ())

    def _usable(self, kind: str) -> list[str]:
        fitting = [
            template
            for template in templates()[kind]
            if all(slot in self.facts for slot in _slots_of(template))
            and not ("{mood2}" in template and len({*self.facts["mood"], *self.facts["mood2"]}) < 2)
        ]
        kept = [t for t in fitting if is_held_out_wording(t) == self.held_out]
        return kept or (fitting if self.held_out else [])

    def _word(self, slot: str, other_than: str = "") -> str:
        words = [word for word in self.facts[slot] if word != other_than] or [other_than]
        word = words[int(self.draw.integers(len(words)))]
        self.used_held_out |= slot in _ADJECTIVES and is_held_out_wording(word)
        return word

    def _fill(self, template: str) -> str:
        self.used_held_out |= is_held_out_wording(template)
        values: dict[str, str] = {}
        for slot in sorted(_slots_of(template)):
            if slot in _SILENT:
                values[slot] = ""
            else:
                # Two adjectives of one sentence should differ.
                values[slot] = self._word(slot, values.get("mood", "") if slot == "mood2" else "")
        return tidy(template.format(**values))

    def one(self, kind: str) -> str:
        usable = self._usable(kind)
        return self._fill(usable[int(self.draw.integers(len(usable)))]) if usable else ""

    def prose(self) -> str:
        sentences = [self.one("prose_open")]
        sentences += [self.one(kind) for kind in _PROSE_REST if self.draw.random() < 0.75]
        if sum(map(bool, sentences)) < 2:
            sentences += [self.one("prose_backing"), self.one("prose_end")]
        return " ".join(dict.fromkeys(sentence for sentence in sentences if sentence))

    def tags(self) -> str:
        slots = ("genre_word", "mood", "lead", "tempo", "mood2", "tag", "tag", "tag", "key")
        words = [self._word(s) for s in slots if s in self.facts and self.draw.random() < 0.75]
        words += [self._word("lead")] if "lead" in self.facts and len(words) < 3 else []
        unique = list(dict.fromkeys(re.sub(r"^(an?|the) ", "", word) for word in words))
        return ", ".join(unique[i] for i in self.draw.permutation(len(unique)))


def tidy(text: str) -> str:
    """Mends articles, spaces and capitals of a filled template."""
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"\b([Aa]) (?=[aeioAEIO8]|un|up|ur)", r"\1n ", text)
    text = re.sub(r"\b([Aa])n (?=eu|one|uni)", r"\1 ", text)
    text = re.sub(r"\b[Aa]n? (an?) ", r"\1 ", text)
    text = re.sub(r"(?<![A-Za-z])[Ss]olo (?:solo|an? )", "Solo ", text)
    return re.sub(r"(^|[.!] )([a-z])", lambda m: m[1] + m[2].upper(), text)


def write_captions(composition: Composition, seed: int) -> tuple[Caption, ...]:
    """All captions of a clip; wordings kept for tests appear on validation and test clips only.

    Args:
        composition: What is described.
        seed: Seed of the corpus.
    """
    plan = composition.plan
    draw = np.random.default_rng([seed, plan.index, 3])
    facts = facts_of(composition)
    captions: dict[str, Caption] = {}
    for held_out in (False,) if plan.split == "train" else (False, True):
        writer = _Writer(draw, facts, held_out=held_out)
        for kind in ("tags", "sentence", "paraphrase", "prose") * 2:
            writer.used_held_out = False
            if kind == "tags":
                text = writer.tags()
            else:
                text = writer.prose() if kind == "prose" else writer.one(kind)
            if text and text not in captions and writer.used_held_out == held_out:
                row = {"text": text, "kind": kind, "is_held_out": held_out}
                captions[text] = Caption.model_validate(row)
    return tuple(captions.values())
