"""ABC reader: tune-book text to melodies (keys, lengths, accidentals, ties, tuplets, repeats).

Reads what the old tune books use of the ABC notation: header fields, key signatures with modes,
note lengths, accidentals that last for the bar, ties, tuplets, broken rhythm, repeats with first
and second endings, pickups, inline fields, and the first of several voices. Grace notes, chord
symbols, ornaments and slurs are skipped; of notes written as a chord the highest is kept.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from musiclm.data.rendered.score import ScoreNote, Tune, bar_quarters

_TOKEN = re.compile(
    r'(?P<skip>"[^"]*"|![^!\s]*!|\{[^}]*\})'
    r"|\[(?P<field>[A-Za-z]):(?P<value>[^\]]*)\]"
    r"|\((?P<tuplet>[2-9])(?::(?P<tuplet_time>\d?))?(?::(?P<tuplet_notes>\d?))?"
    r"|(?P<bar>:*\|+[|:\]]*\s*\[?[1-9]?(?:[,-]\d)*|::|\[\||\[(?=[1-9])[1-9])"
    r"|\[(?P<chord>[^\]\[|]*)\](?P<chord_length>\d*/*\d*)"
    r"|(?P<accidental>[_^=]*)(?P<letter>[A-Ga-gzx])(?P<octave>[,']*)(?P<length>\d*/*\d*)"
    r"|(?P<tie>-)|(?P<broken>[<>]+)"
)
_CHORD_NOTE = re.compile(r"([_^=]*)([A-Ga-g])([,']*)(\d*/*\d*)")
_NATURALS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_MAJOR_FIFTHS = {"C": 0, "D": 2, "E": 4, "F": -1, "G": 1, "A": 3, "B": 5}
_MODE_FIFTHS = {
    "major": 0, "ionian": 0, "minor": -3, "aeolian": -3, "dorian": -2, "mixolydian": -1,
    "phrygian": -4, "lydian": 1,
}  # fmt: skip
_TUPLET_TIME = {2: 3, 3: 2, 4: 3, 5: 2, 6: 2, 7: 2, 8: 3, 9: 2}
_ACCIDENTAL_STEPS = {"^": 1, "_": -1, "=": 0}


@dataclass(frozen=True)
class Key:
    """A key signature: tonic pitch class, mode, and the semitones it adds to each letter."""

    tonic: int
    mode: str
    alterations: dict[str, int]


@dataclass
class _Note:
    """A parsed note or rest (pitch None) before repeats are unfolded."""

    pitch: int | None
    quarters: float
    is_tied: bool = False


@dataclass
class _Segment:
    """What stands between two bar lines."""

    notes: list[_Note] = field(default_factory=list[_Note])
    starts_repeat: bool = False
    ends_repeat: bool = False
    ending: int = 0


def parse_key(text: str) -> Key | None:
    """Reads the value of a `K:` field; None when there is no tonic or the mode is unknown."""
    text = text.split("%")[0].strip()
    if text[:2].upper() == "HP":
        text = "A mixolydian"
    match = re.match(r"([A-G])([b#]?)\s*([A-Za-z]*)(.*)", text)
    if match is None:
        return None
    letter, sign, word, rest = match.groups()
    mode = _mode_of(word.lower())
    if mode is None:
        return None
    fifths = _MAJOR_FIFTHS[letter] + {"": 0, "#": 7, "b": -7}[sign] + _MODE_FIFTHS[mode]
    alterations = dict.fromkeys("CDEFGAB", 0)
    for name in "FCGDAEB"[: max(fifths, 0)]:
        alterations[name] = 1
    for name in "BEADGCF"[: max(-fifths, 0)]:
        alterations[name] = -1
    for signs, name in re.findall(r"([_^=])([A-Ga-g])", rest):
        alterations[name.upper()] = _ACCIDENTAL_STEPS[signs]
    tonic = (_NATURALS[letter] + {"": 0, "#": 1, "b": -1}[sign]) % 12
    return Key(tonic, {"ionian": "major", "aeolian": "minor"}.get(mode, mode), alterations)


def _mode_of(word: str) -> str | None:
    if word == "" or word.startswith("maj") or word in ("n", "exp"):
        return "major"
    if word == "m":
        return "minor"
    return next((mode for mode in _MODE_FIFTHS if mode[:3] == word[:3]), None)


def parse_metre(text: str) -> str | None:
    """Reads the value of an `M:` field as `6/8`; common and cut time are `4/4`."""
    text = text.split("%")[0].strip()
    if text.startswith("C"):
        return "4/4"
    match = re.match(r"(\d+)\s*/\s*(\d+)", text)
    return f"{int(match[1])}/{int(match[2])}" if match else None


def _length(text: str) -> float:
    """The multiplier that follows a note: `3`, `/`, `3/2`, `//`."""
    if not text:
        return 1.0
    number, slashes, divisor = re.fullmatch(r"(\d*)(/*)(\d*)", text).groups()  # pyright: ignore[reportOptionalMemberAccess]  # the token pattern guarantees it
    value = float(number or 1)
    if slashes:
        value /= int(divisor) if divisor and int(divisor) else 2 ** len(slashes)
    return value


class _Body:
    """Reads the music lines of one tune into segments."""

    def __init__(self, key: Key, unit_quarters: float, metre: str) -> None:
        self.key = key
        self.unit = unit_quarters
        self.is_compound = metre in ("6/8", "9/8", "12/8")
        self.segments = [_Segment()]
        self.bar_accidentals: dict[tuple[str, int], int] = {}
        self.tuplet_factor, self.tuplet_left = 1.0, 0
        self.next_factor = 1.0
        self.voice = self.first_voice = ""

    def read(self, lines: list[str]) -> None:
        for line in lines:
            line = re.sub(r"%.*", "", line).rstrip("\\ \t")
            if re.match(r"[A-Za-z]:", line):
                self._field(line[0], line[2:])
                continue
            for match in _TOKEN.finditer(line):
                self._token(match)

    def _field(self, name: str, value: str) -> None:
        if name == "V":
            words = value.split()
            self.voice = words[0] if words else ""
            self.first_voice = self.first_voice or self.voice
        elif name == "K":
            self.key = parse_key(value) or self.key
        elif name == "L" and (match := re.match(r"\s*1/(\d+)", value)):
            self.unit = 4 / int(match[1])

    def _token(self, match: re.Match[str]) -> None:
        kind = match.lastgroup
        if match["field"]:
            self._field(match["field"], match["value"])
        elif self.voice != self.first_voice:
            return
        elif match["tuplet"]:
            self._tuplet(match)
        elif match["bar"]:
            self._bar(match["bar"])
        elif match["chord"] is not None:
            self._chord(match["chord"], match["chord_length"])
        elif match["letter"]:
            pitch = self._pitch(match["accidental"], match["letter"], match["octave"])
            self._note(pitch, _length(match["length"]))
        elif kind == "tie" and self.segments[-1].notes:
            self.segments[-1].notes[-1].is_tied = True
        elif kind == "broken" and self.segments[-1].notes:
            short = 0.5 ** len(match["broken"])
            is_long_first = match["broken"][0] == ">"
            self.segments[-1].notes[-1].quarters *= 2 - short if is_long_first else short
            self.next_factor = short if is_long_first else 2 - short

    def _tuplet(self, match: re.Match[str]) -> None:
        count = int(match["tuplet"])
        time = _TUPLET_TIME[count]
        if self.is_compound and count in (5, 7, 9):
            time = 3
        if match["tuplet_time"]:
            time = int(match["tuplet_time"])
        self.tuplet_factor = time / count
        self.tuplet_left = int(match["tuplet_notes"] or count)

    def _bar(self, text: str) -> None:
        self.bar_accidentals = {}
        ending = re.search(r"[1-9]", text)
        left, _, right = text.partition("|")
        ends = text == "::" or left.endswith(":")
        starts = text == "::" or ":" in right
        current = self.segments[-1]
        if current.notes:
            current.ends_repeat = ends
            current = _Segment()
            self.segments.append(current)
        elif ends and len(self.segments) > 1:
            self.segments[-2].ends_repeat = True
        current.starts_repeat = current.starts_repeat or starts
        if ending:
            current.ending = int(ending[0])

    def _chord(self, text: str, length: str) -> None:
        notes = _CHORD_NOTE.findall(text)
        if not notes:
            return
        pitches = [self._pitch(sign, letter, octave) for sign, letter, octave, _ in notes]
        top = max(pitch for pitch in pitches if pitch is not None)
        self._note(top, _length(length) * _length(notes[0][3]))

    def _pitch(self, accidental: str, letter: str, octave: str) -> int | None:
        if letter in "zx":
            return None
        name = letter.upper()
        height = (12 if letter.islower() else 0) + 12 * (octave.count("'") - octave.count(","))
        if accidental:
            self.bar_accidentals[name, height] = sum(_ACCIDENTAL_STEPS[sign] for sign in accidental)
        step = self.bar_accidentals.get((name, height), self.key.alterations[name])
        return 60 + _NATURALS[name] + height + step

    def _note(self, pitch: int | None, multiplier: float) -> None:
        quarters = self.unit * multiplier * self.next_factor
        self.next_factor = 1.0
        if self.tuplet_left:
            quarters *= self.tuplet_factor
            self.tuplet_left -= 1
        self.segments[-1].notes.append(_Note(pitch, quarters))


def _unfolded(segments: list[_Segment]) -> list[_Segment]:
    """Plays the repeats: every repeated section twice, each time with its own ending."""
    played: list[_Segment] = []
    index = start = 0
    current_pass = 1
    while index < len(segments) and len(played) < 400:
        segment = segments[index]
        if segment.starts_repeat and current_pass == 1:
            start = index
        if segment.ending and segment.ending != current_pass and current_pass == 2:
            index += 1
            while index < len(segments) and segments[index].ending != 2:
                index += 1
            if index == len(segments):
                break
            segment = segments[index]
        played.append(segment)
        if segment.ends_repeat and current_pass == 1:
            current_pass, index = 2, start
            continue
        if current_pass == 2 and (segment.ends_repeat or segment.ending == 2):
            current_pass, start = 1, index + 1
        index += 1
    return played


def _timed(segments: list[_Segment], bar: float) -> tuple[tuple[ScoreNote, ...], float, float]:
    """Notes on the time line, the pickup's length, and the share of bar lines that fall right."""
    total = [sum(note.quarters for note in segment.notes) for segment in segments]
    pickup = total[0] if total and total[0] < bar - 1e-3 else 0.0
    now = bar - pickup if pickup else 0.0
    notes: list[ScoreNote] = []
    lines_right = 0
    is_tied = False
    for segment in segments:
        for note in segment.notes:
            end = now + note.quarters
            if note.pitch is not None:
                if is_tied and notes and notes[-1].pitch == note.pitch:
                    notes[-1] = ScoreNote(notes[-1].start_quarters, end, note.pitch)
                else:
                    notes.append(ScoreNote(now, end, note.pitch))
            is_tied = note.is_tied
            now = end
        off = now % bar
        # Half bars at the seams of repeated sections are common and harmless.
        lines_right += off < 1e-3 or bar - off < 1e-3
    return tuple(notes), pickup, lines_right / max(len(segments), 1)


