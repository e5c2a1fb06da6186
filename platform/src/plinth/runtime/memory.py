"""How much memory a stretch of work took: this process, its children and the profile's services together."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType

import psutil

from plinth.runtime import leftovers


class PeakMemory:
    """Samples resident memory in a thread; `peak_mb` is the largest sum seen, in MiB.

    Pages that processes share are counted once for each, so the sum is an upper bound.

    Args:
        state: State folder whose services count.
        interval: Seconds between samples.
    """

    def __init__(self, state: Path, interval: float = 1.0) -> None:
        self.peak_mb = 0.0
        self._state = state
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="plinth-memory", daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=10)

    def _sample(self) -> None:
        known: list[psutil.Process] = []
        turn = 0
        while True:
            # Who runs is looked up now and then: walking all processes costs more than reading the sizes of a few.
            if turn % 10 == 0:
                own = psutil.Process()
                known = [own, *own.children(recursive=True), *leftovers.find(self._state)]
            turn += 1
            sizes = {process.pid: _resident(process) for process in known}
            self.peak_mb = max(self.peak_mb, sum(sizes.values()) / 2**20)
            if self._stop.wait(self._interval):
                return


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
