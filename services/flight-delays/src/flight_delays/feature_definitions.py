"""The product's features, declared for Feast: entities, views with owners and TTLs, the feature service.

Each feature carries its type, its meaning and the default that stands in when its row is missing or older than the
view's TTL (tag `default`). The tables behind the views are written by feature_tables.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from flight_delays.feature_tables import USUAL_RATE, USUAL_WEATHER

SERVICE = "flight_delays_v1"
PROJECT = "flight_delays"
OWNER = "flight-operations@plinth.example"

ENTITIES = {
    "carrier": "Two-letter code of the airline.",
    "origin": "Airport the flight leaves from: EWR, JFK or LGA.",
    "dest": "Airport the flight goes to.",
    "line": "Carrier, flight number and origin, as in UA1545-EWR: the same flight on other days.",
    "tailnum": "The aircraft.",
}


@dataclass(frozen=True)
class View:
    """One feature view. `features` maps a name to (meaning, default); `integers` names those that are int64."""

    keys: tuple[str, ...]
    ttl: timedelta
    description: str
    features: Mapping[str, tuple[str, float]]
    integers: frozenset[str] = field(default_factory=frozenset)


_RATE = "late departures' share (15 minutes or more), shrunk towards the usual rate"
_LAST_TEN = {
    "delay_last10": ("Mean arrival delay of the last ten landed flights, minutes.", 0.0),
    "late_rate_last10": ("Share of late arrivals among the last ten landed flights.", USUAL_RATE),
}
_OVERDUE = {
    "overdue": ("Flights due to have left in the last three hours that have not.", 0.0),
    "overdue_minutes": ("Their mean waiting time so far, minutes.", 0.0),
}
_HOURLY = timedelta(hours=2)

VIEWS = {
    "carrier_delays": View(
        ("carrier",),
        _HOURLY,
        "How an airline's flights from New York run.",
        {
            "dep_late_rate_3h": (f"Last three hours' {_RATE}.", USUAL_RATE),
            "dep_delay_3h": ("Mean departure delay over three hours, minutes.", 0.0),
            "arr_delay_3h": ("Mean arrival delay of flights landed in three hours, minutes.", 0.0),
            "arr_late_rate_24h": ("Share of late arrivals among flights landed in a day.", USUAL_RATE),
            "arr_delay_24h": ("Mean arrival delay of flights landed in a day, minutes.", 0.0),
        },
    ),
    "origin_delays": View(
        ("origin",),
        _HOURLY,
        "How an airport's departures run.",
        {
            **_OVERDUE,
            "dep_late_rate_1h": (f"Last hour's {_RATE}.", USUAL_RATE),
            "dep_delay_3h": ("Mean departure delay over three hours, minutes.", 0.0),
            "departures_1h": ("Departures in the last hour.", 0.0),
            "arr_delay_3h": ("Mean arrival delay, at their destinations, of flights landed in three hours.", 0.0),
            "arr_delay_24h": ("The same over a day, minutes.", 0.0),
        },
    ),
    "carrier_origin_delays": View(
        ("carrier", "origin"),
        _HOURLY,
        "How an airline runs at one airport.",
        {
            **_OVERDUE,
            "dep_late_rate_3h": (f"Last three hours' {_RATE}.", USUAL_RATE),
            "arr_delay_3h": ("Mean arrival delay of flights landed in three hours, minutes.", 0.0),
            "arr_delay_24h": ("Mean arrival delay of flights landed in a day, minutes.", 0.0),
        },
    ),
    "dest_delays": View(
        ("dest",), timedelta(days=1), "How late flights to a destination land, whoever flies them.", _LAST_TEN
    ),
    "line_history": View(("line",), timedelta(days=8), "How the same flight did on its last days.", _LAST_TEN),
    "origin_weather": View(
        ("origin",),
        timedelta(hours=6),
        "Weather as observed an hour ago at the airport of departure.",
        {
            "temp": ("Temperature, degrees Fahrenheit.", USUAL_WEATHER["temp"]),
            "dewp": ("Dew point, degrees Fahrenheit.", USUAL_WEATHER["dewp"]),
            "humid": ("Relative humidity, percent.", USUAL_WEATHER["humid"]),
            "wind_dir": ("Wind direction, degrees.", USUAL_WEATHER["wind_dir"]),
            "wind_speed": ("Wind speed, miles per hour.", USUAL_WEATHER["wind_speed"]),
            "wind_gust": ("Gusts, miles per hour; 0 where none was reported.", 0.0),
            "precip": ("Precipitation in the hour, inches.", USUAL_WEATHER["precip"]),
            "precip_6h": ("Precipitation in six hours, inches.", 0.0),
            "pressure": ("Sea level pressure, millibars.", USUAL_WEATHER["pressure"]),
            "pressure_change_3h": ("Its change over three hours, millibars.", 0.0),
            "visib": ("Visibility, miles.", USUAL_WEATHER["visib"]),
        },
    ),
    "aircraft_last_leg": View(
        ("tailnum",),
        timedelta(days=3),
        "The aircraft's last leg out of New York, counted once it had landed, and its last departure.",
        {
            "arr_delay": ("Arrival delay of the last landed leg, minutes.", 0.0),
            "landed_at": ("When it landed, seconds since 1970 UTC; 0 for never.", 0.0),
            "landed_distance": ("Its distance, miles.", 0.0),
            "dep_delay": ("Delay of the last departure, minutes.", 0.0),
            "departed_at": ("When it left, seconds since 1970 UTC; 0 for never.", 0.0),
            "departed_distance": ("Its distance, miles.", 0.0),
        },
        frozenset({"landed_at", "departed_at"}),
    ),
}


def columns() -> list[str]:
    """The feature service's columns in order, as `view__feature`."""
    return [f"{name}__{feature}" for name, view in VIEWS.items() for feature in view.features]


def definitions(features: Path) -> list[Any]:
    """The Feast objects (entities, feature views, the feature service) over the tables in `features`."""
    from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
    from feast.types import Float32, Int64, String

    entities = {
        name: Entity(name=name, join_keys=[name], value_type=ValueType.STRING, description=text, owner=OWNER)
        for name, text in ENTITIES.items()
    }
    views = []
    for name, view in VIEWS.items():
        fields = [
            Field(
                name=feature,
                dtype=Int64 if feature in view.integers else Float32,
                description=text,
                tags={"default": repr(default)},
            )
            for feature, (text, default) in view.features.items()
        ]
        views.append(
            FeatureView(
                name=name,
                entities=[entities[key] for key in view.keys],
                ttl=view.ttl,
                schema=[*(Field(name=key, dtype=String) for key in view.keys), *fields],
                source=FileSource(
                    name=name, path=str(features / f"{name}.parquet"), timestamp_field="event_timestamp", owner=OWNER
                ),
                description=view.description,
                owner=OWNER,
                tags={"owner": OWNER, "product": "flight-delays"},
            )
        )
    service = FeatureService(
        name=SERVICE,
        features=list(views),
        owner=OWNER,
        description="What is known two hours before departure.",
        tags={"owner": OWNER},
    )
    return [*entities.values(), *views, service]
