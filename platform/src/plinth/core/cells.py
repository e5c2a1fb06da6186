"""Reading the cells of a rollout's evidence: whether they can be true, and what their bins say. Pure."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from plinth.core.evidence import LATENCY_BINS, LATENCY_BOUNDS, SCORE_BINS, SCORE_WIDTH, Cell


def sound(cells: Iterable[object]) -> bool:
    """Whether these are cells whose counts can be true: whole, not negative, no more errors than requests."""
    return all(isinstance(cell, Cell) and _sound(cell) for cell in cells)


def _sound(cell: Cell) -> bool:
    counts = (cell.requests, cell.errors, cell.rows, cell.defaulted, *cell.latency, *cell.scores)
    return (
        len(cell.latency) == LATENCY_BINS
        and len(cell.scores) == SCORE_BINS
        and set(map(type, counts)) <= {int, np.int64}
        and min(counts) >= 0
        and cell.errors <= cell.requests
        and cell.defaulted <= cell.rows
        and 0 <= cell.busy_seconds < math.inf
    )


def slower(cell: Cell, milliseconds: float) -> tuple[int, int]:
    """Requests slower than a bound: surely, and possibly (those in the bin that the bound cuts in two as well)."""
    bound = milliseconds / 1000
    first = bisect_left(LATENCY_BOUNDS, bound) + 1  # the first bin that begins at the bound or above
    return sum(cell.latency[first:]), sum(cell.latency[bisect_right(LATENCY_BOUNDS, bound) :])


def quantile_ms(latency: Sequence[int], share: float) -> float:
    """Upper bound in milliseconds of the bin that holds a quantile; the last bin has only a lower one."""
    need, seen = share * sum(latency), 0
    for count, bound in zip(latency, LATENCY_BOUNDS, strict=False):
        seen += count
        if seen >= need:
            return bound * 1000
    return LATENCY_BOUNDS[-1] * 1000


def mean_score(scores: Sequence[int]) -> float:
    """Mean of the scores, each counted as the middle of its bin; 0 when there are none."""
    n = sum(scores)
    return SCORE_WIDTH * sum(count * (number + 0.5) for number, count in enumerate(scores)) / n if n else 0.0


def bin_spread(histogram: NDArray[np.int64]) -> float:
    """Variance of a histogram's values in bins, that within a bin included; of no values it is large."""
    n = int(histogram.sum())
    if n == 0:
        return float(len(histogram) ** 2)
    numbers = np.arange(len(histogram))
    mean = float((histogram * numbers).sum()) / n
    return float((histogram * (numbers - mean) ** 2).sum()) / n + 1 / 12
