"""Readings that may take long or fail, so that whoever asks never does either: refreshed behind, one at a time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable

from plinth.telemetry.metrics import Metric
from plinth.telemetry.prometheus import Reading

log = logging.getLogger(__name__)

FRESH_SECONDS = 4.0
"""So long what was read is good: less than Prometheus's usual interval, so that each scrape sees something new."""
OLD_SECONDS = 30.0
"""What was read longer ago than this, and than twice as long as it is good, is left out: a place that hangs has nothing
to say."""


class Source:
    """One place that metrics are read from.

    Args:
        name: For the log.
        read: Reads it all; may raise whatever it likes.
        up: Says 1 while it can be read, 0 while not; None where nothing says so.
        fresh: Seconds that what was read is good for.
        clock: Monotonic seconds; tests give their own.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[], Iterable[Reading]],
        up: Metric | None = None,
        *,
        fresh: float = FRESH_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._read = read
        self._up = up
        self._fresh = fresh
        self._old = max(OLD_SECONDS, 2 * fresh)
        self._clock = clock
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._asked_at = float("-inf")
        self._known: tuple[float, tuple[Reading, ...]] = float("-inf"), ()
        self._problem = ""

    def ask(self) -> None:
        """Have it read again where that is due and not going on."""
        with self._lock:
            if self._clock() - self._asked_at < self._fresh or (self._thread is not None and self._thread.is_alive()):
                return
            self._asked_at = self._clock()
            self._thread = threading.Thread(target=self._refresh, name=f"plinth-reads-{self.name}", daemon=True)
            self._thread.start()

    def wait(self, seconds: float) -> None:
        """Wait for what is being read, at most so long."""
        if self._thread is not None:
            self._thread.join(max(0.0, seconds))

    def now(self) -> list[Reading]:
        """What was read last, unless that failed or is too old."""
        at, readings = self._known
        well = not self._problem and self._clock() - at < self._old
        told = [(self._up, (), float(well))] if self._up is not None else []
        return [*(readings if well else ()), *told]

    def _refresh(self) -> None:
        try:
            readings = tuple(self._read())
        except Exception as error:  # noqa: BLE001  (whatever it is: that place has no readings now, the others have)
            problem = f"{type(error).__name__}: {error}"
            if problem != self._problem:
                log.warning("metrics cannot be read", extra={"source": self.name, "reason": problem})
            self._problem = problem
        else:
            self._known = self._clock(), readings
            self._problem = ""
