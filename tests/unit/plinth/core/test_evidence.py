import math
from itertools import pairwise

import pytest

from plinth.core.cells import bin_spread, mean_score, quantile_ms, slower, sound
from plinth.core.evidence import (
    LATENCY_BINS,
    LATENCY_BOUNDS,
    SCORE_BINS,
    SCORE_BOUNDS,
    Cell,
    Evidence,
    bin_of,
    total,
)


def cell(step=1, arm="serving", **counts):
    return Cell(step, arm, "a" * 64, **counts)


def test_latency_bounds_rise_by_the_root_of_one_and_a_half_up_to_ten_seconds():
    ratios = [b / a for a, b in pairwise(LATENCY_BOUNDS)]
    assert ratios == pytest.approx([math.sqrt(1.5)] * len(ratios), rel=1e-3)
    assert LATENCY_BOUNDS[0] == pytest.approx(0.0001)
    assert 9 < LATENCY_BOUNDS[-1] < 12


def test_a_value_on_a_bound_belongs_to_the_bin_below_it():
    assert bin_of(0.5, SCORE_BOUNDS) == bin_of(0.49, SCORE_BOUNDS)
    assert bin_of(0.5000001, SCORE_BOUNDS) == bin_of(0.5, SCORE_BOUNDS) + 1
    assert bin_of(0.0, SCORE_BOUNDS) == 0
    assert bin_of(1.0, SCORE_BOUNDS) == SCORE_BINS - 1
    assert bin_of(1e9, LATENCY_BOUNDS) == LATENCY_BINS - 1


def test_cells_add_up_all_their_counts_under_the_first_ones_name():
    ones = {"requests": 1, "errors": 1, "rows": 1, "defaulted": 1, "busy_seconds": 0.5}
    latency, scores = (1,) * LATENCY_BINS, (2,) * SCORE_BINS
    added = cell(1, latency=latency, scores=scores, **ones) + cell(2, latency=latency, scores=scores, **ones)
    assert (added.step, added.requests, added.errors, added.rows, added.defaulted) == (1, 2, 2, 2, 2)
    assert added.busy_seconds == 1.0
    assert set(added.latency) == {2}
    assert set(added.scores) == {4}


def test_a_total_takes_one_arm_and_the_steps_asked_for():
    cells = (cell(1, requests=1), cell(2, requests=2), cell(2, "candidate", requests=4), cell(3, requests=8))
    assert total(cells, "serving").requests == 11
    assert total(cells, "serving", [2, 3]).requests == 10
    assert Evidence(cells).total("candidate").requests == 4
    assert total(cells, "shadow") is None
    assert total(cells, "candidate", [1]) is None


@pytest.mark.parametrize(
    "counts",
    [
        {"requests": -1},
        {"requests": 1, "errors": 2},
        {"rows": 1, "defaulted": 2},
        {"latency": (1,)},
        {"scores": (0,) * (SCORE_BINS + 1)},
        {"requests": 1.0},
        {"requests": True},
        {"requests": math.nan},
        {"busy_seconds": math.nan},
        {"busy_seconds": math.inf},
        {"busy_seconds": -1.0},
        {"latency": (0.5,) * LATENCY_BINS},
    ],
)
def test_counts_that_cannot_be_true_are_not_sound(counts):
    assert sound([cell()])
    assert not sound([cell(), cell(**counts)])


def test_what_is_no_cell_is_not_sound():
    assert not sound([None])
    assert not sound([{"requests": 1}])


def test_the_bin_that_a_bound_cuts_in_two_is_only_possibly_slower():
    latency = [0] * LATENCY_BINS
    cut = bin_of(0.1, LATENCY_BOUNDS)
    latency[cut - 1], latency[cut], latency[cut + 1], latency[-1] = 1, 2, 4, 8
    assert slower(cell(latency=tuple(latency)), 100) == (12, 14)


def test_on_a_bound_nothing_is_in_doubt():
    latency = [1] * LATENCY_BINS
    surely, possibly = slower(cell(latency=tuple(latency)), LATENCY_BOUNDS[10] * 1000)
    assert surely == possibly == LATENCY_BINS - 11


def test_quantiles_are_upper_bounds():
    latency = [0] * LATENCY_BINS
    latency[5], latency[9] = 99, 1
    assert quantile_ms(latency, 0.5) == LATENCY_BOUNDS[5] * 1000
    assert quantile_ms(latency, 0.99) == LATENCY_BOUNDS[5] * 1000
    assert quantile_ms(latency, 0.995) == LATENCY_BOUNDS[9] * 1000
    latency[-1] = 1000
    assert quantile_ms(latency, 0.99) == LATENCY_BOUNDS[-1] * 1000


def test_the_mean_score_is_that_of_the_bins_middles():
    scores = [0] * SCORE_BINS
    assert mean_score(scores) == 0.0
    scores[0], scores[-1] = 1, 1
    assert mean_score(scores) == pytest.approx(0.5)


def test_the_spread_of_a_histogram_is_its_variance_in_bins():
    import numpy as np

    histogram = np.zeros(10, dtype=np.int64)
    assert bin_spread(histogram) == 100
    histogram[2], histogram[6] = 5, 5
    assert bin_spread(histogram) == pytest.approx(4 + 1 / 12)
