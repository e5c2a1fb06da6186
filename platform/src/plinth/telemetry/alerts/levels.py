"""Alerts on the burn of error budgets: several windows, several rates (Google SRE workbook, chapter 5).

The workbook's rates are for a window of 30 days. Here the share of the budget that an alert stands for is kept (2% in
an hour, 5% in six, 10% in three days), so a level of 12 weeks pages at a higher rate than one of a week.
"""

from __future__ import annotations

from dataclasses import dataclass

from plinth.core.error_budget import MINIMUM_BAD
from plinth.core.products import Product, ServiceLevel
from plinth.telemetry import recorded
from plinth.telemetry.alerts.model import Alert, Severity, owned
from plinth.telemetry.expressions import series

HIGHEST = 0.75
"""Share of bad events that is always too high: with an objective of 0.9, a rate of 14.4 would take more than all."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A long window that shows the budget's burning matters, and a short one that shows it goes on."""

    name: str
    long: str
    short: str
    share: float
    severity: Severity


PAIRS = (
    Pair("ServiceLevelBurnsFast", "1h", "5m", 0.02, "page"),
    Pair("ServiceLevelBurns", "6h", "30m", 0.05, "page"),
    Pair("ServiceLevelBurnsSlowly", "3d", "6h", 0.1, "ticket"),
)


def burn_rate(pair: Pair, level: ServiceLevel) -> float:
    """How many times too fast the budget burns when the pair's share of it is gone in its long window; 1 at least."""
    return max(1.0, pair.share * recorded.hours(level.window) / recorded.hours(pair.long))


def alerts(product: Product) -> list[Alert]:
    """The burn alerts of a product's levels."""
    return [alert for level in product.service_levels for alert in _level(product, level)]


def _level(product: Product, level: ServiceLevel) -> list[Alert]:
    if recorded.is_of_requests(product, level):
        return [_alert(product, level, pair) for pair in PAIRS]
    return [_alert(product, level, PAIRS[-1])]  # a state that is bad for an hour wakes nobody


def _alert(product: Product, level: ServiceLevel, pair: Pair) -> Alert:
    times = burn_rate(pair, level)
    bound = f"{min(HIGHEST, times * (1 - level.objective)):.6g}"
    what = {"product": product.name, "level": level.name}
    long, short = (f"{series(recorded.BAD[window], **what)} > {bound}" for window in (pair.long, pair.short))
    expression = f"{long} and {short}"
    if recorded.is_of_requests(product, level):
        # One failure of a night's three requests is no rate.
        seconds = recorded.hours(pair.long) * 3600
        expression += f" and {series(recorded.BAD_EVENTS[pair.long], **what)} * {seconds:g} >= {MINIMUM_BAD - 0.5:g}"
    promise = f"{level.objective:.4g} over {level.window}"
    return Alert(
        name=pair.name, expression=expression, hold="1m" if pair.severity == "page" else "5m", severity=pair.severity,
        summary=f"{product.name}: the error budget of {level.name} burns {times:.3g} times too fast or more",
        description=(
            f"{{{{ $value | humanizePercentage }}}} was bad in the last {pair.long} and it goes on; the promise is "
            f"{promise}. See what changed: `plinth rollout status {product.name}`; a rollout that runs can be taken "
            f"back with `plinth rollback {product.name}`."
        ),
        runbook="service-levels", labels=owned(product, level=level.name),
    )  # fmt: skip
