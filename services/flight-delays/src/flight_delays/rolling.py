"""Retrained releases on their way to all traffic, while the calendar is replayed through the service."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from typing import TYPE_CHECKING, Any

from flight_delays.traffic import requests
from plinth.core.rollouts import Phase
from plinth.rollouts import commands
from plinth.runtime.traffic import Traffic
from plinth.telemetry.duckdb import RequestLog

if TYPE_CHECKING:
    from plinth.core.products import Product
    from plinth.ledger.rollouts import Rollout
    from plinth.wiring import Platform

SETTLE_SECONDS = 180.0
"""How long a rollout that the replay left open gets generated traffic; then it is taken back."""

RATE = 150.0
BODIES = 5_000


@dataclass
class RolledOut:
    """One rollout of the story. `ended` is None while its outcome is open; `requests` are those it answered alone or
    had a part in, by arm.
    """

    release: str
    number: int
    started: date
    ended: date | None = None
    phase: Phase = "shadow"
    reason: str = ""
    steps: list[str] = field(default_factory=list)
    requests: dict[str, int] = field(default_factory=dict)
    verdicts: list[dict[str, str]] = field(default_factory=list)


class Rolling:
    """The story's rollouts, one after the other.

    Args:
        platform: Whose ledger and controller.
        product: What is rolled out.
        say: Told when one moves.
    """

    def __init__(self, platform: Platform, product: Product, say: Callable[[str], None]) -> None:
        self.told: list[RolledOut] = []
        self._platform = platform
        self._product = product
        self._say = say
        self._shown: tuple[Phase, int] | None = None
        self._generation = 0

    @property
    def current(self) -> RolledOut | None:
        """The one whose outcome is open."""
        return self.told[-1] if self.told and self.told[-1].ended is None else None

    @property
    def unseen(self) -> int | None:
        """Its generation, if it was a shadow when it was looked at last."""
        if self.current is None or self._shown is None or self._shown[0] != "shadow":
            return None
        return self._generation

    def forget_others(self) -> None:
        """Take back what an earlier telling that was interrupted left running."""
        if self._platform.rollouts.active(self._product.name) is not None:
            commands.abort(
                self._platform.ledger, self._product.name, actor=self._platform.actor, reason="the story begins anew"
            )

    def start(self, day: date, digest: str, reason: str) -> None:
        """Begin to roll a release out; raises as `plinth.rollouts.commands.start`."""
        rollout = commands.start(
            self._platform.ledger, self._product, digest, actor=self._platform.actor, reason=reason
        )
        steps = [stage.kind if stage.kind == "shadow" else f"{stage.percent}%" for stage in rollout.plan.stages]
        self.told.append(RolledOut(rollout.candidate, rollout.id, day, steps=steps))
        self._shown, self._generation = None, rollout.generation
        self.look(day)

    def look(self, day: date) -> None:
        """See what has become of the open one by the start of `day`."""
        if self.current is None:
            return
        now = self._platform.rollouts.get(self.current.number)
        if (now.state.phase, now.state.stage) != self._shown:
            self._shown = now.state.phase, now.state.stage
            self._tell(day, now)
        if now.state.phase == "paused":  # inconclusive, and here is nobody to look at it
            self._abort("inconclusive, and nobody is here to judge it")
        if now.ended_at is not None:
            self._end(self.current, day, now)

    def settle(self, day: date) -> None:
        """The calendar has ended: the open one gets generated traffic until it ends, or time is up."""
        if self.current is None:
            return
        bodies = itertools.islice(requests(self._platform), BODIES)
        until = time.monotonic() + SETTLE_SECONDS
        aborted = False
        name = self._product.name
        headers = partial(self._platform.service_headers, name)
        with Traffic(self._platform.service_urls(name)[0], bodies, RATE, headers=headers):
            while self.current is not None:
                self.look(day)
                if time.monotonic() > until and not aborted:
                    aborted = self._abort("the story ends before the evidence is enough")
                if time.monotonic() > until + 30 and self.current is not None:
                    self._end(self.current, day, self._platform.rollouts.get(self.current.number))
                time.sleep(0.2)

    def _abort(self, reason: str) -> bool:
        assert self.current is not None  # noqa: S101 - callers look first
        if self._platform.rollouts.get(self.current.number).active:
            commands.abort(self._platform.ledger, self._product.name, actor=self._platform.actor, reason=reason)
        return True

    def _tell(self, day: date, now: Rollout) -> None:
        stage = now.plan.stages[now.state.stage]
        where = {
            "shadow": "scores unseen beside the serving release",
            "canary": f"answers for {stage.percent}% of the flights",
            "full": "answers everything, still watched",
            "promoting": "is promoted",
            "done": "serves",
        }.get(now.state.phase, f"{now.state.phase}: {now.reason}")
        color = "red" if now.state.phase in ("aborting", "rolled-back", "paused") else "cyan"
        self._say(f"   [{color}]{day:%d %B}: {now.candidate[:12]} {where}[/{color}]")

    def _end(self, told: RolledOut, day: date, now: Rollout) -> None:
        recorded = self._platform.rollouts.verdicts(now.id)
        last = max((item.revision for item in recorded), default=0)
        told.ended, told.phase, told.reason = day, now.state.phase, now.reason
        told.verdicts = [
            {"gate": item.verdict.gate, "outcome": item.verdict.outcome, "reason": item.verdict.reason}
            for item in recorded
            if item.revision == last
        ]
        counted: dict[str, int] = {}
        with closing(RequestLog(self._platform.settings.product_dir)) as log:
            for cell in log.cells(self._product.name, now.generation):
                counted[cell.arm] = counted.get(cell.arm, 0) + cell.requests
        told.requests = counted


def as_json(told: RolledOut) -> dict[str, Any]:
    """For the summary."""
    return {
        "release": told.release,
        "rollout": told.number,
        "started": told.started.isoformat(),
        "ended": told.ended.isoformat() if told.ended else None,
        "phase": told.phase,
        "reason": told.reason,
        "steps": told.steps,
        "requests": told.requests,
        "verdicts": told.verdicts,
    }
