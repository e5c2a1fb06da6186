"""The parsers by the suffix of what they read. Each is imported when it is first needed."""

from __future__ import annotations

from importlib import import_module

from plinth.ingestion.port import Parser

MODULES = {
    ".md": ("markdown_it", "MarkdownParser"),
    ".markdown": ("markdown_it", "MarkdownParser"),
    ".html": ("trafilatura", "HtmlParser"),
    ".htm": ("trafilatura", "HtmlParser"),
    ".xhtml": ("trafilatura", "HtmlParser"),
    ".txt": ("text", "TextParser"),
    ".text": ("text", "TextParser"),
    ".pdf": ("pypdfium2", "PdfParser"),
    ".docx": ("docx", "DocxParser"),
}
"""Suffix to module and class of its parser."""


def parser_of(suffix: str) -> Parser:
    """The parser of a suffix that is in `MODULES`."""
    module, name = MODULES[suffix]
    parser: Parser = getattr(import_module(f"plinth.ingestion.{module}"), name)()
    return parser
