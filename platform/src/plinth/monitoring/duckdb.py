"""The inference log and the labels, read with DuckDB from their Parquet files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plinth.core.log_files import current
from plinth.errors import InvalidInput, MissingExtra, NotFound, Unavailable
from plinth.monitoring.grid import Matrix
from plinth.monitoring.labels import Labelled, LogHealth

if TYPE_CHECKING:
    import duckdb

Scores = NDArray[np.float64]

COLUMNS = ("request_id", "entity_id", "release", "event_time", "score", "at")
CHUNK = 65_536  # rows that come out of DuckDB at a time

_WINDOW = """
    event_time >= $start AND event_time < $end AND ($release IS NULL OR release = $release) AND isfinite(score)
"""
# One row an entity and release, the latest event: a retried request and a replayed file change nothing. The rows that
# lose are few and narrow, so they are looked for first and left out of the scan of the wide rows.
_LOSERS = f"""
    CREATE TEMP TABLE losers AS SELECT filename, file_row_number FROM log WHERE {_WINDOW}
    QUALIFY row_number() OVER (
        PARTITION BY entity_id, release ORDER BY event_time DESC, "at" DESC, request_id DESC, filename, file_row_number
    ) > 1
"""
_LATEST = f"FROM log ANTI JOIN losers USING (filename, file_row_number) WHERE {_WINDOW}"
_LABELS = """
    SELECT entity_id, label FROM labels WHERE known_at <= $as_of AND label IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY entity_id ORDER BY known_at DESC, label DESC) = 1
