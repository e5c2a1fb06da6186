"""The reader of a compiled read plan: one SELECT a view and key, values decoded in bulk.

A value is a serialized `feast.types.Value`: a float is the tag 0x35 and four bytes, a double 0x29 and eight, an int64
0x20 and a varint, a null nothing at all (https://protobuf.dev/programming-guides/encoding/).
"""

from __future__ import annotations

import os
import sqlite3
import struct
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plinth.errors import Corrupt, InvalidInput, Unavailable
from plinth.features.readplan import FUTURE, MISSING, OK, STALE, FeatureBlock, ReadPlan, ViewPlan

BUSY_SECONDS = 0.5
ATTEMPTS = 4

MAX_ROWS = 20_000
"""Rows of one view that a thread remembers."""

ABSENT = np.iinfo(np.int64).min
"""Event time of a row that is not there."""

_FLOAT = np.dtype([("tag", "u1"), ("value", "<f4")])
_FLOAT_TAG, _DOUBLE_TAG, _INT64_TAG = 0x35, 0x29, 0x20


Row = tuple[int, NDArray[np.float64]]
"""A view's row as stored: event time (`ABSENT` for none) and values."""
Rows = dict[Any, Row]


class Reader:
    """Reads feature rows. Safe to share between threads: each has its own read-only connection.

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
        self.plan = plan
        self._busy_seconds = busy_seconds
        self._attempts = attempts
        self.path = Path(path)
        self._local = threading.local()
        self._views = [_ViewReader(view) for view in plan.views]
        self._ttl = np.array([view.ttl_seconds for view in plan.views], dtype=np.int64)
        self._widths = [len(view.features) for view in plan.views]

    def read(self, keys: Mapping[str, Sequence[str | None]], at: NDArray[np.int64]) -> FeatureBlock:
        """Feature values of each row of keys, as they stand at `at`.

        Args:
            keys: One sequence of n values for each join key of the plan; None finds nothing.
            at: int64 [n], seconds since 1970 UTC.

        Raises:
            InvalidInput: A join key is missing or lengths differ.
            Unavailable: The online store does not exist, has not been filled, or stayed locked.
            Corrupt: A stored value is no Feast value.
        """
        missing = [key for key in self.plan.join_keys if key not in keys]
        if missing or any(len(keys[key]) != len(at) for key in self.plan.join_keys):
            raise InvalidInput(
                "the keys do not fit the read plan", where=f"missing: {missing}", hint=f"give {self.plan.join_keys}"
            )
        values = np.full((len(at), len(self.plan.columns)), np.nan)
        stamps = np.full((len(at), len(self._views)), ABSENT, dtype=np.int64)
        if len(at):
            self._read_all(keys, values, stamps)
        return self._judge(values, stamps, np.asarray(at, dtype=np.int64)[:, None])

    def _judge(self, values: NDArray[np.float64], stamps: NDArray[np.int64], at: NDArray[np.int64]) -> FeatureBlock:
        """The status of every row of every view, and defaults for whatever cannot be used."""
        status = np.zeros(stamps.shape, dtype=np.uint8)
        status[at > stamps + self._ttl] = STALE
        status[stamps > at] = FUTURE
        status[stamps == ABSENT] = MISSING
        unusable = np.isnan(values)  # a null in a row that is there takes its default, as ReadPlan.fill does
        if status.any():
            unusable |= np.repeat(status != OK, self._widths, axis=1)
        if unusable.any():
            np.copyto(values, self.plan.defaults, where=unusable)
        return FeatureBlock(values, status)

    def close(self) -> None:
        """Closes this thread's connection; another read opens it again."""
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None

    def _read_all(
        self, keys: Mapping[str, Sequence[str | None]], values: NDArray[np.float64], stamps: NDArray[np.int64]
    ) -> None:
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
        keys: Mapping[str, Sequence[str | None]],
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
                    found[self.position[name]] = _decode_value(blob)
        return stamp, found

    def _decode(self, encoded: str) -> NDArray[np.float32] | list[float]:
        if self.all_floats and len(encoded) == len(self.target) * 11 - 1:
            floats = np.frombuffer(bytes.fromhex(encoded.replace(",", "")), dtype=_FLOAT)
            if (floats["tag"] == _FLOAT_TAG).all():
                decoded: NDArray[np.float32] = floats["value"]
                return decoded
        return [_decode_value(bytes.fromhex(value)) for value in encoded.split(",")]


def _decode_value(blob: bytes) -> float:
    if not blob:
        return float("nan")
    tag = blob[0]
    if tag == _FLOAT_TAG and len(blob) == 5:
        return float(struct.unpack_from("<f", blob, 1)[0])
    if tag == _DOUBLE_TAG and len(blob) == 9:
        return float(struct.unpack_from("<d", blob, 1)[0])
    if tag == _INT64_TAG:
        value = shift = 0
        for byte in blob[1:]:
            value |= (byte & 0x7F) << shift
            shift += 7
        return float(value - (1 << 64) if value >= 1 << 63 else value)
    raise Corrupt(
        "a stored feature value is of no kind the read plan knows", where=blob[:16].hex(), hint="materialize it anew"
    )
