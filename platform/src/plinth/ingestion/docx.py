"""Word files by python-docx: headings by their styles, lists, tables."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

from plinth.core.formats import archive_problem
from plinth.errors import InvalidInput, MissingExtra
from plinth.ingestion.limits import MAX_UNPACKED_BYTES, TooLarge
from plinth.ingestion.outline import Outline, table
from plinth.ingestion.port import Parsed

if TYPE_CHECKING:
    from docx.table import Table
    from docx.text.paragraph import Paragraph

_HEADING = re.compile(r"heading (\d)", re.IGNORECASE)
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


class DocxParser:
    """Paragraphs, lists and tables of a Word file. Headers, footers, comments and pictures are left out."""

    suffixes = (".docx",)

    def parse(self, data: bytes, path: str) -> Parsed:
        """Read one file; see the port."""
        try:
            import docx
        except ModuleNotFoundError as error:
            raise MissingExtra(error.name or "docx", "ingestion") from error
        _check(data, path)
        try:
            document = docx.Document(io.BytesIO(data))
            outline = Outline(_title(document.core_properties.title or ""))
            for kind, text in _blocks(document.iter_inner_content()):
                if isinstance(kind, int):
                    outline.heading(kind, text)
                else:
                    outline.block(text, kind)
        # python-docx lets lxml's, zipfile's and its own errors through, KeyErrors and ValueErrors among them.
        except MemoryError:
            raise
        except Exception as error:
            raise InvalidInput(f"the Word file is damaged ({type(error).__name__})", where=path) from error
        return outline.parsed(path)


def _check(data: bytes, path: str) -> None:
    if data.startswith(_OLE):
        raise InvalidInput("the Word file is encrypted, or of the old .doc format", where=path, hint="save it as .docx")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        raise InvalidInput("the file is no Word file: it is not a zip archive", where=path) from None
    if reason := archive_problem(entries, MAX_UNPACKED_BYTES):
        raise TooLarge(f"the Word file is refused: {reason}", where=path)
    if "word/document.xml" not in {entry.filename for entry in entries}:
        raise InvalidInput("the file is a zip archive, but no Word file", where=path)


def _title(text: str) -> str:
    return "" if text.lower() in {"word document", "untitled", "document"} else text


def _blocks(items: Iterator[Paragraph | Table]) -> Iterator[tuple[int | str, str]]:
    """(level, text) of headings and (kind, text) of blocks; neighbouring items of a list are one block."""
    held: list[str] = []
    held_kind = ""
    for item in items:
        kind, text = _read(item)
        if held and kind != held_kind:
            yield held_kind, "\n".join(held)
            held.clear()
        if kind in ("list", "code"):
            held_kind = str(kind)
            held.append(text)
        else:
            yield kind, text
    if held:
        yield held_kind, "\n".join(held)


def _read(item: Paragraph | Table) -> tuple[int | str, str]:
    from docx.table import Table

    if isinstance(item, Table):
        return "table", table([_cells(row) for row in item.rows])
    style = (item.style.name if item.style is not None else None) or ""
    if style == "Title":
        return 1, item.text
    if heading := _HEADING.match(style):
        return int(heading[1]), item.text
    properties = item._p.pPr
    if style.startswith("List") or (properties is not None and properties.numPr is not None):
        return "list", f"- {item.text.strip()}" if item.text.strip() else ""
    is_code = "code" in style.lower() or "preformatted" in style.lower()
    return ("code" if is_code else "text"), item.text


def _cells(row: object) -> list[str]:
    """Texts of a row; a cell that spans several columns once."""
    cells: list[str] = []
    before = None
    for cell in row.cells:  # type: ignore[attr-defined]
        if cell._tc is not before:
            cells.append(cell.text)
        before = cell._tc
    return cells
