"""Builds a parsed document: every parser tells it headings and blocks in reading order. Pure."""

from __future__ import annotations

from plinth.core.corpus import Block
from plinth.errors import InvalidInput
from plinth.ingestion.characters import clean, one_line
from plinth.ingestion.port import Parsed

MAX_HEADING = 300
"""Characters of a heading or title; what is longer is text that was marked as a heading."""


class Outline:
    """Collects blocks below the headings they stand under.

    Args:
        title: The document's title, where something better than its first heading names it.
    """

    def __init__(self, title: str = "") -> None:
        self._title = one_line(clean(title))[:MAX_HEADING]
        self._path: list[tuple[int, str]] = []
        self._bare = False  # the innermost heading has nothing below it yet
        self._blocks: list[Block] = []

    @property
    def title(self) -> str:
        """The title so far."""
        return self._title

    def heading(self, level: int, text: str) -> None:
        """A heading, 1 the outermost. The first of level 1 is the title where there is none."""
        text = one_line(clean(text))
        if not text:
            return
        if self._bare and level <= self._path[-1][0]:
            self._keep_bare()
        if len(text) > MAX_HEADING:
            self.block(text)
            return
        while self._path and self._path[-1][0] >= level:
            self._path.pop()
        if not self._title and level == 1 and not self._path:
            self._title = text
        self._path.append((level, text))
        self._bare = True

    def block(self, text: str, kind: str = "text") -> None:
        """A block below the headings so far; an empty one is left out."""
        text = clean(text)
        text = text.strip("\n") if kind == "code" else text.strip()
        if text.strip():
            self._blocks.append(Block(text, self._headings(), kind))
            self._bare = False

    def parsed(self, path: str) -> Parsed:
        """The document.

        Raises:
            InvalidInput: It has no text at all.
        """
        if self._bare:
            self._keep_bare()
        if not self._blocks:
            raise InvalidInput("the file has no text", where=path, hint="leave it out with an exclude pattern")
        return Parsed(self._title, tuple(self._blocks))

    def _headings(self) -> tuple[str, ...]:
        texts = [text for _, text in self._path]
        return tuple(texts[1:] if texts and texts[0] == self._title else texts)

    def _keep_bare(self) -> None:
        """A heading over nothing is a text of its own: it must be found, too."""
        _, text = self._path.pop()
        self._blocks.append(Block(text, self._headings()))
        self._bare = False


def table(rows: list[list[str]]) -> str:
    """Rows as a Markdown table, the first one its head, which is kept even if it is empty. Nothing for empty rows."""
    if not any(map(any, rows)):
        return ""
    kept = [row for number, row in enumerate(rows) if any(row) or number == 0]
    lines = ["| " + " | ".join(one_line(cell).replace("|", "/") for cell in row) + " |" for row in kept]
    if len(lines) > 1:
        lines.insert(1, "|" + " --- |" * len(rows[0]))
    return "\n".join(lines)
