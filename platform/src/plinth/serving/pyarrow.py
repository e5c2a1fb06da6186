"""The service's logs in Parquet: files that appear whole or not at all.

The inference log: `date=YYYY-MM-DD/part-<time>-<pid>-<n>.parquet`, by the date of the event. Columns: `request_id`,
`entity_id`, `release` (strings), `event_time` and `at` (timestamp[us, UTC]), one float32 column a feature under the
feature's own name, `score` (float64), `flags` (list of strings), `latency_ms` (float32).

Any other log (`ParquetRows`) says itself what its columns and partitions are.

Hours that are over are merged into `hour-*.parquet` (plinth.core.log_files).

The request log: `generation=<n>/part-<time>-<pid>-<n>.parquet`, by the route's generation. Columns: those of
`requests.RequestRecord`, `at` as timestamp[us, UTC], `entity_ids` and `scores` as lists.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from plinth.core.log_files import current
from plinth.errors import InvalidInput, MissingExtra
from plinth.serving.inference_log import Entry
from plinth.serving.requests import RequestRecord

Kind = Literal["text", "number", "count", "time"]
"""Of a column: string; float64; int64; timestamp[us, UTC] of seconds since 1970."""

Record = TypeVar("Record")

COLUMNS = ("request_id", "entity_id", "release", "event_time", "at", "score", "flags", "latency_ms")


class _Files:
    """Writes tables as Parquet files below a folder, all of them or none."""

    def __init__(self, folder: Path) -> None:
        try:
            import pyarrow.parquet  # noqa: F401  (now and not at the first write, which would then take a second)
        except ModuleNotFoundError:
            raise MissingExtra("pyarrow", "serving") from None
        self._folder = folder
        self._count = 0

    def write(self, tables: Sequence[tuple[str, Any]]) -> None:
        """Every file is complete under a hidden name before the first one is renamed.

        Args:
            tables: Partitions (`date=2013-06-01`) with their tables.

        Raises:
            OSError: The folder cannot be written, for instance because the disk is full.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        renames: list[tuple[Path, Path]] = []
        try:
            for partition, table in tables:
                target = self._target(partition)
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

    def _target(self, partition: str) -> Path:
        folder = self._folder / partition
        folder.mkdir(parents=True, exist_ok=True)
        self._count += 1
        return folder / f"part-{time.time_ns()}-{os.getpid()}-{self._count}.parquet"


class ParquetSink:
    """Writes the inference log.

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
        self._files = _Files(folder)
        self._names = tuple(feature_names)

    def write(self, entries: Sequence[Entry]) -> None:
        """Write all entries or none.

        Raises:
            OSError: The folder cannot be written, for instance because the disk is full.
        """
        self._files.write(self._tables(entries))

    def _tables(self, entries: Sequence[Entry]) -> list[tuple[str, Any]]:
        """One table a date, by its partition."""
        import pyarrow as pa

        at = np.concatenate([entry.at for entry in entries])
        features = np.concatenate([entry.features for entry in entries])
        sizes = [len(entry.entity_ids) for entry in entries]
        utc = pa.timestamp("us", tz="UTC")
        answered = np.repeat(np.array([entry.answered for entry in entries]), sizes)
        latency = np.repeat(np.array([entry.latency_ms for entry in entries], dtype=np.float32), sizes)
        columns = {
            "request_id": _strings(
                [entry.request_id for entry, n in zip(entries, sizes, strict=True) for _ in range(n)]
            ),
            "entity_id": _strings([name for entry in entries for name in entry.entity_ids]),
            "release": _strings([entry.release for entry, n in zip(entries, sizes, strict=True) for _ in range(n)]),
            "event_time": _numbers(at * 1_000_000, utc),
            **{name: _numbers(features[:, i], pa.float32()) for i, name in enumerate(self._names)},
            "score": _numbers(np.concatenate([entry.scores for entry in entries]), pa.float64()),
            "flags": _lists([row for entry in entries for row in entry.flags]),
            "latency_ms": _numbers(latency, pa.float32()),
            "at": _numbers((answered * 1e6).astype(np.int64), utc),
        }
        table = pa.Table.from_arrays(list(columns.values()), list(columns))
        dates = (at // 86_400).astype("datetime64[D]")
        return [
            (f"date={date}", table.take(_numbers(np.flatnonzero(dates == date), pa.int64())))
            for date in np.unique(dates)
        ]


class ParquetRequests:
    """Writes the request log.

    Args:
        folder: The product's `requests/` folder; made when first written to.

    Raises:
        MissingExtra: pyarrow is not installed.
    """

    def __init__(self, folder: Path) -> None:
        self._files = _Files(folder)

    def write(self, entries: Sequence[RequestRecord]) -> None:
        """Write all records or none.

        Raises:
            OSError: The folder cannot be written, for instance because the disk is full.
        """
        generations = sorted({record.generation for record in entries})
        self._files.write(
            [
                (f"generation={generation}", _requests([r for r in entries if r.generation == generation]))
                for generation in generations
            ]
        )


class ParquetRows(Generic[Record]):
    """Writes a log whose records are rows.

    Args:
        folder: Where the files go; made when first written to.
        columns: The columns and their kinds, in order.
        as_row: A record's partition (`date=2026-01-31`) and its values by column. Called by the log's writer, off the
            request path.

    Raises:
        MissingExtra: pyarrow is not installed.
    """

    def __init__(
        self, folder: Path, columns: Mapping[str, Kind], as_row: Callable[[Record], tuple[str, Mapping[str, Any]]]
    ) -> None:
        self._files = _Files(folder)
        self._columns = dict(columns)
        self._as_row = as_row

    def write(self, entries: Sequence[Record]) -> None:
        """Write all records or none.

        Raises:
            OSError: The folder cannot be written, for instance because the disk is full.
        """
        partitions: dict[str, list[Mapping[str, Any]]] = {}
        for entry in entries:
            partition, row = self._as_row(entry)
            partitions.setdefault(partition, []).append(row)
        self._files.write([(partition, self._table(rows)) for partition, rows in sorted(partitions.items())])

    def _table(self, rows: Sequence[Mapping[str, Any]]) -> Any:
        import pyarrow as pa

        made = [_column(kind, [row[name] for row in rows]) for name, kind in self._columns.items()]
        return pa.Table.from_arrays(made, list(self._columns))


def find_rows(folder: Path, column: str, value: str) -> Iterator[dict[str, Any]]:
    """The rows of a log whose column has this value, newest file first. Files that cannot be read are left out.

    Raises:
        MissingExtra: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        raise MissingExtra("pyarrow", "serving") from None
    finished = (path for path in folder.glob("*/*.parquet") if not path.name.startswith("."))
    for path in sorted(current(finished), key=lambda path: path.name, reverse=True):
        try:
            table = pq.read_table(path, partitioning=None, filters=[(column, "=", value)])
        except (pa.ArrowException, OSError):
            continue
        yield from table.to_pylist()


