"""The feature tables against the same numbers counted flight by flight."""

from datetime import UTC, datetime, timedelta

import duckdb
import pytest

from flight_delays.events import check_events, check_future, move_future
from flight_delays.feature_definitions import VIEWS
from flight_delays.feature_tables import KEYS, USUAL_RATE, build_feature_tables
from plinth.errors import Corrupt, InvalidInput, NotFound, Unavailable

HOURS = [
    datetime(2013, 1, 1, 15, tzinfo=UTC),
    datetime(2013, 1, 31, 23, tzinfo=UTC),
    datetime(2013, 2, 1, 2, tzinfo=UTC),
    datetime(2013, 2, 8, 20, tzinfo=UTC),  # a blizzard: most flights cancelled
    datetime(2013, 2, 17, 13, tzinfo=UTC),
]


def fetch(query):
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        cursor = db.execute(query)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


@pytest.fixture(scope="module")
def flights(winter):
    return fetch(f"FROM read_parquet('{winter}/flights/*.parquet')")


def rows_at(features, view, hour, where="true"):
    return fetch(f"FROM read_parquet('{features}/{view}.parquet') WHERE event_timestamp = '{hour}' AND {where}")


def seen(flights, kind, hour, hours):
    column = {"arr": "landed_at", "dep": "departed_at"}[kind]
    delays = [(f[column], f[f"{kind}_delay"]) for f in flights if f[column] is not None]
    return [delay for at, delay in delays if hour - timedelta(hours=hours) < at <= hour]


def rate(delays):
    return (sum(delay >= 15 for delay in delays) + 4 * USUAL_RATE) / (len(delays) + 4)


def mean(delays):
    return sum(delays) / (len(delays) + 2)


@pytest.mark.parametrize("hour", HOURS)
def test_carrier_delays_count_what_had_happened_by_the_hour(flights, winter_features, hour):
    rows = rows_at(winter_features, "carrier_delays", hour)
    assert len(rows) == 16
    for row in rows:
        own = [flight for flight in flights if flight["carrier"] == row["carrier"]]
        assert row["dep_late_rate_3h"] == pytest.approx(rate(seen(own, "dep", hour, 3)), rel=1e-6)
        assert row["dep_delay_3h"] == pytest.approx(mean(seen(own, "dep", hour, 3)), rel=1e-6)
        assert row["arr_delay_3h"] == pytest.approx(mean(seen(own, "arr", hour, 3)), rel=1e-6)
        assert row["arr_late_rate_24h"] == pytest.approx(rate(seen(own, "arr", hour, 24)), rel=1e-6)


@pytest.mark.parametrize("hour", HOURS)
def test_overdue_counts_flights_due_and_not_gone(flights, winter_features, hour):
    for row in rows_at(winter_features, "origin_delays", hour):
        waits = [
            (hour - f["scheduled_departure"]).total_seconds() // 60
            for f in flights
            if f["origin"] == row["origin"]
            and hour - timedelta(hours=3) < f["scheduled_departure"] <= hour
            and (f["departed_at"] is None or f["departed_at"] > hour)
        ]
        assert row["overdue"] == len(waits)
        assert row["overdue_minutes"] == pytest.approx(sum(waits) / (len(waits) + 1), rel=1e-6)


def test_the_last_leg_is_the_last_one_landed_by_the_hour(flights, winter_features):
    hour = HOURS[3]
    rows = rows_at(winter_features, "aircraft_last_leg", hour)
    assert len(rows) > 5
    for row in rows:
        own = [f for f in flights if f["tailnum"] == row["tailnum"]]
        landed = max((f for f in own if f["landed_at"] and f["landed_at"] <= hour), key=lambda f: f["landed_at"])
        left = max((f for f in own if f["departed_at"] and f["departed_at"] <= hour), key=lambda f: f["departed_at"])
        assert row["landed_at"] == landed["landed_at"].timestamp()
        assert row["arr_delay"] == landed["arr_delay"]
        assert row["departed_at"] == left["departed_at"].timestamp()
        assert row["departed_distance"] == left["distance"]


