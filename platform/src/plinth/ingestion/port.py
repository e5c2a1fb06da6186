"""What ingestion is made of: sources that list files, parsers that read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from plinth.core.corpus import Block

Count = Callable[[str], int]
"""Tokens of a text, by the embedding model's tokenizer."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A file that a source has.

    Attributes:
        path: Relative path with slashes, or URL: its name in the source.
        modified: When it was changed last, seconds since 1970-01-01 UTC.
        stamp: Changes whenever the content may have (size and time of a file, ETag of a page); "" is unknown.
    """

    path: str
    modified: float
    stamp: str


class Source(Protocol):
    """Where documents come from."""

    name: str

    def list(self) -> Iterator[Listed]:
        """Every file it has now.

        Raises:
            NotFound: The folder or the list of URLs is not there.
            Unavailable: It cannot be read now. What was ingested before stays then: absence is not proven.
        """

    def read(self, path: str) -> bytes:
        """The content of a file.

        Raises:
            NotFound: It is gone meanwhile.
            RefusedByPolicy: It is too large, leads outside the folder, or its address is not a public one.
            Unavailable: It cannot be read now.
        """


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a parser made of a file: its title ("" when it names none) and its blocks in reading order."""

    title: str
    blocks: tuple[Block, ...]


class Parser(Protocol):
    """Reads one kind of file."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Of the files that it reads, such as (".md", ".markdown")."""

    def parse(self, data: bytes, path: str) -> Parsed:
        """The content of a file.

        Raises:
            InvalidInput: It is not what its name says, is damaged, encrypted, or has no text.
            RefusedByPolicy: It is a bomb: it would unpack to more than the limits.
        """


@dataclass(frozen=True, slots=True)
class Refused:
    """A file that was quarantined, and why: `reason` for people, `kind` one of "unreadable", "secret", "poisoned",
    "too-large", "unknown-format", "policy"."""

    source: str
    path: str
    digest: str
    kind: str
    reason: str
