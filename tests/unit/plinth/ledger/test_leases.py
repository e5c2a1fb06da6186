"""Leases: one acts, a dead one is replaced, and what it still writes is refused. The clock is moved by hand."""

import pytest

from ledgers import PRODUCT, begin, move
from plinth.core.rollouts import State
from plinth.errors import Conflict
from plinth.ledger.leases import Candidate, Lease, check_held
from plinth.ledger.rollouts import Rollouts
from plinth.ledger.store import Ledger


class Clock:
    """Monotonic seconds, by hand."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield ledger
    ledger.close()


def candidate(ledger, holder, clock):
    return Candidate(ledger, "controller", holder, patience=5.0, clock=clock)


def test_the_first_takes_it_and_keeps_it(ledger):
    first = candidate(ledger, "a", Clock())
    assert first.hold() == Lease("controller", "a", 1)
    assert first.hold() == first.lease == Lease("controller", "a", 1)


def test_nobody_takes_it_from_a_holder_that_lives(ledger):
    mine, theirs = Clock(), Clock()
    first, second = candidate(ledger, "a", mine), candidate(ledger, "b", theirs)
    first.hold()
    for _ in range(10):
        assert second.hold() is None
        theirs.now += 4.9
        first.hold()


def test_a_holder_without_a_sign_of_life_is_replaced_after_the_patience_and_not_before(ledger):
    clock = Clock()
    first, second = candidate(ledger, "a", Clock()), candidate(ledger, "b", clock)
    first.hold()
    assert second.hold() is None  # sees it for the first time: its patience begins now, whatever time it is
    clock.now += 4.99
    assert second.hold() is None
    clock.now += 0.02
    assert second.hold() == Lease("controller", "b", 2)
    assert first.hold() is None
    assert first.lease is None


def test_of_two_that_wait_for_a_dead_one_one_takes_it(ledger):
    clock = Clock()
    candidate(ledger, "a", Clock()).hold()
    waiting = [candidate(ledger, name, clock) for name in "bc"]
    assert [one.hold() for one in waiting] == [None, None]
    clock.now += 6
    assert [one.hold() for one in waiting] == [Lease("controller", "b", 2), None]


def test_what_is_given_up_is_free_at_once(ledger):
    first, second = candidate(ledger, "a", Clock()), candidate(ledger, "b", Clock())
    first.hold()
    assert second.hold() is None
    first.release()
    assert second.hold() == Lease("controller", "b", 2)
    first.release()  # has none any more: changes nothing
    assert second.hold() == Lease("controller", "b", 2)


def test_whoever_lost_it_does_not_give_up_the_others(ledger):
    clock = Clock()
    first, second = candidate(ledger, "a", Clock()), candidate(ledger, "b", clock)
    first.hold()
    second.hold()
    clock.now += 6
    second.hold()
    first.release()
    assert second.hold() == Lease("controller", "b", 2)


def test_leases_of_other_names_are_others(ledger):
    assert candidate(ledger, "a", Clock()).hold()
    assert Candidate(ledger, "janitor", "b").hold() == Lease("janitor", "b", 1)


def test_a_holder_that_was_taken_for_dead_writes_nothing_any_more(ledger, make_manifest):
    """SECURITY row 2: it slept through its patience in the middle of a tick, and goes on with what it had decided."""
    rollouts, clock = Rollouts(ledger), Clock()
    serving, other = [ledger.register_release(make_manifest(n), "ada") for n in (1, 2)]
    ledger.promote(PRODUCT, serving, expected_generation=0, actor="ada", reason="first")
    rollout = begin(rollouts, other)
    stale, successor = candidate(ledger, "a", Clock()), candidate(ledger, "b", clock)
    lease = stale.hold()
    successor.hold()
    clock.now += 6
    assert successor.hold()
    with pytest.raises(Conflict, match="was taken by another process"):
        move(rollouts, rollout, "full", lease=lease)
    with pytest.raises(Conflict, match="was taken by another process"):
        rollouts.save(rollout, State("promoting", 1), actor="a", reason="", lease=lease)
    assert rollouts.get(rollout.id) == rollout
    assert ledger.current(PRODUCT).generation == 2
    move(rollouts, rollout, "full", lease=successor.lease)


def test_a_write_under_the_lease_is_a_sign_of_life(ledger):
    clock = Clock()
    first, second = candidate(ledger, "a", Clock()), candidate(ledger, "b", clock)
    lease = first.hold()
    second.hold()
    clock.now += 4
    with ledger.write() as connection:
        check_held(connection, lease)
    assert second.hold() is None
    clock.now += 4
    assert second.hold() is None
    clock.now += 2
    assert second.hold() == Lease("controller", "b", 2)