def _column(kind: Kind, values: Sequence[Any]) -> Any:
    import pyarrow as pa

    if kind == "text":
        return _strings(values)
    if kind == "time":
        return _numbers((np.array(values, dtype=np.float64) * 1e6).astype(np.int64), pa.timestamp("us", tz="UTC"))
    if kind == "count":
        return _numbers(np.array(values, dtype=np.int64), pa.int64())
    return _numbers(np.array(values, dtype=np.float64), pa.float64())


def _requests(records: Sequence[RequestRecord]) -> Any:
    """The records as a table."""
    import pyarrow as pa

    given: dict[str, Sequence[Any]] = dict(zip(RequestRecord._fields, zip(*records, strict=True), strict=True))

    def numbers(name: str, dtype: Any) -> Any:
        return _numbers(np.array(given[name], dtype=dtype), pa.from_numpy_dtype(dtype))

    columns = {
        "request_id": _strings(given["request_id"]),
        "at": _numbers((np.array(given["at"]) * 1e6).astype(np.int64), pa.timestamp("us", tz="UTC")),
        "clock": numbers("clock", np.float64),
        "generation": numbers("generation", np.int32),
        "step": numbers("step", np.int16),
        "arm": _strings(given["arm"]),
        "release": _strings(given["release"]),
        "code": numbers("code", np.int16),
        "seconds": numbers("seconds", np.float64),
        "rows": numbers("rows", np.int32),
        "defaulted": numbers("defaulted", np.int32),
        "entity_ids": _lists(given["entity_ids"]),
        "scores": _list_of(
            _numbers(np.concatenate(given["scores"]), pa.float64()), [len(scores) for scores in given["scores"]]
        ),
    }
    return pa.Table.from_arrays(list(columns.values()), list(columns))


# Arrays are made from buffers and not with `pa.array`: that imports pandas where it is installed, which costs the first
# write a second of the interpreter's lock, and the process 70 MiB.


def _numbers(values: NDArray[Any], dtype: Any) -> Any:
    import pyarrow as pa

    return pa.Array.from_buffers(dtype, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def _offsets(lengths: Sequence[int]) -> Any:
    import pyarrow as pa

    return pa.py_buffer(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))


def _strings(values: Sequence[str]) -> Any:
    import pyarrow as pa

    encoded = [value.encode() for value in values]
    buffers = [None, _offsets([len(value) for value in encoded]), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(encoded), buffers)


def _lists(values: Sequence[Sequence[str]]) -> Any:
    return _list_of(_strings([item for row in values for item in row]), [len(row) for row in values])


def _list_of(items: Any, lengths: Sequence[int]) -> Any:
    import pyarrow as pa

    return pa.Array.from_buffers(pa.list_(items.type), len(lengths), [None, _offsets(lengths)], children=[items])
