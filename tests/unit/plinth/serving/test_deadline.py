"""Runs of a candidate that take too long are ended, and it is left alone for a while."""

import gc
import time
import weakref

import numpy as np
import pytest

from plinth.errors import Corrupt, PlinthError
from plinth.serving import deadline as deadlines
from plinth.serving import onnxruntime
from plinth.serving.deadline import Deadline
from plinth.serving.onnxruntime import OnnxScorer

ZEROS, ONES = np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32)


class Clock:
    """The machine's, which a test can put forward: however slow the machine, a rest is over when the test says so."""

    ahead = 0.0

    def monotonic(self):
        return time.monotonic() + self.ahead


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(deadlines, "time", clock := Clock())
    return clock


@pytest.fixture
def deadline(clock):
    watching = Deadline(seconds=0.5, rest=600.0)
    yield watching
    watching.close()


def test_a_run_that_hangs_is_ended_and_the_model_rests(deadline, clock, make_hanging_model):
    hanging = OnnxScorer(make_hanging_model(3))
    assert deadline.score(hanging, ZEROS) == pytest.approx([0.5])
    started = time.monotonic()
    with pytest.raises(PlinthError, match="within"):
        deadline.score(hanging, ONES)
    assert time.monotonic() - started >= 0.5
    with pytest.raises(PlinthError, match="a moment ago"):
        deadline.score(hanging, ZEROS)
    clock.ahead = 601.0
    assert deadline.score(hanging, ZEROS) == pytest.approx([0.5])


def test_a_model_that_was_late_is_not_held_in_memory(deadline, clock, make_hanging_model):
    hanging = OnnxScorer(make_hanging_model(3))
    with pytest.raises(PlinthError, match="within"):
        deadline.score(hanging, ONES)
    held = weakref.ref(hanging)
    del hanging
    gc.collect()
    assert held() is not None  # it rests
    clock.ahead = 601.0
    until = time.monotonic() + 60
    while held() is not None and time.monotonic() < until:
        time.sleep(0.02)
        gc.collect()
    assert held() is None


def test_another_model_is_not_kept_waiting_by_one_that_hung(deadline, make_model, make_hanging_model):
    with pytest.raises(PlinthError):
        deadline.score(OnnxScorer(make_hanging_model(3)), ONES)
    assert deadline.score(OnnxScorer(make_model([0, 0, 0])), ONES) == pytest.approx([0.5])


def test_an_error_that_is_not_about_time_is_passed_on(deadline):
    class Failing:
        def score(self, matrix):
            raise ValueError("wrong shape")

    failing = Failing()
    for _ in range(2):
        with pytest.raises(ValueError, match="wrong shape"):
            deadline.score(failing, ONES)


def test_stopping_ends_no_later_run(make_hanging_model):
    scorer = OnnxScorer(make_hanging_model(3))
    scorer.stop()
    assert scorer.score(ZEROS) == pytest.approx([0.5])


def test_a_model_that_hangs_on_its_first_runs_is_refused(make_model, monkeypatch):
    monkeypatch.setattr(onnxruntime, "WARM_UP_SECONDS", 0.0)
    stopped = []
    real = OnnxScorer.score

    def slow(self, matrix):
        time.sleep(0.1)
        if stopped:
            raise RuntimeError("Exiting due to terminate flag being set to true.")
        return real(self, matrix)

    monkeypatch.setattr(OnnxScorer, "score", slow)
    monkeypatch.setattr(OnnxScorer, "stop", lambda self: stopped.append(True))
    with pytest.raises(Corrupt, match="terminate"):
        OnnxScorer(make_model([0, 0, 0]))
