"""A product's own dashboard, made from its manifest: what it promises, what it serves, what it costs."""

from __future__ import annotations

from plinth.core.products import Product, ServiceLevel
from plinth.telemetry import metrics, recorded
from plinth.telemetry.dashboards import units
from plinth.telemetry.dashboards.model import Board, Bound, Panel, Query, Row, Variable, stat
from plinth.telemetry.dashboards.product_model import drift_rows
from plinth.telemetry.dashboards.product_rollout import rollout_row
from plinth.telemetry.expressions import INTERVAL, increase, largest, of_those, quantile, rate, series, total

RELEASE = "~$release"


def board(product: Product) -> Board:
    """The dashboard of a product."""
    own = drift_rows(product) if product.assistant is None else ()
    rows = (
        _levels(product),
        _traffic(product),
        _latency(product),
        rollout_row(product),
        *own,
        _cost(product),
        _health(product),
        _logs(product),
    )
    release = Variable("release", "Release", series(metrics.REQUESTS, product=product.name), "release")
    return Board(
        f"product-{product.name}",
        f"Plinth: {product.title}",
        f"{product.description} Owner: {product.owner.team}; on call: {product.owner.on_call}; tier {product.tier}.",
        rows,
        (release,),
        ("plinth", "product", product.name),
    )


def _levels(product: Product) -> Row:
    name = product.name
    panels = [_left(product, level) for level in product.service_levels]
    rates = tuple(
        Query(series(recorded.BURN, product=name, level=level.name), level.name) for level in product.service_levels
    )
    bad = tuple(
        Query(series(recorded.BAD["1h"], product=name, level=level.name), level.name)
        for level in product.service_levels
    )
    panels += [
        Panel(
            "Burn rate, last hour",
            "Speed at which each error budget is used; 1 uses it up exactly in its window. Above 1 for long: find "
            "the change.",
            units.NUMBER,
            rates,
            width=12,
            bounds=(Bound(1, "red"),),
            runbook="service-levels",
        ),
        Panel(
            "Bad, last hour",
            "Share of requests, or of time, that was bad for each level in the last hour.",
            units.SHARE,
            bad,
            width=12,
            runbook="service-levels",
        ),
    ]
    return Row("Service levels", tuple(panels))


