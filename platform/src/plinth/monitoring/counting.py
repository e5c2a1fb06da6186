"""The inner loop of the histograms: float32 values to cell counts, block by block, without a copy of the data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from plinth.monitoring.grid import Grid, Matrix, ordered

BLOCK = 16_384  # values counted at a time: the working set of a block (256 KiB) stays in the second-level cache


class Scratch:
    """Buffers that every block of every feature reuses."""

    def __init__(self) -> None:
        self.cell = np.empty(BLOCK, np.float32)
        self.index = np.empty(BLOCK, np.int64)


class Tally:
    """The counts of one feature so far, on its grid. Fields as in `histogram.Histogram`."""

    def __init__(self, grid: Grid, scratch: Scratch) -> None:
        self.counts: NDArray[np.int64] = np.zeros(grid.cells, np.int64)
        self.below = self.above = self.missing = self.other = 0
        self._grid = grid
        self._scratch = scratch
        self._lo, self._hi = np.float32(grid.lo), np.float32(grid.hi)
        self._last = np.float32(grid.cells - 1)
        span = grid.hi - grid.lo
        self._scale = np.float32(grid.cells / span if grid.cells > 1 and grid.kind == "linear" else 0)

    def add(self, values: Matrix) -> None:
        """Count a block [at most BLOCK] of values."""
        index = self._log_index(values) if self._grid.kind == "log" else self._index(values)
        counts = np.bincount(index, minlength=self._grid.cells)
        self._take_outside(values, counts, index)
        self.counts += counts

    def _index(self, values: Matrix) -> NDArray[np.int64]:
        cell, index = self._scratch.cell[: values.size], self._scratch.index[: values.size]
        with np.errstate(invalid="ignore", over="ignore"):  # infinities are clipped below, and counted as outside
            np.subtract(values, self._lo, out=cell)
            if self._grid.kind == "linear":
                np.multiply(cell, self._scale, out=cell)
        # fmax and fmin pass NaN over, so that it lands in cell 0, from where `_take_outside` removes it.
        np.fmax(cell, np.float32(0), out=cell)
        np.fmin(cell, self._last, out=cell)
        np.copyto(index, cell, casting="unsafe")
        return index

    def _log_index(self, values: Matrix) -> NDArray[np.int64]:
        index = self._scratch.index[: values.size]
        first, shift = self._grid.steps
        np.right_shift(ordered(values), shift, out=index)
        np.subtract(index, first, out=index)
        np.clip(index, 0, self._grid.cells - 1, out=index)
        index[np.isnan(values)] = 0  # NaN has bits, too
        return index

    def _take_outside(self, values: Matrix, counts: NDArray[np.int64], index: NDArray[np.int64]) -> None:
        """Take what is missing, out of range or no code out of the cells it was clipped into."""
        smallest, largest = values.min(), values.max()
        if np.isnan(smallest):  # the minimum is NaN as soon as one value is: one look tells whether to count
            missing = int(np.count_nonzero(np.isnan(values)))
            self.missing += missing
            counts[0] -= missing
            smallest, largest = np.fmin.reduce(values), np.fmax.reduce(values)
        if smallest < self._lo:
            below = int(np.count_nonzero(values < self._lo))
            self.below += below
            counts[0] -= below
        if largest > self._hi:
            above = int(np.count_nonzero(values > self._hi))
            self.above += above
            counts[-1] -= above
        if self._grid.kind == "discrete":
            # In range, a value is whole exactly when its cell gives it back.
            odd = (values >= self._lo) & (values <= self._hi) & (index.astype(np.float32) + self._lo != values)
            if odd.any():
                self.other += int(np.count_nonzero(odd))
                counts -= np.bincount(index[odd], minlength=self._grid.cells)


def count(grids: Sequence[Grid], matrix: Matrix) -> list[Tally]:
    """Count `matrix` [n, k] on `grids`, one a column.

    Column-major data are read where they lie. Row-major data are turned block by block: reading one column with
    strides would fetch every cache line up to 16 times.
    """
    scratch = Scratch()
    tallies = [Tally(grid, scratch) for grid in grids]
    rows = matrix.shape[0]
    if matrix.dtype == np.float32 and (matrix.strides[0] == matrix.itemsize or matrix.shape[1] == 1):
        for position, tally in enumerate(tallies):
            for start in range(0, rows, BLOCK):
                tally.add(matrix[start : start + BLOCK, position])
        return tallies
    turned = np.empty((len(tallies), BLOCK), np.float32)
    for start in range(0, rows, BLOCK):
        part = matrix[start : start + BLOCK]
        np.copyto(turned[:, : len(part)], part.T, casting="unsafe")
        for position, tally in enumerate(tallies):
            tally.add(turned[position, : len(part)])
    return tallies
