"""Feast's SQLite online store as it is written.

Its timestamps depend on the machine's time zone and on whether pandas has written SQL in the same process
(`_register_timestamps`), and it raises when two threads share it (the adapter's lock).
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from feast.infra.online_stores.helpers import compute_table_id

from plinth.errors import Unavailable
from plinth.features.sqlite import SqliteOnline
from plinth.features.writer import ViewRows


class SqliteWriter:
    """The online store in a file.

    Args:
        path: The database.
    """

    errors: tuple[type[Exception], ...] = (sqlite3.OperationalError,)
    shared = secret = False

    def __init__(self, path: Path) -> None:
        self.online = SqliteOnline(path)
        self._path = path

    def unavailable(self, error: Exception) -> Unavailable:
        """What SQLite's error means."""
        return Unavailable(
            f"the feature store cannot be used: {error}", where=self.online.where, hint="retry; free disk"
        )

    def config(self) -> dict[str, Any]:
        """The online store's part of Feast's configuration."""
        return {"type": "sqlite", "path": str(self._path)}

    def prepare(self) -> None:
        """Creates the database: readers never wait for the hourly write."""
        with contextlib.closing(sqlite3.connect(self._path)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")

    def opened(self, store: Any) -> None:
        """Puts our conversion of times after Feast's."""
        store.provider.online_store  # noqa: B018 - imports Feast's adapters first, so that ours come after them
        _register_timestamps()

    def newest(self, store: Any, views: Callable[[], Sequence[Any]]) -> datetime | None:
        """The time of the newest row."""
        connection = self._writable(store)
        tables = [compute_table_id(store.project, view) for view in views()]
        newest = [connection.execute(f'SELECT max(event_ts) FROM "{table}"').fetchone()[0] for table in tables]
        return max((datetime.fromtimestamp(at, UTC) for at in newest if at is not None), default=None)

    def write(self, store: Any, rows: ViewRows, hour: datetime) -> None:
        """Through Feast, view by view."""
        self._writable(store)
        for view, data in rows:
            store.provider.online_store.online_write_batch(store.config, view, data, None)

    @contextlib.contextmanager
    def filling(self, store: Any, end: datetime) -> Iterator[None]:
        """Nothing to note: the rows say how far they go."""
        self._writable(store)
        yield

    def clear(self, store: Any, views: Sequence[Any]) -> None:
        """Empties the tables."""
        connection = self._writable(store)
        with connection:
            for view in views:
                connection.execute(f'DELETE FROM "{compute_table_id(store.project, view)}"')

    def _writable(self, store: Any) -> sqlite3.Connection:
        """Feast's own connection, set not to wait for the disk on each view: the store can be built anew."""
        connection: sqlite3.Connection = store.provider.online_store._get_conn(store.config)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA busy_timeout = 5000")
        return connection


def _register_timestamps() -> None:
    """Makes the online store's timestamps true UTC seconds, whatever the machine's zone.

    Feast turns times into naive UTC and then takes their local `timestamp()`, which is off by the machine's offset;
    and `DataFrame.to_sql` replaces its adapter by one that writes text. So ours is registered before each use.
    """
    sqlite3.register_adapter(datetime, lambda at: int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()))
    sqlite3.register_converter("timestamp", lambda raw: datetime.fromtimestamp(int(raw), UTC))
