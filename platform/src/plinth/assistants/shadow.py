"""The shadow: a candidate answers what the serving release answered, off the response path, and nobody reads it.

One thread takes questions from a bounded queue and answers them one after the other; when the queue is full they are
dropped and counted.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from plinth.assistants.answering import ask
from plinth.assistants.loading import LoadedAssistant
from plinth.core.answers import Answer
from plinth.core.corpus import Scope
from plinth.core.routes import Route
from plinth.serving.port import Observer
from plinth.serving.releases import ReleaseHolder, Routing

CAPACITY = 64
"""Questions that may wait."""

Record = Callable[[Route, str, str, str, float, Answer | None, int], None]
"""Route, the candidate's digest, request id, entity, seconds, the answer (None: it failed), code."""


class _Waiting(NamedTuple):
    routing: Routing[LoadedAssistant]
    request_id: str
    entity: str
    question: str
    scope: Scope


class AnswerShadow:
    """Answers questions again with the candidate.

    Args:
        releases: What is applied now: a question whose candidate was withdrawn meanwhile is left.
        record: Is called with what came of each question.
        observer: Is told of the first of a row of failures.
        capacity: Questions that may wait.
    """

    def __init__(
        self,
        releases: ReleaseHolder[LoadedAssistant],
        record: Record,
        observer: Observer,
        *,
        capacity: int = CAPACITY,
    ) -> None:
        self.dropped = 0
        self._releases = releases
        self._record = record
        self._observer = observer
        self._capacity = capacity
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

    def offer(
        self, routing: Routing[LoadedAssistant], request_id: str, entity: str, question: str, scope: Scope
    ) -> None:
        """Have an answered question answered by the routing's candidate. Never waits."""
        if self._queue.qsize() >= self._capacity:
            self.dropped += 1
        else:
            self._queue.put(_Waiting(routing, request_id, entity, question, scope))

    def _work(self) -> None:
        while (waiting := self._queue.get()) is not None:
            if self._capacity:
                self._take(waiting)
            del waiting  # or it would hold a release in memory until the next question comes

    def _take(self, waiting: _Waiting) -> None:
        routing, now = waiting.routing, self._releases.routing
        candidate = routing.candidate
        if candidate is None or now is None or now.candidate is not candidate:
            return
        started = time.perf_counter()
        whole: Answer | None = None
        try:
            whole = ask(candidate, waiting.question, waiting.scope)
        except Exception as error:  # noqa: BLE001  (whatever a candidate does is evidence, and the thread lives)
            self._say(f"{type(error).__name__}: {error}", candidate)
        seconds = time.perf_counter() - started
        code = 200 if whole is not None else 500
        self._record(routing.route, candidate.digest, waiting.request_id, waiting.entity, seconds, whole, code)

    def _say(self, reason: str, candidate: LoadedAssistant) -> None:
        """A log line, once a reason: every question may meet it."""
        if reason != self._said:
            self._said = reason
            self._observer.event("the shadow failed", logging.WARNING, release=candidate.digest, reason=reason)
