"""The rows of an hour, ready for Feast's online store.

Feast's own materialization takes seconds for any range, however small; a replay of the calendar needs an hour in
milliseconds. So the feature tables (sorted by `event_timestamp`) are read a stretch of hours at a time and cut by hour.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

STRETCH = timedelta(days=14)
_FIELD = {"Float32": "float_val", "Float64": "double_val", "Int64": "int64_val"}
OnlineRow = tuple[EntityKey, dict[str, Value], datetime, datetime | None]


class HourlyRows:
    """Feature rows by time. `tables` holds `<view>.parquet`; `views` are Feast's feature views."""

    def __init__(self, tables: Path, views: Sequence[Any]) -> None:
        self._views = [_ViewRows(tables / f"{view.name}.parquet", view) for view in views]

    def between(self, after: datetime, until: datetime) -> Iterator[tuple[Any, list[OnlineRow]]]:
        """Each view that has rows stamped in (after, until], with the newest row of each entity."""
        for rows in self._views:
            data = rows.between(after, until)
            if data:
                yield rows.view, data


class _ViewRows:
    def __init__(self, path: Path, view: Any) -> None:
        self.view = view
        self.path = path
        self.keys = sorted(view.join_keys)
        self.fields = [(field.name, _FIELD[str(field.dtype)]) for field in view.features]
        self.start = self.end = datetime.min.replace(tzinfo=UTC)
        self.version: tuple[int, int] | None = None

    def between(self, after: datetime, until: datetime) -> list[OnlineRow]:
        found = self.path.stat()
        version = (found.st_mtime_ns, found.st_size)
        if version != self.version or not (self.start <= after and until < self.end):
            self._load(after, until)
            self.version = version
        bounds = [np.datetime64(at.replace(tzinfo=None), "us") for at in (after, until)]
        first, last = np.searchsorted(self.times, bounds, side="right")
        keys = zip(*(column[first:last] for column in self.key_columns), strict=True)
        values = zip(*(column[first:last].tolist() for column in self.value_columns), strict=True)
        # Sorted by time: of an entity's rows the newest comes last and stays.
        newest = dict(zip(keys, zip(self.times[first:last].tolist(), values, strict=True), strict=True))
        return [
            (self._entity_key(key), self._values(row), at.replace(tzinfo=UTC), None)
            for key, (at, row) in newest.items()
        ]

    def _entity_key(self, key: tuple[str, ...]) -> EntityKey:
        return EntityKey(join_keys=self.keys, entity_values=[Value(string_val=value) for value in key])

    def _values(self, row: tuple[Any, ...]) -> dict[str, Value]:
        return {
            name: Value(**{field: value}) if value is not None and value == value else Value()
            for (name, field), value in zip(self.fields, row, strict=True)
        }

    def _load(self, after: datetime, until: datetime) -> None:
        self.start, self.end = after, until + STRETCH
        table = pq.read_table(
            self.path, filters=[("event_timestamp", ">", self.start), ("event_timestamp", "<", self.end)]
        ).sort_by("event_timestamp")
        self.times = table["event_timestamp"].to_numpy()
        self.key_columns = [table[key].to_pylist() for key in self.keys]
        self.value_columns = [table[name].to_numpy() for name, _ in self.fields]
