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
        observer.request(**REQUEST, trace_id="a" * 32)
    assert (caplog.records[-1].request_id, caplog.records[-1].trace_id) == ("r1", "a" * 32)


class KeptTraces(Traces):
    def __init__(self):
        super().__init__("p")
        self.made = []

    def record(self, name, marks, attributes, **more):
        self.made.append((name, list(marks), attributes, more))
        return more["trace_id"]


def test_a_traced_request_names_its_trace_in_its_line_and_beside_its_latency(caplog):
    traces = KeptTraces()
    observer = ServiceObserver("p", Metrics("p"), traces)
    with caplog.at_level(logging.INFO):
        observer.request(**REQUEST, trace_id="a" * 32)
    assert caplog.records[0].trace_id == "a" * 32
    ((name, marks, attributes, more),) = traces.made
    assert (name, marks, more["trace_id"]) == ("predict p", REQUEST["marks"], "a" * 32)
    assert attributes["plinth.request_id"] == "r1"
    text = observer.render("application/openmetrics-text;version=1.0.0")[0].decode()
    assert f'le="0.002",path="/predict",product="p"}} 1.0 # {{trace_id="{"a" * 32}"}} 0.002 ' in text


def test_a_traced_request_that_was_refused_early_has_a_root_span_of_its_length():
    traces = KeptTraces()
    ServiceObserver("p", Metrics("p"), traces).request(**{**REQUEST, "marks": [], "code": 503}, trace_id="a" * 32)
    ((_, ((_, started),), _, more),) = traces.made
    assert (more["ended"] - started, more["failed"]) == (2_000_000, True)


def test_a_request_that_is_not_traced_names_no_trace(observer, caplog):
    with caplog.at_level(logging.INFO):
        observer.request(**REQUEST)
    assert not hasattr(caplog.records[0], "trace_id")
    assert b"trace_id" not in observer.render("application/openmetrics-text")[0]


def test_an_arms_part_is_counted_under_its_route(observer):
    observer.arm(
        route=Route(4, 2, "s" * 64, "c" * 64, 1000), arm="shadow", release="c" * 64, failed=True, seconds=0.01,
        scores=np.array([]), defaulted=0,
    )  # fmt: skip
    line = f'{{arm="shadow",generation="4",product="p",release="{"c" * 64}",step="2"}} 1.0'
    text = observer.render()[0].decode()
    assert f"plinth_rollout_requests_total{line}" in text
    assert f"plinth_rollout_errors_total{line}" in text
