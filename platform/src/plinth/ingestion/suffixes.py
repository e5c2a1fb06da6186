"""Which parser reads a file: by its name, for pages by their first bytes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from plinth.ingestion.port import Parser


def by_suffix(parsers: Sequence[Parser]) -> dict[str, Parser]:
    """The parser of each suffix; of two, the first."""
    found: dict[str, Parser] = {}
    for parser in parsers:
        for suffix in parser.suffixes:
            found.setdefault(suffix, parser)
    return found


def suffix_of(path: str, data: bytes, *, is_page: bool) -> str:
    """The suffix that says how to read a file, such as ".md".

    The name of a page says little: what begins as a PDF or a zip is one, what has no known name is HTML.
    """
    if not is_page:
        return PurePosixPath(path).suffix.lower()
    if data.startswith(b"%PDF-"):
        return ".pdf"
    if data.startswith(b"PK\x03\x04"):
        return ".docx"
    suffix = PurePosixPath(urlsplit(path).path).suffix.lower()
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    is_html = start.startswith((b"<!doctype html", b"<html", b"<?xml"))
    return suffix if suffix in {".md", ".markdown", ".txt"} and not is_html else ".html"


def title_of(path: str) -> str:
    """A title for a document that names none: the last part of its path, readable."""
    name = PurePosixPath(unquote(urlsplit(path).path if "://" in path else path).rstrip("/")).stem
    return " ".join(name.replace("-", " ").replace("_", " ").split()) or path
