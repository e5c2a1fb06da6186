"""Traces: sampled by the dice or the caller, made after the fact, never in the way."""

import logging
import time

import pytest
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from plinth.settings import Settings
from plinth.telemetry import traces
from plinth.telemetry.traces import MlflowExporter, Traces

MARKS = [("start", 1_000), ("parse", 2_000), ("features", 5_000), ("score", 6_000)]
CALLER = f"00-{'1' * 32}-{'2' * 16}-01"


class Kept(SpanExporter):
    def __init__(self):
        self.spans = []

    def export(self, spans):
        self.spans.extend(spans)
        return SpanExportResult.SUCCESS


@pytest.fixture
def kept():
    return Kept()


@pytest.fixture
def tracing(kept):
    tracing = Traces("svc", kept)
    yield tracing
    tracing.close()


def test_a_recorded_trace_has_a_root_with_attributes_and_one_child_a_step(tracing, kept):
    trace_id = tracing.record("predict p", MARKS, {"plinth.request_id": "r1"})
    assert tracing.flush()
    spans = {span.name: span for span in kept.spans}
    root = spans["predict p"]
    assert set(spans) == {"predict p", "parse", "features", "score"}
    assert root.attributes["plinth.request_id"] == "r1"
    assert (root.start_time, root.end_time) == (1_000, 6_000)
    assert (spans["features"].start_time, spans["features"].end_time) == (2_000, 5_000)
    assert {span.parent.span_id for name, span in spans.items() if span is not root} == {root.context.span_id}
    assert format(root.context.trace_id, "032x") == trace_id
    assert root.resource.attributes["service.name"] == "svc"


def test_a_callers_trace_is_continued(tracing, kept):
    assert tracing.record("predict", MARKS, {}, traceparent=CALLER) == "1" * 32
    tracing.flush()
    root = next(span for span in kept.spans if span.name == "predict")
    assert format(root.parent.span_id, "016x") == "2" * 16


def test_a_callers_unsampled_trace_can_still_be_chosen_by_the_dice(tracing, kept):
    tracing.record("predict", MARKS, {}, traceparent=CALLER[:-1] + "0")
    tracing.flush()
    assert len(kept.spans) == 4


def test_sampling_follows_the_share_and_the_caller(kept):
    tracing = Traces("svc", kept, sample=0.25)
    share = sum(tracing.sample() != "" for _ in range(4000)) / 4000
    assert 0.2 < share < 0.3
    never = Traces("svc", kept, sample=0.0)
    assert not any(never.sample() for _ in range(100))
    assert never.sample(CALLER) == "1" * 32
    assert not never.sample(CALLER[:-1] + "0")


@pytest.mark.parametrize(
    "broken", [f"00-{'0' * 32}-{'2' * 16}-01", f"00-{'1' * 32}-{'0' * 16}-01", f"ff-{'1' * 32}-{'2' * 16}-01"]
)
def test_a_callers_trace_that_is_none_gets_an_id_of_its_own(tracing, kept, broken):
    trace_id = tracing.sample(broken)
    assert trace_id not in {"0" * 32, "1" * 32}
    assert tracing.record("predict", MARKS, {}, traceparent=broken, trace_id=trace_id) == trace_id


def test_a_trace_has_the_id_that_was_decided_before_it_was_made(tracing, kept):
    trace_id = tracing.sample()
    assert tracing.record("predict", MARKS, {}, trace_id=trace_id) == trace_id
    assert tracing.record("predict", MARKS, {}) != trace_id
    tracing.flush()
    assert sum(format(span.context.trace_id, "032x") == trace_id for span in kept.spans) == 4


def test_off_by_setting_makes_no_span_and_no_thread():
    tracing = traces.configure(Settings(traces=False), "svc")
    assert not tracing.sample(CALLER)
    with tracing.span("step") as trace_id:
        assert trace_id == ""
    assert tracing._provider is None
    tracing.close()


def test_spans_nest(tracing, kept):
    with tracing.span("pipeline", run_id="run-1") as outer, tracing.span("step") as inner:
        assert inner == outer
    tracing.flush()
    step, pipeline = kept.spans
    assert step.parent.span_id == pipeline.context.span_id
    assert pipeline.attributes["run_id"] == "run-1"


def test_a_collector_that_is_away_neither_raises_nor_spams_nor_blocks(caplog):
    exporter = MlflowExporter("http://127.0.0.1:9", "svc")  # unit tests have no network: connecting fails at once
    tracing = Traces("svc", exporter)
    started = time.monotonic()
    with caplog.at_level(logging.DEBUG):
        for _ in range(50):
            tracing.record("predict", MARKS, {})
        tracing.flush(3)
        for _ in range(50):
            tracing.record("predict", MARKS, {})
        tracing.close()
    assert time.monotonic() - started < 5
    assert exporter.failed == 400
    assert exporter.exported == 0
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == [
        "traces cannot be exported"
    ]


def test_configure_takes_the_profiles_server_and_share():
    tracing = traces.configure(Settings(mlflow_port=5999, trace_sample=0.5), "svc", experiment="exp")
    assert tracing.exporter._base_url == "http://127.0.0.1:5999"
    assert tracing.exporter._experiment == "exp"
    assert tracing._sample == 0.5
