"""A deadline for a candidate's runs: a model nobody has trusted yet must not hold up the event loop.

A model runs in the loop's own thread, because a hop to another one costs more than the run. So a second thread watches,
and ends a run that takes too long. After that the candidate is not asked for a while (a breaker), or a hanging one
would take the whole loop one deadline after the other.

What cannot be ended: a single graph node that does not come back, and Python code that hangs. ONNX Runtime looks at its
terminate flag between nodes only; a supervisor's probe of /healthz is what finds those.
"""

from __future__ import annotations

import threading
import time

import numpy as np
from numpy.typing import NDArray

from plinth.errors import PlinthError
from plinth.serving.port import FloatMatrix, Scorer

RUN_SECONDS = 1.0
"""How long a candidate's run may take."""

REST_SECONDS = 5.0
"""How long a candidate that took too long is not asked."""


class Deadline:
    """Ends runs that take too long. For the runs of one thread; the watching thread starts with the first of them.

    Args:
        seconds: How long a run may take.
        rest: How long a model is not asked after that.
    """

    def __init__(self, seconds: float = RUN_SECONDS, rest: float = REST_SECONDS) -> None:
        self._seconds = seconds
        self._rest = rest
        self._running: tuple[Scorer, float] | None = None
        self._late: Scorer | None = None
        self._rests_until = 0.0
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def score(self, scorer: Scorer, matrix: FloatMatrix) -> NDArray[np.float64]:
        """Probabilities [n] of a matrix [n, features].

        Raises:
            PlinthError: It took too long, now or a moment ago.
        """
        now = time.monotonic()
        if scorer is self._late:
            if now < self._rests_until:
                raise PlinthError(
                    f"the candidate took more than {self._seconds:g} s a moment ago, and is not asked",
                    hint="roll back; entities of the serving release are answered",
                )
            self._late = None
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="plinth-deadline", daemon=True)
            self._thread.start()
        self._running = (scorer, now)
        try:
            return scorer.score(matrix)
        except Exception as error:
            if self._late is scorer:
                raise PlinthError(
                    f"the candidate did not answer within {self._seconds:g} s", hint="roll back"
                ) from error
            raise
        finally:
            self._running = None

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(self._seconds / 8):
            self._look()  # a frame of its own: this one would hold the last model in memory

    def _look(self) -> None:
        running, now = self._running, time.monotonic()
        if running is not None and now - running[1] > self._seconds:
            # The breaker first: the run may end the moment it is told to.
            self._rests_until, self._late = now + self._rest, running[0]
            running[0].stop()
        elif self._late is not None and now >= self._rests_until:
            self._late = None  # a candidate that is gone is not to be held in memory for having been late
