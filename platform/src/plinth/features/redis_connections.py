"""Connections to a Valkey or Redis server for a process that must not wait for it.

Who serves from an event loop neither connects nor looks up a name there: both may take seconds while a server is down.
A thread makes connections and tries them with a PING; whoever reads takes one that is ready, or is told at once that
there is none. So a server that is down costs no request any time, one that hangs costs one request the socket's
timeout, and the first connection that works again is used: the thread is the circuit breaker.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import redis
from redis.connection import Connection, parse_url

from plinth.errors import Corrupt, InvalidInput, Unavailable

TIMEOUT = 0.2
"""Seconds to connect, and to wait for an answer, on the request path."""

PATIENCE = 2.0
"""How long others than services wait for a server that does not answer."""

MAX_CONNECTIONS, SPARE = 8, 2
"""Connections at most, and how many are made ready ahead of whoever reads next."""

BACKOFF = (0.05, 1.0)
"""Seconds between tries to connect: the first, doubled each time up to the last."""

WANTED_SECONDS = 5.0
"""How long after the last read that found no connection the thread goes on trying."""

Answers = list[Any]


def address(url: str) -> tuple[dict[str, Any], str]:
    """What redis-py takes of a URL, and the address without its secrets.

    Raises:
        InvalidInput: It is no redis:// or rediss:// URL.
    """
    try:
        options: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
    except ValueError as error:  # its text may hold the password
        raise InvalidInput(
            "the address of the online store is no redis:// URL", where="PLINTH_ONLINE_STORE",
            hint="redis://:password@host:6379/0",
        ) from error  # fmt: skip
    host, port, number = options.get("host", "localhost"), options.get("port", 6379), options.get("db", 0)
    return options, f"{host}:{port}/{number}"


def unavailable(error: Exception | str, where: str) -> Unavailable:
    """What a server's error means to whoever reads or writes features."""
    if isinstance(error, redis.AuthenticationError | redis.exceptions.NoPermissionError):
        return Unavailable(
            "the online store refuses the password", where=where, hint="check PLINTH_ONLINE_STORE, or .env"
        )
    return Unavailable(f"the online store does not answer: {error}", where=where, hint="retry; look at the server")


def ping(url: str, timeout: float) -> None:
    """See that a server answers and takes the password.

    Raises:
        InvalidInput: It is no redis:// or rediss:// URL.
        Unavailable: It does not answer, or refuses.
    """
    _, where = address(url)
    try:
        with redis.Redis.from_url(url, socket_timeout=timeout, socket_connect_timeout=timeout) as client:
            client.ping()
    except redis.RedisError as error:
        raise unavailable(error, where) from error


class Connections:
    """A bounded pool that lives as long as its process. Safe to share between threads.

    Args:
        url: `redis://:password@host:port/db`.
        timeout: Seconds to connect, and to wait for a part of an answer.
        limit: Connections at most.
    """

    def __init__(self, url: str, *, timeout: float = TIMEOUT, limit: int = MAX_CONNECTIONS) -> None:
        options, self.where = address(url)
        self._make: Any = options.pop("connection_class", Connection)
        self._options = {"socket_keepalive": True, **options}
        self._options |= {"socket_timeout": timeout, "socket_connect_timeout": timeout}
        self._limit = limit
        self._idle: list[Any] = []
        self._open = 0
        self._changed = threading.Condition()
        self._connector: threading.Thread | None = None
        self._wanted_at = 0.0
        self._problem: Exception | str = "not connected yet"

    def prepare(self) -> None:
        """Begin to connect, if nothing is open; returns at once."""
        with self._changed:
            if not self._open:
                self._want()

    def ask(self, commands: bytes, answers: int, *, patience: float = 0.0) -> Answers:
        """Send commands in one piece and read that many answers.

        Args:
            commands: In the protocol's form.
            answers: How many to read.
            patience: Seconds to wait for a connection, and to try again. Without any, what fails fails at once.

        Raises:
            Unavailable: The server does not answer, or refuses.
            Corrupt: A key holds something else than its name says.
        """
        until = time.monotonic() + patience
        while True:
            connection = self._take(until)
            try:
                connection.send_packed_command([commands], check_health=False)
                found = [connection.read_response(disable_decoding=True) for _ in range(answers)]
            except (redis.ConnectionError, redis.TimeoutError) as error:
                self._lost(connection, error)
                if time.monotonic() >= until:
                    raise unavailable(error, self.where) from error
            except redis.ResponseError as error:
                self._drop(connection)  # answers to other commands are still under way
                raise Corrupt(
                    f"the online store refuses to read: {error}", where=self.where, hint="materialize it anew"
                ) from error
            except BaseException:
                self._drop(connection)
                raise
            else:
                with self._changed:
                    self._idle.append(connection)
                    self._changed.notify()
                return found

    def close(self) -> None:
        """Close what is idle; a later `ask` connects again."""
        with self._changed:
            idle, self._idle = self._idle, []
            self._open -= len(idle)
        for connection in idle:
            connection.disconnect()

    def _take(self, until: float) -> Any:
        with self._changed:
            while not self._idle:
                self._want()
                left = until - time.monotonic()
                if left <= 0:
                    raise unavailable(self._problem, self.where)
                self._changed.wait(left)
            connection = self._idle.pop()
            if not self._idle:
                self._want()
            return connection

    def _lost(self, connection: Any, error: Exception) -> None:
        """The idle ones go too: they led to the same server, and each would cost somebody the same wait."""
        self._problem = error
        self._drop(connection)
        self.close()
        self.prepare()

    def _drop(self, connection: Any) -> None:
        connection.disconnect()
        with self._changed:
            self._open -= 1

    # Connecting -------------------------------------------------------------------------------------------------

    def _want(self) -> None:
        """Have the thread connect. Called with the lock held."""
        self._wanted_at = time.monotonic()
        if self._connector is None and self._open < self._limit:
            self._connector = threading.Thread(target=self._connect, name="online-store", daemon=True)
            self._connector.start()

    def _connect(self) -> None:
        delay, longest = BACKOFF
        while True:
            made = self._try()
            with self._changed:
                if made is not None:
                    self._idle.append(made)
                    self._open += 1
                    self._changed.notify_all()
                enough = len(self._idle) >= SPARE or self._open >= self._limit
                if enough or time.monotonic() - self._wanted_at > WANTED_SECONDS:
                    self._connector = None
                    return
            if made is None:
                time.sleep(delay)
                delay = min(2 * delay, longest)

    def _try(self) -> Any:
        """One connection that answers, or None."""
        connection = None
        try:
            connection = self._make(**self._options)
            connection.connect()
            connection.send_command("PING", check_health=False)
            connection.read_response()
        except Exception as error:  # noqa: BLE001  (whatever it is, those who read are told, and the thread goes on)
            if connection is not None:
                connection.disconnect()
            self._problem = error
            return None
        return connection
