"""MusicXML reader: Bach's chorales (compressed `.mxl`) as four timed voices.

Reads what the chorales need: parts, divisions, key, time, ties, chords, voices, `backup` and
`forward`. Repeats are played once.
"""

import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from musiclm.data.rendered.score import ScoreNote, Tune, bar_quarters

_NATURALS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}


@dataclass
class _Part:
    notes: list[ScoreNote] = field(default_factory=list[ScoreNote])
    fifths: int | None = None
    metre: str = ""
    first_bar_quarters: float = 0.0


def read_chorale(path: Path) -> Tune | None:
    """Reads a four-part chorale; None when the file is damaged or has another number of parts."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(n for n in archive.namelist() if n.endswith(".xml") and "META" not in n)
            root = ElementTree.fromstring(archive.read(name))
    except (zipfile.BadZipFile, StopIteration, ElementTree.ParseError, OSError):
        return None
    parts = [_read_part(part) for part in root.findall("part")]
    if len(parts) != 4 or any(len(part.notes) < 16 for part in parts):
        return None
    fifths, metre = parts[0].fifths, parts[0].metre
    if fifths is None or metre not in ("4/4", "3/4"):
        return None
    parts.sort(key=lambda p: -sum(n.pitch for n in p.notes) / len(p.notes))
    bar = bar_quarters(metre)
    pickup = parts[0].first_bar_quarters if parts[0].first_bar_quarters < bar - 1e-3 else 0.0
    shift = bar - pickup if pickup else 0.0
    voices = tuple(
        tuple(ScoreNote(n.start_quarters + shift, n.end_quarters + shift, n.pitch) for n in p.notes)
        for p in parts
    )
    final = voices[-1][-1].pitch % 12
    tonic, mode = (fifths * 7) % 12, "major"
    if final == (tonic + 9) % 12:
        tonic, mode = final, "minor"
    title = root.findtext("movement-title") or root.findtext("work/work-title") or path.stem
    return Tune(
        tune_id=f"bach/{path.stem}",
        title=title.strip() or path.stem,
        collection="bach",
        transcriber=root.findtext("identification/encoding/encoder") or "",
        metre=metre,
        tonic=tonic,
        mode=mode,
        pickup_quarters=pickup,
        notes=voices[0],
        voices=voices,
    )


def _read_part(part: ElementTree.Element) -> _Part:
    result = _Part()
    bar_start, divisions = 0.0, 1.0
    for number, measure in enumerate(part.findall("measure")):
        now = latest = bar_start
        for element in measure:
            if element.tag == "attributes":
                divisions = float(element.findtext("divisions") or divisions)
                if result.fifths is None and element.find("key/fifths") is not None:
                    result.fifths = int(element.findtext("key/fifths") or 0)
                if not result.metre and element.find("time/beats") is not None:
                    beats = element.findtext("time/beats")
                    result.metre = f"{beats}/{element.findtext('time/beat-type')}"
            elif element.tag in ("backup", "forward"):
                step = float(element.findtext("duration") or 0) / divisions
                now += step if element.tag == "forward" else -step
            elif element.tag == "note" and element.find("grace") is None:
                now = _read_note(element, result.notes, now, divisions)
            latest = max(latest, now)
        if number == 0:
            result.first_bar_quarters = latest - bar_start
        bar_start = latest
    return result


def _read_note(
    element: ElementTree.Element, notes: list[ScoreNote], now: float, divisions: float
) -> float:
    """Adds a note and returns the time after it; only the first voice and top of chords count."""
    end = now + float(element.findtext("duration") or 0) / divisions
    pitch = element.find("pitch")
    if element.find("chord") is not None:
        return now
    if pitch is None or (element.findtext("voice") or "1") != "1":
        return end
    height = 12 * (int(pitch.findtext("octave") or 4) + 1)
    number = _NATURALS[pitch.findtext("step") or "C"] + height
    number += round(float(pitch.findtext("alter") or 0))
    is_continued = any(tie.get("type") == "stop" for tie in element.findall("tie"))
    if is_continued and notes and notes[-1].pitch == number:
        notes[-1] = ScoreNote(notes[-1].start_quarters, end, number)
    else:
        notes.append(ScoreNote(now, end, number))
    return end
