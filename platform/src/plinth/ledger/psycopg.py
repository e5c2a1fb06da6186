"""Connections to PostgreSQL that cannot hang: the driver itself waits for an answer as long as it takes.

The server's own limits (lock_timeout, statement_timeout) do not help when the server, or the network before it, has
gone silent while the kernel at the other end still acknowledges what is sent.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any, TypeVar

import psycopg

T = TypeVar("T")


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that is given up when the server does not answer within `answer_seconds`.

    Raises (every method that talks to the server):
        psycopg.OperationalError: No answer in time. The connection is closed; what it was doing is not committed, or
            it is and nobody knows: the caller has to look again.
    """

    answer_seconds = 12.0  # above the server's own limits, which make better errors

    def wait(self, gen: Generator[Any, Any, T], interval: float = 0.1, timeout: float | None = None) -> T:
        """As the driver's, with a limit when the caller gives none."""
        limit, started = timeout or self.answer_seconds, time.monotonic()
        try:
            return super().wait(gen, interval, limit)
        except psycopg.OperationalError as error:
            if timeout is not None or time.monotonic() - started < limit:
                raise
            self.pgconn.finish()
            raise psycopg.OperationalError(f"the server has not answered for {limit:.0f} s") from error
