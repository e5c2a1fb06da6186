import threading
import time

import pytest

from plinth.pipelines.deadline import DeadlineExceeded, deadline


def test_the_main_thread_is_interrupted_even_while_it_sleeps():
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded), deadline(0.05):
        time.sleep(5)
    assert time.monotonic() - started < 2


def test_another_thread_is_interrupted_when_it_runs_python_next():
    outcome = []

    def work():
        try:
            with deadline(0.05):
                until = time.monotonic() + 5
                while time.monotonic() < until:
                    time.sleep(0.01)
        except DeadlineExceeded:
            outcome.append("interrupted")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(3)
    assert outcome == ["interrupted"]


def test_a_broad_except_does_not_swallow_it():
    def stubborn():
        try:
            time.sleep(5)
        except Exception:  # noqa: BLE001 - what a careless step does
            return "swallowed"

    with pytest.raises(DeadlineExceeded), deadline(0.05):
        stubborn()


def test_an_inner_limit_leaves_the_outer_one_in_force():
    def nested():
        with deadline(10):
            pass
        with pytest.raises(DeadlineExceeded), deadline(0.02):
            time.sleep(5)
        time.sleep(5)

    with pytest.raises(DeadlineExceeded), deadline(0.3):
        nested()


def test_nothing_rings_after_the_block_and_none_is_no_limit():
    with deadline(0.05):
        pass
    with deadline(None):
        time.sleep(0.1)
