"""The tempting leak, trained: it looks better offline and is worse on what can really be known."""

import shutil
from datetime import date

import lightgbm
import numpy as np
import pytest

from flight_delays.dataset import training_frame
from flight_delays.events import check_events
from flight_delays.feature_definitions import PROJECT, SERVICE, definitions
from flight_delays.feature_tables import build_feature_tables
from plinth.features.feast import FeastFeatures
from plinth.models.evaluation import auc

SPLIT = date(2013, 3, 5)


@pytest.fixture(scope="module")
def spring(lake, tmp_path_factory):
    folder = tmp_path_factory.mktemp("spring")
    for dataset in ("flights", "weather"):
        (folder / dataset).mkdir()
        for month in ("2013-02", "2013-03"):
            shutil.copy(lake / dataset / f"{month}.parquet", folder / dataset)
    return folder


def frame(spring, folder, **options):
    build_feature_tables(spring, folder / "features", **options)
    store = FeastFeatures(folder, PROJECT, SERVICE, definitions)
    store.apply()
    return training_frame(store, spring, date(2013, 2, 5), date(2013, 3, 20))


def late_rows(frame):
    return frame.prediction_time >= np.datetime64(SPLIT).astype("datetime64[s]").astype(int)


def fit(frame):
    rows = ~late_rows(frame)
    parameters = {"objective": "binary", "num_leaves": 15, "num_threads": 1, "seed": 1, "verbosity": -1}
    data = lightgbm.Dataset(frame.matrix[rows], frame.label[rows])
    return lightgbm.train(parameters, data, num_boost_round=100)


def score(model, frame):
    rows = late_rows(frame)
    return auc(frame.label[rows], model.predict(frame.matrix[rows]))


def test_the_tempting_leak_looks_better_offline_is_worse_in_truth_and_is_caught(spring, tmp_path):
    by_schedule = {"arrivals": "scheduled_departure"}
    honest = frame(spring, tmp_path / "honest")
    leaky = frame(spring, tmp_path / "leaky", event_times=by_schedule)
    assert (honest.flight_id == leaky.flight_id).all()
    model, tempted = fit(honest), fit(leaky)
    in_truth, promised, delivered = score(model, honest), score(tempted, leaky), score(tempted, honest)
    print(f"honest {in_truth:.3f}; leaky offline {promised:.3f}, on honest features {delivered:.3f}")
    assert promised > in_truth + 0.01
    assert delivered < in_truth - 0.01
    assert not check_events(spring, tmp_path / "leaky" / "features").clean
    assert check_events(spring, tmp_path / "honest" / "features").clean
