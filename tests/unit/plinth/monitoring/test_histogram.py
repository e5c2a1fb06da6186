"""Histograms: what is counted where, and that counting apart and merging is counting together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from plinth.errors import InvalidInput
from plinth.monitoring.grid import CELLS, Grid
from plinth.monitoring.histogram import Histograms, fit, score_histogram

ANY_FLOAT = st.floats(width=32, allow_nan=True, allow_infinity=True)
columns = hnp.arrays(np.float32, st.integers(1, 60), elements=ANY_FLOAT)
finite = hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(width=32, allow_nan=False, allow_infinity=False))


def one(values: object) -> np.ndarray:
    return np.asarray(values, dtype=np.float32).reshape(-1, 1)


@given(reference=columns, current=columns)
def test_every_value_is_counted_exactly_once_whatever_it_is(reference: np.ndarray, current: np.ndarray) -> None:
    counted = fit(one(reference), ["x"]).count(one(current)).columns[0]
    assert counted.rows == current.size
    assert (counted.counts >= 0).all()
    assert counted.missing == np.isnan(current).sum()
    assert counted.below == (current < np.float32(counted.grid.lo)).sum()
    assert counted.above == (current > np.float32(counted.grid.hi)).sum()


@given(reference=columns, parts=st.lists(columns, min_size=3, max_size=3))
def test_merging_is_associative_and_commutative_and_equals_counting_together(
    reference: np.ndarray, parts: list[np.ndarray]
) -> None:
    grids = fit(one(reference), ["x"])
    a, b, c = (grids.count(one(part)) for part in parts)
    together = grids.count(one(np.concatenate(parts)))
    assert a.merge(b).merge(c) == a.merge(b.merge(c)) == c.merge(a).merge(b) == together
    assert grids.count_chunks(one(part) for part in parts) == together
    assert a.merge(grids.empty()) == a


@given(reference=finite)
def test_the_reference_itself_lies_inside_its_own_range(reference: np.ndarray) -> None:
    histogram = fit(one(reference), ["x"]).columns[0]
    assert histogram.counts.sum() == reference.size
    assert (histogram.below, histogram.above, histogram.missing, histogram.other) == (0, 0, 0, 0)


@settings(max_examples=50)
@given(reference=columns, current=columns)
def test_json_gives_back_an_equal_histogram(reference: np.ndarray, current: np.ndarray) -> None:
    counted = fit(one(reference), ["x"]).count(one(current))
    assert Histograms.from_dict(counted.as_dict()) == counted


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.linspace(-3, 7, 5000), "linear"),
        (np.exp(np.linspace(-12, 12, 5000)), "log"),
        (np.arange(5000) % 24, "discrete"),
        (np.full(10, 0.5), "linear"),
        (np.full(10, np.nan), "linear"),
        (np.linspace(-3e38, 3e38, 999), "log"),
    ],
)
def test_the_grid_fits_the_kind_of_feature(values: np.ndarray, kind: str) -> None:
    assert Grid.fit(values.astype(np.float32)).kind == kind


@pytest.mark.parametrize("tail", [1.0, 4.0], ids=["linear", "log"])
def test_cells_lie_between_their_edges(tail: float) -> None:
    values = np.exp(np.random.default_rng(1).normal(size=20_000) * tail).astype(np.float32)
    histogram = fit(one(values), ["x"]).columns[0]
    edges = histogram.grid.edges()
    assert edges.size == histogram.grid.cells + 1 <= CELLS + 1
    assert (np.diff(edges) > 0).all()
    # Half a count may change sides where float32 rounds at an edge.
    expected = np.histogram(values.astype(np.float64), edges)[0]
    assert np.abs(np.cumsum(expected) - np.cumsum(histogram.counts)).max() <= 2


def test_codes_are_counted_by_value_and_what_is_no_code_apart() -> None:
    reference = fit(one([0, 1, 1, 3]), ["hour"])
    assert reference.columns[0].counts.tolist() == [1, 2, 0, 1]
    current = reference.count(one([1, 2.5, 7, -1, np.nan, np.inf])).columns[0]
    assert current.counts.tolist() == [0, 1, 0, 0]
    assert (current.other, current.above, current.below, current.missing) == (1, 2, 1, 1)


def test_row_major_column_major_and_float64_data_count_the_same() -> None:
    rng = np.random.default_rng(2)
    matrix = rng.normal(size=(40_000, 7)).astype(np.float32)
    matrix[rng.random(matrix.shape) < 0.01] = np.nan
    matrix[:, 3] = rng.integers(0, 9, len(matrix))
    reference = fit(matrix, list("abcdefg"))
    assert reference == reference.count(np.asfortranarray(matrix)) == reference.count(matrix.astype(np.float64))
    assert reference == reference.count(matrix[:, ::-1][:, ::-1])
    assert sum(reference.count(row).rows for row in np.array_split(matrix, 9)) == len(matrix)


def test_different_grids_are_not_merged() -> None:
    a, b = fit(one([0.5, 1.25]), ["x"]), fit(one([0.5, 1.75]), ["x"])
    with pytest.raises(InvalidInput, match="different grids"):
        a.merge(b)
    with pytest.raises(InvalidInput, match="different features"):
        a.merge(fit(one([0.5, 1.25]), ["y"]))


def test_a_matrix_of_another_width_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"\[3, 2\] does not have 1 columns"):
        fit(one([1.0, 2.5]), ["x"]).count(np.zeros((3, 2), np.float32))
    with pytest.raises(InvalidInput, match="rows and one name a column"):
        fit(np.zeros((0, 1), np.float32), ["x"])


def test_scores_keep_their_thousandth() -> None:
    histogram = score_histogram(np.array([0.0, 0.0005, 0.1235, 1.0]))
    assert np.flatnonzero(histogram.counts).tolist() == [0, 123, 999]
    assert histogram.counts[0] == 2
