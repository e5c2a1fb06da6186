"""Changing the release under traffic, measured from the outside."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx

from flight_delays.api import EXAMPLE
from plinth.errors import Unavailable
from plinth.rollouts import release as rollouts

if TYPE_CHECKING:
    from plinth.core.products import Product
    from plinth.wiring import Platform

PATIENCE = 15.0
"""Seconds within which the service has to take the release over."""


@dataclass(frozen=True)
class Switch:
    """A promotion or rollback: seconds from the decision to the last answer of the release before, and the traffic."""

    kind: str
    digest: str
    seconds: float
    requests: int
    failed: int


def switch_under_load(platform: Platform, product: Product, digest: str, kind: str) -> Switch:
    """Roll back to `digest` (which served before) while a client keeps asking.

    Raises:
        Unavailable: The service does not take it over within 15 s.
    """
    url = f"{platform.service_urls(product.name)[0]}/predict"
    answers: list[tuple[float, int, str]] = []
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=10.0) as client:
            while not stop.is_set():
                try:
                    answer = client.post(url, json=EXAMPLE, headers=platform.service_headers(product.name))
                    found = answer.json().get("release", "") if answer.status_code == 200 else ""
                    answers.append((time.monotonic(), answer.status_code, found))
                except httpx.HTTPError:
                    answers.append((time.monotonic(), 0, ""))
                time.sleep(0.01)

    client = threading.Thread(target=ask, daemon=True)
    client.start()
    try:
        time.sleep(0.3)
        decided = time.monotonic()
        rollouts.rollback(
            platform.ledger, platform.registry, product.name, digest, actor=platform.actor, reason=f"drill: {kind}"
        )
        _wait(answers, digest, decided)
    finally:
        stop.set()
        client.join(timeout=15)
    after = [at for at, _code, release in answers if at >= decided and release != digest]
    failed = sum(code != 200 for _at, code, _release in answers)
    return Switch(kind, digest, round(max(after, default=decided) - decided, 3), len(answers), failed)


def _wait(answers: list[tuple[float, int, str]], digest: str, decided: float) -> None:
    """Return once the release has answered for half a second without the other one in between."""
    while time.monotonic() - decided < PATIENCE:
        recent = [release for at, _code, release in list(answers) if at > time.monotonic() - 0.5 and at > decided]
        if len(recent) > 5 and set(recent) == {digest}:
            return
        time.sleep(0.05)
    raise Unavailable(
        f"the service has not taken release {digest[:12]} over", where="flight-delays", hint="plinth logs flight-delays"
    )
