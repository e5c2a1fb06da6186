"""When to retrain: drift or lost calibration beyond the manifest's bounds, at most once a cool-down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from plinth.core.durations import seconds
from plinth.core.products import Monitoring
from plinth.errors import InvalidInput
from plinth.monitoring.drift import Drift
from plinth.monitoring.performance import Calibration

EVENT = "retrain-trigger"
RETRACTED = "retrain-trigger-retracted"


@dataclass(frozen=True)
class Signals:
    """What was observed. None: not looked at, or too little data to say anything."""

    drift: Drift | None = None
    calibration: Calibration | None = None


@dataclass(frozen=True)
class Decision:
    """Whether to retrain, why, and until when no other trigger fires.

    `beyond` says that the bounds are passed even when the cool-down holds the trigger back.
    """

    fire: bool
    beyond: bool
    reason: str
    until: datetime | None

    def as_dict(self) -> dict[str, Any]:
        """The decision as JSON."""
        return {
            "fire": self.fire,
            "beyond": self.beyond,
            "reason": self.reason,
            "until": self.until.isoformat() if self.until else None,
        }


class Events(Protocol):
    """The part of the ledger that a trigger needs."""

    def events(self, product: str, kind: str) -> list[Any]:
        """Events of that kind, oldest first; each has `at` (ISO 8601) and `payload`."""
        ...

    def record_event(self, product: str, kind: str, payload: dict[str, Any], *, at: str | None = None) -> None:
        """Keep a fact."""
        ...

    def record_event_once(
        self,
        product: str,
        kind: str,
        payload: dict[str, Any],
        *,
        at: str | None = None,
        unless: Callable[[list[Any]], bool],
    ) -> bool:
        """Keep a fact unless the events of its kind say enough, in one transaction. Returns whether it did."""
        ...


def decide(signals: Signals, bounds: Monitoring, last_trigger_at: datetime | None, now: datetime) -> Decision:
    """Pure: fire when a bound is passed and no trigger lies within one cool-down of `now`.

    A trigger that lies in the future (the clock went back) holds as long as one in the past does, so that turning
    the clock never fires twice; one further away than a cool-down, on either side, holds nothing.

    Raises:
        InvalidInput: A time has no zone.
    """
    for time in (last_trigger_at, now):
        if time is not None and time.tzinfo is None:
            raise InvalidInput(f"the time {time.isoformat()} has no zone", hint="pass UTC times")
    reasons = _reasons(signals, bounds)
    cool_down = timedelta(seconds=seconds(bounds.cool_down))
    held = last_trigger_at is not None and abs(now - last_trigger_at) < cool_down
    if not reasons:
        until = last_trigger_at + cool_down if held and last_trigger_at else None
        return Decision(False, False, "within the bounds", until)
    reason = "; ".join(reasons)
    if held and last_trigger_at is not None:
        until = last_trigger_at + cool_down
        return Decision(False, True, f"{reason}; held back: triggered at {last_trigger_at:%Y-%m-%d %H:%M}", until)
    return Decision(True, True, reason, now + cool_down)


def _reasons(signals: Signals, bounds: Monitoring) -> list[str]:
    reasons = []
    drift, calibration = signals.drift, signals.calibration
    if drift is not None and len(drift.counted) >= bounds.drifted_features:
        reasons.append(
            f"{len(drift.counted)} watched features drifted (bound {bounds.drifted_features}): "
            + ", ".join(drift.counted)
        )
    if (
        calibration is not None
        and calibration.rows >= bounds.minimum_labels
        and abs(calibration.gap) > bounds.calibration_gap
    ):
        reasons.append(
            f"calibration gap {calibration.gap:+.4f} over {calibration.days} days to {calibration.end} "
            f"({calibration.rows} labels) is beyond {bounds.calibration_gap:.4f}"
        )
    return reasons


def last_trigger(ledger: Events, product: str, now: datetime) -> datetime | None:
    """The recorded trigger nearest to `now`: a record from a broken clock must not hide a true one."""
    return _nearest(ledger.events(product, EVENT), _retracted(ledger, product), now)


def _retracted(ledger: Events, product: str) -> set[str]:
    return {event.payload["at"] for event in ledger.events(product, RETRACTED)}


def _nearest(events: list[Any], retracted: set[str], now: datetime) -> datetime | None:
    recorded = {event.payload["at"] for event in events}
    times = [datetime.fromisoformat(at) for at in sorted(recorded - retracted)]
    return min(times, key=lambda time: abs(now - time), default=None)


def trigger(
    ledger: Events, product: str, signals: Signals, bounds: Monitoring, now: datetime | None = None
) -> Decision:
    """Decide, and record a trigger that fires. The caller starts the pipeline, or calls `retract`.

    It is recorded first, so that a crash between the two costs a retraining and never gives two. Of many processes that
    decide at once, one fires: the decision is made again where nobody else can record.

    Args:
        ledger: Keeps the triggers.
        product: The product's name.
        signals: What was observed.
        bounds: The product's monitoring section.
        now: The time the decision is made for; a replay passes its own.

    Raises:
        InvalidInput: `now` has no zone.
    """
    now = now or datetime.now(UTC)
    retracted = _retracted(ledger, product)
    decision = decide(signals, bounds, _nearest(ledger.events(product, EVENT), retracted, now), now)

    def held(events: list[Any]) -> bool:
        nonlocal decision
        decision = decide(signals, bounds, _nearest(events, retracted, now), now)
        return not decision.fire

    if decision.fire:
        at = _text(now)
        ledger.record_event_once(product, EVENT, {"at": at, **decision.as_dict()}, at=at, unless=held)
    return decision


def retract(ledger: Events, product: str, decision: Decision, bounds: Monitoring, why: str) -> None:
    """Take back a trigger whose pipeline did not start (no server, no slot): it starts no cool-down."""
    if decision.fire and decision.until is not None:
        at = _text(decision.until - timedelta(seconds=seconds(bounds.cool_down)))
        ledger.record_event(product, RETRACTED, {"at": at, "reason": why}, at=at)


def _text(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="microseconds")
