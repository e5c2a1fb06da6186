"""What each release did in a rollout, counted in this process: the cells of `core.evidence`, as they grow.

Kept here and not in the Prometheus client, because the series of an old rollout have to go when the next one comes,
wherever the client keeps its values (BentoML makes it keep them in files), and because a batch of scores is binned at
once.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from plinth.core.evidence import LATENCY_BINS, LATENCY_BOUNDS, SCORE_BINS, SCORE_BOUNDS, Arm, Cell, bin_of
from plinth.core.routes import Route

_SCORE_BOUNDS = np.array(SCORE_BOUNDS)
FEW = 16
"""Up to so many scores are binned one by one: numpy's fixed costs are 10 µs, and most requests have one instance."""


@dataclass(slots=True)
class _Count:
    requests: int = 0
    errors: int = 0
    latency: list[int] = field(default_factory=lambda: [0] * LATENCY_BINS)
    scores: list[int] = field(default_factory=lambda: [0] * SCORE_BINS)
    score_sum: float = 0.0
    rows: int = 0
    defaulted: int = 0
    busy_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Counted:
    """One cell and the sum of its finite scores."""

    cell: Cell
    score_sum: float


class RolloutCounts:
    """The counts of one rollout, the newest: a larger generation drops those of the one before. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._generation = 0
        self._counts: dict[tuple[int, Arm, str], _Count] = {}

    def add(
        self,
        route: Route,
        arm: Arm,
        release: str,
        *,
        failed: bool,
        seconds: float,
        scores: NDArray[np.float64],
        defaulted: int,
    ) -> None:
        """Count one request of one arm. One of an older generation than the newest is not counted.

        Args:
            route: The route it was answered under.
            arm: Who scored.
            release: Its digest.
            failed: Whether it failed because of the service.
            seconds: Its service time.
            scores: What the release said, [n], not counted of what failed; those not finite are rows without a score.
            defaulted: Rows that a view had no fresh value for, not counted of what failed.
        """
        scored = scores[:0] if failed else scores
        binned, score_sum = _few(scored) if len(scored) <= FEW else _many(scored)
        latency = bin_of(seconds, LATENCY_BOUNDS)
        with self._lock:
            if route.generation < self._generation:
                return
            if route.generation > self._generation:
                self._generation = route.generation
                self._counts.clear()
            count = self._counts.get((route.step, arm, release))
            if count is None:
                count = self._counts[route.step, arm, release] = _Count()
            count.requests += 1
            count.errors += failed
            count.latency[latency] += 1
            for score_bin, found in binned:
                count.scores[score_bin] += found
            count.score_sum += score_sum
            count.rows += len(scored)
            count.defaulted += 0 if failed else defaulted
            count.busy_seconds += seconds

    def now(self) -> tuple[int, list[Counted]]:
        """The generation (0 before the first rollout) and its cells."""
        with self._lock:
            return self._generation, [
                Counted(
                    Cell(
                        step, arm, release, count.requests, count.errors, tuple(count.latency),
                        tuple(count.scores), count.rows, count.defaulted, count.busy_seconds,
                    ),
                    count.score_sum,
                )
                for (step, arm, release), count in self._counts.items()
            ]  # fmt: skip


def _few(scores: NDArray[np.float64]) -> tuple[list[tuple[int, int]], float]:
    """Bins of the finite scores with how many are in each, and their sum."""
    finite = [score for score in scores.tolist() if math.isfinite(score)]
    return [(bin_of(score, SCORE_BOUNDS), 1) for score in finite], sum(finite)


def _many(scores: NDArray[np.float64]) -> tuple[list[tuple[int, int]], float]:
    """The same at numpy's pace."""
    finite = scores[np.isfinite(scores)]
    counts = np.bincount(np.searchsorted(_SCORE_BOUNDS, finite, side="left"))
    return list(enumerate(counts.tolist())), float(finite.sum())
