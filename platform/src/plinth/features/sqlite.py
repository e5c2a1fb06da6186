"""Feast's SQLite online store as it is read: one SELECT a view and key, values decoded in bulk.

The table layout is that of `feast/infra/online_stores/sqlite.py` of Feast 0.67.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plinth.errors import Corrupt, Unavailable
from plinth.features.reader import ABSENT, FLOAT_BYTES, Keys, Reader, decode_floats, decode_value
from plinth.features.readplan import ReadPlan, ViewPlan

BUSY_SECONDS = 0.5
ATTEMPTS = 4

MAX_ROWS = 20_000
"""Rows of one view that a thread remembers."""

Row = tuple[int, NDArray[np.float64]]
"""A view's row as stored: event time (`ABSENT` for none) and values."""
Rows = dict[Any, Row]


class SqliteOnline:
    """The online store in a file.

    Args:
        path: Feast's database. It need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.where = str(path)

    def open(self, plan: ReadPlan, *, patient: bool = True) -> SqliteReader:
        """A reader. An impatient one never waits for a lock: whoever serves from an event loop tries again instead."""
        return SqliteReader(plan, self.path) if patient else SqliteReader(plan, self.path, busy_seconds=0, attempts=1)

    def entities(self, plan: ReadPlan, view: ViewPlan) -> Iterator[tuple[tuple[str, ...], int]]:
        """Each entity of a view, by its join keys' values in their names' order, and its row's event time.

        Raises:
            Unavailable: The store cannot be read.
        """
        if not self.path.is_file():
            return
        with self._connected() as connection:
            sql = f'SELECT entity_key, max(event_ts) FROM "{view.table}" GROUP BY entity_key ORDER BY entity_key'
            for key, stamp in connection.execute(sql):
                found = view.entity_of(key)
                if found is not None:
                    yield found[0], int(stamp)

    def problem(self, plan: ReadPlan, through: datetime | None) -> str:
        """What a service that reads the plan would miss, in words; "" for nothing.

        Args:
            plan: What is to be read.
            through: The last hour that was written, as far as anybody wrote it down.
        """
        if not self.path.is_file():
            return f"the online store is gone, which was filled through {through:%Y-%m-%d %H:%M}" if through else ""
        tables = {view.table for view in plan.views}
        try:
            with self._connected() as connection:
                there = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
                if missing := sorted(tables - there):
                    return f"the online store lacks {', '.join(missing)}"
                filled = any(connection.execute(f'SELECT 1 FROM "{table}" LIMIT 1').fetchone() for table in tables)
        except Unavailable as error:
            return error.what
        if through and not filled:
            return f"the online store was emptied, after it was filled through {through:%Y-%m-%d %H:%M}"
        return ""

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(f"{self.path.resolve().as_uri()}?mode=ro", uri=True, timeout=5.0)) as opened:
                yield opened
        except sqlite3.Error as error:
            raise Unavailable(
                f"the online store cannot be read: {error}", where=self.where, hint="materialize the features"
            ) from error


class SqliteReader(Reader):
    """Reads feature rows. Each thread has its own read-only connection.

    Decoded rows are remembered for as long as nobody else commits to the store: SQLite's `PRAGMA data_version` says so,
    and asking it costs 2 µs where a view's row costs 40. A materialization therefore shows at the very next read.

    Args:
        plan: What to read.
        path: Feast's SQLite online store.
        busy_seconds: How long one attempt waits for a lock. A service that must not block its event loop gives 0.
        attempts: Tries before `Unavailable`.
    """

    def __init__(
        self, plan: ReadPlan, path: Path, *, busy_seconds: float = BUSY_SECONDS, attempts: int = ATTEMPTS
    ) -> None:
        super().__init__(plan)
        self._busy_seconds = busy_seconds
        self._attempts = attempts
        self.path = Path(path)
        self._local = threading.local()
        self._views = [_ViewReader(view) for view in plan.views]

    def close(self) -> None:
        """Closes this thread's connection; another read opens it again."""
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None

    def _read_all(self, keys: Keys, values: NDArray[np.float64], stamps: NDArray[np.int64]) -> None:
        for attempt in range(1, self._attempts + 1):
            try:
                connection = self._connection()
                remembered = self._remembered(connection)
                for position, view in enumerate(self._views):
                    rows = remembered[position]
                    view.read(connection, keys, values[:, self.plan.slices[position]], stamps[:, position], rows)
                return
            except sqlite3.OperationalError as error:
                self.close()
                busy = "locked" in str(error) or "busy" in str(error)
                if not busy or attempt == self._attempts:
                    raise Unavailable(
                        f"the online store cannot be read: {error}",
                        where=str(self.path),
                        hint="retry; another process holds it" if busy else "apply and materialize the features first",
                    ) from error
                time.sleep(0.01 * attempt)
            except sqlite3.DatabaseError as error:
                self.close()
                raise Corrupt(
                    f"the online store is damaged: {error}", where=str(self.path), hint="materialize it anew"
                ) from error

    def _remembered(self, connection: sqlite3.Connection) -> list[Rows]:
        """This connection's rows by view, forgotten when another connection has committed since they were read."""
        version = connection.execute("PRAGMA data_version").fetchone()[0]
        if self._local.version != version or any(len(rows) > MAX_ROWS for rows in self._local.rows):
            self._local.version, self._local.rows = version, [{} for _ in self._views]
        rows: list[Rows] = self._local.rows
        return rows

    def _connection(self) -> sqlite3.Connection:
        try:
            found = os.stat(self.path)
        except OSError:
            raise Unavailable(
                "the online store does not exist", where=str(self.path), hint="apply and materialize the features first"
            ) from None
        identity = (found.st_dev, found.st_ino)  # a store that was deleted and built anew is another file
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None or self._local.identity != identity:
            self.close()
            # Not mode=ro: a materialization that was killed leaves a journal, which the next reader has to roll back.
            connection = sqlite3.connect(f"{self.path.as_uri()}?mode=rw", uri=True, timeout=self._busy_seconds)
            connection.execute("PRAGMA query_only=ON")
            self._local.connection, self._local.identity = connection, identity
            self._local.version = None  # versions of different connections do not compare
        return connection


