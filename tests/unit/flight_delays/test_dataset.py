from datetime import date

import duckdb
import numpy as np
import pytest

from flight_delays import dataset
from flight_delays.dataset import entity_rows, skew_report, training_frame
from flight_delays.feature_definitions import ENTITIES, PROJECT, SERVICE, VIEWS, columns, definitions
from flight_delays.vector import FEATURES
from plinth.errors import InvalidInput, NotFound
from plinth.features.feast import FeastFeatures
from plinth.features.readplan import ReadPlan

START, END = date(2013, 2, 6), date(2013, 2, 12)


@pytest.fixture(scope="module")
def store(winter_features, tmp_path_factory):
    folder = tmp_path_factory.mktemp("state")
    (folder / "features").symlink_to(winter_features)
    store = FeastFeatures(folder, PROJECT, SERVICE, definitions)
    store.apply()
    return store


@pytest.fixture(scope="module")
def frame(store, winter):
    return training_frame(store, winter, START, END)


def test_every_labelled_flight_of_the_window_is_there_once(frame, winter):
    expected = duckdb.execute(
        f"""SELECT count(*), sum((arr_delay >= 15)::INT) FROM read_parquet('{winter}/flights/*.parquet')
            WHERE arr_delay IS NOT NULL AND scheduled_departure >= '{START} 00:00:00Z'::TIMESTAMPTZ
              AND scheduled_departure < '{END} 00:00:00Z'::TIMESTAMPTZ"""
    ).fetchone()
    assert (len(frame), int(frame.label.sum())) == expected
    assert len(set(frame.flight_id.tolist())) == len(frame)
    assert (np.diff(frame.prediction_time) >= 0).all()


def test_the_matrix_is_finite_float32_with_its_names(frame):
    assert frame.matrix.dtype == np.float32
    assert frame.matrix.shape == (len(frame), len(FEATURES))
    assert np.isfinite(frame.matrix).all()
    assert frame.names == FEATURES
    assert (frame.hour == frame.matrix[:, FEATURES.index("minute_of_day")] // 60).all()


def test_flights_without_an_outcome_are_there_on_request_and_marked(store, winter, frame):
    whole = training_frame(store, winter, START, END, labelled_only=False)
    assert len(whole) > len(frame) + 900  # the blizzard of 8 February
    assert set(whole.label.tolist()) == {-1, 0, 1}
    assert (whole.label >= 0).sum() == len(frame)


def test_most_rows_have_all_their_features(frame):
    share = dict(zip(VIEWS, (frame.status == 0).mean(axis=0), strict=True))
    assert share["carrier_delays"] == share["origin_delays"] == 1.0
    assert share["origin_weather"] > 0.95
    assert share["aircraft_last_leg"] > 0.5


def test_the_service_makes_the_vector_training_sees(store, winter):
    report = skew_report(store, winter, START, END, stretches=2, hours=5)
    assert report.rows > 150
    assert report.differences == ()
    assert report.max_difference == 0.0


def test_a_difference_between_the_two_ways_is_reported(store, winter, monkeypatch):
    monkeypatch.setattr(dataset, "assemble", lambda flights, values: honest(flights, values + 1e-3))
    report = skew_report(store, winter, START, END, stretches=1, hours=4)
    assert report.max_difference > 0
    assert "carrier_delays__dep_delay_3h" in {difference.feature for difference in report.differences}


honest = dataset.assemble


def test_a_window_without_flights_is_not_found(store, winter):
    with pytest.raises(NotFound, match="no flight departs"):
        training_frame(store, winter, date(2012, 1, 1), date(2012, 2, 1))


def test_a_lake_without_flights_is_not_found(tmp_path):
    with pytest.raises(NotFound, match="no flights"):
        entity_rows(tmp_path, START, END)


def test_features_of_another_version_are_refused(store, winter, monkeypatch):
    monkeypatch.setattr(dataset, "VIEW_COLUMNS", ("another",))
    with pytest.raises(InvalidInput, match="not those of this code"):
        training_frame(store, winter, START, END)


def test_every_view_and_entity_is_owned_described_and_has_a_ttl(store):
    plan = ReadPlan.from_dict(store.compile_plan())
    assert plan.columns == columns()
    assert plan.join_keys == sorted(ENTITIES)
    for item in definitions(store.tables):
        assert item.owner, item.name
        assert item.description, item.name
    assert all(view.ttl_seconds == VIEWS[view.name].ttl.total_seconds() for view in plan.views)
