"""Web pages by trafilatura: the main text with its headings, lists, tables and code, without navigation."""

from __future__ import annotations

import logging
from typing import Any

from plinth.errors import InvalidInput, MissingExtra
from plinth.ingestion.outline import Outline, table
from plinth.ingestion.port import Parsed


class HtmlParser:
    """The main text of an HTML page; menus, footers, scripts and comments of readers are left out."""

    suffixes = (".html", ".htm", ".xhtml")

    def parse(self, data: bytes, path: str) -> Parsed:
        """Read one file; see the port."""
        try:
            import trafilatura
            from trafilatura.settings import use_config
        except ModuleNotFoundError as error:
            raise MissingExtra(error.name or "trafilatura", "ingestion") from error
        logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # what it says of a page may quote it
        if b"<" not in data or b"\0" in data[:4096].replace(b"\0<", b"").replace(b"<\0", b""):
            raise InvalidInput("the file is no HTML", where=path)
        # Recall before precision: a sentence of a menu too many harms less than a missing section.
        config = use_config()
        config["DEFAULT"].update({"MIN_EXTRACTED_SIZE": "0", "MIN_OUTPUT_SIZE": "0", "EXTRACTION_TIMEOUT": "0"})
        page = trafilatura.bare_extraction(
            data,
            include_comments=False,
            include_tables=True,
            include_formatting=True,
            favor_recall=True,
            with_metadata=True,
            config=config,
        )
        if page is None or isinstance(page, dict) or page.body is None:
            raise InvalidInput("the page has no main text", where=path, hint="leave it out with an exclude pattern")
        outline = Outline()
        for element in page.body:
            _add(element, outline)
        parsed = outline.parsed(path)
        return parsed if parsed.title else Parsed(Outline(page.title or "").title, parsed.blocks)


def _add(element: Any, outline: Outline) -> None:
    """An element at the top of the body. Tags are trafilatura's (a subset of TEI), not HTML's."""
    match element.tag:
        case "head":
            outline.heading(int((element.get("rend") or "h2")[1:] or 2), _inline(element))
        case "list":
            outline.block(_list(element), "list")
        case "table":
            outline.block(table([[_inline(cell) for cell in row if cell.tag == "cell"] for row in element]), "table")
        case "code":
            outline.block("".join(element.itertext()), "code")
        case "quote":
            for child in element:
                _add(child, outline)
            outline.block(element.text or "")
        case _:
            outline.block(_inline(element))
    outline.block(element.tail or "")


def _inline(element: Any) -> str:
    """The text of an element; line breaks stay, code stands between backticks."""
    parts = [element.text or ""]
    for child in element:
        if child.tag == "lb":
            parts.append("\n")
        elif child.tag == "list":
            parts.append("\n" + _list(child))
        elif child.tag == "code":
            text = "".join(child.itertext())
            parts.append(f"\n```\n{text}\n```\n" if "\n" in text else f"`{text}`")
        else:
            parts.append(_inline(child))
        parts.append(child.tail or "")
    return "".join(parts)


def _list(element: Any) -> str:
    numbered = element.get("rend") == "ol"
    lines = []
    for number, item in enumerate((child for child in element if child.tag == "item"), start=1):
        mark = f"{number}." if numbered else "-"
        lines.append(f"{mark} " + _inline(item).strip().replace("\n", "\n" + " " * (len(mark) + 1)))
    return "\n".join(lines)
