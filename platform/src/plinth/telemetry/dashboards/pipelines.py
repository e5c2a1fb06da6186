"""Pipelines: what ran, how long, what failed, what waits; and whether the data keeps its contracts."""

from __future__ import annotations

from plinth.telemetry import metrics
from plinth.telemetry.dashboards import units
from plinth.telemetry.dashboards.model import Board, Panel, Query, Row, Variable, stat
from plinth.telemetry.expressions import increase, largest, series, since, total

WHICH = {"product": "~$product"}
EACH = "{{product}} {{pipeline}}"


def board() -> Board:
    """The dashboard."""
    return Board(
        "pipelines",
        "Plinth: pipelines",
        "Training, index builds, refreshes: runs, failures, queue, data contracts.",
        (_now(), _runs(), _data()),
        (Variable("product", "Product", metrics.PRODUCT_INFO.name, "product"),),
        ("plinth", "pipelines"),
        "now-7d",
    )


def _now() -> Row:
    failed = increase(metrics.PIPELINE_RUNS, "1d", **WHICH, state="~(?i)failed|crashed|timedout")
    return Row(
        "Now",
        (
            stat(
                "At work",
                "Runs at work now, of all pipelines.",
                units.COUNT,
                f"sum({series(metrics.PIPELINE_RUNNING, **WHICH)})",
                width=6,
            ),
            stat(
                "Waiting",
                "Runs that are due and wait. With none at work the worker is down.",
                units.COUNT,
                f"sum({series(metrics.PIPELINE_QUEUED, **WHICH)})",
                width=6,
                runbook="pipelines",
            ),
            stat(
                "Failed, 1 d",
                "Runs that failed in the last day; what serves goes on.",
                units.COUNT,
                f"sum({failed}) or vector(0)",
                width=6,
                bounds=units.BAD_ABOVE_0,
                runbook="pipelines",
            ),
            stat(
                "Prefect",
                "1 while its server answers. At 0 nothing starts.",
                units.NUMBER,
                largest(series(metrics.PREFECT_UP)),
                width=6,
                base="red",
                bounds=units.GOOD_FROM_1,
                runbook="controller",
            ),
        ),
    )


def _runs() -> Row:
    by_state = total(series(metrics.PIPELINE_RUNS, **WHICH), "product", "pipeline", "state")
    return Row(
        "Runs",
        (
            Panel(
                "Runs by state",
                "Runs so far by the state they ended in.",
                units.COUNT,
                (Query(by_state, EACH + " {{state}}"),),
                width=12,
                runbook="pipelines",
            ),
            Panel(
                "Duration of the last run",
                "A run that takes ever longer is growing data, or a machine that is full.",
                units.SECONDS,
                (Query(series(metrics.PIPELINE_SECONDS, **WHICH), EACH),),
                width=12,
            ),
            Panel(
                "Since the last success",
                "Beyond two of its times an alert is raised.",
                units.SECONDS,
                (Query(since(metrics.PIPELINE_TIME, **WHICH), EACH),),
                runbook="pipelines",
            ),
            Panel(
                "Queue",
                "Runs that are due and wait, and those at work.",
                units.COUNT,
                (
                    Query(series(metrics.PIPELINE_QUEUED, **WHICH), EACH + " waiting"),
                    Query(series(metrics.PIPELINE_RUNNING, **WHICH), EACH + " at work"),
                ),
                runbook="pipelines",
            ),
            Panel(
                "Tasks tried again",
                "Retries in the last hour. Many hide a fault that does not go away.",
                units.COUNT,
                (Query(increase(metrics.PIPELINE_RETRIES, "1h", **WHICH), EACH),),
                runbook="pipelines",
            ),
        ),
    )


def _data() -> Row:
    return Row(
        "Data contracts",
        (
            Panel(
                "Violations",
                "What the last check of each contract found. Batches that break it are quarantined and not trained on.",
                units.COUNT,
                (Query(series(metrics.CONTRACT_VIOLATIONS, **WHICH), "{{product}} {{contract}}"),),
                width=24,
                bounds=units.BAD_ABOVE_0,
                runbook="pipelines",
            ),
        ),
    )
