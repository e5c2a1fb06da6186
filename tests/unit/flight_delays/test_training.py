from dataclasses import dataclass, replace
from datetime import date

import numpy as np
import pytest

from flight_delays import evaluation, training
from flight_delays.training import Baseline, Window, Windows
from plinth.core.gates import BeatsBaseline, CalibrationBound, NotWorseThanServing, SliceFloor, judge
from plinth.errors import InvalidInput
from plinth.models import onnx

NAMES = ("rate", "noise", "hour")
WINDOWS = Windows(
    Window(date(2013, 1, 1), date(2013, 1, 21)),
    Window(date(2013, 1, 21), date(2013, 2, 1)),
    Window(date(2013, 2, 1), date(2013, 3, 1)),
)
FAST = {"min_data_in_leaf": 50, "num_leaves": 8}


@dataclass(frozen=True)
class Frame:
    matrix: np.ndarray
    label: np.ndarray
    prediction_time: np.ndarray
    carrier: np.ndarray
    origin: np.ndarray
    hour: np.ndarray


@pytest.fixture(scope="module")
def frame():
    """Two months; lateness follows a rate that the features show and, more weakly, the carrier."""
    rng = np.random.default_rng(0)
    n = 12_000
    rate, carrier = rng.uniform(0, 0.6, n), rng.choice(["UA", "B6"], n)
    label = (rng.random(n) < rate + 0.15 * (carrier == "B6")).astype(np.int8)
    label[::50] = -1
    hour = rng.integers(5, 23, n)
    departure = np.datetime64("2013-01-01", "s") + rng.integers(0, 59 * 86_400, n)
    return Frame(
        np.column_stack([rate, rng.normal(size=n), hour]).astype(np.float32),
        label,
        departure.astype(np.int64) - 7200,
        carrier,
        rng.choice(["EWR", "JFK", "LGA"], n),
        hour,
    )


@pytest.fixture(scope="module")
def trained(frame):
    return training.train(frame, NAMES, WINDOWS, **FAST)


