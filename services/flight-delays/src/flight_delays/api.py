"""The product's HTTP request and answer: what a flight looks like, checked field by field.

Hand-written checks over orjson's dictionaries take 3.6 µs a flight against a typed decoder's 0.4 (msgspec), of a
request that takes 250 to 350, and the errors here name the field and what would fit (docs/adr/0005-serving-path.md).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flight_delays.request import Flight
from plinth.errors import InvalidInput
from plinth.serving.body import printable, read_json
from plinth.serving.port import FloatMatrix, Instances

FIELDS = ("carrier", "flight", "origin", "dest", "tailnum", "scheduled_departure")
OPTIONAL = frozenset({"tailnum"})
TAILNUM = re.compile(r"[A-Z0-9]{1,8}")
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
LATEST = datetime(2100, 1, 1, tzinfo=UTC)

Assemble = Callable[[Sequence[Flight], NDArray[np.float64]], FloatMatrix]


class FlightApi:
    """What the service asks its product (plinth.serving.port.ServedProduct).

    Args:
        assemble: Flights and view values to the model's matrix.
        feature_names: The matrix's columns.
        carriers: Codes of the airlines the model knows.
        origins: Codes of the airports of departure it knows.
        dests: Codes of the destinations it knows.
        max_batch: Flights a request may carry.
    """

    name = "flight-delays"
    entity = "flight_id"

    def __init__(
        self,
        assemble: Assemble,
        feature_names: Sequence[str],
        *,
        carriers: Collection[str],
        origins: Collection[str],
        dests: Collection[str],
        max_batch: int = 512,
    ) -> None:
        self.feature_names = tuple(feature_names)
        self.max_batch = max_batch
        self._assemble = assemble
        self._known = {"carrier": frozenset(carriers), "origin": frozenset(origins), "dest": frozenset(dests)}

    def parse(self, body: bytes) -> Instances:
        """The flights of a request.

        Raises:
            InvalidInput: The body does not fit; `where` names the field, as in `flights[3].carrier`.
        """
        flights = read_json(body, self._flights)
        return Instances(
            entity_ids=[flight.flight_id for flight in flights],
            at=np.array([flight.prediction_epoch for flight in flights], dtype=np.int64),
            keys={
                "carrier": [flight.carrier for flight in flights],
                "origin": [flight.origin for flight in flights],
                "dest": [flight.dest for flight in flights],
                "line": [f"{flight.carrier}{flight.flight}-{flight.origin}" for flight in flights],
                "tailnum": [flight.tailnum for flight in flights],
            },
            rows=flights,
        )

    def assemble(self, instances: Instances, values: NDArray[np.float64]) -> FloatMatrix:
        """The model's matrix, made by the same function that made the training data."""
        return self._assemble(instances.rows, values)

    def _flights(self, value: Any) -> list[Flight]:
        if type(value) is not dict:
            raise InvalidInput("the body is not an object", where="body", hint='send {"flights": [...]}')
        for key in value:
            if key != "flights":
                raise _unknown_key(key, "body", ("flights",))
        flights = value.get("flights")
        if type(flights) is not list:
            raise InvalidInput("not a list", where="flights", hint=f"1 to {self.max_batch} flights")
        if not 1 <= len(flights) <= self.max_batch:
            raise InvalidInput(
                f"{len(flights)} flights in one request", where="flights", hint=f"send 1 to {self.max_batch}"
            )
        return [self._flight(item, i) for i, item in enumerate(flights)]

    def _flight(self, item: Any, i: int) -> Flight:
        if type(item) is not dict:
            raise InvalidInput("not an object", where=f"flights[{i}]", hint=f"an object with {', '.join(FIELDS)}")
        for key in item:
            if key not in FIELDS:
                raise _unknown_key(key, f"flights[{i}]", FIELDS)
        for name in FIELDS:
            if name not in item and name not in OPTIONAL:
                raise InvalidInput("the field is missing", where=f"flights[{i}].{name}", hint="add it")
        for name, known in self._known.items():
            code = item[name]
            if type(code) is not str or code not in known:
                raise _unfit(f"unknown {name}", code, f"flights[{i}].{name}", _some(known))
        number = item["flight"]
        if type(number) is not int or not 1 <= number <= 9999:
            raise _unfit("not a flight number", number, f"flights[{i}].flight", "an integer from 1 to 9999")
        tailnum = item.get("tailnum")
        if tailnum is not None and (type(tailnum) is not str or not TAILNUM.fullmatch(tailnum)):
            raise _unfit("not a tail number", tailnum, f"flights[{i}].tailnum", "letters and digits, or null")
        departure = _departure(item["scheduled_departure"], f"flights[{i}].scheduled_departure")
        return Flight(item["carrier"], number, item["origin"], item["dest"], tailnum, departure)

    def openapi(self) -> dict[str, Any]:
        """Schemas of the request and the answer, and an example that works."""
        return {
            "request": self._request_schema(),
            "answer": ANSWER,
            "example": EXAMPLE,
            "example_answer": EXAMPLE_ANSWER,
        }

    def _request_schema(self) -> dict[str, Any]:
        codes = {name: {"type": "string", "enum": sorted(known)} for name, known in self._known.items()}
        flight = {
            "type": "object",
            "additionalProperties": False,
            "required": [name for name in FIELDS if name not in OPTIONAL],
            "properties": {
                **codes,
                "flight": {"type": "integer", "minimum": 1, "maximum": 9999, "description": "Flight number."},
                "tailnum": {
                    "type": ["string", "null"],
                    "pattern": f"^{TAILNUM.pattern}$",
                    "description": "The aircraft; null while none is assigned.",
                },
                "scheduled_departure": {
                    "type": "string",
                    "format": "date-time",
                    "description": "With its offset; the prediction is made two hours earlier.",
                },
            },
        }
        flights = {"type": "array", "minItems": 1, "maxItems": self.max_batch, "items": flight}
        return {
            "type": "object",
            "additionalProperties": False,
            "required": ["flights"],
            "properties": {"flights": flights},
        }


