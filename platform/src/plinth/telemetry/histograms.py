"""Histograms counted here, with an exemplar for each bucket: the last traced request that fell into it.

Kept here and not in the Prometheus client, because BentoML makes the client keep its values in files, which hold no
exemplars (prometheus_client/values.py, MultiProcessValue).
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

from plinth.telemetry.metrics import Metric


class Traced(NamedTuple):
    """An observation that was traced: its value, its trace's id, and when it was made, Unix time."""

    value: float
    trace_id: str
    at: float


@dataclass(slots=True)
class _Counts:
    bins: list[int]
    traced: list[Traced | None]
    sum: float = 0.0


@dataclass(frozen=True, slots=True)
class Counted:
    """One series, as it is now.

    Attributes:
        labels: Values of the labels after `product`.
        cumulative: How many were at most each bound; the last is all of them.
        sum: Of all values.
        traced: The last traced observation of each bucket, where there is one.
    """

    labels: tuple[str, ...]
    cumulative: tuple[int, ...]
    sum: float
    traced: tuple[Traced | None, ...] = field(default=())


class Histogram:
    """The series of one histogram. Thread-safe.

    Args:
        metric: Which.
        bounds: Upper bounds of its buckets; sorted here, each once. The last bucket has none.
    """

    def __init__(self, metric: Metric, bounds: Iterable[float]) -> None:
        self.metric = metric
        self.bounds = tuple(sorted(set(bounds)))
        self._lock = threading.Lock()
        self._series: dict[tuple[str, ...], _Counts] = {}

    def observe(self, value: float, *labels: str, trace_id: str = "") -> None:
        """Count a value.

        Args:
            value: In the metric's unit; equal to a bound is within it.
            labels: Values of the labels after `product`.
            trace_id: Of its trace, 32 hexadecimal characters; "" where it is not traced.
        """
        at = bisect_left(self.bounds, value)
        with self._lock:
            series = self._series.get(labels)
            if series is None:
                bins = len(self.bounds) + 1
                series = self._series[labels] = _Counts([0] * bins, [None] * bins)
            series.bins[at] += 1
            series.sum += value
            if trace_id:
                series.traced[at] = Traced(value, trace_id, time.time())

    def now(self) -> list[Counted]:
        """Every series."""
        with self._lock:
            return [
                Counted(labels, tuple(accumulate(series.bins)), series.sum, tuple(series.traced))
                for labels, series in self._series.items()
            ]