def _left(product: Product, level: ServiceLevel) -> Panel:
    count = len(product.service_levels)
    return Panel(
        f"Budget left: {level.name}",
        f"The promise: {level.objective:.4g} over {level.window}. What is left of the error budget; below 0 it is "
        "broken: hold changes back until it recovers.",
        units.SHARE,
        (Query(series(recorded.BUDGET_LEFT, product=product.name, level=level.name), level.name, now=True),),
        kind="gauge",
        width=max(3, 24 // count),
        height=6,
        base="red",
        low=-0.5,
        high=1.0,
        bounds=(Bound(0, "orange"), Bound(0.25, "yellow"), Bound(0.5, "green")),
        runbook="service-levels",
    )


def _traffic(product: Product) -> Row:
    name = product.name
    asked = {"product": name, "path": recorded.paths(product)}
    everything = total(rate(metrics.REQUESTS, INTERVAL, **asked), "product")
    failed = total(rate(metrics.REQUESTS, INTERVAL, **asked, code="~5.."), "product")
    panels = [
        Panel(
            "Traffic by release",
            "Requests a second that each release answered. In a rollout the candidate's share grows step by step.",
            units.PER_SECOND,
            (Query(total(rate(metrics.REQUESTS, INTERVAL, **asked, release=RELEASE), "release"), "{{release}}"),),
            stacked=True,
        ),
        Panel(
            "Errors",
            "Share of requests that failed because of the service (5xx). A rollout that causes it goes back by "
            "itself; otherwise see the logs below.",
            units.SHARE,
            (Query(of_those(failed, everything), "errors"),),
            runbook="service-levels",
        ),
        Panel(
            "Answers by status",
            "Answers a second by status code, of all paths. 4xx are its callers' mistakes.",
            units.PER_SECOND,
            (Query(total(rate(metrics.REQUESTS, INTERVAL, product=name), "code"), "{{code}}"),),
            stacked=True,
        ),
        Panel(
            "Refused",
            "Requests refused before they were read, by why: token, host, origin. A jump is an expired token or "
            "somebody trying doors.",
            units.PER_SECOND,
            (Query(total(rate(metrics.DENIED, INTERVAL, product=name), "reason"), "{{reason}}"),),
            width=12,
            runbook="services",
        ),
    ]
    panels.append(_rows_scored(product) if product.assistant is None else _outcomes(product))
    return Row("Traffic and errors", tuple(panels))


def _rows_scored(product: Product) -> Panel:
    scored = total(rate(metrics.PREDICTIONS, INTERVAL, product=product.name, release=RELEASE), "release")
    return Panel(
        "Predictions",
        "Instances scored a second, by release; a request may carry many.",
        units.PER_SECOND,
        (Query(scored, "{{release}}"),),
        width=12,
    )


def _outcomes(product: Product) -> Panel:
    answered = total(rate(metrics.ANSWERED, INTERVAL, product=product.name, release=RELEASE), "outcome")
    return Panel(
        "Answers by outcome",
        "answered; unknown: the documents do not say; blocked: a guardrail; budget; failed. The RAG dashboard has "
        "more.",
        units.PER_SECOND,
        (Query(answered, "{{outcome}}"),),
        width=12,
        runbook="assistants",
    )


def _latency(product: Product) -> Row:
    asked = {"product": product.name, "path": recorded.paths(product)}
    bounds = tuple(Bound(seconds, "red") for seconds in product.latency_thresholds[:1])
    shares = tuple(
        Query(quantile(share, metrics.REQUEST_SECONDS, **asked), f"p{100 * share:g}", exemplars=share > 0.9)
        for share in (0.5, 0.95, 0.99)
    )
    buckets = total(increase(metrics.REQUEST_SECONDS, INTERVAL, "_bucket", **asked), "le")
    return Row(
        "Latency",
        (
            Panel(
                "Latency p50, p95, p99",
                "Seconds from a request's headers to its answer. The diamonds are single requests: each opens its "
                "trace in Tempo.",
                units.SECONDS,
                shares,
                width=12,
                bounds=bounds,
                runbook="service-levels",
            ),
            Panel(
                "Latency, all of it",
                "How many requests took how long. Two bands are two kinds of requests, or two releases.",
                units.SECONDS,
                (Query(buckets, "{{le}}"),),
                kind="heatmap",
                width=12,
                low=None,
            ),
            Panel(
                "Slow traces",
                "Requests of the last hours that took longest of those traced; open one to see its stages.",
                units.NUMBER,
                (Query(f'{{resource.service.name="{product.name}" && duration>100ms}}', source="tempo"),),
                kind="traces",
                width=24,
                height=6,
            ),
        ),
    )


def _cost(product: Product) -> Row:
    name, money = product.name, units.money(product.budget.currency)
    budget = largest(series(metrics.BUDGET_MONTHLY, product=name), "product")
    panels = [
        stat(
            "Cost of a month",
            "At the last hour's speed: cores by their price, and what models cost.",
            money,
            series(recorded.COST, product=name),
            width=6,
            runbook="cost",
        ),
        stat(
            "Of the budget",
            "The same as a share of the monthly budget; above 1 an alert is raised.",
            units.SHARE,
            f"{series(recorded.COST, product=name)} / on (product) ({budget} > 0)",
            width=6,
            bounds=(Bound(0.8, "yellow"), Bound(1, "red")),
            runbook="cost",
        ),
        stat("Budget", "What product.yaml allows a month.", money, budget, width=6),
        stat(
            "Cores",
            "Cores the service uses, mean of the last hour.",
            units.CORES,
            series(recorded.CORES, product=name),
            width=6,
        ),
    ]
    return Row("Cost against budget", tuple(panels))


def _health(product: Product) -> Row:
    name = product.name
    tabular = product.assistant is None
    written, dropped, errors, waits = (
        (metrics.LOG_WRITTEN, metrics.LOG_DROPPED, metrics.LOG_ERRORS, metrics.LOG_BUFFERED)
        if tabular
        else (
            metrics.ANSWER_LOG_WRITTEN,
            metrics.ANSWER_LOG_DROPPED,
            metrics.ANSWER_LOG_ERRORS,
            metrics.ANSWER_LOG_BUFFERED,
        )
    )
    return Row(
        "Release and log",
        (
            stat(
                "Release stale",
                "1 while the wanted release, or the ledger, cannot be loaded; the last good one serves.",
                units.NUMBER,
                series(metrics.RELEASE_STALE, product=name),
                bounds=units.BAD_ABOVE_0,
                runbook="releases",
            ),
            stat(
                "Generation",
                "Counts up with every promotion and rollback; 0 while nothing is served.",
                units.NUMBER,
                series(metrics.RELEASE_GENERATION, product=name),
                runbook="releases",
            ),
            stat(
                "Projections pending",
                "Decisions that MLflow's aliases do not show yet; the controller tries again.",
                units.COUNT,
                series(metrics.PROJECTIONS_PENDING, product=name),
                bounds=units.BAD_ABOVE_0,
                runbook="releases",
            ),
            stat(
                "Load failures, 1 h",
                "Looks at the ledger or artefacts that failed in the last hour.",
                units.COUNT,
                increase(metrics.RELEASE_FAILURES, "1h", product=name),
                bounds=units.BAD_ABOVE_0,
                runbook="releases",
            ),
            stat(
                "Log drops, 1 h",
                "Entries the full log buffer dropped: missing from drift and gates.",
                units.COUNT,
                increase(dropped, "1h", product=name),
                bounds=units.BAD_ABOVE_0,
                runbook="logs",
            ),
            stat(
                "Log write errors, 1 h",
                "Writes of the log that failed and are tried again.",
                units.COUNT,
                increase(errors, "1h", product=name),
                bounds=units.BAD_ABOVE_0,
                runbook="logs",
            ),
            Panel(
                "Log",
                "Entries written a second. It follows the traffic; a gap is a full disk.",
                units.PER_SECOND,
                (Query(rate(written, INTERVAL, product=name), "written"),),
                height=6,
                runbook="logs",
            ),
            Panel(
                "Log entries waiting",
                "Entries waiting to be written. A number that only grows ends in drops.",
                units.COUNT,
                (Query(series(waits, product=name), "waiting"),),
                height=6,
                runbook="logs",
            ),
            Panel(
                "Handed to the collector",
                "Spans and log lines a second, and those that could not be handed over: those are lost.",
                units.PER_SECOND,
                (
                    Query(rate(metrics.TRACES_EXPORTED, INTERVAL, product=name), "spans"),
                    Query(rate(metrics.TRACES_FAILED, INTERVAL, product=name), "spans lost"),
                    Query(rate(metrics.LINES_SHIPPED, INTERVAL, product=name), "lines"),
                    Query(rate(metrics.LINES_DROPPED, INTERVAL, product=name), "lines lost"),
                ),
                height=6,
                runbook="services",
            ),
        ),
    )


def _logs(product: Product) -> Row:
    lines = f'{{service_name="{product.name}"}} | json | level=~"WARNING|ERROR|CRITICAL"'
    return Row(
        "Logs",
        (
            Panel(
                "Warnings and errors",
                "What the service said that is not as it should be; a line's trace_id opens its trace.",
                units.LINES,
                (Query(lines, source="loki"),),
                kind="logs",
                width=24,
                runbook="services",
            ),
        ),
    )
