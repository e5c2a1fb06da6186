"""The rows of one hour, ready for Feast's online store.

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
    """Feature rows by hour. `tables` holds `<view>.parquet`; `views` are Feast's feature views."""

    def __init__(self, tables: Path, views: Sequence[Any]) -> None:
        self._views = [_ViewRows(tables / f"{view.name}.parquet", view) for view in views]

    def at(self, hour: datetime) -> Iterator[tuple[Any, list[OnlineRow]]]:
        """Each view that has rows stamped exactly `hour`, with those rows."""
        for rows in self._views:
            data = rows.at(hour)
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

    def at(self, hour: datetime) -> list[OnlineRow]:
        found = self.path.stat()
        version = (found.st_mtime_ns, found.st_size)
        if version != self.version or not self.start <= hour < self.end:
            self._load(hour)
            self.version = version
        stamp = np.datetime64(hour.replace(tzinfo=None), "us")
        first, last = np.searchsorted(self.times, [stamp, stamp + 1])
        keys = [column[first:last] for column in self.key_columns]
        values = [column[first:last].tolist() for column in self.value_columns]
        return [
            (EntityKey(join_keys=self.keys, entity_values=list(key)), self._values(row), hour, None)
            for key, row in zip(zip(*keys, strict=True), zip(*values, strict=True), strict=True)
        ]

    def _values(self, row: tuple[Any, ...]) -> dict[str, Value]:
        return {
            name: Value(**{field: value}) if value is not None and value == value else Value()
            for (name, field), value in zip(self.fields, row, strict=True)
        }

    def _load(self, hour: datetime) -> None:
        self.start, self.end = hour, hour + STRETCH
        table = pq.read_table(
            self.path, filters=[("event_timestamp", ">=", self.start), ("event_timestamp", "<", self.end)]
        ).sort_by("event_timestamp")
        self.times = table["event_timestamp"].to_numpy()
        self.key_columns = [[Value(string_val=v) for v in table[key].to_pylist()] for key in self.keys]
        self.value_columns = [table[name].to_numpy() for name, _ in self.fields]
