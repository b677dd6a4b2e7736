"""Tunes: the usable books of music21's corpus, read once and grouped into near-duplicates.

Only collections that may be learnt from are named here (old tune books and Bach's chorales). The
package's folder is found without importing music21.
"""

import importlib.util
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path

from musiclm.core.errors import DependencyError
from musiclm.data.manifest import Split
from musiclm.data.rendered.abc import read_abc
from musiclm.data.rendered.musicxml import read_chorale
from musiclm.data.rendered.score import Tune
from musiclm.data.rendered.splits import split_of_group

ABC_COLLECTIONS = ("oneills1850", "airdsAirs", "ryansMammoth", "miscFolk")
COLLECTION_TITLES = {
    "oneills1850": "O'Neill's Music of Ireland",
    "airdsAirs": "Aird's Airs",
    "ryansMammoth": "Ryan's Mammoth Collection",
    "miscFolk": "folk tunes",
    "bach": "J. S. Bach, chorales",
}
_GRAM = 10
_USABLE_METRES = ("4/4", "2/4", "3/4", "3/8", "6/8", "9/8", "12/8")


@dataclass(frozen=True)
class TuneLibrary:
    """All tunes, and the group each belongs to.

    Attributes:
        tunes: Melodies of the tune books.
        chorales: Four-part settings.
        cluster_of: Name of the near-duplicate group of every `tune_id`.
    """

    tunes: tuple[Tune, ...]
    chorales: tuple[Tune, ...]
    cluster_of: dict[str, str]

    def of_split(self, split: Split, *, chorales: bool = False) -> tuple[Tune, ...]:
        """The tunes whose group belongs to a split."""
        return self._by_split[split, chorales]

    @cached_property
    def _by_split(self) -> dict[tuple[Split, bool], tuple[Tune, ...]]:
        splits: tuple[Split, ...] = ("train", "validation", "test")
        return {
            (split, is_chorale): tuple(
                tune for tune in chosen if split_of_group(self.cluster_of[tune.tune_id]) == split
            )
            for split in splits
            for is_chorale, chosen in ((False, self.tunes), (True, self.chorales))
        }


def corpus_folder() -> Path:
    """The corpus inside the installed music21 package.

    Raises:
        DependencyError: music21 is not installed, or without its corpus.
    """
    spec = importlib.util.find_spec("music21")
    if spec is not None and spec.origin is not None:
        folder = Path(spec.origin).parent / "corpus"
        if (folder / "oneills1850").is_dir():
            return folder
    raise DependencyError(
        "The tune books come with the package music21, which is not installed. "
        "Install it: pip install music21"
    )


@lru_cache(maxsize=1)
def load_library() -> TuneLibrary:
    """Reads every usable tune and chorale (a few seconds, once a process)."""
    folder = corpus_folder()
    tunes: list[Tune] = []
    for collection in ABC_COLLECTIONS:
        for path in sorted((folder / collection).glob("*.abc")):
            tunes += [t for t in read_abc(path, collection) if t.metre in _USABLE_METRES]
    read = (read_chorale(path) for path in sorted((folder / "bach").glob("*.mxl")))
    chorales = [tune for tune in read if tune is not None]
    return TuneLibrary(tuple(tunes), tuple(chorales), cluster_names([*tunes, *chorales]))


def interval_grams(pitches: Sequence[int]) -> frozenset[tuple[int, ...]]:
    """Every run of ten melodic intervals: the same for a tune in any key."""
    steps = [after - before for before, after in pairwise(pitches)]
    return frozenset(tuple(steps[i : i + _GRAM]) for i in range(len(steps) - _GRAM + 1))


def cluster_names(tunes: Sequence[Tune]) -> dict[str, str]:
    """Groups near-duplicates: tunes that share over 30 % of the shorter one's interval runs.

    Returns:
        For every `tune_id` the name of its group (the first member's id).
    """
    grams = {t.tune_id: interval_grams([n.pitch for n in t.notes]) for t in tunes}
    holders: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for name, own in grams.items():
        for gram in own:
            holders[gram].append(name)
    parent = {name: name for name in grams}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    shared: Counter[tuple[str, str]] = Counter()
    for names in holders.values():
        # Runs that very many tunes have (scales, repeated notes) tell nothing.
        if 1 < len(names) < 60:
            shared.update((a, b) for i, a in enumerate(names) for b in names[i + 1 :])
    for (a, b), count in shared.items():
        if count > 0.3 * max(1, min(len(grams[a]), len(grams[b]))):
            first, second = sorted((root(a), root(b)))
            parent[second] = first
    return {name: root(name) for name in grams}
