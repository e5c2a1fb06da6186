"""Training-serving skew: the values served online against the point-in-time join that training sees."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plinth.errors import InvalidInput, NotFound
from plinth.features.readplan import FeatureBlock, ReadPlan

if TYPE_CHECKING:
    import pandas as pd

    from plinth.features.port import FeatureStore

HOUR = 3600


@dataclass(frozen=True)
class FeatureSkew:
    """One feature that differs: how many rows, by how much at most, and a row to look at."""

    feature: str
    rows: int
    max: float
    example: str


@dataclass(frozen=True)
class SkewReport:
    """What was compared. `max_difference` is 0 when nothing differs, and finite always."""

    rows: int
    max_difference: float
    differences: tuple[FeatureSkew, ...]

    def as_evidence(self) -> dict[str, Any]:
        """The form the gate `no-skew` reads, and what a report shows."""
        return {
            "rows": self.rows,
            "max_difference": self.max_difference,
            "differences": [vars(difference) for difference in self.differences],
        }


def compare(
    online: NDArray[Any],
    offline: NDArray[Any],
    names: Sequence[str],
    tolerance: float = 0.0,
    entities: Sequence[str] | None = None,
) -> SkewReport:
    """Row by row, feature by feature, absolute differences above `tolerance`.

    Args:
        online: [n, k] as served.
        offline: [n, k] as trained on, same rows and columns.
        names: The k features.
        tolerance: Differences up to this are none.
        entities: The n entities, to name an example; default the row's number.

    A NaN on one side only, like an infinity, counts as the largest finite difference.

    Raises:
        InvalidInput: The shapes differ, or `names` does not fit.
    """
    if online.shape != offline.shape or online.ndim != 2 or online.shape[1] != len(names):
        raise InvalidInput(
            f"shapes {online.shape} and {offline.shape} with {len(names)} names", hint="compare the same rows"
        )
    both_nan = np.isnan(online) & np.isnan(offline)
    with np.errstate(invalid="ignore"):
        difference = np.abs(online.astype(np.float64) - offline.astype(np.float64))
    difference[both_nan | (online == offline)] = 0.0
    difference = np.nan_to_num(difference, nan=sys.float_info.max, posinf=sys.float_info.max)
    found = []
    for column, name in enumerate(names):
        rows = np.flatnonzero(difference[:, column] > tolerance)
        if len(rows):
            worst = int(rows[np.argmax(difference[rows, column])])
            example = entities[worst] if entities is not None else f"row {worst}"
            found.append(FeatureSkew(name, len(rows), float(difference[worst, column]), str(example)))
    return SkewReport(len(online), float(difference.max(initial=0.0)), tuple(found))


@dataclass(frozen=True)
class Sample:
    """Entity rows of some hours, and their values on both ways; `positions` index the rows given."""

    positions: NDArray[np.int64]
    online: FeatureBlock
    offline: FeatureBlock


def sample(store: FeatureStore, entities: pd.DataFrame, *, stretches: int = 3, hours: int = 8, seed: int = 0) -> Sample:
    """Serves entity rows of randomly chosen hours as the service would, and joins the same rows offline.

    The online side runs in a store of its own in a temporary folder, so a service that reads the product's online
    store is not disturbed. For each stretch everything known before it is materialized; then its hours are advanced
    through one by one, and each row is read at its own time.

    Args:
        store: The applied feature store.
        entities: Join keys and `event_timestamp` (UTC) as for `historical`.
        stretches: Stretches of consecutive hours.
        hours: Hours of each.
        seed: Of the choice.

    Raises:
        NotFound: No entity rows were given.
    """
    if not len(entities):
        raise NotFound("there is no entity row to compare", hint="choose a window that holds some")
    epoch = entities["event_timestamp"].astype("datetime64[us, UTC]").astype("int64").to_numpy() // 1_000_000
    hour = epoch // HOUR * HOUR
    starts = np.sort(np.random.default_rng(seed).permutation(np.unique(hour))[:stretches])
    chosen = np.unique(starts[:, None] + HOUR * np.arange(hours))
    positions = np.flatnonzero(np.isin(hour, chosen))
    rows, epoch, hour = entities.iloc[positions], epoch[positions], hour[positions]
    plan = ReadPlan.from_dict(store.compile_plan())
    offline = plan.fill(store.historical(rows)[plan.columns].to_numpy(np.float64))
    keys = {name: [value if isinstance(value, str) else None for value in rows[name]] for name in plan.join_keys}
    online = _serve(store, plan, keys, epoch, hour, chosen)
    return Sample(positions, online, offline)


def _serve(
    store: FeatureStore,
    plan: ReadPlan,
    keys: dict[str, list[str | None]],
    epoch: NDArray[np.int64],
    hour: NDArray[np.int64],
    chosen: NDArray[np.int64],
) -> FeatureBlock:
    values = np.empty((len(epoch), len(plan.columns)))
    status = np.empty((len(epoch), len(plan.views)), dtype=np.uint8)
    lookback = timedelta(seconds=max(view.ttl_seconds for view in plan.views))
    with tempfile.TemporaryDirectory(prefix="plinth-skew-") as folder:
        scratch = store.scratch(Path(folder))
        scratch.apply()
        reader = scratch.online.open(plan)
        previous = None
        for start in chosen.tolist():
            at = datetime.fromtimestamp(start, UTC)
            if previous != start - HOUR:
                scratch.clear_online()
                scratch.materialize(at - lookback - timedelta(hours=1), at - timedelta(hours=1))
            scratch.advance(at)
            previous = start
            here = np.flatnonzero(hour == start)
            block = reader.read({name: [column[i] for i in here] for name, column in keys.items()}, epoch[here])
            values[here], status[here] = block.values, block.status
        reader.close()
    return FeatureBlock(values, status)
