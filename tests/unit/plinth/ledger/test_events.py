"""Events: a fact that is recorded once, whoever sees the reason for it first."""

import threading

import pytest

from plinth.ledger.store import Event, Ledger


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield ledger
    ledger.close()


def test_an_event_is_recorded_unless_those_before_it_say_enough(ledger):
    assert ledger.record_event_once("a", "kind", {"n": 1}, at="2026-01-01", unless=lambda events: bool(events))
    assert not ledger.record_event_once("a", "kind", {"n": 2}, unless=lambda events: bool(events))
    assert ledger.events("a", "kind") == [Event("2026-01-01", {"n": 1})]


def test_only_events_of_the_same_product_and_kind_are_looked_at_in_the_order_of_their_time(ledger):
    ledger.record_event("a", "kind", {"n": 2}, at="2026-01-02")
    ledger.record_event("a", "kind", {"n": 1}, at="2026-01-01")
    ledger.record_event("b", "kind", {"n": 3})
    ledger.record_event("a", "other", {"n": 4})
    seen = []

    def look(events):
        seen.extend(event.payload["n"] for event in events)
        return False

    assert ledger.record_event_once("a", "kind", {"n": 5}, unless=look)
    assert seen == [1, 2]


def test_a_look_that_fails_records_nothing_and_lets_go(ledger):
    def fail(events):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        ledger.record_event_once("a", "kind", {}, unless=fail)
    ledger.record_event("a", "kind", {"n": 1})
    assert len(ledger.events("a", "kind")) == 1


def test_of_twenty_at_once_one_records(ledger):
    ledger.events("a", "kind")
    barrier, won = threading.Barrier(20), []

    def attempt(number):
        barrier.wait()
        if ledger.record_event_once("a", "kind", {"n": number}, unless=lambda events: bool(events)):
            won.append(number)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [event.payload["n"] for event in ledger.events("a", "kind")] == won
    assert len(won) == 1
