"""A bounded buffer of records and the one thread that writes it: what the service's logs share.

The request path appends and goes on; it never waits for the disk. When the buffer is full, rows are dropped and
counted. When the disk refuses, the rows wait in the buffer and are tried again. What a killed process had not written
yet is lost: at most one interval's rows. Each log has a buffer and a thread of its own, so that a sink that refuses
neither loses another log's rows nor has them written twice.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar


class HasRows(Protocol):
    """A record that stands for some rows."""

    @property
    def rows(self) -> int:
        """How many rows it takes up, at least one."""


Record = TypeVar("Record", bound=HasRows)
Written = TypeVar("Written", contravariant=True)


class Sink(Protocol[Written]):
    """Where records are written to."""

    def write(self, entries: Sequence[Written]) -> None:
        """Write all entries or none.

        Raises:
            OSError: They cannot be written now, for instance because the disk is full.
        """


class BufferedLog(Generic[Record]):
    """A bounded buffer of records and the one thread that writes it.

    Args:
        sink: Where records go.
        capacity: Rows the buffer holds, those waiting for a second try included.
        interval: Seconds between two writes.
        on_event: Called with a name, a level and fields when writing starts to fail or works again.
    """

    name: ClassVar[str]
    """What log lines and the thread call it."""

    def __init__(
        self,
        sink: Sink[Record],
        *,
        capacity: int = 50_000,
        interval: float = 1.0,
        on_event: Callable[..., None] = lambda *_, **__: None,
    ) -> None:
        self.written = 0
        self.dropped = 0
        self.write_errors = 0
        self.buffered = 0
        self.failing = ""
        self._sink = sink
        self._capacity = capacity
        self._interval = interval
        self._on_event = on_event
        self._entries: deque[Record] = deque()
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the writer."""
        thread_name = f"plinth-{self.name.replace(' ', '-')}"
        self._thread = threading.Thread(target=self._work, name=thread_name, daemon=True)
        self._thread.start()

    def append(self, entry: Record) -> bool:
        """Take an entry in; False when the buffer is full and it was dropped."""
        rows = entry.rows
        with self._lock:
            if self._closed or self.buffered + rows > self._capacity:
                self.dropped += rows
                return False
            self._entries.append(entry)
            self.buffered += rows
        return True

    def flush(self) -> bool:
        """Write what is buffered now, in the caller's thread. Returns whether everything was written."""
        with self._writing:
            with self._lock:
                entries = list(self._entries)
            return not entries or self._write(entries)

    def close(self) -> None:
        """Stop taking entries, write what is left, stop the writer."""
        with self._lock:
            self._closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=30)
        self.flush()

    def stats(self) -> dict[str, Any]:
        """Rows written, dropped and buffered, failed writes, and why writing fails now ("" when it does not)."""
        return {
            "written": self.written,
            "dropped": self.dropped,
            "buffered": self.buffered,
            "write_errors": self.write_errors,
            "failing": self.failing,
        }

    def _write(self, entries: list[Record]) -> bool:
        rows = sum(entry.rows for entry in entries)
        try:
            self._sink.write(entries)
        except Exception as error:  # noqa: BLE001  (whatever the sink meets, the rows stay and the writer lives)
            self.write_errors += 1
            if not self.failing:
                self._on_event(f"{self.name} cannot be written", 40, reason=str(error), rows=rows)
            self.failing = str(error) or type(error).__name__
            return False
        with self._lock:
            for _ in entries:
                self._entries.popleft()
            self.buffered -= rows
            self.written += rows
        if self.failing:
            self._on_event(f"{self.name} is written again", 20, rows=rows)
            self.failing = ""
        return True

    def _work(self) -> None:
        delay = self._interval
        while not self._closed:
            self._wake.wait(delay)
            started = time.monotonic()
            delay = self._interval if self.flush() else min(delay * 2, 10.0)
            delay = max(0.05, delay - (time.monotonic() - started))
