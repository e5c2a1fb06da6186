"""Online stores as the Feast adapter fills them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Protocol

from plinth.errors import Unavailable
from plinth.features.advance import OnlineRow
from plinth.features.online import Online

ViewRows = Sequence[tuple[Any, list[OnlineRow]]]
"""Feast's views with rows of theirs."""


class Writer(Protocol):
    """One kind of online store, as Feast fills it. `store` is Feast's."""

    errors: tuple[type[Exception], ...]
    """What the store's driver raises when the store cannot be used."""

    shared: bool
    """Whether other machines may write it, or empty it."""

    secret: bool
    """Whether Feast's configuration of it holds a password."""

    def unavailable(self, error: Exception) -> Unavailable:
        """What one of `errors` means."""
        ...

    @property
    def online(self) -> Online:
        """The same store, to be read."""
        ...

    def config(self) -> dict[str, Any]:
        """The online store's part of Feast's configuration."""
        ...

    def prepare(self) -> None:
        """Called before definitions are applied."""
        ...

    def opened(self, store: Any) -> None:
        """Called before each use of Feast."""
        ...

    def newest(self, store: Any, views: Callable[[], Sequence[Any]]) -> datetime | None:
        """The hour that is online, None where there is none."""
        ...

    def write(self, store: Any, rows: ViewRows, hour: datetime) -> None:
        """Writes the rows that bring the store to an hour."""
        ...

    def filling(self, store: Any, end: datetime) -> AbstractContextManager[None]:
        """Held while Feast materializes rows up to `end`."""
        ...

    def clear(self, store: Any, views: Sequence[Any]) -> None:
        """Removes every row of the project."""
        ...
