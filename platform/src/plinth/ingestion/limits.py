"""Limits of ingestion, in one place: what a file may cost."""

from __future__ import annotations

from plinth.errors import RefusedByPolicy

MAX_FILE_BYTES = 64 << 20
"""Of a file as it is read."""
MAX_TEXT_CHARS = 8_000_000
"""Of what a file's text may be: some 2,500 pages."""
MAX_PAGES = 5_000
"""Of a PDF."""
MAX_UNPACKED_BYTES = 512 << 20
"""Of what a DOCX unpacks to."""
MAX_MEMORY_BYTES = 2 << 30
"""Of address space of a process that parses."""
MAX_SECONDS = 60.0
"""Of parsing one file."""


class TooLarge(RefusedByPolicy):
    """A file, or what it unpacks to, is beyond a limit."""