def _departure(value: Any, where: str) -> datetime:
    hint = "RFC 3339 with an offset, as in 2013-06-01T09:15:00Z"
    # fromisoformat takes much else that is ISO 8601; these places keep weeks and compact dates out, as RFC 3339 does.
    if type(value) is not str or not 17 <= len(value) <= 32 or value[4:11:3] != "--T":
        raise _unfit("not a time", value, where, hint)
    try:
        departure = datetime.fromisoformat(value)
    except ValueError:
        raise _unfit("not a time", value, where, hint) from None
    if departure.tzinfo is None:
        raise _unfit("a time without its offset", value, where, hint)
    try:
        fits = EARLIEST <= departure < LATEST
    except OverflowError:
        fits = False
    if not fits:
        raise _unfit("a time out of range", value, where, "years 2000 to 2099")
    return departure


def _unfit(what: str, value: Any, where: str, hint: str) -> InvalidInput:
    shown = value if type(value) in {str, int, float, bool, type(None)} else type(value).__name__
    return InvalidInput(f"{what}: {printable(repr(shown), 60)}", where=where, hint=hint)


def _unknown_key(key: str, where: str, known: Sequence[str]) -> InvalidInput:
    return InvalidInput(f"unknown key {printable(repr(key), 60)}", where=where, hint=f"known: {', '.join(known)}")


def _some(known: Collection[str]) -> str:
    shown = sorted(known)
    return (
        "one of " + ", ".join(shown[:20]) + (f" and {len(shown) - 20} more (/openapi.json)" if len(shown) > 20 else "")
    )


EXAMPLE: dict[str, Any] = {
    "flights": [
        {
            "carrier": "UA",
            "flight": 1545,
            "origin": "EWR",
            "dest": "IAH",
            "tailnum": "N14228",
            "scheduled_departure": "2013-06-01T09:15:00Z",
        }
    ]
}

EXAMPLE_ANSWER: dict[str, Any] = {
    "request_id": "1f0c6a4be1f94f3f8f3f2f4d6f1b2a30",
    "release": "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b",
    "predictions": [
        {
            "flight_id": "UA1545-EWR-20130601T0915Z",
            "probability": 0.1371,
            "flags": ["missing:aircraft_last_leg"],
            "defaulted": ["aircraft_last_leg"],
        }
    ],
}

_STRINGS = {"type": "array", "items": {"type": "string"}}
ANSWER: dict[str, Any] = {
    "type": "object",
    "required": ["request_id", "release", "predictions"],
    "properties": {
        "request_id": {"type": "string"},
        "release": {"type": "string", "description": "Digest of the release that answered."},
        "predictions": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["flight_id", "probability", "flags", "defaulted"],
                "properties": {
                    "flight_id": {"type": "string"},
                    "probability": {
                        "type": "number",
                        "minimum": 0,
                        "maximum": 1,
                        "description": "That the flight arrives 15 or more minutes late.",
                    },
                    "flags": {**_STRINGS, "description": "`missing:`, `stale:` or `future:` and a view's name."},
                    "defaulted": {**_STRINGS, "description": "Views whose declared defaults were used."},
                    "release": {
                        "type": "string",
                        "description": "Digest of the release that answered this one, where it is another than above.",
                    },
                },
            },
        },
    },
}
