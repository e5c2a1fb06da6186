"""Requests for drills: varied, the same each time, about what the online store knows."""

import itertools
import sqlite3

import numpy as np
import pytest

from bench import synthetic_state
from flight_delays import traffic
from flight_delays.api import FlightApi
from flight_delays.vector import CARRIERS, DESTS, FEATURES, ORIGINS, assemble
from plinth.errors import NotFound, Unavailable
from plinth.features.readplan import OK, ReadPlan
from plinth.settings import Settings
from plinth.wiring import Platform


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """An online store and a release that serves; the model is never loaded."""
    folder = tmp_path_factory.mktemp("state")
    settings = Settings(state=folder)
    online = settings.product_dir("flight-delays") / "online" / "online.db"
    synthetic_state.write_online_store(online, synthetic_state.flights(120))
    synthetic_state.release(settings, b"no model")
    return settings


@pytest.fixture
def platform(state):
    platform = Platform.from_settings(state)
    yield platform
    platform.ledger.close()


def test_every_request_is_one_that_the_api_takes_and_the_store_has_fresh_rows_for(platform, state):
    api = FlightApi(assemble, FEATURES, carriers=CARRIERS, origins=ORIGINS, dests=DESTS)
    bodies = list(itertools.islice(traffic.requests(platform), 500))
    reader = ReadPlan.from_dict(synthetic_state.read_plan()).open(
        state.product_dir("flight-delays") / "online" / "online.db"
    )
    for body in bodies:
        (flight,) = body["flights"]
        assert api._flight(flight, 0).flight_id
    flights = api._flights({"flights": [body["flights"][0] for body in bodies]})
    at = np.array([flight.prediction_epoch for flight in flights])
    assert (reader.read(traffic.join_keys(flights), at).status == OK).all()
    reader.close()
    assert len({flight.flight_id for flight in flights}) > 450


def test_the_same_store_gives_the_same_requests(platform):
    first, second = (list(itertools.islice(traffic.requests(platform), 300)) for _ in range(2))
    assert first == second


def test_nothing_serving_is_said_so(tmp_path):
    empty = Platform.from_settings(Settings(state=tmp_path))
    with pytest.raises(NotFound, match="serves nothing yet"):
        next(traffic.requests(empty))
    empty.ledger.close()


def test_a_store_without_fresh_rows_is_said_so(tmp_path, state):
    settings = Settings(state=tmp_path)
    synthetic_state.release(settings, b"no model")
    platform = Platform.from_settings(settings)
    with pytest.raises(Unavailable, match="no fresh rows"):
        next(traffic.requests(platform))
    online = settings.product_dir("flight-delays") / "online" / "online.db"
    synthetic_state.write_online_store(online, synthetic_state.flights(20))
    with sqlite3.connect(online) as store:
        store.execute("DELETE FROM flight_delays_line_history")
    store.close()
    with pytest.raises(Unavailable, match="no fresh rows"):
        next(traffic.requests(platform))
    platform.ledger.close()
