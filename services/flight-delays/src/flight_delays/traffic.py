"""Requests to drill and to roll out with: flights that the online store knows now, in varied order, the same each time.

A flight is put together from a line, an aircraft and a destination that have fresh rows, and is asked about only if as
few views as possible lack its row: what an answer lacks beyond is the release's doing and not the traffic's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from flight_delays.request import LEAD_TIME, Flight, join_keys
from plinth.errors import NotFound, Unavailable
from plinth.features.readplan import OK, ReadPlan

if TYPE_CHECKING:
    from plinth.features.online import Online
    from plinth.wiring import Platform

PRODUCT = "flight-delays"
SEED = 20130601
_DRAW = 256


def requests(platform: Platform) -> Iterator[dict[str, Any]]:
    """Bodies for `POST /predict`, one flight each, without an end. Two flights rarely share an id.

    Raises:
        NotFound: Nothing serves yet.
        Unavailable: The online store holds no fresh row to ask about.
    """
    serving = platform.ledger.current(PRODUCT)
    if serving is None:
        raise NotFound(f"{PRODUCT} serves nothing yet", where=PRODUCT, hint="`plinth release promote` begins")
    manifest = platform.ledger.release(serving.digest).manifest
    path = platform.artifacts.path(manifest.artifacts["read_plan.json"])
    plan = ReadPlan.from_dict(json.loads(path.read_bytes()))
    for flight in _flights(plan, platform.online(PRODUCT)):
        yield {
            "flights": [
                {
                    "carrier": flight.carrier,
                    "flight": flight.flight,
                    "origin": flight.origin,
                    "dest": flight.dest,
                    "tailnum": flight.tailnum,
                    "scheduled_departure": flight.scheduled_departure.strftime("%Y-%m-%dT%H:%M:%SZ"),
                }
            ]
        }


def _flights(plan: ReadPlan, store: Online) -> Iterator[Flight]:
    reader = store.open(plan)
    dice = np.random.default_rng(SEED)
    known, newest = _known(plan, store)
    try:
        while True:
            drawn = []
            for _ in range(_DRAW):
                line, origin = str(dice.choice(known["line"])).split("-")
                minutes = timedelta(minutes=int(dice.integers(0, 60)))
                dest, tailnum = str(dice.choice(known["dest"])), str(dice.choice(known["tailnum"]))
                departure = newest + LEAD_TIME + minutes
                drawn.append(Flight(line[:2], int(line[2:]), origin, dest, tailnum, departure))
            at = np.array([flight.prediction_epoch for flight in drawn], dtype=np.int64)
            lacking = (reader.read(join_keys(drawn), at).status != OK).sum(axis=1)
            # Where a whole view is stale, as the weather is after the data's last day, its lack is everybody's.
            yield from (flight for flight, lacks in zip(drawn, lacking, strict=True) if lacks == lacking.min())
    finally:
        reader.close()


def _known(plan: ReadPlan, store: Online) -> tuple[dict[str, list[str]], datetime]:
    """The lines, aircraft and destinations whose rows are younger than their view's TTL, and the newest row's time."""
    rows = {view.name: list(store.entities(plan, view)) for view in plan.views}
    newest = max((stamp for found in rows.values() for _, stamp in found), default=0)
    known: dict[str, list[str]] = {}
    for view in plan.views:
        if len(view.join_keys) == 1 and view.join_keys[0] in ("line", "dest", "tailnum"):
            oldest = newest - view.ttl_seconds + 3600
            known[view.join_keys[0]] = [value for (value,), stamp in rows[view.name] if stamp > oldest]
    if not all(known.get(key) for key in ("line", "dest", "tailnum")):
        raise _nothing_fresh(store)
    return known, datetime.fromtimestamp(newest, UTC)


def _nothing_fresh(store: Online) -> Unavailable:
    return Unavailable(
        "the online store has no fresh rows to ask about",
        where=store.where,
        hint="`plinth demo flight-delays` fills it",
    )
