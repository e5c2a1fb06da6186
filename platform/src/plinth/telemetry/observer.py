"""One service's telemetry: metrics, log lines and traces of each request, behind the calls serving makes."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plinth.core.evidence import Arm
from plinth.core.routes import Route
from plinth.telemetry.prometheus import Metrics
from plinth.telemetry.traces import Traces

QUIET_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked every second by supervisors and scrapers: logged only when they fail."""


class ServiceObserver:
    """Reports to the metrics, the logs and the traces. Nothing here raises into the request path."""

    def __init__(self, product: str, metrics: Metrics, traces: Traces) -> None:
        self._product = product
        self._metrics = metrics
        self._traces = traces
        self._log = logging.getLogger("plinth.serving")

    def request(
        self,
        *,
        path: str,
        code: int,
        seconds: float,
        rows: int,
        request_id: str,
        release: str,
        traceparent: str,
        marks: Sequence[tuple[str, int]],
        trace_id: str = "",
        caller: str = "",
    ) -> None:
        """An answered request: counted, timed, logged, and traced when sampled."""
        self._metrics.request(path, code, seconds, rows, release, trace_id)
        if code < 400 and path in QUIET_PATHS:
            return
        extra: dict[str, Any] = {
            "request_id": request_id, "path": path, "code": code, "rows": rows, "ms": round(seconds * 1000, 3),
        }  # fmt: skip
        if release:
            extra["release"] = release
        if caller:
            extra["caller"] = caller
        if trace_id:
            extra["trace_id"] = trace_id
            self._trace({**extra, "release": release, "seconds": seconds, "traceparent": traceparent}, marks)
        level = logging.ERROR if code >= 500 else logging.INFO
        if self._log.isEnabledFor(level):
            # makeRecord and handle, not info(): walking the stack for file and line would double the cost of a line.
            record = self._log.makeRecord(
                self._log.name, level, "", 0, "request", (), None, func=None, extra=extra
            )  # fmt: skip
            self._log.handle(record)

    def sample(self, traceparent: str) -> str:
        """The id of the trace that a request is to have; "" where it is not to be traced."""
        return self._traces.sample(traceparent)

    def denied(self, reason: str) -> None:
        """A request that was refused before it was read, by why: one of a few words."""
        self._metrics.denied(reason)

    def predicted(self, *, release: str, defaulted: Mapping[str, int]) -> None:
        """Feature rows that were served by their defaults, by view."""
        self._metrics.defaulted(defaulted)

    def arm(
        self,
        *,
        route: Route,
        arm: Arm,
        release: str,
        failed: bool,
        seconds: float,
        scores: NDArray[np.float64],
        defaulted: int,
    ) -> None:
        """One arm's part in a request while a candidate is routed; from any thread.

        Args:
            route: The route it was answered under.
            arm: Who scored.
            release: Its digest.
            failed: Whether it failed because of the service (status 500 and above).
            seconds: Its service time.
            scores: [n]; empty when it failed.
            defaulted: Rows that a view had no fresh value for.
        """
        self._metrics.rollout.add(
            route, arm, release, failed=failed, seconds=seconds, scores=scores, defaulted=defaulted
        )

    def event(self, name: str, level: int, **fields: Any) -> None:
        """A log line outside the run of requests. `exc_info` adds a traceback."""
        error = fields.pop("exc_info", None)
        self._log.log(level, name, extra=fields, exc_info=error)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The metrics, and their content type: as the `Accept` header asks."""
        return self._metrics.render(accept)

    def _trace(self, fields: Mapping[str, Any], marks: Sequence[tuple[str, int]]) -> None:
        """A request's trace: with a span a step where it came so far, else the root alone."""
        now = time.time_ns()
        attributes = {
            "plinth.product": self._product,
            "plinth.request_id": fields["request_id"],
            "plinth.release": fields["release"],
            "plinth.rows": fields["rows"],
            "http.response.status_code": fields["code"],
        }
        try:
            self._traces.record(
                f"{fields['path'].lstrip('/')} {self._product}",
                marks or [("start", now - int(fields["seconds"] * 1e9))],
                attributes,
                traceparent=fields["traceparent"],
                failed=fields["code"] >= 500,
                trace_id=fields["trace_id"],
                ended=None if marks else now,
            )
        except Exception:  # noqa: BLE001  (a trace that cannot be made must not cost an answer)
            self._log.warning("a trace could not be made", exc_info=True)
