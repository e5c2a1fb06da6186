"""Leak checks of this product: which event was counted from when, and what moving the future changes."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from flight_delays.feature_tables import KEYS
from plinth.errors import NotFound
from plinth.features.leakage import LeakReport, changed_rows, early_events

MOVED_MINUTES = 137
"""By how much `move_future` delays what is not known yet."""


def check_events(lake: Path, features: Path) -> LeakReport:
    """Events counted in the feature tables before they were known, by the lake's own `landed_at` and `departed_at`.

    Raises:
        NotFound: The tables or the lake's batches are missing.
    """
    query = f"""
        SELECT e.flight_id || ' ' || e.kind AS id, e.counted_at,
               CASE e.kind WHEN 'arrival' THEN f.landed_at ELSE f.departed_at END AS known_at
        FROM read_parquet('{_quoted(features)}/events.parquet') AS e
        JOIN read_parquet('{_quoted(lake)}/flights/*.parquet') AS f USING (flight_id)"""
    columns = _fetch(query, features)
    return early_events(columns["id"], columns["counted_at"], columns["known_at"])


def check_future(before: Path, after: Path, at: datetime) -> dict[str, LeakReport]:
    """By view, the rows stamped at or before `at` that differ between two folders of feature tables."""
    until = np.datetime64(at.replace(tzinfo=None), "us")
    reports = {}
    for view, keys in KEYS.items():
        tables = [
            _fetch(f"FROM read_parquet('{_quoted(folder)}/{view}.parquet')", folder) for folder in (before, after)
        ]
        reports[view] = changed_rows(tables[0], tables[1], keys.split(", "), "event_timestamp", until)
    return reports


def move_future(lake: Path, dest: Path, at: datetime) -> None:
    """A copy of the lake in `dest` in which everything that was not known at `at` happens otherwise.

    Departures and landings after `at` come later, with longer delays; weather that had not been reported is another.
    The schedule stays: it was known.
    """
    import duckdb

    moved = f"INTERVAL '{MOVED_MINUTES} minutes'"
    now = f"'{at.isoformat()}'::TIMESTAMPTZ"
    flights = f"""SELECT * REPLACE (
        CASE WHEN departed_at > {now} THEN dep_delay + {MOVED_MINUTES} ELSE dep_delay END AS dep_delay,
        CASE WHEN departed_at > {now} THEN departed_at + {moved} ELSE departed_at END AS departed_at,
        CASE WHEN landed_at > {now} THEN arr_delay + {MOVED_MINUTES} ELSE arr_delay END AS arr_delay,
        CASE WHEN landed_at > {now} THEN landed_at + {moved} ELSE landed_at END AS landed_at)"""
    changes = ", ".join(
        f"CASE WHEN time_hour + INTERVAL 1 HOUR > {now} THEN coalesce({name}, 0) + 7 ELSE {name} END AS {name}"
        for name in ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")
    )
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        for dataset, select in (("flights", flights), ("weather", f"SELECT * REPLACE ({changes})")):
            (dest / dataset).mkdir(parents=True, exist_ok=True)
            for path in sorted((lake / dataset).glob("*.parquet")):
                target = _quoted(dest / dataset / path.name)
                db.execute(f"COPY ({select} FROM read_parquet('{_quoted(path)}')) TO '{target}' (FORMAT parquet)")


def _fetch(query: str, where: Path) -> dict[str, Any]:
    import duckdb

    try:
        with duckdb.connect() as db:
            db.execute("SET TimeZone = 'UTC'")
            frame = db.execute(query).df()
    except duckdb.IOException as error:
        raise NotFound(f"a table is missing: {error}", where=str(where), hint="build the features") from error
    columns = {}
    for name in frame.columns:
        column = frame[name]
        if getattr(column.dtype, "tz", None) is not None:
            column = column.dt.tz_localize(None)  # numpy has no zones; all of these are UTC
        columns[str(name)] = column.to_numpy()
    return columns


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
