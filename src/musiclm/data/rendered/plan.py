"""Plan: everything that is decided about a clip before a note is written.

Clip `i` of a corpus is a function of the seed and `i` alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from musiclm.data.manifest import Split
from musiclm.data.rendered.adaptation import Adaptation, adaptation
from musiclm.data.rendered.instruments import INSTRUMENTS, Instrument
from musiclm.data.rendered.score import Tune, beat_quarters
from musiclm.data.rendered.styles import Style, all_styles
from musiclm.data.rendered.tunes import TuneLibrary

DYNAMICS = ("soft", "medium", "loud")
ROOMS = ("dry", "room", "hall")
_CHORALE_ENSEMBLES = (
    ("choir",), ("choir", "oohs"), ("church organ",), ("strings",), ("slow strings",),
    ("violin", "violin", "viola", "cello"), ("brass section",), ("piano",), ("harpsichord",),
    ("trumpet", "french horn", "trombone", "trombone"), ("flute", "oboe", "clarinet", "bassoon"),
    ("clarinet", "clarinet", "clarinet", "bassoon"), ("alto saxophone", "alto saxophone",
    "tenor saxophone", "tenor saxophone"), ("warm pad",), ("music box",), ("vibraphone",),
    ("accordion",), ("classical guitar",), ("harp",), ("electric piano",), ("saw synth",),
    ("hammond organ",), ("recorder", "recorder", "clarinet", "bassoon"), ("halo pad",),
    ("celesta",), ("oohs",), ("marimba",), ("french horn",),
)  # fmt: skip
_SOLO_LEADS = (
    "piano", "violin", "flute", "classical guitar", "acoustic guitar", "cello", "harp", "trumpet",
    "clarinet", "alto saxophone", "oboe", "recorder", "accordion", "vibraphone", "music box",
    "harpsichord", "sitar", "church organ", "banjo", "french horn", "whistle", "choir", "oohs",
    "tenor saxophone", "harmonica", "pan flute", "saw synth", "square synth", "electric guitar",
    "marimba", "celesta", "trombone", "viola", "bassoon", "koto", "bagpipes", "electric piano",
    "xylophone", "steel drums", "kalimba", "dulcimer", "shamisen", "ocarina", "piccolo",
)  # fmt: skip


@dataclass(frozen=True)
class ClipPlan:
    """The decisions for one clip.

    Attributes:
        index: Number of the clip in its corpus.
        split: Which split its melody, style and soundfont put it in.
        kind: `arranged`, `unaccompanied` or `chorale`.
        tune: The music.
        style: Accompaniment; None for unaccompanied clips and chorales.
        how: How the tune is retimed to the style.
        stretch: 2 when the tune is played at half speed, 0.5 at double speed.
        ensemble: Lead first; then for chorales the other voices.
        second_lead: Takes turns with the lead, or None.
        bass: Plays the bass, or None.
        comp: Plays the chords, or None.
        pad: Holds long chords or a counter line, or None.
        drums: The one-bar pattern; empty for none.
        transpose: Semitones above the written key.
        tempo_bpm: Beats a minute (dotted quarters in compound metres).
        dynamics: One of `DYNAMICS`.
        grows: Whether it gets louder from start to end.
        room: One of `ROOMS`.
        target_seconds: Wished length.
        uses_held_out_soundfont: Whether it is rendered with the soundfont kept for tests.
    """

    index: int
    split: Split
    kind: str
    tune: Tune
    style: Style | None
    how: Adaptation
    stretch: float
    ensemble: tuple[Instrument, ...]
    second_lead: Instrument | None
    bass: Instrument | None
    comp: Instrument | None
    pad: Instrument | None
    drums: dict[str, str]
    transpose: int
    tempo_bpm: float
    dynamics: str
    grows: bool
    room: str
    target_seconds: float
    uses_held_out_soundfont: bool

    @property
    def lead(self) -> Instrument:
        """Who plays the melody."""
        return self.ensemble[0]

    @property
    def metre(self) -> str:
        """The metre that sounds."""
        if self.style is not None:
            return self.style.metre
        return {"3/8": "3/4"}.get(self.tune.metre, self.tune.metre)

    @property
    def quarters_per_second(self) -> float:
        """Speed of the score."""
        return self.tempo_bpm * beat_quarters(self.metre) / 60


def plan_clip(library: TuneLibrary, seed: int, index: int) -> ClipPlan:
    """Decides everything about clip `index`, from the seed and the index only."""
    draw = np.random.default_rng([seed, index])
    split = drawn_split(draw)
    kind = str(draw.choice(["arranged", "unaccompanied", "chorale"], p=[0.84, 0.11, 0.05]))
    # Fall back from the chorales when a split of a small library has none.
    tunes = library.of_split(split, chorales=kind == "chorale") or library.of_split(split)
    if kind == "chorale" and not tunes[0].voices:
        kind = "arranged"
    tune = tunes[int(draw.integers(len(tunes)))]
    is_arranged = kind == "arranged"
    plan = _arranged(draw, tune, split) if is_arranged else _plain(draw, tune, split, kind)
    return replace(plan, index=index)


def drawn_split(draw: np.random.Generator) -> Split:
    """A split, in the shares of the groups."""
    fraction = draw.random()
    return "train" if fraction < 0.9 else "validation" if fraction < 0.95 else "test"


def fitting_styles(tune: Tune, split: Split) -> list[Style]:
    """Styles whose metre the tune can be played in; held-out ones never in training."""
    return [
        style
        for style in all_styles()
        if adaptation(tune.metre, style.metre, is_swung=style.swing > 0.59) is not None
        and not (style.held_out and split == "train")
    ]


def _arranged(draw: np.random.Generator, tune: Tune, split: Split) -> ClipPlan:
    styles = fitting_styles(tune, split)
    held_out = [style for style in styles if style.held_out]
    if held_out and draw.random() < 0.3:
        styles = held_out
    style = styles[int(draw.integers(len(styles)))]
    how = adaptation(tune.metre, style.metre, is_swung=style.swing > 0.59)
    assert how is not None
    tempo, stretch = _tempo(draw, tune, how.scale, style.tempo, beat_quarters(style.metre))
    lead = INSTRUMENTS[_lead_name(draw, style)]
    leads = [n for n in style.lead_instruments if n != lead.name]
    second = _picked(draw, leads) if leads and draw.random() < 0.15 else None
    pads = [n for n in style.pad_instruments if n != lead.name]
    same = style.same_player
    bass = lead if same else _picked(draw, style.bass_instruments)
    comp = lead if same else _picked(draw, style.comp_instruments)
    plan = _plain(draw, tune, split, "arranged")
    return replace(
        plan,
        style=style,
        how=how,
        stretch=stretch,
        ensemble=(lead,),
        second_lead=None if same else second,
        bass=bass if same or draw.random() < 0.92 else None,
        comp=comp,
        pad=_picked(draw, pads) if pads and not same and draw.random() < 0.4 else None,
        drums=dict(style.drums[int(draw.integers(len(style.drums)))]),
        tempo_bpm=tempo,
        dynamics=_dynamics(draw, tempo / beat_centre(style.metre)),
    )


def beat_centre(metre: str) -> float:
    """A moderate beat for a metre, in beats a minute: what counts as neither slow nor fast."""
    return 84.0 if beat_quarters(metre) > 1 else 104.0


def _lead_name(draw: np.random.Generator, style: Style) -> str:
    """Mostly an instrument that fits; at times any, so that words and styles come apart."""
    if style.same_player or draw.random() < 0.8:
        return str(draw.choice(style.lead_instruments))
    return str(draw.choice(_SOLO_LEADS))


def _picked(draw: np.random.Generator, names: Sequence[str]) -> Instrument:
    return INSTRUMENTS[names[int(draw.integers(len(names)))]]


def _dynamics(draw: np.random.Generator, relative_tempo: float) -> str:
    if relative_tempo < 0.75:
        odds = [0.55, 0.35, 0.10]
    elif relative_tempo > 1.2:
        odds = [0.10, 0.45, 0.45]
    else:
        odds = [0.25, 0.5, 0.25]
    return str(draw.choice(DYNAMICS, p=odds))


def _plain(draw: np.random.Generator, tune: Tune, split: Split, kind: str) -> ClipPlan:
    """A clip without accompaniment: one player, or the voices of a chorale."""
    if kind == "chorale":
        names = _CHORALE_ENSEMBLES[int(draw.integers(len(_CHORALE_ENSEMBLES)))]
        names = (names * 4)[:4]
        tempo, stretch = float(round(draw.uniform(58, 104))), 1.0
    else:
        names = (_SOLO_LEADS[int(draw.integers(len(_SOLO_LEADS)))],)
        metre = {"3/8": "3/4"}.get(tune.metre, tune.metre)
        beat = beat_quarters(metre)
        span = (48.0, 132.0) if beat > 1 else (60.0, 176.0)
        tempo, stretch = _tempo(draw, tune, 1.0, span, beat)
    stretch *= 2 if tune.metre == "3/8" and kind != "chorale" else 1
    return ClipPlan(
        index=0,
        split=split,
        kind=kind,
        tune=tune,
        style=None,
        how=Adaptation(1.0),
        stretch=stretch,
        ensemble=tuple(INSTRUMENTS[name] for name in names),
        second_lead=None,
        bass=None,
        comp=None,
        pad=None,
        drums={},
        transpose=int(draw.integers(-5, 7)),
        tempo_bpm=tempo,
        dynamics=_dynamics(draw, tempo / 96),
        grows=bool(draw.random() < 0.12),
        room=str(draw.choice(ROOMS, p=[0.25, 0.5, 0.25])),
        target_seconds=float(draw.uniform(24, 60)),
        uses_held_out_soundfont=split != "train" and bool(draw.random() < 0.5),
    )


def _tempo(
    draw: np.random.Generator, tune: Tune, scale: float, span: tuple[float, float], beat: float
) -> tuple[float, float]:
    """A tempo in the span, and a stretch, that give the melody 1.0 to 6.2 notes a second."""
    total = tune.end_quarters - tune.notes[0].start_quarters
    notes_per_quarter = len(tune.notes) / max(total * scale, 1.0)
    tempo = float(round(draw.uniform(*span)))
    per_second = notes_per_quarter * tempo * beat / 60
    if per_second > 6.2:
        return tempo, 2.0
    if per_second < 1.0 and tune.metre in ("4/4", "2/4"):
        return tempo, 0.5
    return tempo, 1.0


def is_held_out_music(plan: ClipPlan) -> bool:
    """Whether any part of a plan must not be trained on (a check for tests)."""
    return plan.uses_held_out_soundfont or (plan.style is not None and plan.style.held_out)
