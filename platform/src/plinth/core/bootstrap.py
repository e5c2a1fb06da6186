"""Paired bootstrap: is a candidate better than the base on the same questions, and by how much. Pure.

After Efron and Tibshirani (1993), chapter 13 (percentile interval), paired by question as Smucker, Allan and Carterette
(CIKM 2007) do for retrieval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_AT_ONCE = 2_000_000


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean of candidate minus base over `n` pairs, and its 95% interval."""

    mean: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float | int]:
        """Stable JSON."""
        return {"mean": self.mean, "low": self.low, "high": self.high, "n": self.n}


def paired_bootstrap(
    candidate: Sequence[float], base: Sequence[float], *, rounds: int = 10_000, seed: int = 0
) -> Difference:
    """Compare two results of the same questions, in the same order.

    Args:
        candidate: One number a question.
        base: One number a question.
        rounds: Resamples.
        seed: Of the resampling: the same numbers give the same interval.

    Returns:
        The difference; without any pair it is 0 with an interval that excludes nothing.

    Raises:
        ValueError: They are of different lengths, or a number is not finite.
    """
    if len(candidate) != len(base):
        raise ValueError(f"{len(candidate)} numbers of the candidate, {len(base)} of the base: they are not pairs")
    gains = np.asarray(candidate, dtype=np.float64) - np.asarray(base, dtype=np.float64)
    if not np.isfinite(gains).all():
        raise ValueError("a number is not finite")
    n = len(gains)
    if n == 0:
        return Difference(0.0, float("-inf"), float("inf"), 0)
    random = np.random.default_rng(seed)
    step = max(1, _AT_ONCE // n)  # so that memory does not grow with rounds times questions
    means = [gains[random.integers(0, n, (min(step, rounds - i), n))].mean(axis=1) for i in range(0, rounds, step)]
    low, high = np.percentile(np.concatenate(means), (2.5, 97.5))
    return Difference(float(gains.mean()), float(low), float(high), n)
