"""The paired bootstrap."""

import math

import numpy as np
import pytest

from plinth.core.bootstrap import paired_bootstrap


def test_equal_results_differ_by_nothing():
    found = paired_bootstrap([0.1, 0.5, 1.0], [0.1, 0.5, 1.0])
    assert (found.mean, found.low, found.high, found.n) == (0.0, 0.0, 0.0, 3)


def test_the_interval_is_that_of_normal_theory_for_many_pairs():
    random = np.random.default_rng(7)
    base = random.normal(size=400)
    gain = random.normal(0.2, 1.0, size=400)
    found = paired_bootstrap(list(base + gain), list(base), seed=3)
    half = 1.96 * gain.std() / math.sqrt(400)
    assert found.mean == pytest.approx(gain.mean())
    assert found.low == pytest.approx(gain.mean() - half, abs=0.01)
    assert found.high == pytest.approx(gain.mean() + half, abs=0.01)


def test_pairs_count_not_the_two_averages():
    random = np.random.default_rng(1)
    base = random.normal(0, 10, size=50)
    found = paired_bootstrap(list(base + 0.1), list(base))
    assert (found.low, found.high) == pytest.approx((0.1, 0.1))


def test_the_interval_covers_the_truth_as_often_as_it_says():
    random = np.random.default_rng(11)
    held = 0
    for trial in range(200):
        gain = random.exponential(0.3, size=60)
        found = paired_bootstrap(list(gain), [0.0] * 60, rounds=500, seed=trial)
        held += found.low <= 0.3 <= found.high
    assert 175 <= held <= 200


def test_a_seed_gives_the_same_interval_whatever_the_memory_step(monkeypatch):
    values, zeros = [0.1, 0.4, -0.2, 0.0], [0.0] * 4
    assert paired_bootstrap(values, zeros, seed=5) == paired_bootstrap(values, zeros, seed=5)
    monkeypatch.setattr("plinth.core.bootstrap._AT_ONCE", 7)
    assert paired_bootstrap(values, zeros, rounds=100, seed=5).n == 4


def test_no_pairs_say_nothing():
    found = paired_bootstrap([], [])
    assert (found.n, found.low, found.high) == (0, -math.inf, math.inf)


def test_what_is_no_pair_is_refused():
    with pytest.raises(ValueError, match="pairs"):
        paired_bootstrap([1.0], [])
    with pytest.raises(ValueError, match="finite"):
        paired_bootstrap([math.nan], [0.0])