"""


class LogReader:
    """A product's inference log (`inference/date=*/*.parquet`) and labels (`labels/*.parquet`).

    Args:
        folder: The product's state folder.
        start: First event time (inclusive), UTC.
        end: Last event time (exclusive), UTC.
        release: Only this digest; None is every release.

    Raises:
        NotFound: There is no log, or nothing in it in this time.
        InvalidInput: The log lacks a column.
        Unavailable: The files cannot be read.
        MissingExtra: DuckDB is not installed.
    """

    def __init__(self, folder: Path, start: datetime, end: datetime, release: str | None = None) -> None:
        self.folder = folder
        self._window = {"start": start, "end": end, "release": release}
        files = [path for path in _parquet_files(folder / "inference") if _may_hold(path, start, end)]
        self.files = [path for path in files if _is_parquet(path)]
        self.unreadable = tuple(str(path.relative_to(folder)) for path in files if not _is_parquet(path))
        if not self.files:
            raise NotFound(
                f"there is no inference log from {start:%Y-%m-%d} to {end:%Y-%m-%d}",
                where=str(folder / "inference"),
                hint="start the service with `plinth up`, send predictions to it, or give other dates",
            )

    def health(self, dropped: int | None = None) -> LogHealth:
        """Rows and duplicates in the window, and the files that could not be read.

        Args:
            dropped: What the service counted as dropped; None when unknown.
        """
        with self._open() as connection:
            rows, losers = connection.execute(
                f"SELECT count(*), (SELECT count(*) FROM losers) FROM log WHERE {_WINDOW}", self._window
            ).fetchone()
        return LogHealth(rows, losers, self.unreadable, dropped)

    def features(self, names: Sequence[str]) -> Iterator[tuple[Matrix, Scores]]:
        """The model's inputs and its scores, one row a prediction, in chunks [m, k] float32 and [m] float64.

        Args:
            names: Feature columns, in the model's order.
        """
        wanted = ", ".join(_quoted(name) for name in names)
        with self._open(names) as connection:
            reader = connection.sql(f"SELECT score, {wanted} {_LATEST}", params=self._window).to_arrow_reader(CHUNK)
            for batch in reader:
                if not batch.num_rows:
                    continue
                columns = np.empty((len(names), batch.num_rows), np.float32)
                for index in range(len(names)):
                    columns[index] = batch.column(index + 1).to_numpy(zero_copy_only=False)
                yield columns.T, batch.column(0).to_numpy(zero_copy_only=False)

    def labelled(self, as_of: datetime) -> Labelled:
        """Every prediction of the window with the label known at `as_of`, NaN where there is none."""
        parameters: dict[str, Any] = dict(self._window)
        with self._open() as connection:
            label, join = "NULL", ""
            if self._has_labels(connection):
                label, join = "l.label", f"LEFT JOIN ({_LABELS}) l USING (entity_id)"
                parameters["as_of"] = as_of
            table = connection.sql(
                f"SELECT p.release, epoch_us(p.event_time) AS event_time, p.score, CAST({label} AS DOUBLE) AS label "
                f"FROM (SELECT * {_LATEST}) p {join} ORDER BY p.event_time, p.entity_id, p.release",
                params=parameters,
            ).to_arrow_table()
        release = table["release"].combine_chunks().dictionary_encode()
        return Labelled(
            release=np.asarray(release.dictionary.to_pylist(), dtype=object)[release.indices.to_numpy()],
            event_time=table["event_time"].to_numpy().astype("datetime64[us]"),
            score=table["score"].to_numpy().astype(np.float64),
            label=table["label"].to_numpy().astype(np.float64),
        )

    @contextmanager
    def _open(self, features: Sequence[str] = ()) -> Iterator[Any]:
        """A connection with the view `log`, its errors translated."""
        with _connect() as connection:
            connection.read_parquet(
                [str(path) for path in self.files], union_by_name=True, filename=True, file_row_number=True
            ).create_view("log")
            have = {row[0] for row in connection.execute("DESCRIBE log").fetchall()}
            lacking = [column for column in (*COLUMNS, *features) if column not in have]
            if lacking:
                raise InvalidInput(
                    f"the inference log lacks the columns {', '.join(lacking[:10])}",
                    where=str(self.folder / "inference"),
                    hint="it was written by a release with other features; name that release, or give other dates",
                )
            connection.execute(_LOSERS, self._window)
            yield connection

    def _has_labels(self, connection: Any) -> bool:
        files = [str(path) for path in _parquet_files(self.folder / "labels") if _is_parquet(path)]
        if files:
            connection.read_parquet(files, union_by_name=True).create_view("labels")
        return bool(files)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _parquet_files(folder: Path) -> list[Path]:
    """Finished files, without those that were merged: the writer keeps the others under hidden names."""
    return current(path for path in folder.glob("**/*.parquet") if not path.name.startswith("."))


def _may_hold(path: Path, start: datetime, end: datetime) -> bool:
    """Whether a file of `date=YYYY-MM-DD/` may hold events of the window; True without such a folder."""
    name = path.parent.name
    if not name.startswith("date="):
        return True
    return f"{start:%Y-%m-%d}" <= name.removeprefix("date=") <= f"{end:%Y-%m-%d}"


def _is_parquet(path: Path) -> bool:
    """Whether the file begins and ends as Parquet does: a file cut off by a crash does not."""
    try:
        with path.open("rb") as file:
            head = file.read(4)
            file.seek(-4, 2)
            return head == b"PAR1" == file.read(4)
    except OSError:
        return False


@contextmanager
def _connect() -> Iterator[duckdb.DuckDBPyConnection]:
    try:
        import duckdb
    except ImportError as error:
        raise MissingExtra("duckdb", "contracts") from error
    with tempfile.TemporaryDirectory(prefix="plinth-duckdb-") as spill:
        connection = duckdb.connect(
            config={"memory_limit": "1GiB", "threads": 2, "temp_directory": spill, "preserve_insertion_order": False}
        )
        try:
            connection.execute("SET TimeZone = 'UTC'")
            yield connection
        except duckdb.Error as error:
            raise Unavailable(
                f"the inference log cannot be read: {str(error).splitlines()[0]}",
                where="DuckDB",
                hint="check the disk and the files named",
            ) from error
        finally:
            connection.close()
