"""The distances against SciPy on the raw samples, and against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import jensenshannon

from plinth.monitoring import distances
from plinth.monitoring.histogram import Histogram, fit

rng = np.random.default_rng(20130101)


def pair(reference: np.ndarray, current: np.ndarray) -> tuple[Histogram, Histogram]:
    counted = fit(reference.astype(np.float32).reshape(-1, 1), ["x"])
    return counted.columns[0], counted.count(current.astype(np.float32).reshape(-1, 1)).columns[0]


SAMPLES = {
    "shifted": (rng.normal(size=30_000), rng.normal(0.4, 1.0, size=20_000)),
    "wider": (rng.normal(size=30_000), rng.normal(0, 2.0, size=20_000)),
    "heavy": (np.exp(2 * rng.normal(size=30_000)), np.exp(2 * rng.normal(0.3, 1, size=20_000))),
    "same": (rng.normal(size=30_000), rng.normal(size=20_000)),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_kolmogorov_smirnov_is_that_of_the_raw_samples(name: str) -> None:
    reference, current = SAMPLES[name]
    expected = stats.ks_2samp(reference, current).statistic
    assert distances.kolmogorov_smirnov(*pair(reference, current)) == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize("name", ["shifted", "same"])
def test_wasserstein_is_that_of_the_raw_samples_in_reference_deviations(name: str) -> None:
    reference, current = SAMPLES[name]
    current = np.clip(current, reference.min(), reference.max())  # beyond the range it is understated, as it says
    expected = stats.wasserstein_distance(reference, current) / reference.std()
    assert distances.wasserstein(*pair(reference, current)) == pytest.approx(expected, abs=0.002)


def test_jensen_shannon_is_scipys() -> None:
    p, q = np.array([400.0, 300.0, 300.0]), np.array([100.0, 500.0, 200.0])
    expected = jensenshannon(p + 0.5, q + 0.5, base=2)
    assert distances.jensen_shannon(p, q) == pytest.approx(expected, rel=1e-9)


def test_psi_of_large_groups_is_the_textbook_sum() -> None:
    p, q = np.array([5e6, 5e6]), np.array([8e6, 2e6])
    expected = (0.8 - 0.5) * np.log(0.8 / 0.5) + (0.2 - 0.5) * np.log(0.2 / 0.5)
    assert distances.psi(p, q) == pytest.approx(expected, rel=1e-5)
    assert distances.psi(p, p) == 0


def test_an_emptied_group_gives_a_finite_psi() -> None:
    assert 1 < distances.psi(np.array([500.0, 500.0]), np.array([1000.0, 0.0])) < 10


def test_groups_hold_a_tenth_of_the_reference_each() -> None:
    p, _ = distances.grouped(*pair(*SAMPLES["heavy"]))
    assert p.size == distances.PSI_BINS
    assert (np.abs(p / p.sum() - 0.1) < 0.02).all()


def test_a_value_that_half_of_the_rows_share_is_one_group() -> None:
    values = np.concatenate([np.zeros(5000), rng.exponential(size=5000)])
    p, q = distances.grouped(*pair(values, values))
    assert p[0] >= 5000
    assert p.sum() == q.sum() == 10_000


def test_an_unseen_code_shares_the_group_of_the_rare_ones() -> None:
    p, q = distances.grouped(*pair(np.repeat([1, 2], 500), np.repeat([1, 9], 500)))
    assert p.tolist() == [500, 500, 0]
    assert q.tolist() == [500, 0, 500]


def test_psi_without_drift_stays_under_its_noise_level() -> None:
    """Yurdakul & Naranjo's level holds: of 2,000 pairs of samples about 2 may pass the 99.9% level."""
    passed = 0
    for _ in range(2000):
        p, q = (generator.multinomial(size, np.full(10, 0.1)) for generator, size in ((rng, 3000), (rng, 400)))
        passed += distances.psi(p.astype(float), q.astype(float)) > distances.psi_noise(10, 3000, 400)
    assert passed <= 10


def test_the_noise_level_is_the_chi_squared_quantile() -> None:
    expected = stats.chi2.ppf(0.999, 9) * (1 / 5000 + 1 / 1000)
    assert distances.psi_noise(10, 5000, 1000) == pytest.approx(expected, rel=0.01)
    assert distances.psi_noise(1, 5000, 1000) == 0
