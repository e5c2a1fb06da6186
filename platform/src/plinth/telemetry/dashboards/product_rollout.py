"""The part of a product's dashboard that shows the rollout in progress: phase, weight, and both arms side by side."""

from __future__ import annotations

from plinth.core.products import Product
from plinth.telemetry import metrics
from plinth.telemetry.dashboards import units
from plinth.telemetry.dashboards.model import Panel, Query, Row, stat
from plinth.telemetry.expressions import INTERVAL, average, increase, of_those, quantile, rate, series, total


def rollout_row(product: Product) -> Row:
    """The row; most of it is empty while nothing is rolled out."""
    name = product.name
    requests = total(rate(metrics.ROLLOUT_REQUESTS, INTERVAL, product=name), "arm")
    errors = total(rate(metrics.ROLLOUT_ERRORS, INTERVAL, product=name), "arm")
    rows = total(rate(metrics.ROLLOUT_ROWS, INTERVAL, product=name), "arm")
    defaulted = total(rate(metrics.ROLLOUT_DEFAULTED, INTERVAL, product=name), "arm")
    return Row(
        "Rollout in progress",
        (
            stat(
                "Phase",
                "waiting, shadow, canary, full, paused, promoting, aborting; nothing without a rollout.",
                units.NUMBER,
                f"{series(metrics.ROLLOUT_PHASE, product=name)} == 1",
                legend="{{phase}}",
                runbook="rollouts",
            ),
            stat(
                "Step",
                "Step of the rollout that the service applies; 0 without one.",
                units.NUMBER,
                series(metrics.ROUTE_STEP, product=name),
            ),
            stat(
                "Candidate's share",
                "Share of the entities that the candidate answers.",
                units.SHARE,
                series(metrics.ROUTE_WEIGHT, product=name),
            ),
            stat(
                "Approvals waiting",
                "Rollouts that wait for somebody's consent: `plinth approve`.",
                units.COUNT,
                series(metrics.APPROVALS_WAITING, product=name),
                bounds=units.BAD_ABOVE_0,
                runbook="rollouts",
            ),
            stat(
                "Shadow dropped, 1 h",
                "Requests the shadow could not follow: its evidence is a part of the traffic.",
                units.COUNT,
                increase(metrics.SHADOW_DROPPED, "1h", product=name),
                runbook="rollouts",
            ),
            stat(
                "Releases",
                "Releases in the ledger that are not retired.",
                units.COUNT,
                series(metrics.RELEASES, product=name),
            ),
            Panel(
                "Requests of each arm",
                "serving, candidate, shadow. A candidate without requests gives no evidence, and is not promoted.",
                units.PER_SECOND,
                (Query(requests, "{{arm}}"),),
                width=6,
                runbook="rollouts",
            ),
            Panel(
                "Errors of each arm",
                "Share that failed because of the service. The gates compare both arms on the same traffic.",
                units.SHARE,
                (Query(of_those(errors, requests), "{{arm}}"),),
                width=6,
                runbook="rollouts",
            ),
            Panel(
                "p95 of each arm",
                "Service time that 95% stay below.",
                units.SECONDS,
                (Query(quantile(0.95, metrics.ROLLOUT_SECONDS, "arm", product=name), "{{arm}}"),),
                width=6,
                runbook="rollouts",
            ),
            Panel(
                "Mean score of each arm",
                "A candidate whose scores move was trained on something else, or is fed something else.",
                units.NUMBER,
                (Query(average(metrics.ROLLOUT_SCORES, "arm", product=name), "{{arm}}"),),
                width=6,
                runbook="rollouts",
            ),
            Panel(
                "Defaulted rows of each arm",
                "Share of instances that a feature view had no fresh value for, or answers a guardrail stepped in on.",
                units.SHARE,
                (Query(of_those(defaulted, rows), "{{arm}}"),),
                width=12,
                height=6,
                runbook="features",
            ),
            Panel(
                "Rollouts ended, 30 d",
                "How the product's rollouts ended, by outcome.",
                units.COUNT,
                (Query(total(increase(metrics.ROLLOUTS_ENDED, "30d", product=name), "outcome"), "{{outcome}}"),),
                width=12,
                height=6,
                runbook="rollouts",
            ),
        ),
    )
