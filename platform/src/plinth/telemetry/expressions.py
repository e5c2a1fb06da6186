"""PromQL, put together from the names in `metrics.py`, `foreign.py` and `recorded.py`: panels, alerts, rules."""

from __future__ import annotations

from typing import Protocol

INTERVAL = "$__rate_interval"
"""Grafana's own variable: a window that holds at least four scrapes."""


class Named(Protocol):
    """What has series: a metric of ours, of another server, or a recording rule's."""

    @property
    def name(self) -> str:
        """As Prometheus knows it."""
        ...


def series(metric: Named, /, suffix: str = "", window: str = "", offset: str = "", **labels: str) -> str:
    """A selector, such as `plinth_answers_total{product="docs"}[5m]`.

    Args:
        metric: Whose series.
        suffix: `_bucket`, `_count` or `_sum` of a histogram.
        window: Makes it a range of so long.
        offset: Looks so long back.
        labels: Values to match: `~x` matches a pattern, `!x` what is not x, `!~x` what no pattern fits, else it equals.
    """
    matched = ",".join(f"{name}{_match(value)}" for name, value in labels.items())
    braces = f"{{{matched}}}" if matched else ""
    return f"{metric.name}{suffix}{braces}{f'[{window}]' if window else ''}{f' offset {offset}' if offset else ''}"


def _match(value: str) -> str:
    for sign in ("!~", "~", "!"):
        if value.startswith(sign):
            operator = {"!~": "!~", "~": "=~", "!": "!="}[sign]
            return f'{operator}"{value.removeprefix(sign)}"'
    return f'="{value}"'


def rate(metric: Named, /, window: str = INTERVAL, suffix: str = "", **labels: str) -> str:
    """Per second, over a window."""
    return f"rate({series(metric, suffix, window, **labels)})"


def increase(metric: Named, /, window: str = INTERVAL, suffix: str = "", **labels: str) -> str:
    """By how much, over a window."""
    return f"increase({series(metric, suffix, window, **labels)})"


def total(expression: str, *by: str) -> str:
    """The sum, by labels."""
    return f"sum by ({', '.join(by)}) ({expression})" if by else f"sum({expression})"


def largest(expression: str, *by: str) -> str:
    """The maximum, by labels."""
    return f"max by ({', '.join(by)}) ({expression})" if by else f"max({expression})"


def quantile(share: float, metric: Named, /, *by: str, window: str = INTERVAL, **labels: str) -> str:
    """A quantile of a histogram, by labels."""
    inner = total(rate(metric, window, "_bucket", **labels), "le", *by)
    return f"histogram_quantile({share:g}, {inner})"


def average(metric: Named, /, *by: str, window: str = INTERVAL, **labels: str) -> str:
    """The mean of what a histogram observed, by labels."""
    parts = (total(rate(metric, window, suffix, **labels), *by) for suffix in ("_sum", "_count"))
    return " / ".join(parts)


def of_those(some: str, all_of_them: str) -> str:
    """A share, and 0 where there are none of the some: a counter has no series before it first counts."""
    return f"({some} or {all_of_them} * 0) / {all_of_them}"


def since(metric: Named, /, **labels: str) -> str:
    """Seconds since the time that a gauge shows."""
    return f"time() - {series(metric, **labels)}"


def risen(metric: Named, window: str, witness: Named, /, **labels: str) -> str:
    """Where a counter rose, and by how much, that may not have been there before: `increase` takes that for no rise.

    Args:
        metric: The counter.
        window: How long back to compare.
        witness: 1 where the place that is counted could be read (its `up`): where it could not, and so where nothing
            was scraped either, nothing is known of before, and all that ever happened would seem to be new.
        labels: As `series`.
    """
    now, then = series(metric, **labels), series(metric, offset=window, **labels)
    known = series(witness, offset=window)
    return f"({now} - ({then} or {now} * 0)) > 0 and on () ({known} == 1)"
