"""How long a schedule may be silent: the longest gap between two times of a cron expression."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
_START = datetime(2024, 1, 1, tzinfo=UTC)


def longest_gap(cron: str) -> float:
    """Seconds between two runs, at most, seen over 400 days; a year where it runs less often.

    Args:
        cron: Five fields of numbers, ranges, lists and steps, as product.yaml has them.
    """
    minutes, hours, days, months, weekdays = (
        _field(text, *bounds) for text, bounds in zip(cron.split(), _RANGES, strict=True)
    )
    _, _, day_text, _, weekday_text = cron.split()
    either = day_text != "*" and weekday_text != "*"  # cron's own rule: with both given, one is enough
    times = [
        day + timedelta(hours=hour, minutes=minute)
        for day in (_START + timedelta(days=n) for n in range(400))
        if day.month in months and _fits(day, days, weekdays, either=either)
        for hour in sorted(hours)
        for minute in sorted(minutes)
    ]
    gaps = [(b - a).total_seconds() for a, b in pairwise(times)]
    return max(gaps, default=366 * 86400.0)


def _fits(day: datetime, days: set[int], weekdays: set[int], *, either: bool) -> bool:
    of_month, of_week = day.day in days, day.isoweekday() % 7 in {number % 7 for number in weekdays}
    return of_month or of_week if either else of_month and of_week


def _field(text: str, low: int, high: int) -> set[int]:
    found: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        first, dash, last = span.partition("-")
        begin, end = (low, high) if span == "*" else (int(first), int(last) if dash else high if step else int(first))
        found.update(range(begin, end + 1, int(step or 1)))
    return found
