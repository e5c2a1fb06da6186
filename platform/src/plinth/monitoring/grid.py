"""Grids: where the cells of a feature's histogram lie. Fixed once, on the reference; pure arithmetic on float32.

Sources: equal-width cells are the textbook's; the `log` grid cuts the ordered bits of a float32, a piecewise-linear
logarithm, as in DDSketch's fast mapping (Masson, Rim, Lee: "DDSketch", VLDB 2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["linear", "log", "discrete"]
Matrix = NDArray[np.float32]

CELLS = 1024  # fine enough that KS loses < 0.1% on smooth data, small enough for JSON: 50 features take 150 kB
_SAMPLE = 100_000  # rows looked at to choose a grid
_APART = 0.6  # share of the percentiles that a linear grid has to tell apart; log otherwise


@dataclass(frozen=True)
class Grid:
    """Where the cells of a feature lie: `cells` of them from `lo` to `hi`, the reference's smallest and largest value.

    `linear`: equal width. `log`: equal steps of the ordered float32 bits, for heavy tails. `discrete`: one cell an
    integer from `lo` to `hi`, for codes.
    """

    kind: Kind
    lo: float
    hi: float
    cells: int

    @classmethod
    def fit(cls, values: Matrix) -> Grid:
        """The grid that suits finite `values` [n] float32; NaN and infinities are passed over."""
        finite = values[np.isfinite(values)]
        if not finite.size:
            return cls("linear", 0.0, 0.0, 1)
        lo, hi = np.float32(finite.min()), np.float32(finite.max())
        sample = np.sort(finite[:: max(1, finite.size // _SAMPLE)])
        span = float(hi) - float(lo)
        if span < CELLS and bool((np.rint(sample) == sample).all()):
            lo, hi = np.floor(lo), np.ceil(hi)  # what the sample passed over need not be whole
            return cls("discrete", float(lo), float(hi), int(float(hi) - float(lo)) + 1)
        if span * float(np.finfo(np.float32).max) < CELLS:  # one value, or a few subnormals: no width to divide
            return cls("linear", float(lo), float(hi), 1)
        if span <= float(np.finfo(np.float32).max) and _tells_apart(sample, span):
            return cls("linear", float(lo), float(hi), CELLS)
        first, last = _key(lo), _key(hi)
        shift = _shift(first, last)
        return cls("log", float(lo), float(hi), (last >> shift) - (first >> shift) + 1)

    @property
    def steps(self) -> tuple[int, int]:
        """Of a log grid: the ordered bits of `lo`, shifted, and the shift."""
        first = _key(self.lo)
        shift = _shift(first, _key(self.hi))
        return first >> shift, shift

    def edges(self) -> NDArray[np.float64]:
        """Cell borders, `cells + 1` of them, ascending; the outer two are `lo` and `hi` (discrete: half a step out)."""
        if self.kind == "discrete":
            return np.arange(self.cells + 1, dtype=np.float64) + (self.lo - 0.5)
        if self.kind == "linear":
            return np.asarray(np.linspace(self.lo, self.hi, self.cells + 1), dtype=np.float64)
        first, shift = self.steps
        inner = (first + np.arange(1, self.cells, dtype=np.int64)) << shift
        return np.concatenate([[self.lo], unordered(inner), [self.hi]]).astype(np.float64)


def _tells_apart(sample: Matrix, span: float) -> bool:
    """Whether equal cells are fine enough for the sorted `sample`: most percentiles have a cell of their own."""
    percentiles = np.unique(sample[np.linspace(0, sample.size - 1, 101).astype(int)]).astype(np.float64)
    cells = np.unique(((percentiles - percentiles[0]) / span * CELLS).astype(int))
    return bool(cells.size >= _APART * percentiles.size)


def ordered(values: Matrix) -> NDArray[np.int64]:
    """The bits of float32 values as integers that sort as the values do."""
    bits = values.astype(np.float32, copy=False).view(np.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64)


def _key(value: Any) -> int:
    return int(ordered(np.array([value], np.float32))[0])


def unordered(keys: NDArray[np.int64]) -> Matrix:
    """The float32 values of integers made by `ordered`."""
    bits = keys.astype(np.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(np.float32)


def _shift(first: int, last: int) -> int:
    """The smallest right shift that leaves at most CELLS different keys between `first` and `last`."""
    shift = 0
    while (last >> shift) - (first >> shift) + 1 > CELLS:
        shift += 1
    return shift
