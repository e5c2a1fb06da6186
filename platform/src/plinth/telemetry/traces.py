"""Traces: OpenTelemetry spans to a collector, else to MLflow; sampled, in the background, never in the way.

MLflow 3.17 takes OTLP over HTTP with protobuf at `<server>/v1/traces` and wants the header `x-mlflow-experiment-id`
(mlflow/server/otel_api.py). The experiment is found or made over its REST API when the first spans leave, in the
exporter's thread, so a service neither needs the MLflow client nor waits for the server.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from plinth.core.basic_auth import authorization
from plinth.settings import Settings
from plinth.telemetry.otlp import TIMEOUT, CollectorSpans, Exporter, direct_session, quiet

if TYPE_CHECKING:
    from opentelemetry.context import Context


_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""A proxy of the environment must not see the password."""


class MlflowExporter(Exporter):
    """A SpanExporter towards an MLflow server."""

    def __init__(self, base_url: str, experiment: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(base_url)
        self._experiment = experiment
        self._headers = dict(headers or {})

    def _connect(self) -> Any:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        quiet()
        return OTLPSpanExporter(
            endpoint=f"{self._base_url}/v1/traces",
            headers={"x-mlflow-experiment-id": self._experiment_id(), **self._headers},
            timeout=TIMEOUT,
            session=direct_session(),
        )

    def _experiment_id(self) -> str:
        found = self._call("get-by-name?experiment_name=" + urllib.parse.quote(self._experiment), None)
        if found is None:
            made = self._call("create", {"name": self._experiment})
            if made is None:
                raise RuntimeError("MLflow made no experiment")
            return str(made["experiment_id"])
        return str(found["experiment"]["experiment_id"])

    def _call(self, path: str, payload: Mapping[str, Any] | None) -> dict[str, Any] | None:
        request = urllib.request.Request(  # noqa: S310  (the address is the profile's own MLflow server)
            f"{self._base_url}/api/2.0/mlflow/experiments/{path}",
            data=json.dumps(payload).encode() if payload is not None else None,
            headers={"Content-Type": "application/json", **self._headers},
        )
        try:
            with _DIRECT.open(request, timeout=TIMEOUT) as answer:
                value: dict[str, Any] = json.load(answer)
                return value
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise


class Traces:
    """Makes spans. With `exporter` None every call does nothing.

    Args:
        service: The `service.name` of every span.
        exporter: Where finished spans go.
        sample: Share of traces that are recorded; a caller's sampled `traceparent` is always followed.
    """

    def __init__(self, service: str, exporter: Any = None, sample: float = 1.0) -> None:
        self.exporter = exporter
        self._sample = sample if exporter is not None else 0.0
        self._lock = threading.Lock()
        self._service = service
        self._provider: Any = None

    def sample(self, traceparent: str = "") -> str:
        """The id of the trace that a request is to have, "" for none: the caller said so, or the dice did.

        It is decided when a request comes, so that all that is logged of it can name its trace.

        Args:
            traceparent: The caller's W3C trace context, or "".
        """
        if self.exporter is None:
            return ""
        if traceparent[-1:] not in {"1", "3", "5", "7", "9", "b", "d", "f"} and random.random() >= self._sample:  # noqa: S311
            return ""
        return traceparent[3:35] if _valid(traceparent) else os.urandom(16).hex()

    def record(
        self,
        name: str,
        marks: Sequence[tuple[str, int]],
        attributes: Mapping[str, Any],
        *,
        traceparent: str = "",
        failed: bool = False,
        steps: Mapping[str, tuple[str, Mapping[str, Any]]] | None = None,
        trace_id: str = "",
        ended: int | None = None,
    ) -> str:
        """A finished trace, made after the fact so that the request path only reads a clock.

        Args:
            name: Name of the root span.
            marks: The root's start, then the end of each step: ("start", ns), ("parse", ns), ...
            attributes: Attributes of the root span.
            traceparent: The caller's W3C trace context, or "".
            failed: Whether the root span ended in an error.
            steps: A step's span by another name, with attributes; other steps have their own names and none.
            trace_id: What `sample` said; "" makes a new one where there is no caller's.
            ended: The root's end, in ns since 1970; default the last mark.

        Returns:
            The trace id, 32 hexadecimal characters.
        """
        from opentelemetry import trace

        tracer = self._tracer()
        _given.trace_id = trace_id
        root = tracer.start_span(
            name,
            context=_remote(traceparent),
            kind=trace.SpanKind.SERVER,
            start_time=marks[0][1],
            attributes=dict(attributes),
        )
        _given.trace_id = ""
        inside = trace.set_span_in_context(root)
        for (_, began), (step, done) in itertools.pairwise(marks):
            called, about = (steps or {}).get(step, (step, None))
            tracer.start_span(called, context=inside, start_time=began, attributes=about).end(end_time=done)
        if failed:
            root.set_status(trace.Status(trace.StatusCode.ERROR))
        root.end(end_time=marks[-1][1] if ended is None else ended)
        return format(root.get_span_context().trace_id, "032x")

    @contextlib.contextmanager
    def span(self, name: str, **attributes: Any) -> Iterator[str]:
        """A span around a block; spans nest. Gives the trace id ("" while tracing is off)."""
        if self.exporter is None:
            yield ""
            return
        with self._tracer().start_as_current_span(name, attributes=attributes) as current:
            yield format(current.get_span_context().trace_id, "032x")

    def flush(self, seconds: float = 5.0) -> bool:
        """Hand over what waits. Returns whether that was done in time."""
        return self._provider is None or bool(self._provider.force_flush(int(seconds * 1000)))

    def close(self) -> None:
        """Hand over what waits, then stop; at most a few seconds."""
        if self._provider is not None:
            self.flush(TIMEOUT)
            self._provider.shutdown()

    def _tracer(self) -> Any:
        """The provider is made at the first sampled trace: its import and its thread cost nothing until then."""
        with self._lock:
            if self._provider is None:
                from opentelemetry.sdk.resources import Resource
                from opentelemetry.sdk.trace import TracerProvider
                from opentelemetry.sdk.trace.export import BatchSpanProcessor
                from opentelemetry.sdk.trace.sampling import ALWAYS_ON

                # Sampling is decided in `sample`, before any span is made.
                self._provider = TracerProvider(
                    sampler=ALWAYS_ON,
                    id_generator=_ids(),
                    resource=Resource.create({"service.name": self._service}),
                    shutdown_on_exit=False,
                )
                self._provider.add_span_processor(
                    BatchSpanProcessor(self.exporter, max_queue_size=4096, schedule_delay_millis=1000)
                )
        return self._provider.get_tracer("plinth")


_given = threading.local()
"""The trace id that the next root span of this thread gets, when it was decided before."""


def _ids() -> Any:
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class Ids(RandomIdGenerator):
        def generate_trace_id(self) -> int:
            given, _given.trace_id = getattr(_given, "trace_id", ""), ""
            return int(given, 16) if given else super().generate_trace_id()

    return Ids()


def _valid(traceparent: str) -> bool:
    """Whether there is a trace to go on with: ids of zeros only and version ff are none (W3C Trace Context)."""
    return traceparent[:2] != "ff" and traceparent[3:35].strip("0") != "" and traceparent[36:52].strip("0") != ""


def _remote(traceparent: str) -> Context | None:
    if not traceparent:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": traceparent})


def configure(
    settings: Settings, service_name: str, *, experiment: str | None = None, sample: float | None = None
) -> Traces:
    """Traces of this profile: to its collector from when it answers, before and else to its MLflow server; or none.

    Args:
        settings: `traces` switches, `trace_sample` is the share of requests, `mlflow_url` the server.
        service_name: The `service.name` of every span.
        experiment: MLflow experiment the traces are filed under; default `service_name`.
        sample: Overrides `trace_sample`; pipelines give 1.
    """
    if not settings.traces:
        return Traces(service_name)
    headers = authorization(settings.mlflow_username, settings.mlflow_password)
    exporter: Exporter = MlflowExporter(settings.mlflow_url, experiment or service_name, headers)
    if settings.otlp_url:
        exporter = CollectorSpans(settings.otlp_url.rstrip("/"), exporter)
    return Traces(service_name, exporter, settings.trace_sample if sample is None else sample)
