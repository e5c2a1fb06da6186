"""When retraining is triggered. SECURITY row 15: at most one retrain a cool-down, whatever drift and clock do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.core.products import Monitoring
from plinth.errors import InvalidInput
from plinth.ledger.store import Ledger
from plinth.monitoring.performance import Calibration
from plinth.monitoring.trigger import EVENT, Decision, Signals, decide, retract, trigger

BOUNDS = Monitoring(
    drift_psi=0.2,
    drifted_features=2,
    calibration_window="14d",
    calibration_gap=0.03,
    minimum_labels=500,
    cool_down="7d",
)
NOW = datetime(2013, 7, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def gap(value: float, rows: int = 1000) -> Signals:
    return Signals(calibration=Calibration("2013-07-01", 14, rows, value, 0.01, 0.5, 1.0))


BAD, GOOD = gap(-0.05), gap(0.01)


def test_a_gap_beyond_the_bound_fires_and_says_why_and_until_when() -> None:
    decision = decide(BAD, BOUNDS, None, NOW)
    assert decision.fire
    assert "-0.0500" in decision.reason
    assert decision.until == NOW + 7 * DAY


@pytest.mark.parametrize("signals", [GOOD, Signals(), gap(-0.05, rows=499)], ids=["within", "nothing", "few labels"])
def test_no_evidence_or_too_little_of_it_never_fires(signals: Signals) -> None:
    assert decide(signals, BOUNDS, None, NOW) == Decision(False, False, "within the bounds", None)


def test_the_cool_down_holds_back_and_then_lets_go() -> None:
    held = decide(BAD, BOUNDS, NOW - 6.99 * DAY, NOW)
    assert (held.fire, held.beyond) == (False, True)
    assert "held back" in held.reason
    assert decide(BAD, BOUNDS, NOW - 7 * DAY, NOW).fire


def test_a_clock_that_went_back_does_not_fire_again() -> None:
    assert not decide(BAD, BOUNDS, NOW + timedelta(hours=2), NOW).fire


def test_a_trigger_recorded_by_a_broken_clock_does_not_hold_for_years() -> None:
    assert decide(BAD, BOUNDS, NOW + 900 * DAY, NOW).fire


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no zone"):
        decide(BAD, BOUNDS, None, datetime(2013, 7, 1))


class Memory:
    """The ledger's methods, over a list."""

    def __init__(self) -> None:
        self.kept: list[object] = []

    def events(self, product: str, kind: str) -> list[object]:
        return self.kept if kind == EVENT else []

    def record_event(self, product: str, kind: str, payload: dict, *, at: str | None = None) -> None:
        self.kept.append(type("Event", (), {"at": at, "payload": payload}))

    def record_event_once(self, product: str, kind: str, payload: dict, *, at: str | None = None, unless) -> bool:
        if unless(self.events(product, kind)):
            return False
        self.record_event(product, kind, payload, at=at)
        return True


@given(
    hours=st.lists(st.integers(-48, 48), min_size=1, max_size=120),
    flips=st.lists(st.booleans(), min_size=120, max_size=120),
)
def test_flapping_drift_and_a_jumping_clock_never_fire_twice_in_a_cool_down(
    hours: list[int], flips: list[bool]
) -> None:
    ledger, now, fired = Memory(), NOW, []
    for step, bad in zip(hours, flips, strict=False):
        now += timedelta(hours=step)
        if trigger(ledger, "flight-delays", BAD if bad else GOOD, BOUNDS, now).fire:
            fired.append(now)
    fired.sort()
    assert all(later - earlier >= 7 * DAY for earlier, later in pairwise(fired))


def test_hourly_flapping_for_four_weeks_fires_four_times_in_the_ledger(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    for hour in range(28 * 24):
        trigger(ledger, "flight-delays", BAD if hour % 2 == 0 else GOOD, BOUNDS, NOW + timedelta(hours=hour))
    events = ledger.events("flight-delays", EVENT)
    assert len(events) == 4
    assert events[0].payload["at"].startswith("2013-07-01T00:00:00")
    assert "calibration gap" in events[0].payload["reason"]
    assert ledger.events("another-product", EVENT) == []
    ledger.close()


def test_a_retracted_trigger_holds_nothing_back(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    first = trigger(ledger, "flight-delays", BAD, BOUNDS, NOW)
    retract(ledger, "flight-delays", first, BOUNDS, "no server")
    again = trigger(ledger, "flight-delays", BAD, BOUNDS, NOW + timedelta(hours=1))
    held = trigger(ledger, "flight-delays", BAD, BOUNDS, NOW + timedelta(hours=2))
    assert (first.fire, again.fire, held.fire) == (True, True, False)
    ledger.close()