@pytest.fixture(scope="module")
def model_file(trained, frame, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    path.write_bytes(onnx.convert(trained.booster, frame.matrix[:2000]))
    return path


def test_the_same_frame_gives_the_same_booster(frame, trained):
    again = training.train(frame, NAMES, WINDOWS, **FAST)
    assert again.booster.model_to_string() == trained.booster.model_to_string()
    assert again.metrics == trained.metrics


def test_iterations_are_chosen_on_the_validation_window(trained):
    assert 1 < trained.params["iterations"] < training.MAX_ROUNDS
    assert trained.metrics["validate_auc"] > trained.metrics["validate_baseline_auc"] + 0.1


def test_nothing_later_than_the_validation_window_is_looked_at(frame, trained):
    later = WINDOWS.evaluate.rows(frame)
    changed = frame.label.copy()
    changed[later] = 1 - changed[later]
    matrix = frame.matrix.copy()
    matrix[later] = 7
    again = training.train(replace(frame, label=changed, matrix=matrix), NAMES, WINDOWS, **FAST)
    assert again.booster.model_to_string() == trained.booster.model_to_string()
    assert again.baseline == trained.baseline


def test_the_order_of_rows_moves_no_score_beyond_rounding(frame, trained):
    rows = WINDOWS.evaluate.rows(frame)
    order = np.random.default_rng(1).permutation(len(frame.label))
    shuffled = Frame(**{name: value[order] for name, value in vars(frame).items()})
    assert Baseline.fit(shuffled, WINDOWS.train.rows(shuffled)).overall == pytest.approx(trained.baseline.overall)
    assert rows.sum() == WINDOWS.evaluate.rows(shuffled).sum()


def test_a_window_is_half_open_in_scheduled_departures_and_skips_rows_without_a_label(frame):
    departures = np.array(["2013-02-01T00:00:00", "2013-01-31T23:59:59", "2013-02-28T23:59:59", "2013-03-01T00:00:00"])
    few = Frame(
        frame.matrix[:4], np.array([0, 1, -1, 0], np.int8), departures.astype("datetime64[s]") - np.timedelta64(2, "h"),
        frame.carrier[:4], frame.origin[:4], frame.hour[:4],
    )  # fmt: skip
    assert WINDOWS.evaluate.rows(few).tolist() == [True, False, False, False]
    seconds = replace(few, prediction_time=few.prediction_time.astype(np.int64))
    assert WINDOWS.evaluate.rows(seconds).tolist() == WINDOWS.evaluate.rows(few).tolist()


def test_windows_that_overlap_or_are_empty_are_refused():
    january = Window(date(2013, 1, 1), date(2013, 2, 1))
    for train, validate in ((january, january), (Window(date(2013, 2, 1), date(2013, 1, 1)), january)):
        with pytest.raises(InvalidInput):
            Windows(train, validate, WINDOWS.evaluate)


def test_the_baseline_is_the_smoothed_rate_of_carrier_origin_and_hour():
    n = 150
    frame = Frame(
        np.zeros((n, 1), np.float32), (np.arange(n) < 100).astype(np.int8), np.zeros(n, np.int64),
        np.array(["UA"] * 100 + ["B6"] * 50), np.array(["JFK"] * n), np.array([8] * n),
    )  # fmt: skip
    everything = np.ones(n, bool)
    baseline = Baseline.fit(frame, everything)
    overall = 100 / 150
    assert baseline.rates[("UA", "JFK", 8)] == pytest.approx((100 + 50 * overall) / 150)
    assert baseline.rates[("B6", "JFK", 8)] == pytest.approx((0 + 50 * overall) / 100)
    unseen = replace(frame, hour=np.array([9] * n))
    assert baseline.predict(unseen, everything) == pytest.approx(np.full(n, overall))
    assert baseline.predict(frame, everything)[[0, 149]] == pytest.approx([8 / 9, 1 / 3])


def test_features_that_are_not_finite_or_not_float32_are_refused_by_name(frame):
    matrix = frame.matrix.copy()
    matrix[5, 1] = np.nan
    with pytest.raises(InvalidInput, match="noise"):
        training.train(replace(frame, matrix=matrix), NAMES, WINDOWS)
    with pytest.raises(InvalidInput, match="float64"):
        training.train(replace(frame, matrix=frame.matrix.astype(np.float64)), NAMES, WINDOWS)
    with pytest.raises(InvalidInput, match="float32"):
        training.train(frame, NAMES[:2], WINDOWS)


def test_a_window_without_both_classes_is_refused(frame):
    with pytest.raises(InvalidInput, match="both classes"):
        training.train(replace(frame, label=np.zeros_like(frame.label)), NAMES, WINDOWS)


def test_the_evidence_is_json_covers_months_and_slices_and_satisfies_the_gates(frame, trained):
    import json

    evidence = evaluation.evaluate(frame, WINDOWS.evaluate, trained.predict, trained.baseline)
    json.dumps(evidence, allow_nan=False)
    assert [month["month"] for month in evidence["months"]] == ["2013-02"]
    assert evidence["rows"] == WINDOWS.evaluate.rows(frame).sum() == evidence["months"][0]["rows"]
    for name in ("origin", "carrier", "hour"):
        assert sum(row["rows"] for row in evidence["slices"] if row["slice"] == name) == evidence["rows"]
    assert evidence["serving"] is None
    assert judge(BeatsBaseline(kind="beats-baseline", margin=0.1), evidence).passed
    assert judge(CalibrationBound(kind="calibration", maximum=0.05), evidence).passed
    assert judge(SliceFloor(kind="slice-floor", floor=0.6, minimum_rows=1000), evidence).passed
    metrics = evaluation.logged_metrics(evidence)
    assert metrics["auc_2013_02"] == metrics["auc"] == evidence["auc"]


def test_a_candidate_is_compared_with_the_serving_release_on_the_same_rows(frame, trained, model_file):
    gate = NotWorseThanServing(kind="not-worse-than-serving", tolerance=1e-6)
    same = evaluation.evaluate(
        frame, WINDOWS.evaluate, trained.predict, trained.baseline, serving_model=model_file
    )["serving"]  # fmt: skip
    assert same["days"] == 28
    assert same["log_loss_difference"] == pytest.approx(0, abs=1e-6)
    assert judge(gate, {"serving": same}).passed
    worse = evaluation.evaluate(
        frame, WINDOWS.evaluate, lambda matrix: np.clip(trained.predict(matrix) + 0.15, 0, 1), trained.baseline,
        serving_model=model_file,
    )  # fmt: skip
    assert worse["serving"]["upper_bound"] > 0.01
    assert not judge(gate, worse).passed


def test_an_empty_evaluation_window_is_refused(frame, trained):
    with pytest.raises(InvalidInput, match="no row"):
        evaluation.evaluate(frame, Window(date(2014, 1, 1), date(2014, 2, 1)), trained.predict, trained.baseline)
