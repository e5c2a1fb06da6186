"""Predictions and the labels that came later: what is known about the model's work, and as of when.

The rules: a prediction logged a hundred times is one prediction (per entity and release, the latest event wins); of
several labels of one entity the latest known wins; a label that was not known at `as_of` does not exist.
`duckdb.py` applies them to the files, this module holds the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.datetime64]


@dataclass(frozen=True, eq=False)
class LogHealth:
    """What the inference log was like: rows read, duplicates left out, files that could not be read, rows dropped.

    `dropped` counts what the service could not write (full buffer), None when nobody counted it.
    """

    rows: int
    duplicates: int
    unreadable: tuple[str, ...] = ()
    dropped: int | None = None


@dataclass(frozen=True, eq=False)
class Labelled:
    """Predictions with their outcome, ordered by event time. All arrays have the same length [n].

    `release`: digests (objects, shared); `event_time`: datetime64[us], UTC; `score`: probability; `label`: 0 or
    1, NaN while unknown.
    """

    release: NDArray[np.object_]
    event_time: Times
    score: NDArray[np.float64]
    label: NDArray[np.float64]

    def __len__(self) -> int:
        return int(self.score.size)

    def where(self, rows: NDArray[np.bool_]) -> Labelled:
        """The rows for which `rows` [n] holds."""
        return Labelled(self.release[rows], self.event_time[rows], self.score[rows], self.label[rows])

    @property
    def known(self) -> Labelled:
        """Only the rows whose label is known."""
        return self.where(~np.isnan(self.label))

    def between(self, start: np.datetime64, end: np.datetime64) -> Labelled:
        """Rows with start <= event time < end."""
        return self.where((self.event_time >= start) & (self.event_time < end))

    def of(self, release: str) -> Labelled:
        """Rows of one release."""
        return self.where(self.release == release)

    @property
    def coverage(self) -> float:
        """Share of the predictions whose label is known."""
        return float((~np.isnan(self.label)).mean()) if len(self) else 0.0