def read_abc(path: Path, collection: str) -> list[Tune]:
    """Reads every usable tune of an ABC file.

    Left out: tunes without a known key, mode or metre, with fewer than 16 notes, and those whose
    bar lines do not fall on bars (damaged or free transcriptions).
    """
    text = path.read_text(encoding="latin-1").replace("\r\n", "\n").replace("\r", "\n")
    blocks = re.split(r"(?m)^X:", text)[1:]
    tunes = (_read_tune(block, path, collection) for block in blocks)
    return [tune for tune in tunes if tune is not None]


def _read_tune(block: str, path: Path, collection: str) -> Tune | None:
    number, _, rest = block.partition("\n")
    header: dict[str, str] = {}
    lines = rest.split("\n")
    body_start = len(lines)
    for index, line in enumerate(lines):
        if match := re.match(r"([A-Za-z]):\s*(.*?)\s*$", line):
            header.setdefault(match[1], match[2].strip('" '))
            if match[1] == "K":
                body_start = index + 1
                break
    key, metre = parse_key(header.get("K", "")), parse_metre(header.get("M", "C"))
    if key is None or metre is None or key.mode not in ("major", "minor", "dorian", "mixolydian"):
        return None
    unit = re.match(r"1/(\d+)", header.get("L", ""))
    bar = bar_quarters(metre)
    unit_quarters = 4 / int(unit[1]) if unit else (0.5 if bar >= 3 else 0.25)
    body = _Body(key, unit_quarters, metre)
    body.read(lines[body_start:])
    segments = _unfolded([segment for segment in body.segments if segment.notes])
    notes, pickup, aligned = _timed(segments, bar)
    if len(notes) < 16 or aligned < 0.7:
        return None
    number = number.strip().lstrip("0") or "0"
    return Tune(
        tune_id=f"{collection}/{path.stem}/{number}",
        title=header.get("T", "untitled"),
        collection=collection,
        transcriber=header.get("Z", ""),
        metre=metre,
        tonic=key.tonic,
        mode=key.mode,
        pickup_quarters=pickup,
        notes=notes,
    )
