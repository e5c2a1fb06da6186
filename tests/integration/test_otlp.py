"""Traces and logs to a collector, over real HTTP in OpenTelemetry's protocol; and what is left when it goes away."""

import io
import json
import logging
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from plinth.settings import Settings
from plinth.telemetry import logs, otlp, traces
from plinth.telemetry.otlp import CollectorLogs, CollectorSpans, LogShipper

TRACE = "a" * 32
KINDS = {"/v1/logs": ExportLogsServiceRequest, "/v1/traces": ExportTraceServiceRequest}


class Collector(BaseHTTPRequestHandler):
    def do_POST(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            import gzip

            data = gzip.decompress(data)
        request = KINDS[self.path]()
        request.ParseFromString(data)
        if self.server.code == 200:
            self.server.got.append((self.path, request))
        self.send_response(self.server.code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def collector():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    server.got, server.code = [], 200
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def root():
    """The root logger, put back as it was."""
    logger = logging.getLogger()
    before, level = list(logger.handlers), logger.level
    yield logger
    for handler in list(logger.handlers):
        if handler not in before:
            handler.close()
        logger.removeHandler(handler)
    for handler in before:
        logger.addHandler(handler)
    logger.setLevel(level)
    otlp._shippers.clear()


def records(collector):
    return [
        record
        for path, request in collector.got
        if path == "/v1/logs"
        for resource in request.resource_logs
        for scope in resource.scope_logs
        for record in scope.log_records
    ]


def settled(shipper):
    shipper._provider.force_flush(5000)


def test_lines_reach_the_collector_as_they_are_written_with_their_trace_and_without_secrets(collector, root):
    stream = io.StringIO()
    logs.configure("svc", "INFO", stream, otlp_url=collector.url)
    logging.getLogger("plinth.x").info("request", extra={"trace_id": TRACE, "api_key": "hunter2"})
    logging.getLogger("plinth.x").error("to postgresql://me:hunter2@db/x")
    (shipper,) = [handler for handler in root.handlers if isinstance(handler, LogShipper)]
    settled(shipper)
    request, error = records(collector)
    for handler in root.handlers:
        handler.flush()
    assert [json.loads(line) for line in stream.getvalue().splitlines()] == [
        json.loads(request.body.string_value), json.loads(error.body.string_value)
    ]  # fmt: skip
    assert request.trace_id.hex() == TRACE
    assert not error.trace_id
    assert (request.severity_text, error.severity_text) == ("INFO", "ERROR")
    assert "hunter2" not in str(collector.got)
    (resource,) = {
        attribute.value.string_value
        for _, got in collector.got
        for one in got.resource_logs
        for attribute in one.resource.attributes
        if attribute.key == "service.name"
    }
    assert resource == "svc"
    assert otlp.lines() == (2, 0)


def trace(tracing):
    """One trace of two spans, handed over."""
    trace_id = tracing.sample()
    tracing.record("predict", [("start", 1), ("parse", 2)], {}, trace_id=trace_id)
    assert tracing.flush()
    return trace_id


def test_spans_go_to_the_collector(collector):
    tracing = traces.configure(Settings(otlp_url=collector.url, trace_sample=1.0), "svc")
    trace_id = trace(tracing)
    tracing.close()
    (spans,) = [scope.spans for _, got in collector.got for one in got.resource_spans for scope in one.scope_spans]
    assert {span.trace_id.hex() for span in spans} == {trace_id}
    assert (tracing.exporter.exported, tracing.exporter.failed) == (2, 0)


def test_spans_go_to_mlflow_until_the_collector_answers_for_the_first_time(collector, caplog, monkeypatch):
    class Mlflow(CollectorLogs):
        """Stands in for MLflow's exporter, and keeps what it is handed."""

        kind = "traces"

        def export(self, batch):
            got.extend(batch)
            return CollectorSpans._results(self)[0]

    got = []
    monkeypatch.setattr(otlp, "AGAIN_SECONDS", 0.0)
    exporter = CollectorSpans("http://127.0.0.1:9", Mlflow(collector.url))
    tracing = traces.Traces("svc", exporter, 1.0)
    trace(tracing)
    trace(tracing)
    assert (len(got), exporter.exported, collector.got) == (4, 4, [])
    exporter._base_url = collector.url  # as if it had just started
    trace_id = trace(tracing)
    tracing.close()
    assert (len(got), exporter.exported, exporter.failed) == (4, 6, 0)
    (spans,) = [scope.spans for _, got in collector.got for one in got.resource_spans for scope in one.scope_spans]
    assert {span.trace_id.hex() for span in spans} == {trace_id}
    assert [record.message for record in caplog.records if "no collector" in record.message] == [
        "no collector answers: traces go to MLflow until one does"
    ]


def test_lines_reach_a_collector_that_starts_after_the_process(collector, root):
    logs.configure("svc", "INFO", io.StringIO(), otlp_url="http://127.0.0.1:9")
    (shipper,) = [handler for handler in root.handlers if isinstance(handler, LogShipper)]
    logging.getLogger("plinth.x").info("too early")
    settled(shipper)
    assert shipper.shipped == 0
    shipper.exporter._base_url, shipper.exporter._inner, shipper.exporter._retry_at = collector.url, None, 0.0
    logging.getLogger("plinth.x").info("in time")
    settled(shipper)
    assert any("in time" in record.body.string_value for record in records(collector))


def test_a_collector_that_refuses_or_goes_away_costs_lines_and_nothing_else(collector, root, caplog):
    collector.code = 400
    logs.configure("svc", "INFO", io.StringIO(), otlp_url=collector.url)
    (shipper,) = [handler for handler in root.handlers if isinstance(handler, LogShipper)]
    logging.getLogger("plinth.x").info("one")
    settled(shipper)
    assert shipper.dropped == 2  # with the line that says so, of which there is one a minute
    collector.shutdown()
    collector.server_close()
    shipper.exporter._retry_at = 0.0
    logging.getLogger("plinth.x").info("two")
    settled(shipper)
    assert (shipper.shipped, shipper.dropped) == (0, 3)
    assert otlp.lines() == (0, 3)


def test_what_does_not_fit_the_queue_is_dropped_at_once_and_counted(collector):
    class Slow(CollectorLogs):
        def export(self, batch):
            release.wait(20)
            return super().export(batch)

    release = threading.Event()
    shipper = LogShipper("svc", lambda record: record.getMessage(), Slow(collector.url), limit=10)
    record = logging.makeLogRecord({"msg": "x", "name": "plinth", "created": time.time()})
    for _ in range(100):
        shipper.handle(record)
    assert shipper.dropped == 90
    release.set()
    shipper.close()
    assert (shipper.shipped, shipper.dropped) == (10, 90)


def test_what_the_exporter_itself_says_is_not_exported(collector):
    shipper = LogShipper("svc", lambda record: record.getMessage(), CollectorLogs(collector.url))
    for name in ("opentelemetry.sdk", "urllib3.connectionpool"):
        shipper.handle(logging.makeLogRecord({"msg": "x", "name": name}))
    shipper.close()
    assert records(collector) == []
