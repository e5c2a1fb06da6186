"""The shadow: a candidate scores what the serving release answered, off the response path, and never answers.

One thread with its own feature reader takes requests from a bounded queue, one at a time; when the queue is full they
are dropped and counted. The thread shares the interpreter with the event loop, so its service times run a little above
those of an answering release.
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
from plinth.serving.deadline import Deadline
from plinth.serving.port import Instances, Observer, ServedProduct
from plinth.serving.releases import LoadedRelease, ReleaseHolder, Routing, check_finite
from plinth.serving.requests import NO_SCORES, RequestLog, RequestRecord

CAPACITY = 256
"""Requests that may wait."""

LOCKED_SECONDS = 1.5
"""How long a locked online store is tried again."""


class _Waiting(NamedTuple):
    routing: Routing
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
        releases: ReleaseHolder,
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

    def offer(self, routing: Routing, request_id: str, instances: Instances) -> None:
        """Have an answered request scored by the routing's candidate. Never waits."""
        if self._queue.qsize() >= self._capacity:
            self.dropped += 1
        else:
            self._queue.put(_Waiting(routing, request_id, instances))

    def _work(self) -> None:
        while (waiting := self._queue.get()) is not None:
            if self._capacity:
                self._take(waiting)
            del waiting  # or it would hold a release in memory until the next one comes

    def _take(self, waiting: _Waiting) -> None:
        routing, now = waiting.routing, self._releases.routing
        candidate = routing.candidate
        if candidate is None or now is None or now.candidate is not candidate:
            return
        delay, deadline = 0.02, time.monotonic() + LOCKED_SECONDS
        while True:
            scores, code, defaulted = NO_SCORES, 500, 0
            started = time.perf_counter()
            try:
                scores, defaulted = self._score(candidate, waiting.instances)
                code = 200
            except Unavailable:
                if time.monotonic() + delay > deadline:
                    self.dropped += 1  # the store's trouble is no evidence about the candidate
                    return
                time.sleep(delay)
                delay = min(delay * 2, 0.2)
                continue
            except Exception as error:  # noqa: BLE001  (whatever a candidate does is evidence, and the thread lives)
                self._say(f"{type(error).__name__}: {error}", candidate)
            self._record(waiting, candidate, code, time.perf_counter() - started, defaulted, scores)
            return

    def _score(self, candidate: LoadedRelease, instances: Instances) -> tuple[NDArray[np.float64], int]:
        """Scores [n], and how many rows some view had no fresh value for."""
        block = candidate.reader().read(instances.keys, instances.at)
        scores = self._deadline.score(candidate.scorer, self._product.assemble(instances, block.values))
        check_finite(scores, candidate)
        return scores, int(block.status.any(axis=1).sum())

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
