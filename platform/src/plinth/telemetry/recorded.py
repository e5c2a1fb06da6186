"""What Prometheus works out beforehand: each product's service levels and cost. Names first, then the rules.

A level of requests counts bad requests of all requests. A level of a state (calibration, the age of an assistant's
sources) counts the time in which it is bad. Both give the same series from there on, so that dashboards and alerts
need not tell them apart.
"""

from __future__ import annotations

from dataclasses import dataclass

from plinth.core.durations import seconds
from plinth.core.products import Product, ServiceLevel
from plinth.telemetry import foreign, metrics
from plinth.telemetry.expressions import rate, series, total

WINDOWS = ("5m", "30m", "1h", "6h", "3d")
MONTH = 30.4375 * 86400
"""Seconds of the mean month."""

_LEVEL = ("product", "level", "indicator")


@dataclass(frozen=True, slots=True)
class Recorded:
    """A series that a recording rule makes. `empty_in_health` as `Metric`."""

    name: str
    labels: tuple[str, ...]
    help: str
    empty_in_health: str = ""


def _windows(name: str, help: str) -> dict[str, Recorded]:
    return {window: Recorded(f"{name}{window}", _LEVEL, help) for window in WINDOWS}


EVENTS = _windows("plinth:level_events:rate", "Requests a second that a service level is judged by.")
BAD_EVENTS = _windows("plinth:level_bad_events:rate", "Those of them that were bad.")
BAD_NOW = Recorded("plinth:level_bad:now", _LEVEL, "1 while the state that a service level is about is bad.")
BAD = _windows("plinth:level_bad:ratio", "Share of requests, or of time, that was bad.")
BUDGET_LEFT = Recorded(
    "plinth:level_budget:left_ratio", _LEVEL, "What is left of the error budget of the level's window; below 0: none."
)
BURN = Recorded(
    "plinth:level_burn:rate1h", _LEVEL, "Speed of the budget's burning; 1 uses it up in the level's window."
)
CORES = Recorded("plinth:service_cores:rate1h", ("product",), "Cores that the product's service uses.")
COST = Recorded("plinth:product_cost:monthly", ("product",), "What a month costs at the last hour's speed.")

RECORDED = (*EVENTS.values(), *BAD_EVENTS.values(), BAD_NOW, *BAD.values(), BUDGET_LEFT, BURN, CORES, COST)


@dataclass(frozen=True, slots=True)
class Rule:
    """A recording rule: what it makes, with which labels beside the expression's, of what."""

    record: Recorded
    expression: str
    labels: tuple[tuple[str, str], ...]


def is_of_requests(product: Product, level: ServiceLevel) -> bool:
    """Whether single requests are good or bad for the level; else a state is, over time."""
    return level.indicator in ("availability", "latency") or (
        level.indicator == "freshness" and product.assistant is None
    )


def rules(product: Product) -> list[Rule]:
    """The recording rules of a product, in the order they need each other."""
    made: list[Rule] = []
    for level in product.service_levels:
        made += _of_requests(product, level) if is_of_requests(product, level) else _of_time(product, level)
    return [*made, *_cost(product)]


def paths(product: Product) -> str:
    """The paths whose requests count, as a matcher: what users ask for, not probes and pages."""
    return product.request_path if product.assistant is None else f"~{product.request_path}|/v1/chat/completions"


def _of_requests(product: Product, level: ServiceLevel) -> list[Rule]:
    labels = _labels(product, level)
    made: list[Rule] = []
    for window in WINDOWS:
        bad, events = _counted(product, level, window)
        made += [Rule(EVENTS[window], events, labels), Rule(BAD_EVENTS[window], bad, labels)]
    for window in WINDOWS:
        bad, events = (_of(kept[window], product, level) for kept in (BAD_EVENTS, EVENTS))
        made.append(Rule(BAD[window], f"{bad} / {events}", labels))
    spent = (
        f"{_mean(BAD_EVENTS['5m'], product, level, level.window)} / {_mean(EVENTS['5m'], product, level, level.window)}"
    )
    return [*made, *_budget(product, level, spent)]


