"""One service's telemetry: metrics, log lines and traces of each request, behind the calls serving makes."""

from __future__ import annotations

import logging
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
    ) -> None:
        """An answered request: counted, timed, logged, and traced when sampled."""
        self._metrics.request(path, code, seconds, rows, release)
        if code < 400 and path in QUIET_PATHS:
            return
        extra: dict[str, Any] = {
            "request_id": request_id, "path": path, "code": code, "rows": rows, "ms": round(seconds * 1000, 3),
        }  # fmt: skip
        if release:
            extra["release"] = release
        if marks and self._traces.wanted(traceparent):
            extra["trace_id"] = self._trace(code, rows, request_id, release, traceparent, marks)
        level = logging.ERROR if code >= 500 else logging.INFO
        if self._log.isEnabledFor(level):
            # makeRecord and handle, not info(): walking the stack for file and line would double the cost of a line.
            record = self._log.makeRecord(
                self._log.name, level, "", 0, "request", (), None, func=None, extra=extra
            )  # fmt: skip
            self._log.handle(record)

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

    def render(self) -> tuple[bytes, str]:
        """The metrics as text, and their content type."""
        return self._metrics.render()

    def _trace(
        self,
        code: int,
        rows: int,
        request_id: str,
        release: str,
        traceparent: str,
        marks: Sequence[tuple[str, int]],
    ) -> str:
        attributes = {
            "plinth.product": self._product,
            "plinth.request_id": request_id,
            "plinth.release": release,
            "plinth.rows": rows,
            "http.response.status_code": code,
        }
        try:
            return self._traces.record(
                f"predict {self._product}", marks, attributes, traceparent=traceparent, failed=code >= 500
            )
        except Exception:  # noqa: BLE001  (a trace that cannot be made must not cost an answer)
            self._log.warning("a trace could not be made", exc_info=True)
            return ""
