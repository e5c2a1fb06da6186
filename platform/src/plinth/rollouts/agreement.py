"""Whether the model registry's aliases and the running services agree with the ledger.

What somebody moved while it was looked at is looked at again before it is called wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from plinth.core.findings import Finding, Level, violations, without
from plinth.core.routes import Route
from plinth.errors import PlinthError
from plinth.ledger.rollouts import Rollouts
from plinth.ledger.store import Ledger
from plinth.rollouts.projection import Aliases, wanted
from plinth.serving.port import Backend, Observation

SETTLE_SECONDS = 2.0
"""A service looks at the ledger each half second, and loads what is new."""

REGISTRY_HOLDS = {
    "registry.readable": "The stores of aliases can be reached and read: of models, of prompts, of index builds.",
    "registry.serving": "The alias `serving` is on what serves: a model's version, or an index build and prompts.",
    "registry.candidate": "The alias `candidate` is on what is rolled out, and on no model version decided before.",
}
SERVICE_HOLDS = {"service.route": "Every running service routes as the ledger says, with the releases in memory."}


def check_registry(ledger: Ledger, aliases: Callable[[str], Aliases], products: Iterable[str]) -> list[Finding]:
    """Whether the aliases say what the ledger says. What still waits in the outbox is a warning.

    Args:
        ledger: The ledger.
        aliases: Gives a product's aliases.
        products: Whose.
    """
    found: list[Finding] = []
    for product in products:
        try:
            found += _aliases(ledger, aliases(product), product)
        except PlinthError as error:
            found.append(Finding("registry.readable", "violation", product, error.what, error.hint))
    if any(finding.invariant == "registry.readable" for finding in found):
        return found
    return found + without(REGISTRY_HOLDS, found)


def _aliases(ledger: Ledger, aliases: Aliases, product: str) -> list[Finding]:
    while True:
        should, wrong = wanted(ledger, product), []
        for alias, pin in should.points:
            seen = aliases.by_alias(pin.name, alias)
            if seen is None or seen.version != pin.version:
                now = f"on version {seen.version}" if seen else "on none"
                wrong.append((f"registry.{alias}", f"`{alias}` of {pin.name} is {now}, not on {pin.version}"))
        for pin in should.decided:
            seen = aliases.by_alias(pin.name, "candidate")
            if seen is not None and seen.version == pin.version:
                wrong.append(("registry.candidate", f"`candidate` of {pin.name} is still on {pin.version}"))
        waits = bool(ledger.pending_effects(product))
        if wanted(ledger, product) == should:
            break
    if waits and not wrong:
        wrong = [("registry.serving", "the aliases are right, and that they are is not recorded yet")]
    level: Level = "warning" if waits else "violation"
    late = "; the change waits in the outbox" if waits else ""
    return [Finding(name, level, product, what + late, "plinth fsck --repair") for name, what in wrong]


def check_services(
    backend: Backend, ledger: Ledger, products: Iterable[str], *, settle: float = SETTLE_SECONDS
) -> list[Finding]:
    """Whether every running service does what the ledger says. One that does not run is no violation.

    Args:
        backend: Shows what services do.
        ledger: The ledger.
        products: Whose services.
        settle: Seconds that a service may be behind.
    """
    found: list[Finding] = []
    for product in products:
        until = time.monotonic() + settle
        while True:
            try:
                seen = list(_compared(product, Rollouts(ledger).route(product), backend.observe(product)))
            except PlinthError as error:
                seen = [Finding("service.route", "violation", product, error.what, error.hint)]
            if not violations(seen) or time.monotonic() >= until:
                break
            time.sleep(min(0.25, settle))
        found += seen
    return found + without(SERVICE_HOLDS, [finding for finding in found if finding.level != "ok"])


def _compared(product: str, route: Route | None, copies: Iterable[Observation]) -> Iterator[Finding]:
    for copy in copies:
        who, problem = f"{product} at {copy.where}", f": {copy.problem}" if copy.problem else ""
        if copy.problem.startswith("does not answer"):
            away = "refused" in copy.problem
            yield Finding("service.route", "ok" if away else "warning", who,
                          "it does not run" if away else f"it {copy.problem}", "plinth up")  # fmt: skip
        elif route is None:
            if copy.route is not None:
                yield Finding("service.route", "violation", who, "it serves, and the ledger says nothing serves")
        elif copy.route != route:
            has = _words(copy.route) if copy.route else "nothing"
            yield Finding(
                "service.route", "violation", who, f"it applies {has}, and the ledger says {_words(route)}{problem}",
                f"plinth logs {product}",
            )  # fmt: skip
        elif missing := [digest[:12] for digest in route.releases if digest not in copy.loaded]:
            yield Finding("service.route", "violation", who, f"it has not loaded {', '.join(missing)}{problem}",
                          f"plinth logs {product}")  # fmt: skip
        elif copy.problem:
            yield Finding("service.route", "warning", who, copy.problem, f"plinth logs {product}")


def _words(route: Route) -> str:
    text = f"generation {route.generation} step {route.step}, {route.serving[:12]}"
    if route.candidate is None:
        return text
    return f"{text} with {'shadow' if route.shadow else f'{route.weight / 100:g}% for'} {route.candidate[:12]}"
