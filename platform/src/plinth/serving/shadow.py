"""The shadow: a candidate scores what the serving release answered, off the response path, and never answers.

One thread with its own feature reader takes requests from a bounded queue; when the queue is full they are dropped and
counted. The thread shares the interpreter with the event loop: under load it gathers what arrives within a moment into
one run, so that it takes little of the loop's time. The service times of a shadow are therefore nobody's latency.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from plinth.errors import Unavailable
from plinth.serving.batching import merge
from plinth.serving.deadline import Deadline
from plinth.serving.port import Instances, Observer, ServedProduct
from plinth.serving.requests import NO_SCORES, RequestLog, RequestRecord
from plinth.serving.tabular import LoadedRelease, Releases, TabularRouting, check_finite

CAPACITY = 256
"""Requests that may wait."""

GATHER_SECONDS = 0.02
"""How long it waits for others after the first request."""

GATHER_ROWS = 64
"""Rows of one shared run: the loop waits while their vectors are made. A larger request runs by itself."""

LOCKED_SECONDS = 1.5
"""How long a locked online store is tried again."""


class _Waiting(NamedTuple):
    routing: TabularRouting
    request_id: str
    instances: Instances


class Shadow:
    """Scores requests again with the candidate.

    Args:
        product: Makes the model's vectors.
        releases: What is applied now: a request whose candidate was withdrawn meanwhile is left.
        requests: Gets one record a request, with the arm "shadow".
        observer: Is told the same.
        capacity: Requests that may wait.
    """

    def __init__(
        self,
        product: ServedProduct,
        releases: Releases,
        requests: RequestLog,
        observer: Observer,
        *,
        capacity: int = CAPACITY,
    ) -> None:
        self.dropped = 0
        self._product = product
        self._releases = releases
        self._requests = requests
        self._observer = observer
        self._capacity = capacity
        self._deadline = Deadline()
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._said = ""

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._work, name="plinth-shadow", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread; what waits is left."""
        self._capacity = 0
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join(timeout=5)
        self._deadline.close()

    def offer(self, routing: TabularRouting, request_id: str, instances: Instances) -> None:
        """Have an answered request scored by the routing's candidate. Never waits."""
        if self._queue.qsize() >= self._capacity:
            self.dropped += 1
        else:
            self._queue.put(_Waiting(routing, request_id, instances))

    def _work(self) -> None:
        while (first := self._queue.get()) is not None:
            time.sleep(GATHER_SECONDS)
            for run in _runs([first, *self._gathered()]):
                if self._capacity:
                    self._take(run)
            del first, run  # or they would hold a release in memory until the next request comes

    def _gathered(self) -> list[_Waiting]:
        found: list[_Waiting] = []
        while not self._queue.empty():
            waiting = self._queue.get()
            if waiting is None:
                self._queue.put(None)
                break
            found.append(waiting)
        return found

    def _take(self, run: list[_Waiting]) -> None:
        """Score requests of one routing; one that fails fails alone."""
        routing, now = run[0].routing, self._releases.routing
        candidate = routing.candidate
        if candidate is None or now is None or now.candidate is not candidate:
            return
        delay, deadline = 0.02, time.monotonic() + LOCKED_SECONDS
        while True:
            started = time.perf_counter()
            try:
                scores, status = self._score(candidate, run)
            except Unavailable:
                if time.monotonic() + delay > deadline:
                    self.dropped += len(run)  # the store's trouble is no evidence about the candidate
                    return
                time.sleep(delay)
                delay = min(delay * 2, 0.2)
            except Exception as error:  # noqa: BLE001  (whatever a candidate does is evidence, and the thread lives)
                if len(run) > 1:
                    for waiting in run:
                        self._take([waiting])
                    return
                self._say(f"{type(error).__name__}: {error}", candidate)
                self._record(run[0], candidate, 500, time.perf_counter() - started, 0, NO_SCORES)
                return
            else:
                break
        seconds, start = time.perf_counter() - started, 0
        for waiting in run:
            rows = slice(start, start := start + len(waiting.instances.entity_ids))
            self._record(waiting, candidate, 200, seconds, int(status[rows].any(axis=1).sum()), scores[rows])

    def _score(self, candidate: LoadedRelease, run: list[_Waiting]) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
        """Scores [n] and the views' status [n, views]."""
        instances = run[0].instances if len(run) == 1 else merge([waiting.instances for waiting in run])
        block = candidate.reader().read(instances.keys, instances.at)
        scores = self._deadline.score(candidate.scorer, self._product.assemble(instances, block.values))
        check_finite(scores, candidate)
        return scores, block.status

    def _record(
        self,
        waiting: _Waiting,
        candidate: LoadedRelease,
        code: int,
        seconds: float,
        defaulted: int,
        scores: NDArray[np.float64],
    ) -> None:
        route, entities = waiting.routing.route, waiting.instances.entity_ids
        self._requests.append(
            RequestRecord(
                waiting.request_id, time.time(), time.monotonic(), route.generation, route.step, "shadow",
                candidate.digest, code, seconds, len(entities), defaulted, entities if code == 200 else (), scores,
            )
        )  # fmt: skip
        self._observer.arm(
            route=route, arm="shadow", release=candidate.digest, failed=code != 200, seconds=seconds, scores=scores,
            defaulted=defaulted,
        )  # fmt: skip

    def _say(self, reason: str, candidate: LoadedRelease) -> None:
        """A log line, once a reason: every request may meet it."""
        if reason != self._said:
            self._said = reason
            self._observer.event("the shadow failed", logging.WARNING, release=candidate.digest, reason=reason)


def _runs(waiting: list[_Waiting]) -> list[list[_Waiting]]:
    """What may run together: of the same routing, and not too many rows."""
    runs: list[list[_Waiting]] = []
    rows = 0
    for one in waiting:
        rows += len(one.instances.entity_ids)
        if not runs or runs[-1][0].routing is not one.routing or rows > GATHER_ROWS:
            runs.append([])
            rows = len(one.instances.entity_ids)
        runs[-1].append(one)
    return runs
