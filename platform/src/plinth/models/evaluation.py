"""How good a binary classifier is: ranking, loss, calibration, slices, months, and a paired comparison by day.

Pure numpy. Labels are 0 or 1, scores are probabilities; both are one-dimensional and of the same length.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from plinth.errors import InvalidInput

Floats = NDArray[np.float64]

# Probabilities are clipped here before the logarithm, so that one confident mistake costs 34.5 and not infinity.
CLIP = 1e-15
# Below this a percentile bootstrap over days has too few distinct resamples for a 95% bound to mean anything.
MINIMUM_DAYS = 7


def _pair(label: ArrayLike, score: ArrayLike) -> tuple[Floats, Floats]:
    labels, scores = np.asarray(label, dtype=np.float64), np.asarray(score, dtype=np.float64)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise InvalidInput(
            f"labels of shape {labels.shape} and scores of shape {scores.shape} do not pair",
            where="plinth.models.evaluation",
            hint="pass two one-dimensional arrays of the same length",
        )
    if not labels.size or not np.isin(labels, (0.0, 1.0)).all() or not np.isfinite(scores).all():
        raise InvalidInput(
            "labels must be 0 or 1, scores finite, and there must be at least one row",
            where="plinth.models.evaluation",
            hint="drop the rows without a label before evaluating",
        )
    return labels, scores


def auc(label: ArrayLike, score: ArrayLike) -> float | None:
    """Area under the ROC curve: the chance that a random positive outranks a random negative, ties counting half.

    Source: Mann-Whitney U; Hanley & McNeil 1982. None when only one class is there: the AUC is not defined then.
    """
    labels, scores = _pair(label, score)
    positives = labels.sum()
    negatives = labels.size - positives
    if not positives or not negatives:
        return None
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    average_rank = last - (counts - 1) / 2
    rank_sum = average_rank[inverse][labels == 1].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


def log_loss_rows(label: ArrayLike, score: ArrayLike) -> Floats:
    """Log loss of every row, in nats; shape [n]."""
    labels, scores = _pair(label, score)
    clipped = np.clip(scores, CLIP, 1 - CLIP)
    loss: Floats = -np.where(labels == 1, np.log(clipped), np.log1p(-clipped))
    return loss


def log_loss(label: ArrayLike, score: ArrayLike) -> float:
    """Mean log loss, in nats."""
    return float(log_loss_rows(label, score).mean())


def calibration_curve(label: ArrayLike, score: ArrayLike, bins: int = 20) -> list[dict[str, float]]:
    """Mean prediction against outcome rate in bins of equal mass (equal scores stay in one bin).

    Returns:
        Per non-empty bin `{"rows", "mean_prediction", "outcome_rate"}`, by rising prediction.
    """
    labels, scores = _pair(label, score)
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, bins + 1)[1:-1]))
    place = np.searchsorted(edges, scores, side="right")
    rows = np.bincount(place, minlength=edges.size + 1)
    predicted = np.bincount(place, weights=scores, minlength=edges.size + 1)
    outcome = np.bincount(place, weights=labels, minlength=edges.size + 1)
    return [
        {"rows": int(n), "mean_prediction": float(p / n), "outcome_rate": float(o / n)}
        for n, p, o in zip(rows, predicted, outcome, strict=True)
        if n
    ]


def expected_calibration_error(label: ArrayLike, score: ArrayLike, bins: int = 20) -> float:
    """Mean |prediction - outcome rate| over bins of equal mass, weighted by rows.

    Source: Naeini et al. 2015; equal-mass bins after Nixon et al. 2019, since equal-width ones are mostly empty here.
    """
    curve = calibration_curve(label, score, bins)
    total = sum(point["rows"] for point in curve)
    return sum(point["rows"] * abs(point["mean_prediction"] - point["outcome_rate"]) for point in curve) / total


def roc_curve(label: ArrayLike, score: ArrayLike, points: int = 200) -> list[tuple[float, float]]:
    """The ROC curve as at most `points` pairs (false positive rate, true positive rate), for plotting."""
    labels, scores = _pair(label, score)
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    true, false = np.cumsum(labels[order])[ends], np.cumsum(1 - labels[order])[ends]
    keep = np.unique(np.linspace(0, ends.size - 1, min(points - 1, ends.size)).astype(int))
    x, y = false[keep] / max(false[-1], 1), true[keep] / max(true[-1], 1)
    return [(0.0, 0.0), *((float(a), float(b)) for a, b in zip(x, y, strict=True))]


def summary(label: ArrayLike, score: ArrayLike) -> dict[str, Any]:
    """`{"rows", "outcome_rate", "mean_prediction", "auc", "log_loss", "calibration_error"}` of one set of rows."""
    labels, scores = _pair(label, score)
    return {
        "rows": int(labels.size),
        "outcome_rate": float(labels.mean()),
        "mean_prediction": float(scores.mean()),
        "auc": auc(labels, scores),
        "log_loss": log_loss(labels, scores),
        "calibration_error": expected_calibration_error(labels, scores),
    }


def slice_table(label: ArrayLike, score: ArrayLike, slices: Mapping[str, ArrayLike]) -> list[dict[str, Any]]:
    """`summary` of every value of every slice column, with `slice` and `value` (as text) in front.

    Args:
        label: [n].
        score: [n].
        slices: Column name to values [n], such as `{"carrier": ["UA", ...]}`.
    """
    labels, scores = _pair(label, score)
    table = []
    for name, column in slices.items():
        values, place = np.unique(np.asarray(column), return_inverse=True)
        for index, value in enumerate(values):
            rows = place == index
            table.append({"slice": name, "value": str(value), **summary(labels[rows], scores[rows])})
    return table


def month_table(label: ArrayLike, score: ArrayLike, time: ArrayLike) -> list[dict[str, Any]]:
    """`summary` by calendar month (UTC), with `month` ("2013-06") in front.

    Args:
        label: [n].
        score: [n].
        time: [n], epoch seconds (int64) or datetime64, UTC.
    """
    months = as_datetime(time).astype("datetime64[M]")
    return [
        {"month": row.pop("value"), **{key: value for key, value in row.items() if key != "slice"}}
        for row in slice_table(label, score, {"month": months})
    ]


def as_datetime(time: ArrayLike) -> NDArray[np.datetime64]:
    """Epoch seconds or datetime64 of any unit as datetime64[s]."""
    values = np.asarray(time)
    if values.dtype.kind in "iu":
        values = values.astype(np.int64)
    elif values.dtype.kind != "M":
        raise InvalidInput(
            f"times of type {values.dtype} are neither epoch seconds nor datetime64",
            where="plinth.models.evaluation",
            hint="pass int64 epoch seconds in UTC",
        )
    seconds: NDArray[np.datetime64] = values.astype("datetime64[s]")
    return seconds


def paired_by_day(
    candidate_loss: ArrayLike, serving_loss: ArrayLike, time: ArrayLike, *, draws: int = 4000, seed: int = 20130101
) -> dict[str, Any]:
    """Is the candidate worse than the serving release on the same rows? Mean loss difference and its upper bound.

    Rows of one day share their weather, so they are no independent evidence: whole days are drawn with replacement
    (a block bootstrap with blocks of one day) and the upper bound is the 95th percentile (one-sided) of the drawn
    row-weighted means. Sources: Künsch 1989 (block bootstrap), Efron & Tibshirani 1993, chapter 13 (percentiles).
    Days are taken as independent of each other; a storm of two days makes the bound a little too narrow.

    Args:
        candidate_loss: [n], loss of every row under the candidate.
        serving_loss: [n], loss of the same rows under the serving release.
        time: [n], epoch seconds or datetime64, UTC; its calendar day is the block.
        draws: Bootstrap draws.
        seed: The same input gives the same bound.

    Returns:
        `{"log_loss_difference", "upper_bound", "days", "rows"}`, candidate minus serving. `upper_bound` is None under
        seven days: the gate then says that evidence is missing.
    """
    difference = np.asarray(candidate_loss, dtype=np.float64) - np.asarray(serving_loss, dtype=np.float64)
    days = as_datetime(time).astype("datetime64[D]")
    if difference.ndim != 1 or difference.shape != days.shape or not difference.size:
        raise InvalidInput(
            f"losses of shape {difference.shape} and times of shape {days.shape} do not pair",
            where="plinth.models.evaluation.paired_by_day",
            hint="score both releases on the same rows",
        )
    _, place = np.unique(days, return_inverse=True)
    rows = np.bincount(place).astype(np.float64)
    totals = np.bincount(place, weights=difference)
    result: dict[str, Any] = {
        "log_loss_difference": float(difference.mean()),
        "upper_bound": None,
        "days": int(rows.size),
        "rows": int(difference.size),
    }
    if rows.size >= MINIMUM_DAYS:
        drawn = np.random.default_rng(seed).multinomial(rows.size, np.full(rows.size, 1 / rows.size), size=draws)
        result["upper_bound"] = float(np.quantile((drawn @ totals) / (drawn @ rows), 0.95))
    return result
