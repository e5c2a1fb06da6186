"""PDF files by pypdfium2 (PDFium): lines of text, put together to paragraphs, headings by the size of their letters.

Tables come as lines, pictures and scans not at all.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import hypot
from typing import TYPE_CHECKING

from plinth.errors import InvalidInput, MissingExtra
from plinth.ingestion.limits import MAX_PAGES, MAX_TEXT_CHARS, TooLarge
from plinth.ingestion.outline import Outline
from plinth.ingestion.port import Parsed

if TYPE_CHECKING:
    from pypdfium2 import PdfPage, PdfTextPage

_HYPHEN = "\x02"  # PDFium's sign for a hyphen that only breaks a word
_BULLET = re.compile(r"\s*(?:[•●▪◦‣·–-]|\(?\d{1,3}[.)]|\(?[a-z][.)])\s+\S")
_HEADING_SIZE = 1.15
_LONGEST_HEADING = 150
_LEVELS = 4


@dataclass(frozen=True, slots=True)
class _Line:
    text: str
    size: float
    base: float
    page: int


class PdfParser:
    """Paragraphs and headings of a PDF file."""

    suffixes = (".pdf",)

    def parse(self, data: bytes, path: str) -> Parsed:
        """Read one file; see the port."""
        try:
            import pypdfium2
        except ModuleNotFoundError as error:
            raise MissingExtra(error.name or "pypdfium2", "ingestion") from error
        if b"%PDF-" not in data[:1024]:
            raise InvalidInput("the file is no PDF", where=path)
        try:
            with pypdfium2.PdfDocument(data) as document:
                if len(document) > MAX_PAGES:
                    raise TooLarge(f"the PDF has more than {MAX_PAGES} pages", where=path)
                lines: list[_Line] = []
                chars = 0
                for number in range(len(document)):
                    lines += (own := _lines(document[number], number))
                    chars += sum(len(line.text) for line in own)
                    if chars > MAX_TEXT_CHARS:
                        raise TooLarge(f"the PDF has more than {MAX_TEXT_CHARS:,} characters", where=path)
        except pypdfium2.PdfiumError as error:
            encrypted = "assword" in str(error)
            what = "the PDF is encrypted" if encrypted else "the PDF is damaged"
            raise InvalidInput(what, where=path, hint="save it without a password" if encrypted else "") from None
        return _outlined(_without_running_heads(lines)).parsed(path)


def _lines(page: PdfPage, number: int) -> list[_Line]:
    """The lines of a page as PDFium orders them, with the height of their letters."""
    found = []
    text_page = page.get_textpage()
    text, start = text_page.get_text_range(), 0
    last = text_page.count_chars() - 1
    for line in re.split(r"(?<=\n)", text):
        # A bullet may be of another font; a letter says how large the line is.
        letter = re.search(r"\w", line) or re.search(r"\S", line)
        if letter is not None:
            size, base = _measured(text_page, min(start + letter.start(), last))
            found.append(_Line(line.strip("\r\n"), size, base, number))
        start += len(line)
    text_page.close()
    page.close()
    return found


def _measured(text_page: PdfTextPage, index: int) -> tuple[float, float]:
    """Size of a character's font as it is shown, and the height of its base line, both in points."""
    from ctypes import byref, c_double

    from pypdfium2 import raw

    matrix, x, y = raw.FS_MATRIX(), c_double(), c_double()
    raw.FPDFText_GetMatrix(text_page, index, byref(matrix))
    raw.FPDFText_GetCharOrigin(text_page, index, byref(x), byref(y))
    # Some writers set every font to size 1 and scale the text instead.
    scale = hypot(matrix.c, matrix.d) or 1.0
    return round(raw.FPDFText_GetFontSize(text_page, index) * scale, 1), y.value


def _without_running_heads(lines: Sequence[_Line]) -> list[_Line]:
    """The lines without headers and footers: what stands first or last on half of the pages, whatever its numbers."""
    pages: dict[int, list[_Line]] = {}
    for line in lines:
        pages.setdefault(line.page, []).append(line)
    if len(pages) < 3:
        return list(lines)
    edges = [[own[0], own[-1]] if len(own) > 1 else own for own in pages.values()]
    seen = Counter(key for edge in edges for key in {_key(line) for line in edge})
    running = {key for key, count in seen.items() if count >= max(3, len(pages) / 2)}
    dropped = {id(line) for edge in edges for line in edge if _key(line) in running}
    return [line for line in lines if id(line) not in dropped]


def _key(line: _Line) -> str:
    return re.sub(r"\d+", "0", line.text.strip())


def _outlined(lines: Sequence[_Line]) -> Outline:
    weights: Counter[float] = Counter()
    for line in lines:
        weights[line.size] += len(line.text)
    body = weights.most_common(1)[0][0] if weights else 0.0
    sizes = sorted((size for size in weights if size >= body * _HEADING_SIZE), reverse=True)
    levels = {size: min(level, _LEVELS) for level, size in enumerate(sizes, start=1)}
    outline = Outline()
    for paragraph in _paragraphs(lines):
        level = levels.get(paragraph.size)
        if level and len(paragraph.text) <= _LONGEST_HEADING and re.search(r"[^\W\d_]", paragraph.text):
            outline.heading(level, paragraph.text)
        else:
            outline.block(paragraph.text)
    return outline


def _paragraphs(lines: Sequence[_Line]) -> Iterator[_Line]:
    """Lines put together where one goes on in the next: same size, no gap, no bullet."""
    held: _Line | None = None
    pitch = 0.0
    for line in lines:
        gap = held.base - line.base if held is not None else 0.0
        goes_on = (
            held is not None and held.size == line.size and held.page == line.page
            and 0 < gap < 1.7 * max(line.size, 1.0) and (not pitch or gap < 1.4 * pitch)
            and not _BULLET.match(line.text)
        )  # fmt: skip
        if held is not None and goes_on:
            held, pitch = replace(held, text=_joined(held.text, line.text), base=line.base), gap
        else:
            if held is not None:
                yield held
            held, pitch = line, 0.0
    if held is not None:
        yield held


def _joined(before: str, after: str) -> str:
    if before.rstrip().endswith((_HYPHEN, "\ufffe")):
        return before.rstrip()[:-1] + after.lstrip()
    return f"{before.rstrip()} {after.lstrip()}"