def _counted(product: Product, level: ServiceLevel, window: str) -> tuple[str, str]:
    """Bad requests a second, and all of them."""
    name, asked = product.name, paths(product)
    if level.indicator == "latency":
        bound = metrics.le((level.threshold_ms or 0.0) / 1000)
        slow = {"product": name, "path": asked}
        events = total(rate(metrics.REQUEST_SECONDS, window, "_count", **slow), "product")
        fast = total(rate(metrics.REQUEST_SECONDS, window, "_bucket", **slow, le=bound), "product")
        return f"{events} - {fast}", events
    if level.indicator == "freshness":
        events = total(rate(metrics.PREDICTIONS, window, product=name), "product")
        stale = f"max by (product) ({total(rate(metrics.DEFAULTED, window, product=name), 'product', 'view')})"
        return f"{stale} or {events} * 0", events
    events = total(rate(metrics.REQUESTS, window, product=name, path=asked), "product")
    failed = total(rate(metrics.REQUESTS, window, product=name, path=asked, code="~5.."), "product")
    return f"{failed} or {events} * 0", events


def _of_time(product: Product, level: ServiceLevel) -> list[Rule]:
    labels = _labels(product, level)
    now = Rule(BAD_NOW, _state(product, level), labels)
    short = Rule(BAD["5m"], _of(BAD_NOW, product, level), labels)
    means = [Rule(BAD[window], _mean(BAD_NOW, product, level, window), labels) for window in WINDOWS[1:]]
    return [now, short, *means, *_budget(product, level, _mean(BAD_NOW, product, level, level.window))]


def _state(product: Product, level: ServiceLevel) -> str:
    """1 where the state is bad, else 0."""
    threshold = level.threshold or 0.0
    if level.indicator == "freshness":  # its threshold is hours
        age = series(metrics.SOURCE_AGE, product=product.name)
        return f"max by (product) ({age}) > bool {threshold * 3600:g}"
    if product.assistant is None:
        return f"max by (product) (abs({series(metrics.CALIBRATION_GAP, product=product.name)})) > bool {threshold:g}"
    correct = series(metrics.EVALUATION, product=product.name, metric="correctness")
    return f"min by (product) ({correct}) < bool {threshold:g}"


def _budget(product: Product, level: ServiceLevel, spent: str) -> list[Rule]:
    allowed, labels = f"{1 - level.objective:.6g}", _labels(product, level)
    return [
        Rule(BUDGET_LEFT, f"1 - ({spent}) / {allowed}", labels),
        Rule(BURN, f"{_of(BAD['1h'], product, level)} / {allowed}", labels),
    ]


def _cost(product: Product) -> list[Rule]:
    """Cores of the service by their price, and what models cost."""
    serving = series(metrics.RELEASE_GENERATION, product=product.name)
    cores = total(
        f"{rate(foreign.CPU, '1h')} * on (job, instance) group_left (product) ({serving} >= bool 0)", "product"
    )
    monthly = f"{series(CORES, product=product.name)} * {product.budget.core_hour * MONTH / 3600:.6g}"
    if product.assistant is not None:
        answers = total(rate(metrics.ANSWER_COST, "1h", product=product.name), "product")
        monthly += f" + ({answers} * {MONTH:.8g} or {series(CORES, product=product.name)} * 0)"
    labels = (("product", product.name),)
    return [Rule(CORES, cores, labels), Rule(COST, monthly, labels)]


def _labels(product: Product, level: ServiceLevel) -> tuple[tuple[str, str], ...]:
    # All of them on every rule, though most expressions have the product already: promtool tells rules apart by these.
    return (("product", product.name), ("level", level.name), ("indicator", level.indicator))


def _of(record: Recorded, product: Product, level: ServiceLevel, window: str = "") -> str:
    return series(record, window=window, product=product.name, level=level.name)


def _mean(record: Recorded, product: Product, level: ServiceLevel, window: str) -> str:
    return f"avg_over_time({_of(record, product, level, window)})"


def hours(window: str) -> float:
    """A window in hours."""
    return seconds(window) / 3600
