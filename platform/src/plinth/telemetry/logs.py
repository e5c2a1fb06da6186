"""Structured logs: one JSON object a line, on standard error.

Fields: `at` (UTC, ISO 8601), `level`, `service`, `event`, what the call adds (`request_id`, `run_id`, `trace_id`, ...)
and `error` with the traceback. Values under names that sound like secrets, and passwords inside addresses, never reach
the output.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, TextIO

from plinth.telemetry.otlp import ship

SECRET_NAME = re.compile(r"(?i)(secret|passw|token|authori[sz]ation|api_?key|cookie|credential)")
SECRET_IN_URL = re.compile(r"(\w+://[^\s:/@]*:)[^\s@]+@")  # redis:// has a password and no user
REDACTED = "[redacted]"

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_context: ContextVar[dict[str, Any]] = ContextVar("plinth_log_context", default={})  # noqa: B039  (never mutated)


@contextlib.contextmanager
def context(**fields: Any) -> Iterator[None]:
    """Adds fields, such as `run_id`, to every line logged inside."""
    token = _context.set({**_context.get(), **fields})
    try:
        yield
    finally:
        _context.reset(token)


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """The line, without the line break."""
        seconds = int(record.created)
        line: dict[str, Any] = {
            "at": f"{_second(seconds)}.{int((record.created - seconds) * 1000):03d}Z",
            "level": record.levelname,
            "service": self._service,
            "event": _clean(record.getMessage()),
            "logger": record.name,
        }
        line.update(_context.get())
        line.update({name: value for name, value in record.__dict__.items() if name not in _STANDARD})
        if record.exc_info:
            line["error"] = _clean(self.formatException(record.exc_info))
        for name, value in line.items():
            if _is_secret(name):
                line[name] = REDACTED
            elif type(value) is str and "://" in value:
                line[name] = _clean(value)
        return _encode(line)


_encode = json.JSONEncoder(default=str).encode


@lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


@lru_cache(maxsize=1000)
def _is_secret(name: str) -> bool:
    return SECRET_NAME.search(name) is not None


def _clean(text: str) -> str:
    return SECRET_IN_URL.sub(rf"\1{REDACTED}@", text) if "://" in text else text


class BufferedHandler(logging.Handler):
    """Writes lines in batches: a system call a request would cost more than the rest of its telemetry.

    A warning or worse is written at once, with everything before it.

    Args:
        stream: Where lines go.
        interval: Longest time in seconds a line waits.
    """

    def __init__(self, stream: TextIO, interval: float = 0.25) -> None:
        super().__init__()
        self._stream = stream
        self._lines: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(interval,), name="plinth-logs", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record in. Called with the handler's lock held."""
        try:
            self._lines.append(self.format(record))
        except Exception:  # noqa: BLE001  (logging's own convention: a bad record must not stop the program)
            self.handleError(record)
        if record.levelno >= logging.WARNING or len(self._lines) >= 1000:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        with self.lock:  # type: ignore[union-attr]
            lines, self._lines = self._lines, []
            if lines:
                # Standard error may be closed or its disk full: lines are lost, the service goes on.
                with contextlib.suppress(OSError, ValueError):
                    self._stream.write("\n".join(lines) + "\n")
                    self._stream.flush()

    def close(self) -> None:
        """Write what waits and stop."""
        self._stop.set()
        self.flush()
        super().close()

    def _work(self, interval: float) -> None:
        while not self._stop.wait(interval):
            self.flush()


def configure(
    service: str, level: str = "INFO", stream: TextIO | None = None, *, otlp_url: str = ""
) -> logging.Handler:
    """Send every log line of the process to one stream as JSON. Returns the handler; close it at the end.

    Args:
        service: The `service` of every line.
        level: The least that is logged.
        stream: Default standard error.
        otlp_url: A collector that gets the same lines, while it answers; "" is none.
    """
    # Not in our lines, and asked of the system for every record otherwise (Python's logging HOWTO, "Optimization").
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = BufferedHandler(stream or sys.stderr)
    formatter = JsonFormatter(service)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    if otlp_url:
        shipper = ship(service, formatter.format, otlp_url)
        if shipper is not None:
            root.addHandler(shipper)
    return handler
