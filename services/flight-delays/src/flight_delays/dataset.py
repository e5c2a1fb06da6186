"""Training data: flights of the lake, their features by the point-in-time join, their outcomes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flight_delays.request import LATE_MINUTES, LEAD_TIME, Flight
from flight_delays.vector import FEATURES, VIEW_COLUMNS, assemble, assemble_columns, local_minutes
from plinth.errors import Corrupt, InvalidInput, NotFound
from plinth.features.readplan import ReadPlan
from plinth.features.skew import SkewReport, compare, sample

if TYPE_CHECKING:
    import pandas as pd

    from plinth.features.port import FeatureStore


@dataclass(frozen=True)
class TrainingFrame:
    """Flights in order of their scheduled departure, n rows in every field.

    Attributes:
        matrix: float32 [n, k], columns `names`.
        label: int8, 1 when the flight arrived 15 or more minutes late; -1 where the outcome is not known.
        flight_id: str.
        prediction_time: int64, seconds since 1970 UTC.
        carrier, origin, dest: str.
        hour: int64, hour of the scheduled departure on New York's clocks.
        status: uint8 [n, views], 0 where the view had a row and 1 where its defaults stand in.
    """

    matrix: NDArray[np.float32]
    label: NDArray[np.int8]
    flight_id: NDArray[Any]
    prediction_time: NDArray[np.int64]
    carrier: NDArray[Any]
    origin: NDArray[Any]
    dest: NDArray[Any]
    hour: NDArray[np.int64]
    status: NDArray[np.uint8]
    names: tuple[str, ...] = FEATURES

    def __len__(self) -> int:
        return len(self.label)


def entity_rows(lake: Path, start: date, end: date) -> pd.DataFrame:
    """Flights scheduled to depart in [start, end) UTC: join keys, `event_timestamp` and the outcome.

    Raises:
        NotFound: The lake holds no flights.
        Corrupt: A batch is unreadable.
    """
    import duckdb

    pattern = str(lake / "flights" / "*.parquet").replace("'", "''")
    query = f"""
        SELECT flight_id, carrier, origin, dest, tailnum, carrier || flight || '-' || origin AS line,
               flight, epoch(scheduled_departure)::BIGINT AS scheduled, arr_delay,
               scheduled_departure - INTERVAL '{int(LEAD_TIME.total_seconds())} seconds' AS event_timestamp
        FROM read_parquet('{pattern}')
        WHERE scheduled_departure >= '{start} 00:00:00Z'::TIMESTAMPTZ
          AND scheduled_departure < '{end} 00:00:00Z'::TIMESTAMPTZ
        ORDER BY scheduled_departure, flight_id"""
    try:
        with duckdb.connect() as db:
            db.execute("SET TimeZone = 'UTC'")
            frame: pd.DataFrame = db.execute(query).df()
    except duckdb.IOException as error:
        raise NotFound(f"the lake holds no flights: {error}", where=pattern, hint="run the contract step") from error
    except (duckdb.InvalidInputException, duckdb.BinderException) as error:
        raise Corrupt(f"a batch of flights is unreadable: {error}", where=pattern, hint="prepare it anew") from error
    return frame


def training_frame(
    store: FeatureStore, lake: Path, start: date, end: date, *, labelled_only: bool = True
) -> TrainingFrame:
    """The flights scheduled to depart in [start, end) UTC, as the model sees them.

    Args:
        store: The feature store, applied over feature tables that were built from `lake`.
        lake: Folder with the flights batches.
        start: First UTC date.
        end: The UTC date after the last.
        labelled_only: Leave out flights whose arrival is not known (cancelled, diverted).

    Raises:
        NotFound: No flight lies in the window, or a table is missing.
        InvalidInput: The applied feature service is of another version than this code.
    """
    rows = entity_rows(lake, start, end)
    if labelled_only:
        rows = rows[rows["arr_delay"].notna()].reset_index(drop=True)
    if rows.empty:
        raise NotFound(f"no flight departs from {start} to {end}", where=str(lake), hint="add the batches first")
    plan = ReadPlan.from_dict(store.compile_plan())
    if tuple(plan.columns) != VIEW_COLUMNS:
        raise InvalidInput("the applied features are not those of this code", hint="apply the feature definitions")
    keys = [*plan.join_keys, "event_timestamp"]
    block = plan.fill(store.historical(rows[keys])[plan.columns].to_numpy(np.float64))
    text = {name: rows[name].to_numpy().astype(np.str_) for name in ("carrier", "origin", "dest")}
    scheduled = rows["scheduled"].to_numpy(np.int64)
    delay = rows["arr_delay"].to_numpy(np.float64)
    return TrainingFrame(
        matrix=assemble_columns(text["carrier"], text["origin"], text["dest"], scheduled, block.values),
        label=np.where(np.isnan(delay), -1, delay >= LATE_MINUTES).astype(np.int8),
        flight_id=rows["flight_id"].to_numpy().astype(np.str_),
        prediction_time=scheduled - int(LEAD_TIME.total_seconds()),
        hour=local_minutes(scheduled) % 1440 // 60,
        status=block.status,
        **text,
    )


def flights_of(rows: pd.DataFrame) -> list[Flight]:
    """The flights of `entity_rows`, as a request would name them."""
    tails = [tail if isinstance(tail, str) else None for tail in rows["tailnum"]]
    fields = zip(rows["carrier"], rows["flight"], rows["origin"], rows["dest"], tails, rows["scheduled"], strict=True)
    return [Flight(c, int(n), o, d, t, datetime.fromtimestamp(at, UTC)) for c, n, o, d, t, at in fields]


def skew_report(
    store: FeatureStore, lake: Path, start: date, end: date, *, stretches: int = 3, hours: int = 8, seed: int = 0
) -> SkewReport:
    """The model's vector as the service would make it, against the one training sees, for random stretches of hours.

    Both ways are run whole: materialize, advance, read plan and `assemble` against the join and `assemble_columns`.

    Raises:
        NotFound: No flight departs from `start` to `end` (UTC dates, half-open).
    """
    rows = entity_rows(lake, start, end)
    sampled = sample(store, rows, stretches=stretches, hours=hours, seed=seed)
    rows = rows.iloc[sampled.positions]
    flights = flights_of(rows)
    text = {name: rows[name].to_numpy().astype(np.str_) for name in ("carrier", "origin", "dest")}
    scheduled = rows["scheduled"].to_numpy(np.int64)
    return compare(
        assemble(flights, sampled.online.values),
        assemble_columns(text["carrier"], text["origin"], text["dest"], scheduled, sampled.offline.values),
        FEATURES,
        entities=[flight.flight_id for flight in flights],
    )
