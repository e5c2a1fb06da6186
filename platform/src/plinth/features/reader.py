"""The reader of a compiled read plan: one SELECT a view, values decoded in bulk.

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

import numpy as np
from numpy.typing import NDArray

from plinth.errors import Corrupt, InvalidInput, Unavailable
from plinth.features.readplan import FUTURE, MISSING, STALE, FeatureBlock, ReadPlan, ViewPlan

MAX_KEYS = 512
"""Keys of one SELECT. Lists are padded to a power of two, so that few statements are ever prepared."""

BUSY_SECONDS = 0.5
ATTEMPTS = 4

_FLOAT = np.dtype([("tag", "u1"), ("value", "<f4")])
_FLOAT_TAG, _DOUBLE_TAG, _INT64_TAG = 0x35, 0x29, 0x20
Row = tuple[bytes, str, bytes, int]


class Reader:
    """Reads feature rows. Safe to share between threads: each has its own read-only connection."""

    def __init__(self, plan: ReadPlan, path: Path) -> None:
        self.plan = plan
        self.path = Path(path)
        self._local = threading.local()
        self._views = [_ViewReader(view) for view in plan.views]

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
        values = np.empty((len(at), len(self.plan.columns)))
        values[:] = self.plan.defaults
        status = np.full((len(at), len(self._views)), MISSING, dtype=np.uint8)
        if len(at):
            self._read_all(keys, np.asarray(at, dtype=np.int64), values, status)
        return FeatureBlock(values, status)

    def close(self) -> None:
        """Closes this thread's connection; another read opens it again."""
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None

    def _read_all(
        self,
        keys: Mapping[str, Sequence[str | None]],
        at: NDArray[np.int64],
        values: NDArray[np.float64],
        status: NDArray[np.uint8],
    ) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                connection = self._connection()
                for position, view in enumerate(self._views):
                    view.read(connection, keys, at, values[:, self.plan.slices[position]], status[:, position])
                return
            except sqlite3.OperationalError as error:
                self.close()
                busy = "locked" in str(error) or "busy" in str(error)
                if not busy or attempt == ATTEMPTS:
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
            connection = sqlite3.connect(f"{self.path.as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)
            self._local.connection, self._local.identity = connection, identity
        return connection


class _ViewReader:
    """One view: its SQL by number of keys, and its decoder."""

    def __init__(self, view: ViewPlan) -> None:
        self.view = view
        names = [feature.name for feature in view.features]
        self.stored = sorted(names)  # the primary key's order, in which the rows come
        self.target = [names.index(name) for name in self.stored]
        self.position = {name: index for index, name in enumerate(names)}
        self.all_floats = all(feature.dtype == "float32" for feature in view.features)
        self.sql: dict[int, str] = {}

    def read(
        self,
        connection: sqlite3.Connection,
        keys: Mapping[str, Sequence[str | None]],
        at: NDArray[np.int64],
        values: NDArray[np.float64],
        status: NDArray[np.uint8],
    ) -> None:
        entity_keys = self.view.entity_keys(keys)
        wanted = sorted({key for key in entity_keys if key is not None})
        rows: list[Row] = []
        for start in range(0, len(wanted), MAX_KEYS):
            rows += self._select(connection, wanted[start : start + MAX_KEYS])
        if not rows:
            return
        found, stamps, decoded = self._decode(rows)
        index = np.array([found.get(key, -1) if key is not None else -1 for key in entity_keys])
        stamp = stamps[index]
        status[:] = np.where(stamp > at, FUTURE, np.where(at - stamp > self.view.ttl_seconds, STALE, 0))
        status[index < 0] = MISSING
        usable = status == 0
        # A null in a row that is there takes the default too, as ReadPlan.fill does.
        fresh = decoded[index[usable]]
        values[usable] = np.where(np.isnan(fresh), values[usable], fresh)

    def _select(self, connection: sqlite3.Connection, keys: list[bytes]) -> list[Row]:
        size = 1 << (len(keys) - 1).bit_length()
        sql = self.sql.get(size)
        if sql is None:
            marks = ",".join("?" * size)
            sql = self.sql[size] = (
                f'SELECT entity_key, feature_name, value, event_ts FROM "{self.view.table}" '
                f"WHERE entity_key IN ({marks}) ORDER BY entity_key, feature_name"
            )
        return connection.execute(sql, keys + keys[-1:] * (size - len(keys))).fetchall()

    def _decode(self, rows: list[Row]) -> tuple[dict[bytes, int], NDArray[np.int64], NDArray[np.float64]]:
        """Index by entity key, event times, and values [entities, features] in the plan's order."""
        width = len(self.stored)
        entities, names, blobs, times = zip(*rows, strict=True)
        count = len(rows) // width
        if len(rows) != count * width or names != tuple(self.stored) * count:
            return self._decode_any(rows)
        found = {key: index for index, key in enumerate(entities[::width])}
        stamps = np.array(times[::width], dtype=np.int64)
        joined = b"".join(blobs)
        values = np.empty((count, width))
        if self.all_floats and len(joined) == len(rows) * _FLOAT.itemsize:
            floats = np.frombuffer(joined, dtype=_FLOAT)
            if (floats["tag"] == _FLOAT_TAG).all():
                values[:, self.target] = floats["value"].reshape(count, width)
                return found, stamps, values
        decoded = [_decode_value(blob) for blob in blobs]
        values[:, self.target] = np.array(decoded).reshape(count, width)
        return found, stamps, values

    def _decode_any(self, rows: list[Row]) -> tuple[dict[bytes, int], NDArray[np.int64], NDArray[np.float64]]:
        """The same for tables that hold more or fewer features than the plan: a view that is changing."""
        found = {key: index for index, key in enumerate(dict.fromkeys(row[0] for row in rows))}
        stamps = np.full(len(found), np.iinfo(np.int64).max, dtype=np.int64)
        values = np.full((len(found), len(self.stored)), np.nan)
        for key, name, blob, time_ in rows:
            column = self.position.get(name)
            if column is not None:
                values[found[key], column] = _decode_value(blob)
                stamps[found[key]] = min(time_, stamps[found[key]])
        return found, stamps, values


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
