"""Instruments: General MIDI programs with the words captions use and the ranges players use."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Instrument:
    """One sound of the General MIDI set.

    Attributes:
        name: The plain word, used in labels.
        program: General MIDI program, from 0.
        low: Lowest comfortable MIDI pitch for a melody.
        high: Highest comfortable MIDI pitch for a melody.
        family: `keys`, `plucked`, `strings`, `wind`, `brass`, `voice`, `synth` or `percussion`.
        words: Other names for the same sound, for captions.
    """

    name: str
    program: int
    low: int
    high: int
    family: str
    words: tuple[str, ...] = ()

    @property
    def is_sustained(self) -> bool:
        """Whether a held note stays loud."""
        return self.family in ("strings", "wind", "brass", "voice", "synth")


_ROWS = (
    ("piano", 0, 55, 91, "keys", "acoustic piano|grand piano"),
    ("electric piano", 4, 52, 84, "keys", "Rhodes piano|Rhodes"),
    ("harpsichord", 6, 55, 84, "keys", "clavichord-like harpsichord|baroque harpsichord"),
    ("celesta", 8, 64, 98, "keys", "bell-like celesta"),
    ("glockenspiel", 9, 72, 98, "percussion", "bells"),
    ("music box", 10, 67, 96, "percussion", "tinkling music box|wind-up music box"),
    ("vibraphone", 11, 55, 86, "percussion", "vibes|mellow vibraphone"),
    ("marimba", 12, 52, 88, "percussion", "wooden marimba"),
    ("xylophone", 13, 65, 96, "percussion", "bright xylophone"),
    ("dulcimer", 15, 60, 84, "plucked", "hammered dulcimer"),
    ("hammond organ", 16, 50, 84, "keys", "electric organ|drawbar organ"),
    ("rock organ", 18, 50, 84, "keys", "overdriven organ"),
    ("church organ", 19, 50, 84, "keys", "pipe organ|organ"),
    ("accordion", 21, 55, 86, "wind", "squeezebox|button accordion"),
    ("harmonica", 22, 60, 86, "wind", "mouth organ|blues harp"),
    ("classical guitar", 24, 52, 79, "plucked", "nylon-string guitar|Spanish guitar"),
    ("acoustic guitar", 25, 52, 79, "plucked", "steel-string guitar|strummed guitar"),
    ("jazz guitar", 26, 52, 79, "plucked", "mellow electric guitar|hollow-body guitar"),
    ("electric guitar", 27, 52, 81, "plucked", "clean electric guitar|clean guitar"),
    ("overdriven guitar", 29, 52, 84, "plucked", "crunchy electric guitar"),
    ("distorted guitar", 30, 52, 84, "plucked", "distorted electric guitar|fuzzy guitar"),
    ("double bass", 32, 28, 55, "plucked", "upright bass|acoustic bass"),
    ("electric bass", 33, 28, 55, "plucked", "bass guitar|fingered bass"),
    ("picked bass", 34, 28, 55, "plucked", "picked bass guitar"),
    ("slap bass", 36, 28, 55, "plucked", "slapped bass"),
    ("synth bass", 38, 28, 55, "synth", "analog bass|synthesizer bass"),
    ("violin", 40, 57, 91, "strings", "fiddle|solo violin"),
    ("viola", 41, 50, 79, "strings", "solo viola"),
    ("cello", 42, 40, 69, "strings", "solo cello|violoncello"),
    ("strings", 48, 48, 84, "strings", "string section|string ensemble"),
    ("slow strings", 49, 48, 84, "strings", "soft strings|legato strings"),
    ("pizzicato strings", 45, 52, 84, "plucked", "plucked strings"),
    ("harp", 46, 52, 88, "plucked", "concert harp|rippling harp"),
    ("synth strings", 50, 48, 84, "synth", "synthesizer strings"),
    ("choir", 52, 50, 79, "voice", "vocal choir|wordless choir|choir aahs"),
    ("oohs", 53, 50, 79, "voice", "wordless voices|vocal oohs"),
    ("trumpet", 56, 55, 82, "brass", "bright trumpet"),
    ("trombone", 57, 43, 70, "brass", "slide trombone"),
    ("muted trumpet", 59, 55, 82, "brass", "trumpet with a mute"),
    ("french horn", 60, 46, 74, "brass", "horn"),
    ("brass section", 61, 50, 79, "brass", "horn section|brass"),
    ("soprano saxophone", 64, 56, 84, "wind", "soprano sax"),
    ("alto saxophone", 65, 50, 79, "wind", "saxophone|alto sax|sax"),
    ("tenor saxophone", 66, 45, 74, "wind", "saxophone|tenor sax|sax"),
    ("oboe", 68, 58, 86, "wind", "solo oboe"),
    ("bassoon", 70, 36, 65, "wind", "solo bassoon"),
    ("clarinet", 71, 51, 84, "wind", "solo clarinet"),
    ("piccolo", 72, 74, 100, "wind", "piccolo flute"),
    ("flute", 73, 60, 92, "wind", "transverse flute|solo flute"),
    ("recorder", 74, 62, 91, "wind", "wooden recorder"),
    ("pan flute", 75, 60, 88, "wind", "panpipes"),
    ("ocarina", 79, 60, 88, "wind", "clay ocarina"),
    ("whistle", 78, 67, 91, "wind", "whistling|human whistle"),
    ("square synth", 80, 52, 88, "synth", "square-wave synth|8-bit synth|chip synth"),
    ("saw synth", 81, 50, 84, "synth", "sawtooth synth lead|synth lead|synthesizer"),
    ("warm pad", 89, 48, 79, "synth", "warm synth pad|synthesizer pad"),
    ("polysynth", 90, 48, 84, "synth", "bright synth chords|poly synth"),
    ("halo pad", 94, 48, 79, "synth", "airy synth pad|shimmering pad"),
    ("new age pad", 88, 52, 84, "synth", "glassy synth pad|fantasia synth"),
    ("sitar", 104, 50, 79, "plucked", "Indian sitar"),
    ("banjo", 105, 55, 84, "plucked", "five-string banjo"),
    ("koto", 107, 55, 84, "plucked", "Japanese koto"),
    ("kalimba", 108, 60, 86, "percussion", "thumb piano"),
    ("bagpipes", 109, 57, 81, "wind", "bagpipe"),
    ("shamisen", 106, 55, 81, "plucked", "Japanese shamisen"),
    ("steel drums", 114, 60, 86, "percussion", "steel pan|steelpan"),
    ("timpani", 47, 36, 55, "percussion", "kettledrums"),
)

INSTRUMENTS: dict[str, Instrument] = {
    name: Instrument(name, program, low, high, family, tuple(words.split("|")))
    for name, program, low, high, family, words in _ROWS
}

DRUM_KITS: dict[str, tuple[int, str]] = {
    "standard": (0, "drums"),
    "room": (8, "drums"),
    "power": (16, "punchy drums"),
    "electronic": (24, "electronic drums"),
    "808": (25, "drum machine"),
    "jazz": (32, "jazz drums"),
    "brush": (40, "brushed drums"),
    "orchestra": (48, "orchestral percussion"),
}
"""Drum kits: program on the drum channel, and what captions call them."""

DRUM_KEYS: dict[str, int] = {
    "k": 36, "s": 38, "r": 37, "h": 42, "H": 46, "p": 44, "c": 49, "y": 51, "b": 53, "l": 39,
    "t": 45, "u": 48, "f": 41, "m": 70, "a": 69, "o": 56, "T": 54, "n": 63, "N": 64, "B": 60,
    "D": 61, "C": 75, "G": 73, "R": 81, "w": 76, "S": 40, "i": 35,
}  # fmt: skip
"""Drum voices of the style table: kick, snare, rim, hats, cymbals, clap, toms, hand percussion."""


def instrument_of_program(program: int) -> Instrument:
    """The nearest known instrument of a General MIDI program: the same one, or its family's."""
    known = sorted(INSTRUMENTS.values(), key=lambda item: (abs(item.program - program), item.name))
    return known[0]
