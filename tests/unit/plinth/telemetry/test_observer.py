"""One request: counted, logged with its id, traced when sampled."""

import logging

import numpy as np
import pytest

from plinth.core.routes import Route
from plinth.telemetry.observer import ServiceObserver
from plinth.telemetry.prometheus import Metrics
from plinth.telemetry.traces import Traces

REQUEST = {
    "path": "/predict", "code": 200, "seconds": 0.002, "rows": 3, "request_id": "r1", "release": "d" * 64,
    "traceparent": "", "marks": [("start", 1), ("parse", 2)],
}  # fmt: skip


class FailingTraces(Traces):
    def wanted(self, traceparent=""):
        return True

    def record(self, *args, **kwargs):
        raise RuntimeError("no")


@pytest.fixture
def observer():
    return ServiceObserver("p", Metrics("p"), Traces("p"))


def test_a_request_is_one_line_with_its_id_and_release(observer, caplog):
    with caplog.at_level(logging.INFO):
        observer.request(**REQUEST)
    (record,) = caplog.records
    assert (record.request_id, record.code, record.rows, record.release, record.ms) == ("r1", 200, 3, "d" * 64, 2.0)
    assert b"plinth_predictions_total" in observer.render()[0]


@pytest.mark.parametrize(("code", "level"), [(200, "INFO"), (422, "INFO"), (503, "ERROR")])
def test_only_our_own_failures_are_errors(observer, caplog, code, level):
    with caplog.at_level(logging.INFO):
        observer.request(**{**REQUEST, "code": code})
    assert caplog.records[0].levelname == level


def test_probes_are_logged_only_when_they_fail(observer, caplog):
    with caplog.at_level(logging.INFO):
        observer.request(**{**REQUEST, "path": "/readyz"})
        assert caplog.records == []
        observer.request(**{**REQUEST, "path": "/readyz", "code": 503})
    assert len(caplog.records) == 1


def test_a_trace_that_cannot_be_made_costs_no_answer(caplog):
    observer = ServiceObserver("p", Metrics("p"), FailingTraces("p"))
    with caplog.at_level(logging.INFO):
        observer.request(**REQUEST)
    assert caplog.records[-1].request_id == "r1"


def test_an_arms_part_is_counted_under_its_route(observer):
    observer.arm(
        route=Route(4, 2, "s" * 64, "c" * 64, 1000), arm="shadow", release="c" * 64, failed=True, seconds=0.01,
        scores=np.array([]), defaulted=0,
    )  # fmt: skip
    line = f'{{arm="shadow",generation="4",product="p",release="{"c" * 64}",step="2"}} 1.0'
    text = observer.render()[0].decode()
    assert f"plinth_rollout_requests_total{line}" in text
    assert f"plinth_rollout_errors_total{line}" in text
