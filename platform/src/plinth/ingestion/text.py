"""Plain text: its encoding, and its paragraphs."""

from __future__ import annotations

import codecs
import re

import yaml

from plinth.errors import InvalidInput
from plinth.ingestion.characters import clean
from plinth.ingestion.outline import Outline
from plinth.ingestion.port import Parsed

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_FRONT_MATTER = re.compile(r"---[ \t]*\n(.{0,20000}?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)


class TextParser:
    """Paragraphs of a text file, divided by empty lines; its lines stay as they are."""

    suffixes = (".txt", ".text")

    def parse(self, data: bytes, path: str) -> Parsed:
        """Read one file; see the port."""
        outline = Outline()
        for paragraph in re.split(r"\n[ \t]*\n", decode(data, path)):
            outline.block(paragraph)
        return outline.parsed(path)


def decode(data: bytes, path: str) -> str:
    """The text of a file: UTF-8, UTF-16 or -32 with their mark, else what its bytes are likeliest to be.

    Raises:
        InvalidInput: It is binary, or its encoding cannot be told.
    """
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            try:
                return clean(data[len(mark) :].decode(encoding))
            except UnicodeDecodeError:
                raise InvalidInput(f"the text is no {encoding}, though its first bytes say so", where=path) from None
    if b"\0" in data:
        raise InvalidInput("the file is binary, not text", where=path, hint="leave it out with an exclude pattern")
    try:
        return clean(data.decode())
    except UnicodeDecodeError:
        return clean(_guessed(data, path))


def front_matter(text: str) -> tuple[str, str]:
    """A text without its YAML front matter, and the title that stood there ("" for none)."""
    match = _FRONT_MATTER.match(text)
    if match is None:
        return text, ""
    try:
        fields = yaml.safe_load(match[1])
    except (yaml.YAMLError, ValueError, RecursionError):
        return text, ""
    if not isinstance(fields, dict):
        return text, ""
    return text[match.end() :], str(fields.get("title") or "")


def _guessed(data: bytes, path: str) -> str:
    from charset_normalizer import from_bytes

    best = from_bytes(data[: 1 << 18], threshold=0.15).best()
    if best is None:
        raise InvalidInput("the encoding of the text cannot be told", where=path, hint="save it as UTF-8")
    # Past the part that was looked at, a stray byte is no reason to lose the file.
    return data.decode(best.encoding, errors="replace")
