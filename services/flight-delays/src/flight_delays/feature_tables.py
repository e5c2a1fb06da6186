"""Feature tables: what could be known at each full hour, from the lake to one parquet file per feature view.

Every row's `event_timestamp` is the first full hour at which its facts were known: an arrival counts from the first
full hour at or after `landed_at`, a departure from the first at or after `departed_at`, weather one hour after its
`time_hour`. So a table materialized hourly says online exactly what the point-in-time join says offline.

No feature is ever null: rates and means over few flights are shrunk towards a constant, so that an empty window is an
ordinary value. The views and their meaning are declared in feature_definitions.py.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plinth.errors import Corrupt, InvalidInput, MissingExtra, NotFound, Unavailable

EVENT_TIMES = {"arrivals": "landed_at", "departures": "departed_at"}
"""The column that dates each kind of event. A test dates them by `scheduled_departure` to build the tempting leak."""

DATEABLE = ("landed_at", "departed_at", "scheduled_departure", "scheduled_arrival")


@dataclass(frozen=True)
class FeatureTable:
    """One written table."""

    view: str
    path: Path
    rows: int


def build_feature_tables(
    lake: Path, dest: Path, *, event_times: Mapping[str, str] = EVENT_TIMES, memory: str = "700MiB"
) -> list[FeatureTable]:
    """Writes `dest/<view>.parquet` for every view, and `dest/events.parquet` (which event was counted from when).

    Args:
        lake: Folder with `flights/*.parquet` and `weather/*.parquet` batches.
        dest: Folder for the feature tables; created when missing.
        event_times: Column of the flights that dates arrivals and departures.
        memory: DuckDB's memory limit; above it, it spills to `dest`.

    Raises:
        NotFound: The lake holds no batch.
        Corrupt: A batch is unreadable or misses a column.
        Unavailable: `dest` cannot be written.
    """
    try:
        import duckdb
    except ModuleNotFoundError:
        raise MissingExtra("duckdb", "features") from None
    for column in event_times.values():
        if column not in DATEABLE:
            raise InvalidInput(f"events cannot be dated by {column!r}", hint=f"one of {', '.join(DATEABLE)}")
    for dataset in ("flights", "weather"):
        if not any((lake / dataset).glob("*.parquet")):
            raise NotFound(
                f"the lake holds no {dataset} batch", where=str(lake / dataset), hint="run the contract step"
            )
    dest.mkdir(parents=True, exist_ok=True)
    try:
        with duckdb.connect(config={"memory_limit": memory, "temp_directory": str(dest / ".spill")}) as db:
            db.execute("SET TimeZone = 'UTC'")
            _prepare(db, lake, event_times)
            return [_write(db, view, sql, dest / f"{view}.parquet") for view, sql in _views().items()]
    except duckdb.IOException as error:
        raise Unavailable(f"feature tables cannot be written: {error}", where=str(dest), hint="free space") from error
    except (duckdb.BinderException, duckdb.InvalidInputException) as error:
        raise Corrupt(
            f"a batch does not fit: {str(error).splitlines()[0]}", where=str(lake), hint="run `plinth contract check`"
        ) from error


def _prepare(db: Any, lake: Path, event_times: Mapping[str, str]) -> None:
    times = {**EVENT_TIMES, **event_times}
    db.execute(f"CREATE VIEW flights AS FROM read_parquet('{_quoted(lake)}/flights/*.parquet')")
    db.execute(f"CREATE VIEW weather AS FROM read_parquet('{_quoted(lake)}/weather/*.parquet')")
    for name, statement in PREPARE.items():
        db.execute(f"CREATE TABLE {name} AS {statement.format(**times)}")


def _write(db: Any, view: str, sql: str, path: Path) -> FeatureTable:
    partial = path.with_suffix(".partial")
    order = "counted_at, flight_id, kind" if view == "events" else f"event_timestamp, {KEYS[view]}"
    options = "(FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 16384)"
    query = f"COPY (SELECT * FROM ({sql}) ORDER BY {order}) TO '{_quoted(partial)}' {options}"
    try:
        rows = db.execute(query).fetchone()[0]
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    os.replace(partial, path)
    return FeatureTable(view, path, int(rows))


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")


def _full_hour(column: str) -> str:
    return f"time_bucket(INTERVAL 1 HOUR, {column} + INTERVAL '59 minutes 59.999999 seconds')"


KEYS = {
    "carrier_delays": "carrier",
    "origin_delays": "origin",
    "carrier_origin_delays": "carrier, origin",
    "dest_delays": "dest",
    "line_history": "line",
    "origin_weather": "origin",
    "aircraft_last_leg": "tailnum",
}
"""The join keys of each view."""

EVENT = """
    SELECT flight_id, carrier, origin, dest, tailnum, carrier || flight || '-' || origin AS line, distance,
           {at} AS moment, {hour} AS hour, {delay} AS delay, ({delay} >= 15)::INT AS late
    FROM flights WHERE {delay} IS NOT NULL AND {at} IS NOT NULL"""

PREPARE = {
    # Facts, each with the hour it counts from.
    "arrivals": EVENT.format(at="{arrivals}", hour=_full_hour("{arrivals}"), delay="arr_delay"),
    "departures": EVENT.format(at="{departures}", hour=_full_hour("{departures}"), delay="dep_delay"),
    # Scheduled to have left by the hour and not seen leaving: known from the schedule and the absence of a departure.
    # A cancelled flight stays overdue for its three hours, because nothing in the data says when it was cancelled.
    "overdue": f"""
        SELECT carrier, origin, due + to_hours(later) AS hour, count(*) AS flights,
               sum(date_diff('minute', scheduled_departure, due + to_hours(later))) AS minutes
        FROM (SELECT *, {_full_hour("scheduled_departure")} AS due FROM flights), unnest([0, 1, 2]) AS l(later)
        WHERE coalesce({{departures}} > due + to_hours(later), true)
        GROUP BY carrier, origin, due + to_hours(later)""",
    "hours": """
        SELECT unnest(generate_series(time_bucket(INTERVAL 1 HOUR, min(time_hour)),
                                      time_bucket(INTERVAL 1 HOUR, max(time_hour)), INTERVAL 1 HOUR)) AS hour
        FROM flights""",
}


def _sums(facts: str, keys: str) -> str:
    return f"""(SELECT hour, {keys}, count(*) AS n, sum(delay) AS delay, sum(late) AS late
                FROM {facts} GROUP BY ALL)"""


def _rolling(keys: str, features: Mapping[str, str]) -> str:
    """Hourly sums per key on a dense grid of hours, so that a window of hours is a window of rows."""
    columns = ", ".join(f"({expression})::FLOAT AS {name}" for name, expression in features.items())
    windows = ", ".join(
        f"w{hours} AS (PARTITION BY {keys} ORDER BY hour ROWS {hours - 1} PRECEDING)" for hours in (1, 3, 24)
    )
    return f"""
        SELECT hour AS event_timestamp, {keys}, {columns}
        FROM (SELECT hour, {keys} FROM hours, (SELECT DISTINCT {keys} FROM flights)) AS grid
        LEFT JOIN {_sums("arrivals", keys)} AS a USING (hour, {keys})
        LEFT JOIN {_sums("departures", keys)} AS d USING (hour, {keys})
        LEFT JOIN (SELECT hour, {keys}, sum(flights) AS n, sum(minutes) AS minutes FROM overdue GROUP BY ALL) AS o
            USING (hour, {keys})
        WINDOW {windows}"""


def _rate(facts: str, hours: int) -> str:
    """Share of late flights, shrunk towards USUAL_RATE as if four more flights had been seen."""
    late, n = (f"coalesce(sum({facts}.{column}) OVER w{hours}, 0)" for column in ("late", "n"))
    return f"({late} + 4 * {USUAL_RATE}) / ({n} + 4)"


def _mean(facts: str, hours: int) -> str:
    """Mean delay in minutes, shrunk towards 0 as if two more flights had been on time."""
    return f"coalesce(sum({facts}.delay) OVER w{hours}, 0) / (coalesce(sum({facts}.n) OVER w{hours}, 0) + 2)"


USUAL_RATE = 0.24
"""The share of late arrivals that rates are shrunk towards: about January's to April's."""

OVERDUE = {"overdue": "coalesce(o.n, 0)", "overdue_minutes": "coalesce(o.minutes, 0) / (coalesce(o.n, 0) + 1)"}


def _last_ten(key: str) -> str:
    """Delay and late share of the last ten landed flights of a key, one row for each hour in which one landed."""
    return f"""
        SELECT hour AS event_timestamp, {key}, arg_max(delay, rank)::FLOAT AS delay_last10,
               arg_max(late, rank)::FLOAT AS late_rate_last10
        FROM (SELECT hour, {key}, row_number() OVER w AS rank, sum(a.delay) OVER ten / (count(*) OVER ten + 2) AS delay,
                     (sum(a.late) OVER ten + 2 * {USUAL_RATE}) / (count(*) OVER ten + 2) AS late
              FROM arrivals AS a
              WINDOW w AS (PARTITION BY {key} ORDER BY hour, moment, flight_id),
                     ten AS (PARTITION BY {key} ORDER BY hour, moment, flight_id ROWS 9 PRECEDING))
        GROUP BY ALL"""


LAST_LEG = """
    SELECT s.hour AS event_timestamp, s.tailnum,
           coalesce(l.delay, 0)::FLOAT AS arr_delay, coalesce(epoch(l.moment), 0)::BIGINT AS landed_at,
           coalesce(l.distance, 0)::FLOAT AS landed_distance,
           coalesce(d.delay, 0)::FLOAT AS dep_delay, coalesce(epoch(d.moment), 0)::BIGINT AS departed_at,
           coalesce(d.distance, 0)::FLOAT AS departed_distance
    FROM (SELECT hour, tailnum FROM arrivals WHERE tailnum IS NOT NULL
          UNION SELECT hour, tailnum FROM departures WHERE tailnum IS NOT NULL) AS s
    ASOF LEFT JOIN (SELECT hour, tailnum, {last} FROM arrivals GROUP BY ALL) AS l
        ON s.tailnum = l.tailnum AND s.hour >= l.hour
    ASOF LEFT JOIN (SELECT hour, tailnum, {last} FROM departures GROUP BY ALL) AS d
        ON s.tailnum = d.tailnum AND s.hour >= d.hour"""

# Missing readings (a tenth of the pressures) carry the last one forward; before the first, a usual value.
WEATHER = """
    SELECT time_hour + INTERVAL 1 HOUR AS event_timestamp, origin, {carried},
           coalesce(last_value(pressure IGNORE NULLS) OVER w - last_value(pressure IGNORE NULLS) OVER before,
                    0)::FLOAT AS pressure_change_3h,
           coalesce(sum(precip) OVER six, 0)::FLOAT AS precip_6h
    FROM weather
    WINDOW w AS (PARTITION BY origin ORDER BY time_hour),
           before AS (PARTITION BY origin ORDER BY time_hour RANGE BETWEEN UNBOUNDED PRECEDING
                      AND INTERVAL 3 HOURS PRECEDING),
           six AS (PARTITION BY origin ORDER BY time_hour RANGE BETWEEN INTERVAL 5 HOURS PRECEDING AND CURRENT ROW)"""

USUAL_WEATHER = {
    "temp": 55.0, "dewp": 41.0, "humid": 62.0, "wind_dir": 200.0, "wind_speed": 10.0, "precip": 0.0,
    "pressure": 1018.0, "visib": 10.0,
}  # fmt: skip

EVENTS = """
    SELECT flight_id, kind, hour AS counted_at FROM (
        SELECT flight_id, 'arrival' AS kind, hour FROM arrivals
        UNION ALL SELECT flight_id, 'departure' AS kind, hour FROM departures)"""


def _views() -> dict[str, str]:
    carried = ", ".join(
        f"coalesce(last_value({name} IGNORE NULLS) OVER w, {usual})::FLOAT AS {name}"
        for name, usual in USUAL_WEATHER.items()
    )
    last = ", ".join(
        f"arg_max({column}, (moment, flight_id)) AS {column}" for column in ("delay", "moment", "distance")
    )
    return {
        "carrier_delays": _rolling(
            "carrier",
            {
                "dep_late_rate_3h": _rate("d", 3), "dep_delay_3h": _mean("d", 3), "arr_delay_3h": _mean("a", 3),
                "arr_late_rate_24h": _rate("a", 24), "arr_delay_24h": _mean("a", 24),
            },
        ),
        "origin_delays": _rolling(
            "origin",
            {
                **OVERDUE, "dep_late_rate_1h": _rate("d", 1), "dep_delay_3h": _mean("d", 3),
                "departures_1h": "coalesce(d.n, 0)", "arr_delay_3h": _mean("a", 3), "arr_delay_24h": _mean("a", 24),
            },
        ),
        "carrier_origin_delays": _rolling(
            "carrier, origin",
            {
                **OVERDUE, "dep_late_rate_3h": _rate("d", 3), "arr_delay_3h": _mean("a", 3),
                "arr_delay_24h": _mean("a", 24),
            },
        ),
        "dest_delays": _last_ten("dest"),
        "line_history": _last_ten("line"),
        "origin_weather": WEATHER.format(carried=carried + ", coalesce(wind_gust, 0)::FLOAT AS wind_gust"),
        "aircraft_last_leg": LAST_LEG.format(last=last),
        "events": EVENTS,
    }  # fmt: skip
