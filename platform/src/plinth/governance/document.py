"""A small document (sections of paragraphs, lists, tables and figures), as Markdown and as one self-contained page."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str


@dataclass(frozen=True)
class Items:
    """A list of sentences."""

    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    """A table. Without any header text its first column is read as names."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """A PNG image. Only the HTML page shows it."""

    title: str
    png: bytes


Block = Paragraph | Items | Table | Figure


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: Sequence[Block]
    level: int = 2


def to_markdown(sections: Sequence[Section]) -> str:
    """The document as GitHub-flavoured Markdown; figures are left out."""
    parts = []
    for section in sections:
        parts.append(f"{'#' * section.level} {_plain(section.title)}")
        for block in section.blocks:
            match block:
                case Paragraph(text):
                    parts.append(_plain(text))
                case Items(items):
                    parts.append("\n".join(f"- {_plain(item)}" for item in items))
                case Table(header, rows):
                    lines = [header, ["---"] * len(header), *rows]
                    parts.append("\n".join("| " + " | ".join(_plain(cell) for cell in line) + " |" for line in lines))
                case Figure():
                    pass
    return "\n\n".join(parts) + "\n"


def _plain(text: str) -> str:
    """Text on one line that Markdown takes for text: no cell ends early, no markup or HTML gets in."""
    line = " ".join(str(text).split())
    for character in "\\`*[]<>|":
        line = line.replace(character, f"\\{character}")
    return line


def to_html(sections: Sequence[Section], title: str) -> str:
    """The document as one HTML page that loads nothing from elsewhere."""
    body = []
    for section in sections:
        body.append(f"<section><h{section.level}>{html.escape(section.title)}</h{section.level}>")
        figures = [block for block in section.blocks if isinstance(block, Figure)]
        body += [_html(block) for block in section.blocks if not isinstance(block, Figure)]
        if figures:
            body.append(f'<div class="figures">{"".join(_html(figure) for figure in figures)}</div>')
        body.append("</section>")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def _html(block: Block) -> str:
    match block:
        case Paragraph(text):
            return f"<p>{html.escape(text)}</p>"
        case Items(items):
            return "<ul>" + "".join(f"<li>{html.escape(item)}</li>" for item in items) + "</ul>"
        case Table(header, rows):
            named = not any(header)
            head = (
                ""
                if named
                else f"<thead><tr>{''.join(f'<th>{html.escape(cell)}</th>' for cell in header)}</tr></thead>"
            )
            lines = "".join(
                f"<tr>{''.join(_cell(cell, named and not i) for i, cell in enumerate(row))}</tr>" for row in rows
            )
            kind = ' class="facts"' if named else ""
            return f'<div class="scroll"><table{kind}>{head}<tbody>{lines}</tbody></table></div>'
        case Figure(title, png):
            data = base64.b64encode(png).decode()
            return f'<figure><img alt="{html.escape(title)}" src="data:image/png;base64,{data}"></figure>'


def _cell(text: str, name: bool) -> str:
    if name:
        return f'<th scope="row">{html.escape(text)}</th>'
    number = text.lstrip("+-").replace(",", "").replace(".", "").replace("e-", "").replace("%", "").isdigit()
    kind = "number" if number else {"passed": "good", "FAILED": "bad"}.get(text, "")
    return f'<td class="{kind}">{html.escape(text)}</td>' if kind else f"<td>{html.escape(text)}</td>"


_STYLE = """
:root { --ink: #1f2933; --soft: #5a6673; --line: #e1e6eb; --back: #f5f7f9; --card: #ffffff; --accent: #1565c0 }
* { box-sizing: border-box }
body { margin: 0; background: var(--back); color: var(--ink); font: 15px/1.55 system-ui, sans-serif }
main { max-width: 1000px; margin: 0 auto; padding: 32px 16px 64px }
section { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 20px 28px;
  margin: 0 0 16px }
h1 { font-size: 26px; line-height: 1.25; margin: 4px 0 12px } h2 { font-size: 18px; margin: 0 0 10px }
p { margin: 0 0 12px; max-width: 75ch } ul { margin: 0 0 12px; padding-left: 20px } li { max-width: 75ch }
.scroll { overflow-x: auto; margin: 0 0 12px }
table { border-collapse: collapse; width: 100%; font-size: 13.5px }
th, td { text-align: left; vertical-align: top; padding: 6px 10px 6px 0; border-bottom: 1px solid var(--line) }
thead th { color: var(--soft); font-weight: 600; border-bottom: 2px solid var(--line) }
tbody tr:last-child th, tbody tr:last-child td { border-bottom: 0 }
.facts th { width: 170px; color: var(--soft); font-weight: 600 } .facts td { overflow-wrap: anywhere; text-align: left }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap }
td.good { color: #1b7a3d; font-weight: 600 } td.bad { color: #b3261e; font-weight: 700 }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(280px, 1fr)); gap: 12px }
figure { margin: 0 } img { width: 100%; height: auto; display: block;
  border: 1px solid var(--line); border-radius: 6px }
@media print { body { background: #fff } section { border: 0; padding: 0; break-inside: avoid } }
"""
