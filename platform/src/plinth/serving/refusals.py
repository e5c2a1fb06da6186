"""Refused tokens in the audit log: added up by reason and written in the background, so that no flood fills the ledger.

Who presents a token that does not count has tried something, or has a clock or a key that is wrong: that is kept.
Requests without any token are only counted, in the metrics: scanners and people who forgot one make them all day.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from plinth.errors import PlinthError

INTERVAL = 60.0
"""Seconds between two entries of one reason."""
LOOK = 1.0


@dataclass(slots=True)
class _Tally:
    """Refusals of one reason that are not in the audit log yet. `tried` is when writing was tried last, monotonic."""

    count: int = 0
    first: float = 0.0
    last: float = 0.0
    tried: float = float("-inf")


class Refusals:
    """Adds refusals up. A request waits for nothing, whatever the ledger does.

    Args:
        write: Puts an entry into the audit log.
        interval: Seconds between two entries of one reason; the first is written at once.
        on_event: Called with a name, a level and fields when entries cannot be written, and when they can again.
    """

    def __init__(
        self,
        write: Callable[[dict[str, Any]], None],
        *,
        interval: float = INTERVAL,
        on_event: Callable[..., None] = lambda *_, **__: None,
    ) -> None:
        self._write = write
        self._interval = interval
        self._on_event = on_event
        self._tallies: dict[str, _Tally] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._failing = False

    def start(self) -> None:
        """Start the writer."""
        self._thread = threading.Thread(target=self._work, daemon=True, name="plinth-refusals")
        self._thread.start()

    def close(self) -> None:
        """Stop the writer, and write what is left."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=30)
        self.flush()

    def add(self, reason: str) -> None:
        """A token was refused. Reasons are few: each keeps a tally for good."""
        now = time.time()
        with self._lock:
            tally = self._tallies.setdefault(reason, _Tally())
            tally.first = tally.first if tally.count else now
            tally.last = now
            tally.count += 1

    def flush(self) -> None:
        """Write every tally now."""
        self._write_those(due_only=False)

    def _work(self) -> None:
        while not self._stop.wait(LOOK):
            self._write_those(due_only=True)

    def _write_those(self, *, due_only: bool) -> None:
        now = time.monotonic()
        with self._lock:
            waiting = [
                (reason, tally)
                for reason, tally in self._tallies.items()
                if tally.count and not (due_only and now - tally.tried < self._interval)
            ]
        for reason, tally in waiting:
            tally.tried = now
            if not self._write_one(reason, tally):
                return  # the others would wait for the same ledger

    def _write_one(self, reason: str, tally: _Tally) -> bool:
        with self._lock:
            count, first, last = tally.count, tally.first, tally.last
        try:
            self._write({"reason": reason, "count": count, "first": _iso(first), "last": _iso(last)})
        except PlinthError as error:
            self._tell(str(error))
            return False
        except Exception as error:  # noqa: BLE001  (whatever the ledger meets, the writer lives and the tally stays)
            self._tell(repr(error))
            return False
        with self._lock:
            tally.count -= count  # those of meanwhile are the next entry's
            tally.first = last
        if self._failing:
            self._failing = False
            self._on_event("refused tokens are written to the audit log again", 20)
        return True

    def _tell(self, reason: str) -> None:
        if not self._failing:
            self._failing = True
            self._on_event("refused tokens cannot be written to the audit log", 40, reason=reason)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
