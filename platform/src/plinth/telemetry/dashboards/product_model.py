"""The part of a product's dashboard that only products with a model have: features, drift, quality."""

from __future__ import annotations

from plinth.core.products import Product
from plinth.telemetry import metrics
from plinth.telemetry.dashboards import units
from plinth.telemetry.dashboards.model import Bound, Panel, Query, Row
from plinth.telemetry.expressions import INTERVAL, largest, of_those, rate, series, since, total


def drift_rows(product: Product) -> tuple[Row, ...]:
    """The rows."""
    name, watched = product.name, product.tabular().monitoring
    scored = total(rate(metrics.PREDICTIONS, INTERVAL, product=name), "product")
    by_view = total(rate(metrics.DEFAULTED, INTERVAL, product=name), "product", "view")
    drift = Row(
        "Drift and features",
        (
            Panel(
                "Drift of the inputs",
                f"Population stability index of each feature in the last report; {watched.drift_psi:g} and above "
                "counts as drifted. Weather drifts with the seasons; watched features may trigger a retraining.",
                units.NUMBER,
                (Query(largest(series(metrics.DRIFT_PSI, product=name), "feature"), "{{feature}}", now=True),),
                kind="bars",
                width=12,
                bounds=(Bound(watched.drift_psi, "red"),),
                runbook="drift",
            ),
            Panel(
                "Drift of the scores",
                "The same index of what the model says. It moves with the inputs, or with the model.",
                units.NUMBER,
                (Query(series(metrics.DRIFT_SCORE, product=name), "scores"),),
                width=6,
                bounds=(Bound(watched.drift_psi, "red"),),
                runbook="drift",
            ),
            Panel(
                "Age of the report",
                "How old the three are. `plinth drift report` makes a new one.",
                units.SECONDS,
                (Query(since(metrics.REPORT_TIME, product=name), "age"),),
                width=6,
                runbook="drift",
            ),
            Panel(
                "Features defaulted",
                "Share of predictions whose row of a view was missing or stale. Near 1 for all views: the online "
                "store is empty.",
                units.SHARE,
                (Query(of_those(f"max by (product) ({by_view})", scored), "worst view"),),
                width=12,
                runbook="features",
            ),
            Panel(
                "Events",
                "Triggers of retraining, and other events of the ledger.",
                units.COUNT,
                (Query(total(series(metrics.EVENTS, product=name), "event"), "{{event}}"),),
                width=12,
                runbook="drift",
            ),
        ),
    )
    quality = Row(
        "Quality and calibration",
        (
            Panel(
                "Calibration gap",
                f"Mean prediction less the rate of outcomes over {watched.calibration_window}; beyond "
                f"{watched.calibration_gap:g} either way a retraining is due.",
                units.NUMBER,
                (Query(series(metrics.CALIBRATION_GAP, product=name), "gap"),),
                low=None,
                bounds=(Bound(watched.calibration_gap, "red"),),
                runbook="drift",
            ),
            Panel(
                "Quality on late labels",
                "What the outcomes that came later say of the predictions, last report.",
                units.NUMBER,
                (Query(series(metrics.QUALITY, product=name), "{{metric}}"),),
                low=None,
                runbook="drift",
            ),
            Panel(
                "Evaluation of the release",
                "What the release that serves scored before it was let out.",
                units.NUMBER,
                (Query(largest(series(metrics.EVALUATION, product=name), "metric"), "{{metric}}", now=True),),
                kind="bars",
                low=None,
            ),
        ),
    )
    return drift, quality
