"""Reports: everything lies in the one page, and nothing in it is read as markup."""

import html.parser

import torch

from musiclm.audio.waveform import Waveform
from musiclm.evaluation.document import Document, Example, Grid, Section
from musiclm.evaluation.pictures import log_mel_picture


class Links(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [str(value) for name, value in attrs if name in ("src", "href")]


def document() -> Document:
    clip = Waveform(0.1 * torch.sin(torch.arange(8_000) / 5), 8_000)
    figure = log_mel_picture({"clip": clip})
    grid = Grid(("what", "value"), (("a | b", "holds"), ("<script>", "1")))
    return Document(
        "A report",
        "First `code <i>`.\n\nSecond <b>part</b>.",
        (
            Section("Numbers", "Some words.", grid),
            Section("A picture", picture=figure, picture_name="curve.png"),
            Section("Listen", examples=(Example("a <loud> song", {"ours": clip}, figure),)),
        ),
    )


def test_the_page_needs_nothing_else_and_escapes_everything():
    page = document().html()
    links = Links()
    links.feed(page)
    assert len(links.sources) == 3
    assert all(source.startswith("data:") for source in links.sources)
    assert "script" not in links.tags
    assert "loud" not in links.tags
    assert links.tags.count("audio") == 1
    assert links.tags.count("p") == 3
    assert '<td class="holds">holds</td>' in page
    assert '<td class="figure">1</td>' in page
    assert "<code>code &lt;i&gt;</code>" in page


def test_markdown_has_the_same_tables():
    text = document().markdown()
    assert "| a \\| b | holds |" in text
    assert "![A picture](curve.png)" in text
    assert text.count("\n## ") == 3
    assert document().markdown() == text
