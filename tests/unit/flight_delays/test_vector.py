from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import duckdb
import numpy as np
import pytest

from flight_delays.network import CARRIERS, DESTS, DISTANCES, ORIGINS
from flight_delays.request import Flight, flight_id, prediction_time
from flight_delays.vector import FEATURES, LONG_AGO, VIEW_COLUMNS, assemble, assemble_columns, local_minutes
from plinth.errors import InvalidInput

SCHEDULED = datetime(2013, 7, 1, 0, 30, tzinfo=UTC)  # Sunday 30 June, 20:30 in New York
FLIGHT = Flight("UA", 1545, "EWR", "IAH", "N14228", SCHEDULED)


def some_flights(n, seed=0):
    rng = np.random.default_rng(seed)
    start = int(datetime(2013, 1, 1, tzinfo=UTC).timestamp())
    scheduled = rng.integers(start, start + 365 * 86400, n) // 60 * 60
    codes = [rng.choice(known, n) for known in (CARRIERS, ORIGINS, DESTS)]
    values = rng.normal(size=(n, len(VIEW_COLUMNS))) * 100
    for name in ("landed_at", "departed_at"):
        values[:, VIEW_COLUMNS.index(f"aircraft_last_leg__{name}")] = scheduled - rng.integers(-3600, 600_000, n)
    return codes, scheduled, values


def column(matrix, name):
    return matrix[:, FEATURES.index(name)]


def test_request_features_are_local_to_new_york():
    matrix = assemble([FLIGHT], np.zeros((1, len(VIEW_COLUMNS))))
    assert matrix.dtype == np.float32
    assert matrix.shape == (1, len(FEATURES))
    assert column(matrix, "minute_of_day") == [20 * 60 + 30]
    assert column(matrix, "day_of_week") == [6]
    assert column(matrix, "distance") == [1400]
    assert column(matrix, "carrier_code") == [CARRIERS.index("UA")]


def test_view_values_pass_through_and_moments_become_minutes_since():
    values = np.arange(len(VIEW_COLUMNS), dtype=float)[None, :]
    landed = VIEW_COLUMNS.index("aircraft_last_leg__landed_at")
    departed = VIEW_COLUMNS.index("aircraft_last_leg__departed_at")
    values[0, landed] = FLIGHT.scheduled_epoch - 150 * 60
    values[0, departed] = 0.0  # never
    matrix = assemble([FLIGHT], values)
    assert column(matrix, "minutes_since_landing") == [150]
    assert column(matrix, "minutes_since_departure") == [LONG_AGO]
    assert column(matrix, VIEW_COLUMNS[3]) == [3]


def test_one_by_one_in_a_batch_and_by_columns_give_the_same_bits():
    (carrier, origin, dest), scheduled, values = some_flights(500)
    flights = [
        Flight(str(c), 1, str(o), str(d), None, datetime.fromtimestamp(int(at), UTC))
        for c, o, d, at in zip(carrier, origin, dest, scheduled, strict=True)
    ]
    by_columns = assemble_columns(carrier, origin, dest, scheduled, values)
    batch = assemble(flights, values)
    singles = np.concatenate([assemble([flight], values[i : i + 1]) for i, flight in enumerate(flights)])
    assert by_columns.tobytes() == batch.tobytes() == singles.tobytes()
    assert np.isfinite(batch).all()


def test_local_time_agrees_with_the_zone_database_across_a_century():
    zone = ZoneInfo("America/New_York")
    rng = np.random.default_rng(1)
    start, end = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) for year in (2000, 2100))
    changes = [int(datetime(2013, m, d, h, tzinfo=UTC).timestamp()) + s
               for m, d, h in ((3, 10, 7), (11, 3, 6)) for s in (-1, 0, 1)]  # fmt: skip
    epochs = np.concatenate([rng.integers(start, end, 2000), changes])
    for epoch, minutes in zip(epochs.tolist(), local_minutes(epochs).tolist(), strict=True):
        local = datetime.fromtimestamp(epoch, zone)
        assert (minutes % 1440, (minutes // 1440 + 3) % 7) == (local.hour * 60 + local.minute, local.weekday())


def test_no_flight_gives_an_empty_matrix():
    assert assemble([], np.zeros((0, len(VIEW_COLUMNS)))).shape == (0, len(FEATURES))


@pytest.mark.parametrize("change", [{"carrier": "ZZ"}, {"origin": "LHR"}, {"dest": "AAA"}, {"dest": "ZZZ"}])
def test_codes_the_model_does_not_know_are_refused_on_both_ways(change):
    fields = {"carrier": "UA", "origin": "EWR", "dest": "IAH", **change}
    values = np.zeros((1, len(VIEW_COLUMNS)))
    with pytest.raises(InvalidInput, match="unknown air"):
        assemble([Flight(flight=1, tailnum=None, scheduled_departure=SCHEDULED, **fields)], values)
    with pytest.raises(InvalidInput, match="unknown air"):
        assemble_columns(*(np.array([fields[k]]) for k in fields), np.array([FLIGHT.scheduled_epoch]), values)


def test_values_of_another_plan_are_refused():
    with pytest.raises(InvalidInput, match="read plan"):
        assemble([FLIGHT], np.zeros((1, len(VIEW_COLUMNS) + 1)))


def test_names_are_unique():
    assert len(set(FEATURES)) == len(FEATURES)


def test_a_year_of_flights_is_assembled_in_seconds():
    import time

    (carrier, origin, dest), scheduled, values = some_flights(330_000)
    started = time.process_time()
    assemble_columns(carrier, origin, dest, scheduled, values)
    assert time.process_time() - started < 2


def test_the_network_is_that_of_the_data(lake):
    rows = duckdb.execute(
        f"SELECT dest, origin, mode(distance) FROM read_parquet('{lake}/flights/*.parquet') GROUP BY ALL"
    ).fetchall()
    assert set(DESTS) == {row[0] for row in rows}
    assert all(DISTANCES[dest][ORIGINS.index(origin)] == miles for dest, origin, miles in rows)
    carriers = duckdb.execute(f"SELECT DISTINCT carrier FROM read_parquet('{lake}/flights/*.parquet')").fetchall()
    assert tuple(sorted(row[0] for row in carriers)) == CARRIERS


def test_a_flight_knows_its_id_and_when_it_is_predicted():
    assert FLIGHT.flight_id == "UA1545-EWR-20130701T0030Z"
    eastern = SCHEDULED.astimezone(ZoneInfo("America/New_York"))
    assert flight_id("UA", 1545, "EWR", eastern) == FLIGHT.flight_id
    assert prediction_time(eastern) == datetime(2013, 6, 30, 22, 30, tzinfo=UTC)
    assert FLIGHT.prediction_epoch == prediction_time(SCHEDULED).timestamp()
