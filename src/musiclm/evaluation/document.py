"""A report as a value: sections with text, tables, pictures and players; as Markdown and HTML.

The HTML is one file that needs nothing else: pictures and audio lie in it.
"""

import base64
import html
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import soundfile
from matplotlib.figure import Figure

from musiclm.audio.waveform import Waveform

_STYLE = """
:root { color-scheme:light dark; --ink:#1d1d1f; --soft:#63636b; --line:#dcdce2;
        --paper:#fcfcfb; --good:#2c7a3f;
        --bad:#b3402a; --open:#8a6d1f; }
@media (prefers-color-scheme: dark) { :root { --ink:#ececee; --soft:#a3a3ab; --line:#3a3a40;
        --paper:#161618; --good:#6fcf8a; --bad:#f08a74; --open:#e0bf62; } }
body { margin:0 auto; max-width:62rem; padding:2rem 1.2rem 5rem; background:var(--paper);
       color:var(--ink); font:16px/1.55 system-ui,sans-serif; }
h1 { font-size:1.7rem; } h2 { margin-top:2.6rem; font-size:1.25rem; }
p, li { max-width:46rem; }
.wide { overflow-x:auto; }
table { border-collapse:collapse; font-size:.88rem; font-variant-numeric:tabular-nums; }
th, td { text-align:left; padding:.35rem .8rem .35rem 0; border-bottom:1px solid var(--line);
         vertical-align:top; }
th { color:var(--soft); font-weight:600; }
.holds { color:var(--good); font-weight:600; } .does-not-hold { color:var(--bad); font-weight:600; }
.undecided, .not-measured { color:var(--open); font-weight:600; }
.holds, .does-not-hold, .undecided, .not-measured, .figure { white-space:nowrap; }
img { max-width:100%; background:#fff; border-radius:.3rem; }
code { font-size:.9em; }
figure { margin:1rem 0 2rem; }
.wide > img { min-width:42rem; }
blockquote { margin:1.6rem 0 .6rem; padding-left:.9rem; border-left:3px solid var(--line); }
.players { display:grid; grid-template-columns:repeat(auto-fit,minmax(15rem,1fr)); gap:.6rem; }
.players label { display:block; font-size:.8rem; color:var(--soft); }
audio { width:100%; }
"""
_FIGURE = re.compile(r"[-\d.,%/ \[\]()]+")
_CODE = re.compile(r"`([^`]+)`")
_VERDICTS = ("holds", "does not hold", "undecided", "not measured")


@dataclass(frozen=True)
class Grid:
    """A table of words."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Example:
    """A caption and what was made of it, to be listened to."""

    caption: str
    clips: Mapping[str, Waveform]
    picture: Figure | None = None


@dataclass(frozen=True)
class Section:
    """A part of a report; what it lacks is left out."""

    title: str
    text: str = ""
    grid: Grid | None = None
    picture: Figure | None = None
    picture_name: str = ""
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True)
class Document:
    """A report."""

    title: str
    introduction: str
    sections: tuple[Section, ...] = field(default=())

    def markdown(self) -> str:
        """Words and tables; pictures by name."""
        lines = [f"# {self.title}", "", self.introduction]
        for section in self.sections:
            lines += ["", f"## {section.title}"]
            if section.text:
                lines += ["", section.text]
            if section.grid is not None:
                lines += ["", *_markdown_rows(section.grid)]
            if section.picture is not None:
                lines += ["", f"![{section.title}]({section.picture_name})"]
            lines += [f"\n- {example.caption}" for example in section.examples]
        return "\n".join(lines) + "\n"

    def html(self) -> str:
        """Everything in one page."""
        parts = [f"<h1>{_safe(self.title)}</h1>", *_paragraphs(self.introduction)]
        for section in self.sections:
            parts += [f"<h2>{_safe(section.title)}</h2>", *_paragraphs(section.text)]
            if section.grid is not None:
                parts.append(_html_table(section.grid))
            if section.picture is not None:
                parts.append(f"<figure>{_image(section.picture, section.title)}</figure>")
            parts += [_html_example(example) for example in section.examples]
        head = (
            '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f"<title>{_safe(self.title)}</title><style>{_STYLE}</style>"
        )
        body = "\n".join(parts)
        return (
            f'<!doctype html><html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'
        )


def png_of(figure: Figure) -> bytes:
    """A figure as PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()


def _markdown_rows(grid: Grid) -> list[str]:
    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [line(grid.header), "|---" * len(grid.header) + "|", *map(line, grid.rows)]


def _html_table(grid: Grid) -> str:
    head = "".join(f"<th>{_safe(cell)}</th>" for cell in grid.header)
    rows = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in grid.rows)
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _cell(text: str) -> str:
    style = ""
    if text in _VERDICTS:
        style = f' class="{text.replace(" ", "-")}"'
    elif _FIGURE.fullmatch(text):
        style = ' class="figure"'
    return f"<td{style}>{_safe(text)}</td>"


def _html_example(example: Example) -> str:
    players = "".join(
        f"<div><label>{_safe(name)}</label>"
        f'<audio controls preload="none" src="{_audio(clip)}"></audio></div>'
        for name, clip in example.clips.items()
    )
    picture = ""
    if example.picture is not None:
        picture = f'<div class="wide">{_image(example.picture, "spectrograms")}</div>'
    return (
        f"<blockquote>{_safe(example.caption)}</blockquote>"
        f'<div class="players">{players}</div>{picture}'
    )


def _image(figure: Figure, title: str) -> str:
    data = base64.b64encode(png_of(figure)).decode()
    return f'<img alt="{_safe(title)}" src="data:image/png;base64,{data}">'


def _audio(clip: Waveform) -> str:
    stream = io.BytesIO()
    soundfile.write(stream, clip.samples.cpu().numpy(), clip.sample_rate_hz, format="OGG")
    return "data:audio/ogg;base64," + base64.b64encode(stream.getvalue()).decode()


def _paragraphs(text: str) -> list[str]:
    return [f"<p>{_marked(part)}</p>" for part in text.split("\n\n") if part.strip()]


def _marked(text: str) -> str:
    """Escaped, with what stands between backticks as code."""
    return _CODE.sub(r"<code>\1</code>", _safe(text))


def _safe(text: str) -> str:
    return html.escape(text, quote=True)
