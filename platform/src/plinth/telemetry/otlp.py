"""OpenTelemetry's protocol over HTTP: what every exporter here does, and traces and logs to a collector.

A collector may start after the services that send to it: until it has answered for the first time, MLflow takes the
traces, and lines are dropped. One that goes away later costs what is sent to it, which is counted, and nothing else.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
import urllib.parse
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

TIMEOUT = 3.0
"""Seconds one export may take."""

QUIET_SECONDS = 60.0
"""A collector that is away is logged once in this time."""

RETRY_SECONDS = 5.0
"""After a failed export, what comes is dropped without a try for this long."""

PROBE_SECONDS = 1.0
AGAIN_SECONDS = 15.0
"""How often a collector that has not answered yet is looked for."""

log = logging.getLogger(__name__)


class Exporter(ABC):
    """Hands batches over, for a batch processor's thread. Failures are counted, logged once a minute, never raised.

    Attributes:
        exported: How many items were handed over.
        failed: How many were not.
    """

    kind = "traces"

    def __init__(self, base_url: str) -> None:
        self.exported = 0
        self.failed = 0
        self._base_url = base_url
        self._inner: Any = None
        self._logged = -QUIET_SECONDS
        self._retry_at = 0.0
        self._closed = False

    def export(self, batch: Sequence[Any]) -> Any:
        """Hand a batch over; called by the batch processor's thread."""
        success, failure = self._results()
        if not self._closed and time.monotonic() >= self._retry_at:
            try:
                if self._inner is None:
                    self._inner = self._connect()
                if self._inner.export(batch) is success:
                    self.exported += len(batch)
                    return success
                reason = "the collector refused them"
            except Exception as error:  # noqa: BLE001  (a collector's trouble must stay out of the service)
                reason = f"{type(error).__name__}: {error}"
            self._complain(reason)
        self.failed += len(batch)
        return failure

    def shutdown(self) -> None:
        """Stop exporting."""
        self._closed = True
        if self._inner is not None:
            self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing is buffered here."""
        return True

    @abstractmethod
    def _connect(self) -> Any:
        """OpenTelemetry's own exporter."""

    def _results(self) -> tuple[Any, Any]:
        """What says that a batch was handed over, and that it was not."""
        from opentelemetry.sdk.trace.export import SpanExportResult

        return SpanExportResult.SUCCESS, SpanExportResult.FAILURE

    def _complain(self, reason: str) -> None:
        now = time.monotonic()
        self._retry_at = now + RETRY_SECONDS
        if now - self._logged >= QUIET_SECONDS:
            self._logged = now
            log.warning(f"{self.kind} cannot be exported", extra={"reason": reason, "endpoint": self._base_url})


def quiet() -> None:
    """OpenTelemetry's own words about a collector that is away would come once an attempt, with a traceback."""
    logging.getLogger("opentelemetry.exporter.otlp").setLevel(logging.CRITICAL)


class CollectorSpans(Exporter):
    """Spans to a collector, and until it answers for the first time to another exporter.

    Args:
        base_url: The collector's address.
        meanwhile: The other one.
    """

    def __init__(self, base_url: str, meanwhile: Exporter) -> None:
        super().__init__(base_url)
        self._meanwhile: Exporter | None = meanwhile
        self._looked: float | None = None

    def export(self, batch: Sequence[Any]) -> Any:
        """Hand a batch over; called by the batch processor's thread."""
        if self._meanwhile is None or self._closed or self._answers():
            return super().export(batch)
        success, _ = self._results()
        result = self._meanwhile.export(batch)
        if result is success:
            self.exported += len(batch)
        else:
            self.failed += len(batch)
        return result

    def shutdown(self) -> None:
        """Stop exporting."""
        super().shutdown()
        if self._meanwhile is not None:
            self._meanwhile.shutdown()

    def _answers(self) -> bool:
        """Whether the collector listens, as it was within the last seconds. One that did once is not asked again."""
        now = time.monotonic()
        if self._looked is not None and now - self._looked < AGAIN_SECONDS:
            return False
        address = urllib.parse.urlsplit(self._base_url)
        try:
            port = address.port or (443 if address.scheme == "https" else 80)
            socket.create_connection((str(address.hostname), port), timeout=PROBE_SECONDS).close()
        except (OSError, ValueError) as error:
            if self._looked is None:
                about = {"endpoint": self._base_url, "reason": str(error)}
                log.warning("no collector answers: traces go to MLflow until one does", extra=about)
            self._looked = time.monotonic()
            return False
        gone, self._meanwhile = self._meanwhile, None
        if gone is not None:
            gone.shutdown()
        return True

    def _connect(self) -> Any:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        quiet()
        return OTLPSpanExporter(endpoint=f"{self._base_url}/v1/traces", timeout=TIMEOUT, session=direct_session())


