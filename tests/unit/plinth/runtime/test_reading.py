"""What is read for the page of metrics never holds a scrape up, and never says more than is known."""

import logging
import threading

from plinth.runtime.reading import OLD_SECONDS, Source
from plinth.telemetry import metrics

ONE = (metrics.AUDIT_ENTRIES, (), 1.0)
UP, DOWN = (metrics.LEDGER_UP, (), 1.0), (metrics.LEDGER_UP, (), 0.0)


class Clock:
    def __init__(self):
        self.at = 0.0

    def __call__(self):
        return self.at


def asked(source):
    source.ask()
    source.wait(5)
    return source.now()


def test_before_the_first_answer_nothing_is_known():
    source = Source("s", lambda: [ONE], metrics.LEDGER_UP)
    assert source.now() == [DOWN]
    assert asked(source) == [ONE, UP]


def test_what_is_fresh_is_not_read_again():
    clock, reads = Clock(), []
    source = Source("s", lambda: reads.append(1) or [ONE], fresh=4, clock=clock)
    asked(source)
    clock.at = 3.9
    asked(source)
    assert len(reads) == 1
    clock.at = 4
    asked(source)
    assert len(reads) == 2


def test_what_is_good_for_long_is_told_until_it_was_due_twice():
    clock = Clock()
    source = Source("s", lambda: [ONE], fresh=60, clock=clock)
    asked(source)
    clock.at = 119
    assert source.now() == [ONE]
    clock.at = 120
    assert source.now() == []


def test_a_failure_leaves_its_readings_out_is_logged_once_and_ends_with_the_next_success(caplog):
    clock, well = Clock(), [True]

    def read():
        if not well[0]:
            raise OSError("away")
        return [ONE]

    source = Source("s", read, metrics.LEDGER_UP, fresh=1, clock=clock)
    assert asked(source) == [ONE, UP]
    well[0] = False
    with caplog.at_level(logging.WARNING):
        for clock.at in (1, 2, 3):
            assert asked(source) == [DOWN]
    assert [record.reason for record in caplog.records] == ["OSError: away"]
    well[0], clock.at = True, 4
    assert asked(source) == [ONE, UP]


def test_a_place_that_hangs_is_read_once_at_a_time_and_soon_has_nothing_to_say():
    clock, hangs, reads = Clock(), threading.Event(), []
    hangs.set()

    def read():
        reads.append(1)
        hangs.wait()
        return [ONE]

    source = Source("s", read, metrics.LEDGER_UP, fresh=1, clock=clock)
    assert asked(source) == [ONE, UP]
    hangs.clear()
    for clock.at in (1, 2, 3):
        source.ask()
        source.wait(0)
        assert source.now() == [ONE, UP]
    assert len(reads) == 2
    clock.at = OLD_SECONDS + 1
    assert source.now() == [DOWN]
    hangs.set()
