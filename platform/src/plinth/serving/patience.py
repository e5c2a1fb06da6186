"""How long callers wait together for a store that is away: from when it was found so, not each from when it came.

A store that restarts costs nobody an answer; of one that stays away, requests that follow each other are tried once and
refused at once. A caller keeps a deadline of its own beside this: what one release misses another may have.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class Patience:
    """The patience of one process. Not for threads: an event loop's requests share it.

    Args:
        seconds: How long an absence is waited for, and how long after a failure another one is a new absence.
        clock: Seconds that only grow.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._since = self._failed = -float("inf")

    def lasts(self, delay: float) -> bool:
        """The store was just found away: whether to try again after `delay` seconds."""
        now = self._clock()
        if now - self._failed > self._seconds:
            self._since = now
        self._failed = now
        return now + delay <= self._since + self._seconds

    def answered(self) -> None:
        """The store is back."""
        self._failed = -float("inf")
