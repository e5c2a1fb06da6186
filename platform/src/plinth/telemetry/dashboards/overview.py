"""The platform at a glance: what fires, whose budget is spent, what is rolled out, whether the platform lives."""

from __future__ import annotations

from plinth.telemetry import foreign, metrics, recorded
from plinth.telemetry.dashboards import units
from plinth.telemetry.dashboards.model import Board, Bound, Panel, Query, Row, stat
from plinth.telemetry.expressions import INTERVAL, increase, largest, rate, series, since, total


def board() -> Board:
    """The dashboard."""
    return Board(
        "overview",
        "Plinth: platform overview",
        "Every product and the platform on one page. Begin here, then open the product's own dashboard.",
        (_now(), _levels(), _traffic(), _changes()),
    )


def _now() -> Row:
    firing = series(foreign.ALERTS, alertstate="firing", severity="~page|ticket")
    return Row(
        "Now",
        (
            stat(
                "Pages firing",
                "Alerts that call somebody. Each names its runbook.",
                units.COUNT,
                f"count({series(foreign.ALERTS, alertstate='firing', severity='page')}) or vector(0)",
                bounds=units.BAD_ABOVE_0,
            ),
            stat(
                "Services up",
                "Products whose service gives metrics, by their release's generation above 0.",
                units.COUNT,
                f"count({series(metrics.RELEASE_GENERATION)} > 0) or vector(0)",
                base="red",
                bounds=units.GOOD_FROM_1,
            ),
            stat(
                "Controller leads",
                "1 while a controller holds the lease. At 0 no rollout moves and none goes back.",
                units.NUMBER,
                largest(series(metrics.CONTROLLER_LEADS)),
                base="red",
                bounds=units.GOOD_FROM_1,
                runbook="controller",
            ),
            stat(
                "Ledger",
                "1 while the ledger can be read. At 0 nothing can be released or taken back.",
                units.NUMBER,
                largest(series(metrics.LEDGER_UP)),
                base="red",
                bounds=units.GOOD_FROM_1,
                runbook="controller",
            ),
            stat(
                "Prefect",
                "1 while the Prefect server answers. At 0 no pipeline starts.",
                units.NUMBER,
                largest(series(metrics.PREFECT_UP)),
                base="red",
                bounds=units.GOOD_FROM_1,
                runbook="controller",
            ),
            stat(
                "Version", "What the controller runs.", units.NUMBER, series(metrics.BUILD_INFO), legend="{{version}}"
            ),
            Panel(
                "Alerts firing",
                "What fires now, worst first. `severity` page calls somebody; the runbook of each alert stands "
                "under its name in docs/runbooks.",
                units.NUMBER,
                (Query(firing, now=True),),
                kind="table",
                width=24,
                height=6,
            ),
        ),
    )


def _levels() -> Row:
    left = Bound(0.0, "orange"), Bound(0.25, "yellow"), Bound(0.5, "green")
    return Row(
        "Service levels",
        (
            Panel(
                "Error budget left",
                "Share of each level's error budget that is left in its window; below 0 the promise is broken. Slow "
                "down changes of a product whose budget is spent.",
                units.SHARE,
                (Query(series(recorded.BUDGET_LEFT), "{{product}} {{level}}", now=True),),
                kind="gauge",
                width=12,
                base="red",
                bounds=left,
                low=-0.5,
                high=1.0,
                runbook="service-levels",
            ),
            Panel(
                "Burn rate, last hour",
                "Speed at which budgets are used: 1 uses a budget up exactly in its window. Look for the change "
                "that made it jump.",
                units.NUMBER,
                (Query(series(recorded.BURN), "{{product}} {{level}}"),),
                width=12,
                bounds=(Bound(1, "red"),),
                runbook="service-levels",
            ),
        ),
    )


def _traffic() -> Row:
    return Row(
        "Traffic",
        (
            Panel(
                "Requests",
                "Requests a second of each product, everything counted. A sudden end means a client or a proxy went "
                "away.",
                units.PER_SECOND,
                (Query(total(rate(metrics.REQUESTS, INTERVAL), "product"), "{{product}}"),),
            ),
            Panel(
                "Answers by status",
                "Answers a second by status code. 5xx are the service's own failures, 4xx its callers'.",
                units.PER_SECOND,
                (Query(total(rate(metrics.REQUESTS, INTERVAL), "code"), "{{code}}"),),
                stacked=True,
            ),
            Panel(
                "Refused",
                "Requests refused before they were read, by why. A jump is an expired token, or somebody trying doors.",
                units.PER_SECOND,
                (Query(total(rate(metrics.DENIED, INTERVAL), "product", "reason"), "{{product}} {{reason}}"),),
                runbook="services",
            ),
        ),
    )


def _changes() -> Row:
    return Row(
        "Changes and cost",
        (
            Panel(
                "Rollouts in progress",
                "The phase each rollout is in; empty without one. `paused` waits for somebody.",
                units.NUMBER,
                (Query(f"{series(metrics.ROLLOUT_PHASE)} == 1", "{{product}} {{phase}}"),),
                width=6,
                runbook="rollouts",
            ),
            Panel(
                "Rollouts ended",
                "How rollouts ended in the last day, by outcome.",
                units.COUNT,
                (
                    Query(
                        total(increase(metrics.ROLLOUTS_ENDED, "1d"), "product", "outcome"), "{{product}} {{outcome}}"
                    ),
                ),
                width=6,
                runbook="rollouts",
            ),
            Panel(
                "Audit entries",
                "Entries of the audit log a minute: decisions and effects. It never falls.",
                units.COUNT,
                (Query(f"{rate(metrics.AUDIT_ENTRIES, INTERVAL)} * 60", "entries"),),
                width=6,
            ),
            Panel(
                "Cost of a month",
                "What a month costs at the last hour's speed, beside the budget. Above it: see which model or how "
                "many cores.",
                units.COUNT,
                (
                    Query(series(recorded.COST), "{{product}}"),
                    Query(largest(series(metrics.BUDGET_MONTHLY), "product"), "{{product}} budget"),
                ),
                width=6,
                runbook="cost",
            ),
            Panel(
                "Products",
                "Who owns what, and how critical it is.",
                units.NUMBER,
                (Query(series(metrics.PRODUCT_INFO), now=True),),
                kind="table",
                width=12,
                height=6,
            ),
            Panel(
                "Age of the last drift report",
                "How old what is known of drift and quality is.",
                units.SECONDS,
                (Query(since(metrics.REPORT_TIME), "{{product}}"),),
                width=12,
                height=6,
                runbook="drift",
            ),
        ),
    )
