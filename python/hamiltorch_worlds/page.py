"""HTML building blocks of the report: escaped text in, one self-contained page out."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import NamedTuple

__all__ = ["Cell", "Section", "bullets", "facts", "folded", "note", "page", "paragraph", "picture", "table", "video"]


class Cell(NamedTuple):
    """One cell of a table: text, an optional class ("best", "paper", "text") and an optional colour swatch."""

    text: str
    kind: str = ""
    swatch: str = ""


class Section(NamedTuple):
    """One section of the page: its anchor, its heading and its finished HTML."""

    anchor: str
    heading: str
    body: str


def paragraph(text: str) -> str:
    """Return a paragraph of plain text."""
    return f"<p>{escape(text)}</p>"


def note(lead: str, text: str) -> str:
    """Return a highlighted remark with a bold lead."""
    return f'<div class="note"><b>{escape(lead)}</b> {escape(text)}</div>'


def bullets(items: Sequence[str]) -> str:
    """Return a list of findings."""
    return '<ul class="findings">' + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"


def facts(items: Sequence[tuple[str, str]]) -> str:
    """Return a row of cards, each a value and what it is."""
    cards = (f'<div class="fact"><b>{escape(value)}</b><span>{escape(text)}</span></div>' for value, text in items)
    return '<div class="facts">' + "".join(cards) + "</div>"


def folded(summary: str, text: str) -> str:
    """Return preformatted text that opens on a click."""
    return f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>"


def table(headings: Sequence[str | Cell], rows: Sequence[Sequence[str | Cell]], lead: str, caption: str) -> str:
    """Return a table whose caption begins with a bold lead; a cell is a text or a ``Cell``."""

    def cell(value: str | Cell, tag: str) -> str:
        text, kind, swatch = value if isinstance(value, Cell) else Cell(value)
        mark = f'<span class="swatch" style="background:{swatch}"></span>' if swatch else ""
        return f'<{tag} class="{kind}">{mark}{escape(text)}</{tag}>' if kind else f"<{tag}>{mark}{escape(text)}</{tag}>"

    head = "".join(cell(value, "th") for value in headings)
    body = "".join("<tr>" + "".join(cell(value, "td") for value in row) + "</tr>\n" for row in rows)
    title = f"<caption><b>{escape(lead)}</b> {escape(caption)}</caption>"
    return f'<div class="scroll"><table>{title}<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def picture(png: bytes, lead: str, caption: str) -> str:
    """Return an embedded PNG with its caption; the lead doubles as the text for readers who cannot see it."""
    data = base64.b64encode(png).decode()
    return (
        f'<figure><img alt="{escape(lead)}" src="data:image/png;base64,{data}">'
        f"<figcaption><b>{escape(lead)}</b> {escape(caption)}</figcaption></figure>"
    )


def video(mp4: bytes, lead: str, caption: str) -> str:
    """Return an embedded MP4 that plays silently in a loop, with its caption."""
    data = base64.b64encode(mp4).decode()
    return (
        f'<figure><video controls autoplay loop muted playsinline src="data:video/mp4;base64,{data}"></video>'
        f"<figcaption><b>{escape(lead)}</b> {escape(caption)}</figcaption></figure>"
    )


def page(title: str, eyebrow: str, lede: str, sections: Sequence[Section], footer: str) -> str:
    """Return the whole page, one file without any link to another."""
    template = Template(files(__package__).joinpath("report_template.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(title),
        eyebrow=escape(eyebrow),
        lede=escape(lede),
        contents="\n".join(f'<li><a href="#{s.anchor}">{escape(s.heading)}</a></li>' for s in sections),
        sections="\n".join(
            f'<section id="{s.anchor}"><h2>{escape(s.heading)}</h2>\n{s.body}\n</section>' for s in sections
        ),
        footer=escape(footer),
    )
