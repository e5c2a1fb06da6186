"""Distances between two histograms on one grid. Pure; each function names its source.

`p` is the reference, `q` the current counts. Outcomes outside of the reference's range are cells of their own at both
ends; missing values are left out (their share is checked apart, in `drift`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from plinth.monitoring.histogram import Histogram

Floats = NDArray[np.float64]

PSI_BINS = 10  # deciles of the reference: the convention behind the bounds 0.1 and 0.25 (Siddiqi 2006)


def grouped(reference: Histogram, current: Histogram, bins: int = PSI_BINS) -> tuple[Floats, Floats]:
    """Counts of both in the same few groups: cells joined until each holds 1/`bins` of the reference.

    What lies below and above the reference's range joins the outermost groups, so that one stray value moves nothing
    and a shift of the mass does. A discrete feature keeps a group a value down to 1/200 of the reference; rarer
    values, and values that are no code, share one group.
    """
    if reference.grid.kind == "discrete":
        common = reference.counts >= max(1, reference.present / 200)
        rest = [float(h.counts[~common].sum() + h.below + h.above + h.other) for h in (reference, current)]
        p, q = (
            np.append(h.counts[common].astype(np.float64), r) for h, r in zip((reference, current), rest, strict=True)
        )
        return (p, q) if rest[0] or rest[1] else (p[:-1], q[:-1])
    p, q = extended(reference)[1:-1], extended(current)[1:-1]
    total = max(p.sum(), 1.0)
    # A cell belongs to the group its middle falls into; a cell heavier than a group is a group. Cells that are empty
    # in the reference go with the cell before them.
    middle = (np.cumsum(p) - p / 2) / total
    filled = np.flatnonzero(p)
    if not filled.size:
        return np.zeros(1), np.array([q.sum() + current.below + current.above])
    _, number = np.unique(np.minimum((middle[filled] * bins).astype(int), bins - 1), return_inverse=True)
    group = number[np.maximum(np.searchsorted(filled, np.arange(p.size), side="right") - 1, 0)]
    joined = [np.bincount(group, weights=weights).astype(np.float64) for weights in (p, q)]
    for counts, histogram in zip(joined, (reference, current), strict=True):
        counts[0] += histogram.below
        counts[-1] += histogram.above
    return joined[0], joined[1]


def extended(histogram: Histogram) -> Floats:
    """Counts with what lies below in front and what lies above (and `other`) behind: [cells + 2]."""
    ends = [histogram.below], [histogram.above + histogram.other]
    return np.concatenate([ends[0], histogram.counts, ends[1]]).astype(np.float64)


def _shares(p: Floats, q: Floats) -> tuple[Floats, Floats]:
    # Half a count in every group (Jeffreys' prior) keeps the logarithm finite without a made-up constant.
    return (p + 0.5) / (p.sum() + p.size / 2), (q + 0.5) / (q.sum() + q.size / 2)


def psi(p: Floats, q: Floats) -> float:
    """Population stability index of grouped counts, in nats: sum (q - p) ln(q / p).

    Source: Siddiqi 2006, Credit Risk Scorecards.
    """
    a, b = _shares(p, q)
    return float(((b - a) * np.log(b / a)).sum())


def psi_noise(groups: int, n: float, m: float, z: float = 3.09) -> float:
    """The PSI that two samples of n and m rows from one distribution stay under with 99.9% (z = 3.09).

    Without drift PSI is about (1/n + 1/m) chi-squared with groups - 1 degrees of freedom (Yurdakul & Naranjo 2020,
    "Statistical properties of the population stability index", Journal of Risk Model Validation 14(4)). The quantile
    is Wilson & Hilferty's (1931). Rows are taken as independent; serially correlated traffic is noisier than this.
    """
    degrees = groups - 1
    if degrees < 1 or not n or not m:
        return 0.0
    correction = 2 / (9 * degrees)
    return float((1 / n + 1 / m) * degrees * (1 - correction + z * correction**0.5) ** 3)


def jensen_shannon(p: Floats, q: Floats) -> float:
    """Jensen-Shannon distance of grouped counts, in [0, 1]: the root of the divergence, base 2.

    Source: Endres & Schindelin 2003.
    """
    a, b = _shares(p, q)
    mean = (a + b) / 2
    divergence = (a * np.log2(a / mean) + b * np.log2(b / mean)).sum() / 2
    return float(np.sqrt(max(divergence, 0.0)))


def kolmogorov_smirnov(reference: Histogram, current: Histogram) -> float:
    """Largest difference of the two cumulative distributions at the cells' borders.

    At most the mass of one cell below the statistic of the raw samples.
    """
    p, q = extended(reference), extended(current)
    if not p.sum() or not q.sum():
        return 0.0
    return float(np.abs(np.cumsum(p) / p.sum() - np.cumsum(q) / q.sum()).max())


def wasserstein(reference: Histogram, current: Histogram) -> float:
    """First Wasserstein distance in standard deviations of the reference: how far the mass has to be moved.

    The integral of |F - G| over the grid; mass inside a cell is taken as spread evenly, mass outside of the range as
    lying at its end, so that a move further out is understated (the range check tells of it). Vallender 1974.
    """
    p, q = extended(reference), extended(current)
    if not p.sum() or not q.sum():
        return 0.0
    edges = reference.grid.edges()
    gap = np.cumsum(p)[:-1] / p.sum() - np.cumsum(q)[:-1] / q.sum()
    # Between two borders the difference is linear: exact where it keeps its sign, and a trapezoid under it otherwise.
    start, end, width = gap[:-1], gap[1:], np.diff(edges)
    same = start * end >= 0
    total = np.abs(start) + np.abs(end)
    with np.errstate(invalid="ignore", divide="ignore"):
        area = np.where(same, total / 2, (start**2 + end**2) / (2 * total))
    distance = float((area * width).sum())
    deviation = standard_deviation(reference)
    return distance / deviation if deviation > 0 else 0.0


def standard_deviation(histogram: Histogram) -> float:
    """Standard deviation of what lies on the grid, from the middles of the cells."""
    counts = histogram.counts.astype(np.float64)
    if not counts.sum():
        return 0.0
    edges = histogram.grid.edges()
    middle = (edges[:-1] + edges[1:]) / 2
    mean = float((counts * middle).sum() / counts.sum())
    return float(np.sqrt((counts * (middle - mean) ** 2).sum() / counts.sum()))
