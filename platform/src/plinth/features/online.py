"""Online stores as they are read. A setting chooses one; what reads features need not know which."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Protocol

from plinth.features.reader import Reader
from plinth.features.readplan import ReadPlan, ViewPlan

FILE, THROUGH = "online.db", "through"


class Online(Protocol):
    """The online store of one product, without the tool that fills it."""

    where: str
    """Where it is, for people; without a secret."""

    def open(self, plan: ReadPlan, *, patient: bool = True) -> Reader:
        """A reader of a compiled plan. Needs no store yet: a service may start before it.

        Args:
            plan: What to read.
            patient: Wait a moment for a store that is locked or starts. A service gives False.
        """
        ...

    def entities(self, plan: ReadPlan, view: ViewPlan) -> Iterator[tuple[tuple[str, ...], int]]:
        """Each entity of a view, by its join keys' values in their names' order, and its row's event time.

        Raises:
            Unavailable: The store cannot be read.
        """
        ...

    def problem(self, plan: ReadPlan, through: datetime | None) -> str:
        """What a service that reads the plan would miss, in words; "" for nothing.

        Args:
            plan: What is to be read.
            through: The last hour that was written, as far as anybody wrote it down (`filled_through`).

        Raises:
            Unavailable: The store does not answer.
        """
        ...


def online_store(folder: Path, project: str, url: str = "") -> Online:
    """The online store of a product.

    Args:
        folder: The product's state.
        project: Feast's project.
        url: `redis://…`; empty is SQLite in the folder.

    Raises:
        InvalidInput: The URL does not fit.
    """
    if url:
        from plinth.features.redis import RedisOnline

        return RedisOnline(url, project)
    from plinth.features.sqlite import SqliteOnline

    return SqliteOnline(folder / "online" / FILE)


def filled_through(folder: Path) -> datetime | None:
    """The last hour that was put online, as the product's state notes it; a store that lost it was emptied."""
    try:
        return datetime.fromisoformat((folder / "online" / THROUGH).read_text(encoding="ascii").strip())
    except (OSError, ValueError):
        return None
