"""Performance once labels arrive: by month and release, and calibration over trailing windows.

Calibration (mean prediction against outcome) is what alarms: it needs no second model, and on this kind of data PSI
fires every month of the year and means little (docs/explanation/monitoring.md).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from plinth.errors import InvalidInput
from plinth.models import evaluation
from plinth.monitoring.labels import Labelled

DAY = np.timedelta64(1, "D")
MATURITY_DAYS = 1  # whole days before `as_of` whose labels are not all there yet


@dataclass(frozen=True)
class Period:
    """The work of one release in one calendar month (UTC), over labelled predictions. `auc` None: one class only."""

    month: str
    release: str
    rows: int
    labelled: int
    auc: float | None
    log_loss: float | None
    mean_prediction: float | None
    outcome_rate: float | None


@dataclass(frozen=True)
class Calibration:
    """Mean prediction minus outcome rate over a trailing window that ends (exclusively) on day `end`.

    `error` is the standard error with days as blocks; None under two days. `coverage`: share of the window's
    predictions that have a label.
    """

    end: str
    days: int
    rows: int
    gap: float
    error: float | None
    log_loss: float
    coverage: float

    def as_dict(self) -> dict[str, Any]:
        """The point as JSON."""
        return asdict(self)


def by_month(data: Labelled) -> list[Period]:
    """One row a month and release, in order of time."""
    months = data.event_time.astype("datetime64[M]")
    periods: list[Period] = []
    for month in np.unique(months):
        part = data.where(months == month)
        releases, first = np.unique(part.release, return_index=True)
        periods.extend(_period(str(month), str(name), part.of(name)) for name in releases[np.argsort(first)])
    return periods


def _period(month: str, release: str, data: Labelled) -> Period:
    known = data.known
    if not len(known):
        return Period(month, release, len(data), 0, None, None, None, None)
    return Period(
        month, release, len(data), len(known),
        evaluation.auc(known.label, known.score), evaluation.log_loss(known.label, known.score),
        float(known.score.mean()), float(known.label.mean()),
    )  # fmt: skip


def trailing(data: Labelled, window_days: int = 14, minimum_labels: int = 1) -> list[Calibration]:
    """Calibration over every window of `window_days` whole days, one ending after each day of the data.

    The first window ends `window_days` after the first day. Windows with fewer labels than `minimum_labels` are left
    out. The standard error is that of a ratio of day totals (Cochran 1977, Sampling Techniques, section 6.3): rows of
    one day share their weather, so days and not rows are the independent evidence.

    Raises:
        InvalidInput: The window is shorter than a day.
    """
    if window_days < 1:
        raise InvalidInput(f"a window of {window_days} days holds no day", hint="use one day or more")
    if not len(data):
        return []
    days = data.event_time.astype("datetime64[D]")
    first, last = days.min(), days.max()
    place = (days - first).astype(np.int64)
    size = int((last - first) / DAY) + 1
    known = ~np.isnan(data.label)
    label, score = data.label[known], data.score[known]
    seen = np.bincount(place, minlength=size)
    count = np.bincount(place[known], minlength=size)
    residual = np.bincount(place[known], weights=score - label, minlength=size)
    losses = evaluation.log_loss_rows(label, score) if label.size else np.zeros(0)
    loss = np.bincount(place[known], weights=losses, minlength=size)
    points = []
    for end in range(min(window_days, size), size + 1):
        window = slice(max(0, end - window_days), end)
        rows = int(count[window].sum())
        if rows < max(minimum_labels, 1):
            continue
        gap = float(residual[window].sum() / rows)
        points.append(
            Calibration(
                end=str(first + end * DAY),
                days=int((count[window] > 0).sum()),
                rows=rows,
                gap=gap,
                error=_block_error(residual[window], count[window], gap),
                log_loss=float(loss[window].sum() / rows),
                coverage=float(rows / seen[window].sum()),
            )
        )
    return points


def _block_error(residual: Any, count: Any, gap: float) -> float | None:
    full = count > 0
    days = int(full.sum())
    if days < 2:
        return None
    deviation = residual[full] - gap * count[full]
    return float(np.sqrt(days / (days - 1) * (deviation**2).sum()) / count.sum())


def calibration_at(
    data: Labelled, end: np.datetime64, window_days: int = 14, minimum_labels: int = 1
) -> Calibration | None:
    """The trailing window that ends (exclusively) on day `end`; None with fewer labels than `minimum_labels`."""
    end = end.astype("datetime64[D]")
    points = trailing(data.between(end - window_days * DAY, end), window_days, minimum_labels)
    return replace(points[-1], end=str(end)) if points else None


def mature_end(as_of: np.datetime64, days: int = MATURITY_DAYS) -> np.datetime64:
    """The day up to which (exclusively) the labels known at `as_of` are complete.

    Of the flights of the last day, those that landed on time have their label first: counting them would look like
    over-prediction.
    """
    end: np.datetime64 = as_of.astype("datetime64[D]") - days * DAY
    return end


def calibration_threshold(reference: Labelled, window_days: int = 14, errors: float = 1.0) -> float:
    """The bound on |gap| that a quiet reference month sets, from that month alone.

    The rule: the largest |gap| of the month's trailing windows plus `errors` times the standard error of that window.
    So the month itself never alarms, and what alarms later is a gap that the month did not come near.

    Raises:
        InvalidInput: The month has no window with two labelled days.
    """
    points = [point for point in trailing(reference, window_days) if point.error is not None]
    if not points:
        raise InvalidInput(
            "the reference month has no window with labels on two days",
            hint="pass a month of labelled predictions",
        )
    worst = max(points, key=lambda point: abs(point.gap))
    return abs(worst.gap) + errors * (worst.error or 0.0)
