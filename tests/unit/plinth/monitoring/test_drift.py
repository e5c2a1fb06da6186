"""Verdicts of drift under a manifest's bounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from plinth.core.products import Monitoring
from plinth.errors import InvalidInput
from plinth.monitoring.drift import compare, drift
from plinth.monitoring.histogram import Histograms, fit, score_histogram

NAMES = ["wind", "rate", "hour"]
BOUNDS = Monitoring(
    drift_psi=0.2,
    drifted_features=2,
    calibration_window="14d",
    calibration_gap=0.03,
    minimum_labels=500,
    cool_down="7d",
    watch=("wind", "rate", "hour"),
)


def table(rows: int, seed: int, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    columns = [rng.normal(shift, 1, rows), rng.beta(2, 8, rows) + shift / 10, rng.integers(0, 24, rows)]
    return np.column_stack(columns).astype(np.float32)


@pytest.fixture(scope="module")
def reference() -> Histograms:
    return fit(table(20_000, 1), NAMES)


def test_the_same_distribution_does_not_drift(reference: Histograms) -> None:
    result = drift(reference, reference.count(table(5000, 2)), BOUNDS)
    assert result.drifted == ()
    assert not result.beyond
    assert all(not feature.findings for feature in result.features)


def test_a_shift_drifts_and_enough_of_them_pass_the_bound(reference: Histograms) -> None:
    result = drift(reference, reference.count(table(5000, 2, shift=1.0)), BOUNDS)
    assert result.drifted == ("wind", "rate")
    assert result.beyond
    wind = result.features[0]
    assert wind.psi > 0.2 > wind.noise
    assert wind.wasserstein == pytest.approx(1.0, abs=0.1)


def test_only_watched_features_count_towards_the_trigger(reference: Histograms) -> None:
    bounds = BOUNDS.model_copy(update={"watch": ("hour", "rate")})
    result = drift(reference, reference.count(table(5000, 2, shift=1.0)), bounds)
    assert result.drifted == ("wind", "rate")
    assert result.counted == ("rate",)
    assert not result.beyond


def test_with_nothing_watched_drift_is_reported_and_triggers_nothing(reference: Histograms) -> None:
    bounds = BOUNDS.model_copy(update={"watch": ()})
    result = drift(reference, reference.count(table(5000, 2, shift=1.0)), bounds)
    assert result.drifted == ("wind", "rate")
    assert not result.beyond


def test_a_tiny_sample_is_said_to_be_small_and_never_drifts(reference: Histograms) -> None:
    result = drift(reference, reference.count(table(50, 2, shift=3.0)), BOUNDS)
    assert {feature.status for feature in result.features} == {"small-sample"}
    assert not result.beyond


def test_a_bound_below_the_noise_does_not_alarm_on_noise(reference: Histograms) -> None:
    """PSI of 250 rows is about .04 by chance alone: a bound of .01 must not fire on that."""
    bounds = BOUNDS.model_copy(update={"drift_psi": 0.01})
    results = [drift(reference, reference.count(table(250, seed)), bounds) for seed in range(40)]
    assert any(feature.psi > 0.01 for result in results for feature in result.features)
    assert sum(len(result.drifted) for result in results) <= 2


def test_missing_values_and_values_out_of_range_are_found(reference: Histograms) -> None:
    current = table(1000, 3)
    current[:200, 0] = np.nan
    current[:100, 1] = 5.0
    current[:100, 2] = 3.5
    wind, rate, hour = drift(reference, reference.count(current), BOUNDS).features
    assert wind.findings == ("missing 20.0% of rows, 0.0% in the reference",)
    assert "above" in rate.findings[0]
    assert rate.above == pytest.approx(0.1)
    assert "no whole code" in hour.findings[0]


def test_a_feature_that_stopped_coming_is_found_and_has_no_verdict(reference: Histograms) -> None:
    current = table(1000, 3)
    current[:, 0] = np.nan
    wind = drift(reference, reference.count(current), BOUNDS).features[0]
    assert wind.status == "small-sample"
    assert wind.findings == ("missing 100.0% of rows, 0.0% in the reference",)


def test_codes_have_no_order_and_so_no_ks_or_wasserstein(reference: Histograms) -> None:
    hour = drift(reference, reference.count(table(1000, 3)), BOUNDS).features[2]
    assert (hour.kind, hour.ks, hour.wasserstein) == ("discrete", None, None)


def test_the_score_is_compared_and_does_not_count(reference: Histograms) -> None:
    rng = np.random.default_rng(4)
    scores = score_histogram(rng.beta(2, 8, 5000)), score_histogram(rng.beta(4, 6, 5000))
    result = drift(reference, reference.count(table(5000, 2)), BOUNDS, scores)
    assert result.score is not None
    assert result.score.status == "drift"
    assert not result.beyond


def test_a_watched_feature_that_is_not_there_is_an_error(reference: Histograms) -> None:
    bounds = BOUNDS.model_copy(update={"watch": ("snow",)})
    with pytest.raises(InvalidInput, match="snow"):
        drift(reference, reference.empty(), bounds)


def test_counts_on_another_grid_are_refused(reference: Histograms) -> None:
    other = fit(table(500, 9), NAMES)
    with pytest.raises(InvalidInput, match="grid"):
        compare(reference.columns[0], other.columns[0], 0.2)
    with pytest.raises(InvalidInput, match="features"):
        drift(reference, replace(other, columns=other.columns[:2]), BOUNDS)
