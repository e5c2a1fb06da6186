"""The inference log: every prediction through a bounded buffer and one writer thread.

The request path appends and goes on; it never waits for the disk. When the buffer is full, rows are dropped and
counted. When the disk refuses, the rows wait in the buffer and are tried again. What a killed process had not written
yet is lost: at most one interval's rows.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from plinth.serving.port import FloatMatrix


@dataclass(frozen=True, slots=True)
class Entry:
    """The predictions of one request: n rows.

    Attributes:
        request_id: The request's id, the same for all rows.
        release: Digest of the release that answered.
        entity_ids: [n].
        at: Event time (when the prediction is for), seconds since 1970-01-01 UTC, [n].
        features: What the model saw, float32 [n, k].
        scores: Probabilities, [n].
        flags: The flags of each row, [n].
        latency_ms: From the first byte of the body to the answer.
        answered: Wall clock of the answer, seconds since 1970-01-01 UTC.
    """

    request_id: str
    release: str
    entity_ids: Sequence[str]
    at: NDArray[np.int64]
    features: FloatMatrix
    scores: NDArray[np.float64]
    flags: Sequence[Sequence[str]]
    latency_ms: float
    answered: float


class Sink(Protocol):
    """Where entries are written to."""

    def write(self, entries: Sequence[Entry]) -> None:
        """Write all entries or none.

        Raises:
            OSError: They cannot be written now, for instance because the disk is full.
        """


class InferenceLog:
    """A bounded buffer of entries and the one thread that writes it.

    Args:
        sink: Where entries go.
        capacity: Rows the buffer holds, those waiting for a second try included.
        interval: Seconds between two writes.
        on_event: Called with a name, a level and fields when writing starts to fail or works again.
    """

    def __init__(
        self,
        sink: Sink,
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
        self._entries: deque[Entry] = deque()
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the writer."""
        self._thread = threading.Thread(target=self._work, name="plinth-inference-log", daemon=True)
        self._thread.start()

    def append(self, entry: Entry) -> bool:
        """Take an entry in; False when the buffer is full and it was dropped."""
        rows = len(entry.entity_ids)
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

    def _write(self, entries: list[Entry]) -> bool:
        rows = sum(len(entry.entity_ids) for entry in entries)
        try:
            self._sink.write(entries)
        except Exception as error:  # noqa: BLE001  (whatever the sink meets, the rows stay and the writer lives)
            self.write_errors += 1
            if not self.failing:
                self._on_event("inference log cannot be written", 40, reason=str(error), rows=rows)
            self.failing = str(error) or type(error).__name__
            return False
        with self._lock:
            for _ in entries:
                self._entries.popleft()
            self.buffered -= rows
            self.written += rows
        if self.failing:
            self._on_event("inference log is written again", 20, rows=rows)
            self.failing = ""
        return True

    def _work(self) -> None:
        delay = self._interval
        while not self._closed:
            self._wake.wait(delay)
            started = time.monotonic()
            delay = self._interval if self.flush() else min(delay * 2, 10.0)
            delay = max(0.05, delay - (time.monotonic() - started))
