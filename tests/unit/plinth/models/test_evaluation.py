import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score

from plinth.errors import InvalidInput
from plinth.models import evaluation

DAY = 86_400


@st.composite
def labelled_scores(draw):
    size = draw(st.integers(2, 60))
    # Few distinct scores, so that ties are common.
    scores = draw(st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), min_size=size, max_size=size))
    labels = draw(st.lists(st.integers(0, 1), min_size=size, max_size=size))
    return np.array(labels), np.array(scores)


@settings(deadline=None)
@given(labelled_scores())
def test_auc_equals_sklearn_with_ties(pair):
    label, score = pair
    ours = evaluation.auc(label, score)
    if len(set(label)) == 1:
        assert ours is None
    else:
        assert ours == pytest.approx(roc_auc_score(label, score), abs=1e-12)


def test_log_loss_equals_sklearn_and_stays_finite_on_a_confident_mistake():
    rng = np.random.default_rng(1)
    score = rng.random(500)
    label = (rng.random(500) < score).astype(int)
    assert evaluation.log_loss(label, score) == pytest.approx(sklearn_log_loss(label, score), abs=1e-12)
    assert evaluation.log_loss([1], [0.0]) == pytest.approx(34.5388, abs=1e-3)


def test_calibration_error_is_small_for_honest_scores_and_the_bias_for_shifted_ones():
    rng = np.random.default_rng(2)
    truth = rng.uniform(0.05, 0.6, 100_000)
    label = (rng.random(truth.size) < truth).astype(int)
    assert evaluation.expected_calibration_error(label, truth) < 0.01
    assert evaluation.expected_calibration_error(label, truth + 0.1) == pytest.approx(0.1, abs=0.01)


def test_calibration_curve_bins_hold_equal_mass_and_every_row():
    score = np.linspace(0, 1, 1000)
    curve = evaluation.calibration_curve((score > 0.5).astype(int), score, bins=10)
    assert [point["rows"] for point in curve] == [100] * 10


@settings(deadline=None)
@given(labelled_scores(), st.randoms(use_true_random=False))
def test_calibration_error_does_not_depend_on_the_order_of_rows(pair, random):
    label, score = pair
    order = list(range(len(label)))
    random.shuffle(order)
    assert evaluation.expected_calibration_error(label[order], score[order]) == pytest.approx(
        evaluation.expected_calibration_error(label, score), abs=1e-12
    )


def test_roc_curve_has_the_area_of_the_auc():
    rng = np.random.default_rng(3)
    score = rng.random(3000)
    label = (rng.random(3000) < score).astype(int)
    x, y = np.array(evaluation.roc_curve(label, score, points=3000)).T
    assert np.trapezoid(y, x) == pytest.approx(evaluation.auc(label, score), abs=2e-4)


def test_slices_and_months_cover_every_row():
    label, score = np.array([0, 1, 0, 1]), np.array([0.2, 0.8, 0.6, 0.4])
    table = evaluation.slice_table(label, score, {"origin": ["JFK", "JFK", "EWR", "EWR"], "hour": [6, 7, 6, 7]})
    assert [(row["slice"], row["value"], row["rows"], row["auc"]) for row in table] == [
        ("origin", "EWR", 2, 0.0),
        ("origin", "JFK", 2, 1.0),
        ("hour", "6", 2, None),
        ("hour", "7", 2, None),
    ]
    times = np.array(["2013-06-30T23:59:59", "2013-07-01", "2013-07-02", "2013-07-31"], dtype="datetime64[s]")
    months = evaluation.month_table(label, score, times)
    assert [(row["month"], row["rows"]) for row in months] == [("2013-06", 1), ("2013-07", 3)]
    assert evaluation.month_table(label, score, times.astype(np.int64)) == months


@pytest.mark.parametrize(
    ("label", "score"),
    [([], []), ([0, 1], [0.5]), ([0, 2], [0.1, 0.2]), ([0, 1], [0.1, float("nan")]), ([[0, 1]], [[0.1, 0.2]])],
)
def test_rows_that_cannot_be_judged_are_refused(label, score):
    with pytest.raises(InvalidInput):
        evaluation.summary(label, score)


def test_identical_releases_differ_by_nothing():
    loss = np.random.default_rng(4).random(900)
    result = evaluation.paired_by_day(loss, loss, np.arange(900) * DAY // 30)
    assert result == {"log_loss_difference": 0.0, "upper_bound": 0.0, "days": 30, "rows": 900}


def test_a_worse_candidate_has_a_bound_above_zero_and_a_better_one_below():
    rng = np.random.default_rng(5)
    time = np.repeat(np.arange(60) * DAY, 50)
    serving = rng.random(3000)
    noise = rng.normal(0, 0.01, 3000)
    assert evaluation.paired_by_day(serving + 0.01 + noise, serving, time)["upper_bound"] > 0.009
    assert evaluation.paired_by_day(serving - 0.01 + noise, serving, time)["upper_bound"] < -0.009


def test_too_few_days_give_no_bound():
    result = evaluation.paired_by_day(np.zeros(6), np.ones(6), np.arange(6) * DAY)
    assert result["upper_bound"] is None
    assert result["days"] == 6


def test_the_bound_covers_the_truth_in_about_95_of_100_worlds():
    """Days with a common shock: a bootstrap over rows would cover far less."""
    seed = 7
    rng = np.random.default_rng(seed)
    time = np.repeat(np.arange(60) * DAY, 20)
    covered = 0
    for _ in range(300):
        difference = np.repeat(rng.normal(0, 0.02, 60), 20) + rng.normal(0, 0.02, 1200)
        covered += evaluation.paired_by_day(difference, np.zeros(1200), time, draws=400)["upper_bound"] >= 0
    assert 0.91 <= covered / 300 <= 0.98, f"seed {seed}: covered {covered} of 300"
