"""Leakage: has a feature seen what was not known yet? Two checks that need no trust in how the feature was made.

`early_events` asks when each counted event became known. `changed_rows` compares tables built from the same past and
another future: whatever differs at or before the present has looked ahead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plinth.errors import InvalidInput

Columns = Mapping[str, NDArray[Any]]
"""A table by column, n values each."""


@dataclass(frozen=True)
class LeakReport:
    """What a check found. `checked` rows were looked at, `leaked` of them knew too much; some are named."""

    checked: int
    leaked: int
    worst_seconds: float
    examples: tuple[str, ...]

    @property
    def clean(self) -> bool:
        """Whether something was checked and nothing leaked."""
        return self.checked > 0 and self.leaked == 0


def early_events(
    ids: NDArray[Any], counted_at: NDArray[np.datetime64], known_at: NDArray[np.datetime64], examples: int = 5
) -> LeakReport:
    """Events that features counted before they were known.

    Args:
        ids: What to call each event, [n].
        counted_at: The feature row's timestamp from which it counts, datetime64 [n].
        known_at: When it was really known, datetime64 [n]; NaT where it never was.
        examples: How many of the worst to name.
    """
    if not len(ids) == len(counted_at) == len(known_at):
        raise InvalidInput(f"{len(ids)} ids, {len(counted_at)} and {len(known_at)} times", hint="give one each")
    never = np.isnat(known_at)
    early = np.where(never, np.inf, (known_at - counted_at) / np.timedelta64(1, "s"))
    leaked = np.flatnonzero(early > 0)
    worst = leaked[np.argsort(-early[leaked], kind="stable")][:examples]
    return LeakReport(
        len(ids), len(leaked), float(early[worst[0]]) if len(worst) else 0.0, tuple(str(ids[row]) for row in worst)
    )


def changed_rows(
    before: Columns, after: Columns, keys: Sequence[str], time: str, until: np.datetime64, examples: int = 5
) -> LeakReport:
    """Feature rows stamped at or before `until` that differ between two builds whose facts differ only after it.

    Rows are matched by `keys` and `time`; a row present in one build only differs. `worst_seconds` is the age, at
    `until`, of the oldest row that differs.
    """
    left, right = _until(before, keys, time, until), _until(after, keys, time, until)
    names = [name for name in before if name not in (*keys, time)]
    same_rows = len(left[time]) == len(right[time]) and all((left[k] == right[k]).all() for k in (*keys, time))
    if same_rows:
        differs = np.zeros(len(left[time]), dtype=bool)
        for name in names:
            a, b = left[name], right[name]
            equal = a == b
            if a.dtype.kind == "f":
                equal |= np.isnan(a) & np.isnan(b)
            differs |= ~equal
        rows, checked, table = np.flatnonzero(differs), len(differs), left
    else:
        seen = set(_rows(right, (*keys, time, *names)))
        rows = np.array([i for i, row in enumerate(_rows(left, (*keys, time, *names))) if row not in seen], dtype=int)
        checked, table = max(len(left[time]), len(right[time])), left
        if not len(rows):  # what differs is only in the second build
            seen = set(_rows(left, (*keys, time, *names)))
            table = right
            rows = np.array([i for i, row in enumerate(_rows(right, (*keys, time, *names))) if row not in seen])
    named = tuple(" ".join(str(table[k][row]) for k in (*keys, time)) for row in rows[:examples])
    age = float((until - table[time][rows].min()) / np.timedelta64(1, "s")) if len(rows) else 0.0
    return LeakReport(checked, len(rows), age, named)


def _until(table: Columns, keys: Sequence[str], time: str, until: np.datetime64) -> dict[str, NDArray[Any]]:
    rows = np.flatnonzero(table[time] <= until)
    order = rows[np.lexsort([table[time][rows], *(table[key][rows].astype(str) for key in keys)])]
    return {name: column[order] for name, column in table.items()}


def _rows(table: Columns, names: Sequence[str]) -> list[tuple[Any, ...]]:
    return list(zip(*(table[name].tolist() for name in names), strict=True))
