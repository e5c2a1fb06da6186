"""Deadline, circuit breaker and fallback around a generator.

The breaker is our own: pybreaker, aiobreaker and circuitbreaker guard a call that returns, and here the failure may
come in the middle of a stream; purgatory's guards a block but keeps half-open calls unbounded. What is needed is the
30 lines of `Breaker`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import cast

from plinth.errors import InvalidInput, RefusedByPolicy, Unavailable
from plinth.generation.budget import named
from plinth.generation.port import Generator, Piece, Request


class Breaker:
    """Leaves alone what fails: opens after so many failures in a row, and lets one call try when it has cooled down.
    Thread-safe.

    Args:
        failures: In a row, that open it.
        cool_down: Seconds that it stays open.
        clock: Seconds that only go forward (a changed wall clock must neither open nor close it).
    """

    def __init__(self, failures: int, cool_down: float, clock: Callable[[], float]) -> None:
        self._limit = failures
        self._cool_down = cool_down
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._opened = 0.0
        self._trying = False

    @property
    def state(self) -> str:
        """`closed`, `open`, or `half-open`: cooled down, one call may try."""
        if self._failures < self._limit:
            return "closed"
        return "half-open" if self._clock() - self._opened >= self._cool_down else "open"

    def allows(self) -> bool:
        """Whether a call may be made now. Whoever makes it reports `ended`."""
        with self._lock:
            if self.state == "closed":
                return True
            if self.state == "open" or self._trying:
                return False
            self._trying = True
            return True

    def ended(self, succeeded: bool | None) -> None:
        """How a call ended; None is neither: whoever asked went away."""
        with self._lock:
            self._trying = False
            if succeeded:
                self._failures = 0
            elif succeeded is False:
                self._failures += 1
                self._opened = self._clock()


class ResilientGenerator:
    """A primary model, and another one that answers while the primary cannot.

    The fallback answers only where the primary has not said anything yet: an answer is never two models' words.

    Args:
        primary: Asked first.
        fallback: Asked when the primary fails before its first piece, or is left alone.
        timeout: Seconds for the whole answer. With a fallback, the primary has half of it to begin.
        failures: Failures in a row after which the primary is left alone.
        cool_down: Seconds that it is left alone.
        clock: For tests.
    """

    def __init__(
        self,
        primary: Generator,
        fallback: Generator | None = None,
        *,
        timeout: float,
        failures: int = 5,
        cool_down: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = primary.name
        self.breaker = Breaker(failures, cool_down, clock)
        self._primary = primary
        self._fallback = fallback
        self._timeout = timeout

    async def stream(self, request: Request) -> AsyncIterator[Piece]:
        """As Generator.stream; the last piece names who answered."""
        deadline = asyncio.get_running_loop().time() + self._timeout
        begin = deadline - self._timeout / 2 if self._fallback else deadline
        failure = Unavailable(
            f"the model {self.name!r} is left alone after failures",
            where="generator",
            hint="try again in half a minute",
        )
        if self.breaker.allows():
            began, succeeded = False, None
            try:
                async with aclosing(_within(self._primary, request, begin, deadline)) as pieces:
                    async for piece in pieces:
                        began = True
                        yield piece
                succeeded = True
                return
            except Unavailable as error:
                succeeded, failure = False, error
                if began or self._fallback is None:
                    raise
            except (InvalidInput, RefusedByPolicy):  # it answers, and the request is at fault
                succeeded = True
                raise
            finally:
                self.breaker.ended(succeeded)
        if self._fallback is None:
            raise failure
        try:
            async with aclosing(_within(self._fallback, request, deadline, deadline)) as pieces:
                async for piece in pieces:
                    yield piece
        except Unavailable as error:
            raise error from failure


async def _within(generator: Generator, request: Request, begin: float, deadline: float) -> AsyncGenerator[Piece]:
    """A generator's pieces: the first one by `begin`, all by `deadline`, in the event loop's time."""
    limit, what = begin, "has not begun to answer"
    async with aclosing(cast("AsyncGenerator[Piece]", generator.stream(request))) as pieces:
        while True:
            try:
                async with asyncio.timeout_at(limit):
                    piece = await anext(pieces, None)
            except TimeoutError:
                raise Unavailable(
                    f"the model {generator.name!r} {what} in time", where="generator",
                    hint="check the endpoint, or give it a longer timeout in product.yaml",
                ) from None  # fmt: skip
            if piece is None:
                return
            limit, what = deadline, "did not end its answer"
            yield named(piece, generator.name)
