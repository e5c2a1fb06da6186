"""Alerts of products with a model: its log, its features, its drift."""

from __future__ import annotations

import re

from plinth.core.products import Product
from plinth.telemetry import metrics
from plinth.telemetry.alerts.model import Alert, owned
from plinth.telemetry.expressions import increase, series, since, total
from plinth.telemetry.metrics import Metric

DEFAULTED_SHARE = 0.2
OLD_REPORT_DAYS = 8
"""A report a week, and a day for it to come late."""


def alerts(product: Product) -> list[Alert]:
    """The alerts of a product with a model."""
    return [
        *log_alerts(product, metrics.LOG_DROPPED, metrics.LOG_ERRORS, "InferenceLog"),
        _defaulted(product),
        *_drift(product),
    ]


def log_alerts(product: Product, dropped: Metric, errors: Metric, name: str) -> list[Alert]:
    """The alerts of a log that answers do not wait for."""
    return [
        Alert(
            f"{name}Drops", f"{increase(dropped, '10m', product=product.name)} > 0", "0s", "ticket",
            f"{product.name}: its log drops entries",
            "The log's buffer is full: the disk is slower than the traffic, or full. What is dropped is missing from "
            "drift, quality and gates. `plinth doctor` checks the disk.",
            "logs", owned(product),
        ),
        Alert(
            f"{name}WriteFails", f"{increase(errors, '10m', product=product.name)} > 0", "5m", "ticket",
            f"{product.name}: its log cannot be written",
            "Writes fail and are tried again; when the buffer is full, entries are dropped. `plinth logs "
            f"{product.name}` "
            "has the error.",
            "logs", owned(product),
        ),
    ]  # fmt: skip


def _defaulted(product: Product) -> Alert:
    name = product.name
    rows = total(increase(metrics.DEFAULTED, "10m", product=name), "product", "view")
    asked = total(increase(metrics.PREDICTIONS, "10m", product=name), "product")
    return Alert(
        "FeaturesDefaulted",
        f"{rows} / on (product) group_left () {asked} > {DEFAULTED_SHARE} and on (product) {asked} > 50", "5m", "page",
        f"{name}: {{{{ $value | humanizePercentage }}}} of the predictions have no fresh {{{{ $labels.view }}}}",
        "The online store lost its rows (Valkey flushed or restarted empty), or nothing was materialized: predictions "
        "are "
        f"made from defaults. `plinth fsck --repair` fills the store of {name} again.",
        "features", owned(product),
    )  # fmt: skip


def _drift(product: Product) -> list[Alert]:
    name, labels, watched = product.name, owned(product), product.tabular().monitoring
    features = {"feature": "~" + "|".join(map(re.escape, watched.watch))} if watched.watch else {}
    drifted = f"{series(metrics.DRIFT_PSI, product=name, **features)} > {watched.drift_psi:g}"
    gap = f"abs({series(metrics.CALIBRATION_GAP, product=name)})"
    old = f"{since(metrics.REPORT_TIME, product=name)} > {OLD_REPORT_DAYS * 86400}"
    return [
        Alert(
            "Drift", f"count by (product) ({drifted}) >= {watched.drifted_features}", "5m", "ticket",
            f"{name}: {{{{ $value }}}} of its watched features drifted",
            f"What is asked is not what the model was trained on. `plinth drift report {name}` shows which features, "
            "and with `--trigger` it retrains outside the cool-down.",
            "drift", labels,
        ),
        Alert(
            "CalibrationOff", f"{gap} > {watched.calibration_gap:g}", "5m", "ticket",
            f"{name}: predictions and outcomes differ by {{{{ $value }}}} in the mean",
            "Over the trailing calibration window the mean prediction is off. Labels that are late or wrong look the "
            "same: "
            f"`plinth drift report {name}` shows both.",
            "drift", labels,
        ),
        Alert(
            "DriftReportOld", old, "1h", "ticket",
            f"{name}: nobody looked at drift for {{{{ $value | humanizeDuration }}}}",
            f"What the dashboards show of drift and quality is that old. `plinth drift report {name}` makes a new "
            "report.",
            "drift", labels,
        ),
    ]  # fmt: skip