def test_history_is_the_last_ten_landed_flights(flights, winter_features):
    hour = HOURS[1]
    rows = rows_at(winter_features, "dest_delays", hour)
    assert len(rows) > 3
    for row in rows:
        own = [f for f in flights if f["dest"] == row["dest"] and f["landed_at"] and f["landed_at"] <= hour]
        full_hour = {id(f): -(-f["landed_at"].timestamp() // 3600) for f in own}
        last = sorted(own, key=lambda f: (full_hour[id(f)], f["landed_at"], f["flight_id"]))[-10:]
        assert row["delay_last10"] == pytest.approx(sum(f["arr_delay"] for f in last) / 12, rel=1e-6)


def test_weather_is_known_an_hour_after_its_time(winter, winter_features):
    hour = HOURS[2]
    observed = fetch(
        f"FROM read_parquet('{winter}/weather/*.parquet') WHERE time_hour = '{hour - timedelta(hours=1)}' "
        "AND origin = 'JFK'"
    )[0]
    (row,) = rows_at(winter_features, "origin_weather", hour, "origin = 'JFK'")
    assert row["temp"] == pytest.approx(observed["temp"], rel=1e-6)
    assert row["visib"] == pytest.approx(observed["visib"], rel=1e-6)


@pytest.mark.parametrize("view", list(KEYS))
def test_tables_have_no_null_one_row_a_key_and_hour_and_full_hours_only(winter_features, view):
    table = f"read_parquet('{winter_features}/{view}.parquet')"
    nulls = " + ".join(f"count(*) FILTER (WHERE {name} IS NULL OR isnan({name}))" for name in VIEWS[view].features)
    (row,) = fetch(
        f"SELECT {nulls} AS nulls, count(*) - count(DISTINCT (event_timestamp, {KEYS[view]})) AS twice, "
        f"count(*) FILTER (WHERE epoch(event_timestamp) % 3600 <> 0) AS odd FROM {table}"
    )
    assert row == {"nulls": 0, "twice": 0, "odd": 0}
    assert tuple(KEYS[view].split(", ")) == VIEWS[view].keys


def test_a_growing_lake_changes_no_row_of_the_past(winter, winter_features, tmp_path):
    lake = tmp_path / "lake"
    for dataset in ("flights", "weather"):
        (lake / dataset).mkdir(parents=True)
        (lake / dataset / "2013-01.parquet").symlink_to(winter / dataset / "2013-01.parquet")
    build_feature_tables(lake, tmp_path / "features")
    until = datetime(2013, 1, 31, 23, tzinfo=UTC)
    for view in KEYS:
        newer = fetch(
            f"""SELECT count(*) AS n FROM
                (FROM read_parquet('{tmp_path}/features/{view}.parquet') WHERE event_timestamp <= '{until}'
                 EXCEPT FROM read_parquet('{winter_features}/{view}.parquet'))"""
        )
        assert newer == [{"n": 0}], view


def test_moving_the_future_changes_no_feature_of_the_past(winter, winter_features, tmp_path):
    at = datetime(2013, 2, 9, 14, 30, tzinfo=UTC)
    move_future(winter, tmp_path / "lake", at)
    build_feature_tables(tmp_path / "lake", tmp_path / "features")
    reports = check_future(winter_features, tmp_path / "features", at)
    assert set(reports) == set(VIEWS)
    assert all(report.clean for report in reports.values()), reports
    # The check can fail: after the moment, every view does change.
    later = check_future(winter_features, tmp_path / "features", at + timedelta(days=2))
    assert all(report.leaked for report in later.values()), later


def test_events_are_counted_when_known(winter, winter_features):
    report = check_events(winter, winter_features)
    assert report.clean
    assert report.checked > 90_000


LEAK = {"arrivals": "scheduled_departure", "departures": "scheduled_departure"}


def test_the_tempting_leak_is_caught_by_both_checks(winter, tmp_path):
    build_feature_tables(winter, tmp_path / "leaky", event_times=LEAK)
    report = check_events(winter, tmp_path / "leaky")
    assert report.leaked > 40_000
    assert report.worst_seconds > 3600
    at = datetime(2013, 2, 9, 14, 30, tzinfo=UTC)
    move_future(winter, tmp_path / "lake", at)
    build_feature_tables(tmp_path / "lake", tmp_path / "moved", event_times=LEAK)
    reports = check_future(tmp_path / "leaky", tmp_path / "moved", at)
    assert reports["carrier_delays"].leaked
    assert reports["aircraft_last_leg"].leaked


def test_events_can_be_dated_by_times_only(winter, tmp_path):
    with pytest.raises(InvalidInput, match="dated"):
        build_feature_tables(winter, tmp_path, event_times={"arrivals": "1; DROP TABLE flights"})


def test_an_empty_lake_is_not_found(tmp_path):
    with pytest.raises(NotFound, match="no flights batch"):
        build_feature_tables(tmp_path, tmp_path / "features")


def test_a_batch_without_a_needed_column_is_corrupt(winter, tmp_path):
    for dataset in ("flights", "weather"):
        (tmp_path / dataset).mkdir()
    duckdb.execute(
        f"COPY (SELECT * EXCLUDE (landed_at) FROM read_parquet('{winter}/flights/2013-01.parquet')) "
        f"TO '{tmp_path}/flights/2013-01.parquet' (FORMAT parquet)"
    )
    (tmp_path / "weather" / "2013-01.parquet").symlink_to(winter / "weather" / "2013-01.parquet")
    with pytest.raises(Corrupt, match="contract check"):
        build_feature_tables(tmp_path, tmp_path / "features")


def test_tables_that_cannot_be_written_are_unavailable(winter, tmp_path):
    (tmp_path / "carrier_delays.partial").mkdir()
    with pytest.raises(Unavailable, match="cannot be written"):
        build_feature_tables(winter, tmp_path)
