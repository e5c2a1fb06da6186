"""The words of a prediction request: a flight, its id and the time its prediction is made.

Pure Python, no tool: the service, the pipelines and the feature code all speak it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

LEAD_TIME = timedelta(hours=2)
"""The prediction is made this long before the scheduled departure."""

LATE_MINUTES = 15
"""A flight is late when it arrives this many minutes after its scheduled arrival, or more."""


@dataclass(frozen=True, slots=True)
class Flight:
    """A flight to predict. `scheduled_departure` carries its zone; `tailnum` is None while no aircraft is assigned."""

    carrier: str
    flight: int
    origin: str
    dest: str
    tailnum: str | None
    scheduled_departure: datetime

    @property
    def flight_id(self) -> str:
        """The entity id used in the inference log and to join labels."""
        return flight_id(self.carrier, self.flight, self.origin, self.scheduled_departure)

    @property
    def scheduled_epoch(self) -> int:
        """Scheduled departure in seconds since 1970-01-01 UTC."""
        return int(self.scheduled_departure.timestamp())

    @property
    def prediction_epoch(self) -> int:
        """When the prediction is made, in seconds since 1970-01-01 UTC."""
        return self.scheduled_epoch - int(LEAD_TIME.total_seconds())


def flight_id(carrier: str, flight: int, origin: str, scheduled_departure: datetime) -> str:
    """`UA1545-EWR-20130101T1015Z`: unique in the data, because it carries the scheduled departure in UTC."""
    return f"{carrier}{flight}-{origin}-{scheduled_departure.astimezone(UTC):%Y%m%dT%H%MZ}"


def midnight(day: date) -> datetime:
    """The beginning of a UTC day."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def prediction_time(scheduled_departure: datetime) -> datetime:
    """When a flight's prediction is made: two hours before its scheduled departure, in UTC."""
    return scheduled_departure.astimezone(UTC) - LEAD_TIME


def join_keys(flights: Sequence[Flight]) -> dict[str, list[str | None]]:
    """What the feature views are looked up by: a column of n values for each join key."""
    return {
        "carrier": [flight.carrier for flight in flights],
        "origin": [flight.origin for flight in flights],
        "dest": [flight.dest for flight in flights],
        "line": [f"{flight.carrier}{flight.flight}-{flight.origin}" for flight in flights],
        "tailnum": [flight.tailnum for flight in flights],
    }
