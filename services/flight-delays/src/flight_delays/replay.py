"""The calendar, replayed through the running service: features hour by hour, predictions over HTTP, labels late.

Only what was known at each hour is in the online store when that hour's flights are predicted, and an outcome is only
delivered on the morning after the landing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import httpx
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from flight_delays.request import LATE_MINUTES, LEAD_TIME, midnight
from plinth.errors import Unavailable
from plinth.features.port import FeatureStore

REPORT_HOUR = 6
"""Outcomes of a UTC day are delivered at this hour of the next day, UTC."""

WARM_UP = timedelta(days=9)
"""Longer than any view's TTL: what is online when the replay starts."""

_TABLES = """
    CREATE TABLE flights AS
    SELECT flight_id, carrier, flight, origin, dest, tailnum,
           scheduled_departure - INTERVAL '{lead} seconds' AS predicted_at,
           strftime(scheduled_departure, '%Y-%m-%dT%H:%M:%SZ') AS departure,
           CASE WHEN arr_delay IS NULL THEN NULL ELSE (arr_delay >= {late})::TINYINT END AS label,
           date_trunc('day', landed_at) + INTERVAL '1 day {hour} hours' AS known_at
    FROM read_parquet('{lake}/flights/*.parquet')
    ORDER BY predicted_at, flight_id"""

_DUE = """
    SELECT epoch(date_trunc('hour', predicted_at))::BIGINT, carrier, flight, origin, dest, tailnum, departure
    FROM flights WHERE predicted_at >= ? AND predicted_at < ? ORDER BY predicted_at, flight_id"""

_KNOWN = """
    SELECT flight_id AS entity_id, label, known_at FROM flights
    WHERE label IS NOT NULL AND known_at > ? AND known_at <= ? ORDER BY known_at, entity_id"""


@dataclass
class Totals:
    """What the replay has done so far."""

    predictions: int = 0
    requests: int = 0
    labels: int = 0
    defaulted: int = 0


class Replay:
    """Replays days against a running service.

    Args:
        lake: The product's lake.
        store: Its feature store, applied.
        labels: Folder that outcomes are delivered to.
        url: Address of the service.
        headers: What a request to it carries, such as a token; asked for each time, since tokens expire.

    Where `shadowed` is set, an hour ends only when the shadow of that generation's rollout has scored its flights, too.
    An hour of this calendar takes milliseconds: the shadow, which comes after the answers, would else find the rows of
    hours to come.
    """

    def __init__(
        self,
        lake: Path,
        store: FeatureStore,
        labels: Path,
        url: str,
        headers: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self.totals = Totals()
        self.shadowed: int | None = None
        self._store = store
        self._labels = labels
        self._headers = headers
        self._client = httpx.Client(base_url=url, timeout=30.0)
        self._db = duckdb.connect()
        self._db.execute("SET TimeZone = 'UTC'")
        quoted = str(lake).replace("'", "''")
        self._db.execute(
            _TABLES.format(lake=quoted, lead=int(LEAD_TIME.total_seconds()), late=LATE_MINUTES, hour=REPORT_HOUR)
        )
        self._written_before = 0

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
        self._db.close()

    def prepare(self, day: date) -> None:
        """Empty the online store and fill it with what was known before `day` began."""
        start = midnight(day)
        self._store.clear_online()
        self._store.materialize(start - WARM_UP, start)

    def day(self, day: date) -> None:
        """Predict every flight whose prediction is made on `day` (UTC), then deliver the outcomes that came that day.

        Raises:
            Unavailable: The service does not answer with a prediction.
        """
        flights = list(self._flights(day))
        for hour in range(24):
            now = midnight(day) + timedelta(hours=hour)
            self._store.advance(now)
            due = [flight for slot, flight in flights if slot == int(now.timestamp())]
            if due:
                self._predict(due)
                if self.shadowed is not None:
                    self._wait_for_shadow(f'generation="{self.shadowed}"')
        self._deliver(day)

    def wait_until_logged(self, predictions: int, patience: float = 30.0) -> None:
        """Return when the service has written that many predictions of this replay to its inference log.

        Raises:
            Unavailable: It has not within `patience` seconds.
        """
        until = time.monotonic() + patience
        while self._written() - self._written_before < predictions:
            if time.monotonic() > until:
                raise Unavailable("the inference log does not keep up", hint="plinth logs flight-delays")
            time.sleep(0.05)

    def start_counting(self) -> None:
        """Take what the log holds now as the start of this replay."""
        self._written_before = self._written()

    def _wait_for_shadow(self, generation: str, patience: float = 2.0) -> None:
        """Return when the shadow has scored what was answered beside it, or has been withdrawn."""
        until = time.monotonic() + patience
        while time.monotonic() < until:
            counts = self._metrics()
            arms = ('arm="serving"', 'arm="shadow"')
            answered, scored = (
                _sum(counts, "plinth_rollout_requests_total", generation, 'step="1"', arm) for arm in arms
            )
            if scored + _sum(counts, "plinth_shadow_dropped_total") >= answered:
                return
        self.shadowed = None

    def _written(self) -> int:
        return int(_sum(self._metrics(), "plinth_inference_log_written_total"))

    def _metrics(self) -> list[str]:
        try:
            return self._client.get("/metrics", headers=self._headers()).text.splitlines()
        except httpx.HTTPError as error:
            raise self._away(error) from error

    def _flights(self, day: date) -> Iterator[tuple[int, dict[str, Any]]]:
        rows = self._db.execute(_DUE, [midnight(day), midnight(day + timedelta(days=1))]).fetchall()
        for slot, carrier, number, origin, dest, tailnum, departure in rows:
            yield (
                slot,
                {
                    "carrier": carrier,
                    "flight": number,
                    "origin": origin,
                    "dest": dest,
                    "tailnum": tailnum,
                    "scheduled_departure": departure,
                },
            )

    def _predict(self, flights: list[dict[str, Any]]) -> None:
        body = orjson.dumps({"flights": flights})
        try:
            headers = {"content-type": "application/json", **self._headers()}
            answer = self._client.post("/predict", content=body, headers=headers)
        except httpx.HTTPError as error:
            raise self._away(error) from error
        if answer.status_code != 200:
            raise Unavailable(
                f"the service answered {answer.status_code}: {answer.text[:200]}",
                where=str(self._client.base_url),
                hint="plinth logs flight-delays",
            )
        predictions = orjson.loads(answer.content)["predictions"]
        self.totals.predictions += len(predictions)
        self.totals.requests += 1
        self.totals.defaulted += sum(bool(prediction["defaulted"]) for prediction in predictions)

    def _away(self, error: httpx.HTTPError) -> Unavailable:
        return Unavailable(
            f"the service does not answer: {error}", where=str(self._client.base_url), hint="plinth status"
        )

    def _deliver(self, day: date) -> None:
        window = [midnight(day), midnight(day + timedelta(days=1))]
        table: pa.Table = self._db.sql(_KNOWN, params=window).to_arrow_table()
        if table.num_rows:
            self._labels.mkdir(parents=True, exist_ok=True)
            partial = self._labels / f".{day}.parquet"
            pq.write_table(table, partial)
            partial.rename(self._labels / f"{day}.parquet")
            self.totals.labels += table.num_rows


def _sum(lines: list[str], name: str, *labels: str) -> float:
    """The values of a metric's series that carry these labels, added up."""
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in lines
        if line.startswith(name) and all(label in line for label in labels)
    )
