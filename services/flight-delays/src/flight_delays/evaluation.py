"""Evaluation: how good a model is over a window, as evidence for the gates and as the tables of its card."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flight_delays.request import LEAD_TIME
from flight_delays.training import Baseline, Frame, Window
from plinth.errors import InvalidInput
from plinth.models import evaluation
from plinth.models.onnx import score

Scores = NDArray[np.float64]


def evaluate(
    frame: Frame, window: Window, predict: Callable[[NDArray[np.float32]], Scores], baseline: Baseline,
    *, serving_model: Path | None = None, unseen_from: date | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The evidence of a model over a window; every value is JSON.

    Args:
        frame: Labelled rows.
        window: The window to judge on; nothing in it was trained on.
        predict: float32 [m, k] to probabilities [m].
        baseline: The lookup fitted on the model's training window.
        serving_model: The ONNX file of the serving release, scored on the same rows; None when nothing serves.
        unseen_from: First day of departures that the serving release was neither trained nor tuned on; the comparison
            begins there, or both sides would not be judged alike.

    Returns:
        The keys of `plinth.models.evaluation.summary` (`auc`, `log_loss`, `calibration_error`, ...), `window`,
        `baseline_auc`, `baseline_log_loss`, `months` (each with its `baseline_auc`), `slices` (by origin, carrier and
        hour), `calibration`, `roc`, and `serving`: None, or candidate minus serving as `paired_by_day` says it, with
        the serving release's own `auc` and `log_loss` (absent, and so missing evidence, when the window has fewer than
        two days that the serving release has not seen). `contracts` and `skew` are other steps' evidence.

    Raises:
        InvalidInput: The window holds no row.
        RefusedByPolicy, Corrupt: The serving release's model cannot be loaded.
    """
    rows = window.rows(frame)
    if not rows.any():
        raise InvalidInput(
            f"the window {window} holds no row", where="evaluation", hint="land the batches it needs, or move it"
        )
    label, departure = (
        frame.label[rows],
        evaluation.as_datetime(frame.prediction_time)[rows] + np.timedelta64(LEAD_TIME),
    )
    scores, usual = predict(frame.matrix[rows]), baseline.predict(frame, rows)
    columns = {name: np.asarray(getattr(frame, name))[rows] for name in ("origin", "carrier", "hour")}
    months = evaluation.month_table(label, scores, departure)
    for month, by_lookup in zip(months, evaluation.month_table(label, usual, departure), strict=True):
        month["baseline_auc"], month["baseline_log_loss"] = by_lookup["auc"], by_lookup["log_loss"]
    evidence: dict[str, Any] = {
        "window": {"start": str(window.start), "end": str(window.end)},
        **evaluation.summary(label, scores),
        "baseline_auc": evaluation.auc(label, usual),
        "baseline_log_loss": evaluation.log_loss(label, usual),
        "months": months,
        "slices": evaluation.slice_table(label, scores, columns),
        "calibration": evaluation.calibration_curve(label, scores),
        "roc": evaluation.roc_curve(label, scores),
    }
    if serving_model is None:
        return {**evidence, "serving": None}
    fair = departure >= np.datetime64(unseen_from or window.start)
    if np.unique(departure[fair].astype("datetime64[D]")).size >= 2:
        theirs = score(serving_model, frame.matrix[rows][fair])
        evidence["serving"] = compare(label[fair], scores[fair], theirs, departure[fair])
    return evidence


def compare(label: NDArray[np.int8], candidate: Scores, serving: Scores, time: NDArray[Any]) -> dict[str, Any]:
    """Candidate against the serving release on the same rows, paired by day; see `paired_by_day`."""
    ours, theirs = evaluation.log_loss_rows(label, candidate), evaluation.log_loss_rows(label, serving)
    return {
        **evaluation.paired_by_day(ours, theirs, time),
        "auc": evaluation.auc(label, serving),
        "log_loss": evaluation.log_loss(label, serving),
        "calibration_error": evaluation.expected_calibration_error(label, serving),
    }


def logged_metrics(evidence: dict[str, Any]) -> dict[str, float]:
    """The numbers of the evidence that are worth a line in the registry and the release manifest."""
    names = ("auc", "log_loss", "calibration_error", "baseline_auc", "baseline_log_loss", "rows")
    metrics = {name: float(evidence[name]) for name in names if evidence[name] is not None}
    for month in evidence["months"]:
        for name in ("auc", "log_loss"):
            if month[name] is not None:
                metrics[f"{name}_{month['month'].replace('-', '_')}"] = float(month[name])
    if evidence.get("serving"):
        metrics["log_loss_difference"] = float(evidence["serving"]["log_loss_difference"])
    return metrics