class CollectorLogs(Exporter):
    """Log records to a collector."""

    kind = "logs"

    def _connect(self) -> Any:
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter

        quiet()
        return OTLPLogExporter(endpoint=f"{self._base_url}/v1/logs", timeout=TIMEOUT, session=direct_session())

    def _results(self) -> tuple[Any, Any]:
        from opentelemetry.sdk._logs.export import LogRecordExportResult

        return LogRecordExportResult.SUCCESS, LogRecordExportResult.FAILURE


def direct_session() -> Any:
    """A session that asks no proxy and no netrc of the environment: collector and MLflow are the platform's own."""
    import requests

    session = requests.Session()
    session.trust_env = False
    return session


class LogShipper(logging.Handler):
    """Sends log lines to a collector, in the background. It never blocks: what does not fit the queue is dropped.

    Args:
        service: The `service.name` of every line.
        format_line: Makes the line of a record, with nothing secret in it: as it is written to standard error.
        exporter: Where lines go.
        limit: Lines that wait at most.
    """

    def __init__(
        self, service: str, format_line: Callable[[logging.LogRecord], str], exporter: Exporter, limit: int = 4096
    ) -> None:
        super().__init__()
        from opentelemetry.sdk._logs import LoggerProvider
        from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
        from opentelemetry.sdk.resources import Resource

        self.exporter = exporter
        self._format_line = format_line
        self._limit = limit
        self._handed = 0
        self._full = 0
        self._provider = LoggerProvider(Resource.create({"service.name": service}), shutdown_on_exit=False)
        self._provider.add_log_record_processor(
            BatchLogRecordProcessor(
                exporter,  # type: ignore[arg-type]
                schedule_delay_millis=1000,
                max_queue_size=2 * limit,  # it is this handler that drops, for this handler counts
                max_export_batch_size=min(limit, 512),
            )
        )
        self._logger = self._provider.get_logger("plinth")

    @property
    def shipped(self) -> int:
        """Lines that were handed over."""
        return self.exporter.exported

    @property
    def dropped(self) -> int:
        """Lines that were not, because the queue was full or the collector away."""
        return self._full + self.exporter.failed

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record in. Called with the handler's lock held."""
        # What the exporter and its HTTP client say while they export would be exported again.
        if record.name.startswith(("opentelemetry.", "urllib3.")):
            return
        if self._handed - self.exporter.exported - self.exporter.failed >= self._limit:
            self._full += 1
            return
        try:
            self._logger.emit(self._log_record(record))
            self._handed += 1
        except Exception:  # noqa: BLE001  (logging's own convention: a bad record must not stop the program)
            self.handleError(record)

    def _log_record(self, record: logging.LogRecord) -> Any:
        from opentelemetry._logs import LogRecord, SeverityNumber
        from opentelemetry.trace import TraceFlags

        at = int(record.created * 1e9)
        trace_id = getattr(record, "trace_id", "")
        return LogRecord(
            timestamp=at,
            observed_timestamp=at,
            trace_id=int(trace_id, 16) if trace_id else 0,
            span_id=0,
            trace_flags=TraceFlags(TraceFlags.SAMPLED if trace_id else TraceFlags.DEFAULT),
            severity_text=record.levelname,
            severity_number=SeverityNumber(_SEVERITIES.get(record.levelname, 9)),
            body=self._format_line(record),
        )

    def close(self) -> None:
        """Hand over what waits, for a few seconds at most, and stop."""
        self._provider.force_flush(int(TIMEOUT * 1000))
        self._provider.shutdown()
        super().close()


_SEVERITIES = {"DEBUG": 5, "INFO": 9, "WARNING": 13, "ERROR": 17, "CRITICAL": 21}
"""OpenTelemetry's numbers of Python's levels (its logs data model, "Mapping of SeverityNumber")."""

_shippers: list[LogShipper] = []
_lock = threading.Lock()


def ship(service: str, format_line: Callable[[logging.LogRecord], str], url: str) -> LogShipper | None:
    """Send this process's log lines to a collector too; None without an address. Arguments as `LogShipper`."""
    if not url:
        return None
    shipper = LogShipper(service, format_line, CollectorLogs(url.rstrip("/")))
    with _lock:
        _shippers[:] = [shipper]
    return shipper


def lines() -> tuple[int, int]:
    """Log lines of this process that a collector took, and those that were dropped."""
    with _lock:
        return (_shippers[0].shipped, _shippers[0].dropped) if _shippers else (0, 0)
