"""The inference log in Parquet: `date=YYYY-MM-DD/part-<time>-<pid>-<n>.parquet`, by the date of the event.

Columns: `request_id`, `entity_id`, `release` (strings), `event_time` and `at` (timestamp[us, UTC]), one float32 column
a feature under the feature's own name, `score` (float64), `flags` (list of strings), `latency_ms` (float32).
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plinth.errors import InvalidInput, MissingExtra
from plinth.serving.inference_log import Entry

COLUMNS = ("request_id", "entity_id", "release", "event_time", "at", "score", "flags", "latency_ms")


class ParquetSink:
    """Writes entries as Parquet files that appear whole or not at all.

    Args:
        folder: The product's `inference/` folder; made when first written to.
        feature_names: Names of the columns of `Entry.features`, in order.

    Raises:
        InvalidInput: A feature has the name of one of the log's own columns.
        MissingExtra: pyarrow is not installed.
    """

    def __init__(self, folder: Path, feature_names: Sequence[str]) -> None:
        clash = sorted(set(feature_names) & set(COLUMNS))
        if clash:
            raise InvalidInput(
                f"feature names of the inference log's own columns: {', '.join(clash)}",
                where="feature_names",
                hint="rename the features",
            )
        try:
            import pyarrow.parquet  # noqa: F401  (now and not at the first write, which would then take a second)
        except ModuleNotFoundError:
            raise MissingExtra("pyarrow", "serving") from None
        self._folder = folder
        self._names = tuple(feature_names)
        self._count = 0

    def write(self, entries: Sequence[Entry]) -> None:
        """Write all entries or none: every file is complete under a hidden name before the first one is renamed.

        Raises:
            OSError: The folder cannot be written, for instance because the disk is full.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        renames: list[tuple[Path, Path]] = []
        try:
            for date, table in self._tables(entries):
                target = self._target(date)
                hidden = target.with_name("." + target.stem + ".writing")
                renames.append((hidden, target))
                pq.write_table(table, hidden, compression="zstd")
        except BaseException:
            for hidden, _ in renames:
                hidden.unlink(missing_ok=True)
            raise
        for hidden, target in renames:
            hidden.rename(target)
        pa.default_memory_pool().release_unused()  # Arrow's allocator would keep the largest batch's memory for good

    def _target(self, date: str) -> Path:
        folder = self._folder / f"date={date}"
        folder.mkdir(parents=True, exist_ok=True)
        self._count += 1
        return folder / f"part-{time.time_ns()}-{os.getpid()}-{self._count}.parquet"

    def _tables(self, entries: Sequence[Entry]) -> list[tuple[str, Any]]:
        """One table a date."""
        import pyarrow as pa

        at = np.concatenate([entry.at for entry in entries])
        features = np.concatenate([entry.features for entry in entries])
        sizes = [len(entry.entity_ids) for entry in entries]
        utc = pa.timestamp("us", tz="UTC")

        def spread(values: Sequence[Any], dtype: Any) -> Any:
            """One value an entry to one value a row."""
            return pa.array(np.repeat(np.array(values), sizes), dtype)

        columns = {
            "request_id": spread([entry.request_id for entry in entries], pa.string()),
            "entity_id": pa.array([name for entry in entries for name in entry.entity_ids], pa.string()),
            "release": spread([entry.release for entry in entries], pa.string()),
            "event_time": pa.array(at * 1_000_000, pa.int64()).cast(utc),
            **{name: pa.array(features[:, i], pa.float32()) for i, name in enumerate(self._names)},
            "score": pa.array(np.concatenate([entry.scores for entry in entries]), pa.float64()),
            "flags": pa.array([list(row) for entry in entries for row in entry.flags], pa.list_(pa.string())),
            "latency_ms": spread([entry.latency_ms for entry in entries], pa.float32()),
            "at": spread([int(entry.answered * 1_000_000) for entry in entries], pa.int64()).cast(utc),
        }
        table = pa.table(columns)
        dates = (at // 86_400).astype("datetime64[D]")
        return [(str(date), table.filter(pa.array(dates == date))) for date in np.unique(dates)]
