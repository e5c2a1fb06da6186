"""Performance and calibration once labels arrive."""

from __future__ import annotations

import numpy as np
import pytest

from plinth.errors import InvalidInput
from plinth.models import evaluation
from plinth.monitoring.labels import Labelled
from plinth.monitoring.performance import (
    by_month,
    calibration_at,
    calibration_threshold,
    mature_end,
    trailing,
)

START = np.datetime64("2013-05-01T00:00", "us")


def traffic(days: int = 62, per_day: int = 200, bias_after: int | None = None, seed: int = 0) -> Labelled:
    """Calibrated predictions of a day-by-day changing rate; after `bias_after` days outcomes are 0.08 more frequent."""
    rng = np.random.default_rng(seed)
    day = np.repeat(np.arange(days), per_day)
    score = np.clip(rng.beta(2, 6, day.size), 0.01, 0.9)
    rate = score + (0.08 if bias_after is not None else 0) * (day >= (bias_after or 0))
    label = (rng.random(day.size) < rate).astype(np.float64)
    time = START + (day * 86_400 + rng.integers(0, 86_400, day.size)).astype("timedelta64[s]")
    release = np.where(day < 40, "a" * 64, "b" * 64).astype(object)
    order = np.argsort(time)
    return Labelled(release[order], time[order], score[order], label[order])


def unlabel(data: Labelled, rows: np.ndarray) -> Labelled:
    label = data.label.copy()
    label[rows] = np.nan
    return Labelled(data.release, data.event_time, data.score, label)


def test_months_and_releases_are_measured_apart_on_labelled_rows() -> None:
    data = unlabel(traffic(), np.arange(100))
    periods = by_month(data)
    assert [(row.month, row.release[0]) for row in periods] == [
        ("2013-05", "a"),
        ("2013-06", "a"),
        ("2013-06", "b"),
        ("2013-07", "b"),
    ]
    may = data.between(START, np.datetime64("2013-06-01")).known
    assert periods[0].rows - periods[0].labelled == 100
    assert periods[0].auc == evaluation.auc(may.label, may.score)
    assert periods[0].log_loss == evaluation.log_loss(may.label, may.score)


def test_a_month_without_labels_says_so_instead_of_guessing() -> None:
    data = traffic(days=3)
    (period,) = by_month(unlabel(data, np.arange(len(data))))
    assert (period.rows, period.labelled, period.auc, period.log_loss) == (600, 0, None, None)


def test_the_gap_of_a_window_is_mean_prediction_minus_outcome_rate() -> None:
    data = traffic(days=20)
    last = trailing(data, 14)[-1]
    window = data.between(START + np.timedelta64(6, "D"), START + np.timedelta64(20, "D"))
    assert last.end == "2013-05-21"
    assert last.rows == len(window)
    assert last.gap == pytest.approx(window.score.mean() - window.label.mean())
    assert last.log_loss == pytest.approx(evaluation.log_loss(window.label, window.score))


def test_the_standard_error_by_day_is_that_of_repeated_draws() -> None:
    gaps = [trailing(traffic(days=14, seed=seed), 14)[0] for seed in range(200)]
    spread = np.std([point.gap for point in gaps])
    assert np.mean([point.error for point in gaps]) == pytest.approx(spread, rel=0.25)


def test_days_that_err_together_widen_the_standard_error() -> None:
    """With a shared error a day, rows are no independent evidence: the row-wise error would be far too small."""
    data = traffic(days=28, per_day=400)
    day = ((data.event_time - START) / np.timedelta64(1, "D")).astype(int)
    flipped = np.random.default_rng(5).random(len(data)) < 0.5
    label = np.where((day % 2 == 0) & flipped, 1.0, data.label)
    point = trailing(Labelled(data.release, data.event_time, data.score, label), 28)[-1]
    row_wise = np.std(data.score - label) / np.sqrt(len(data))
    assert point.error is not None
    assert point.error > 3 * row_wise


def test_the_threshold_set_on_may_is_quiet_in_may_and_alarms_on_a_later_bias() -> None:
    data = traffic(bias_after=31)
    may = data.between(START, np.datetime64("2013-06-01"))
    threshold = calibration_threshold(may, 14)
    assert max(abs(point.gap) for point in trailing(may, 14)) < threshold
    alarms = [point.end for point in trailing(data, 14) if abs(point.gap) > threshold]
    assert "2013-06-01" < alarms[0] < "2013-06-20"
    assert alarms[-1] == "2013-07-02"


def test_the_threshold_looks_at_the_reference_month_only() -> None:
    quiet, biased = (traffic(bias_after=bias).between(START, np.datetime64("2013-06-01")) for bias in (None, 31))
    assert calibration_threshold(quiet) == calibration_threshold(biased)


def test_windows_with_too_few_labels_say_nothing() -> None:
    data = traffic(days=20)
    assert calibration_at(data, np.datetime64("2013-05-15"), 14, minimum_labels=2801) is None
    point = calibration_at(data, np.datetime64("2013-05-15"), 14, minimum_labels=2800)
    assert point is not None
    assert (point.end, point.rows, point.days) == ("2013-05-15", 2800, 14)
    assert trailing(data.where(np.zeros(len(data), bool))) == []


def test_a_window_without_recent_labels_does_not_borrow_older_ones() -> None:
    data = traffic(days=10)
    assert calibration_at(data, np.datetime64("2013-08-01"), 14) is None


def test_the_last_day_before_as_of_is_not_mature() -> None:
    assert mature_end(np.datetime64("2013-06-10T18:00")) == np.datetime64("2013-06-09")


def test_impossible_windows_and_empty_reference_months_are_refused() -> None:
    with pytest.raises(InvalidInput):
        trailing(traffic(days=2), 0)
    with pytest.raises(InvalidInput, match="no window with labels on two days"):
        calibration_threshold(traffic(days=1))
