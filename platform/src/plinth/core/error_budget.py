"""Error budgets of a product's service levels, and when they burn too fast. Pure.

The alerts are the multi-window, multi-burn-rate ones of the Google SRE workbook (chapter 5, "Alerting on SLOs"): the
budget burns too fast in a long window, so it matters, and in a short one, so it still does. A burn rate of 1 uses the
budget up exactly by the end of the level's window. For the low traffic of a canary two things are added: a minimum of
bad requests, and a sequential test of the long window (`plinth.core.sequential`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from plinth.core import sequential
from plinth.core.cells import slower, sound
from plinth.core.evidence import Cell, total
from plinth.core.products import Product, ServiceLevel
from plinth.core.rollout_policy import BurnWindow

MINIMUM_BAD = 5
"""Bad requests below which no budget counts as burning: one failure of ten requests would burn that of a 99.5% level
twenty times too fast, and one failure is no rate."""

Alarm = Literal["quiet", "unproven", "shared", "alert"]


def levels(product: Product) -> list[ServiceLevel]:
    """The product's levels that single requests are good or bad for."""
    return [level for level in product.service_levels if level.indicator in ("availability", "latency")]


def error_budget(product: Product, cells: Iterable[Cell]) -> list[dict[str, Any]]:
    """What the candidate has used of each availability and latency level's budget in this rollout.

    `left` is the share of the budget of the candidate's own requests that is not used, below 0 when it is overdrawn;
    `burn_rate` is 1 when the budget is used up exactly. Without requests nothing is used.
    """
    cell = total((cell for cell in cells if sound([cell])), "candidate")
    report = []
    for level in levels(product):
        n, bad = (cell.requests, bad_requests(cell, level)) if cell is not None else (0, 0)
        rate = burn_rate(bad, n, level)
        report.append(
            {"name": level.name, "indicator": level.indicator, "objective": level.objective, "window": level.window,
             "good": n - bad, "bad": bad, "left": 1.0 - rate, "burn_rate": rate}
        )  # fmt: skip
    return report


def bad_requests(cell: Cell, level: ServiceLevel) -> int:
    """Requests that are surely bad for a level; the latency bin that the threshold cuts in two is not."""
    return cell.errors if level.indicator == "availability" else slower(cell, level.threshold_ms or math.inf)[0]


def burn_rate(bad: int, n: int, level: ServiceLevel) -> float:
    """How many times too fast the budget is used; 0 without requests."""
    return bad / n / (1 - level.objective) if n else 0.0


@dataclass(frozen=True, slots=True)
class Window:
    """The cells of both arms in a window."""

    candidate: tuple[Cell, ...] = ()
    serving: tuple[Cell, ...] = ()


@dataclass(frozen=True, slots=True)
class Alert:
    """One pair of windows over one level.

    quiet: the budget does not burn too fast in both windows. unproven: it does, from too few requests. shared: it does
    at the speed of a ticket, and the serving release burns it as well. alert: the candidate has to go.
    """

    alarm: Alarm
    reason: str
    facts: dict[str, Any]


def check(level: ServiceLevel, pair: BurnWindow, long: Window, short: Window, alpha: float) -> Alert:
    """Look at one pair of windows.

    Args:
        level: The service level.
        pair: Lengths and rate.
        long: The long window's requests.
        short: The short window's requests.
        alpha: Probability that a candidate which burns no faster than the pair's rate ever raises this alert.
    """
    (n, *_), bad, rates = _burning([long.candidate, short.candidate], level)
    *_, others = _burning([long.serving, short.serving], level)
    facts: dict[str, Any] = {
        "level": level.name, "long": pair.long, "short": pair.short, "rate": pair.rate, "bad": min(bad),
        "burn_rate": {"long": rates[0], "short": rates[1]},
        "serving_burn_rate": {"long": others[0], "short": others[1]},
    }  # fmt: skip
    name = f"{level.name} {pair.long}/{pair.short}"
    if min(rates) <= pair.rate:
        return Alert("quiet", f"{name}: within its budget", facts)
    allowed = min(1.0, pair.rate * (1 - level.objective))
    log_e = float(sequential.log_e_above(np.array(n), np.array(bad[0]), allowed))
    facts["e_fail"] = sequential.e_value(log_e)
    what = f"{name}: the budget burns {rates[0]:.3g} and {rates[1]:.3g} times as fast as it may, {pair.rate:g} allowed"
    if min(bad) < MINIMUM_BAD or log_e < math.log(1 / alpha):
        return Alert("unproven", f"{what}; not yet proof", facts)
    # At the speed of a ticket, what the serving release burns as well is not the candidate's doing: it holds the
    # rollout up. At the speed of a page people are harmed during a change, so the change goes, whoever did it.
    if pair.rate <= 1 and min(others) > pair.rate:
        return Alert("shared", f"{what}; the serving release burns it as well", facts)
    return Alert("alert", what, facts)


def _burning(windows: Sequence[Iterable[Cell]], level: ServiceLevel) -> tuple[list[int], list[int], list[float]]:
    """Requests, bad ones and burn rate of each window."""
    n = [sum(cell.requests for cell in cells) for cells in windows]
    bad = [sum(bad_requests(cell, level) for cell in cells) for cells in windows]
    return n, bad, [burn_rate(some, of, level) for some, of in zip(bad, n, strict=True)]