class _ViewReader:
    """One view: its SQL and its decoder.

    SQLite joins a row's features into one string of names and one of values in hexadecimal: making one Python object
    instead of four a feature is what makes a read cheaper than fetching the rows. Both strings come from one pass over
    the same rows, so where the names are the plan's, the values are too.
    """

    def __init__(self, view: ViewPlan) -> None:
        self.view = view
        names = [feature.name for feature in view.features]
        stored = sorted(names)  # the primary key's order
        self.target = [names.index(name) for name in stored]
        self.position = {name: index for index, name in enumerate(names)}
        self.names = ",".join(stored)
        self.all_floats = all(feature.dtype == "float32" for feature in view.features)
        self.joined_sql = (
            "SELECT max(event_ts), group_concat(feature_name), group_concat(hex(value)) FROM "
            f'(SELECT feature_name, value, event_ts FROM "{view.table}" WHERE entity_key = ? ORDER BY feature_name)'
        )
        self.sql = f'SELECT feature_name, value FROM "{view.table}" WHERE entity_key = ?'

    def read(
        self,
        connection: sqlite3.Connection,
        keys: Keys,
        values: NDArray[np.float64],
        stamps: NDArray[np.int64],
        rows: Rows,
    ) -> None:
        """Puts values [n, features] and event times [n] in place; rows that are not there are NaN and `ABSENT`."""
        columns = [keys[name] for name in self.view.join_keys]
        for place, key in enumerate(columns[0] if len(columns) == 1 else zip(*columns, strict=True)):
            row = rows.get(key)
            if row is None:
                row = rows[key] = self._load(connection, key)
            stamps[place], values[place] = row

    def _load(self, connection: sqlite3.Connection, key: Any) -> Row:
        parts = key if isinstance(key, tuple) else (key,)
        (entity_key,) = self.view.entity_keys({n: [part] for n, part in zip(self.view.join_keys, parts, strict=True)})
        found = np.full(len(self.target), np.nan)
        if entity_key is None:
            return ABSENT, found
        stamp, names, encoded = connection.execute(self.joined_sql, (entity_key,)).fetchone()
        if names is None:
            return ABSENT, found
        if names == self.names:
            found[self.target] = self._decode(encoded)
        else:  # the table holds more or fewer features than the plan: a view that is changing
            for name, blob in connection.execute(self.sql, (entity_key,)):
                if name in self.position:
                    found[self.position[name]] = decode_value(blob)
        return stamp, found

    def _decode(self, encoded: str) -> NDArray[np.float32] | list[float]:
        if self.all_floats and len(encoded) == len(self.target) * (2 * FLOAT_BYTES + 1) - 1:
            floats = decode_floats(bytes.fromhex(encoded.replace(",", "")))
            if floats is not None:
                return floats
        return [decode_value(bytes.fromhex(value)) for value in encoded.split(",")]
