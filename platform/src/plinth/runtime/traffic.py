"""Requests at a steady rate against a product's service on this machine, and what came back, seen from outside."""

from __future__ import annotations

import http.client
import itertools
import json
import queue
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from plinth.errors import InvalidInput, RefusedByPolicy
from plinth.runtime.ports import is_loopback

WORKERS = 16
ANSWER_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer.

    Attributes:
        at: When it was whole, seconds since 1970 UTC.
        code: HTTP status; 0 for none.
        releases: Digests of the releases that answered it, or its instances; empty unless the status is 200.
        seconds: From sending to the whole answer.
    """

    at: float
    code: int
    releases: frozenset[str]
    seconds: float

    def bad(self, release: str = "") -> bool:
        """Whether it failed, or the release had a part in it."""
        return self.code != 200 or release in self.releases


class Traffic:
    """Sends bodies again and again, whether the answers come or not, until it is stopped.

    Args:
        url: The service, on this machine only.
        bodies: JSON bodies of requests.
        rate: Requests a second.
        path: What they are posted to.
        headers: What each carries beside its media type, such as a token; asked for each time, since tokens expire.

    Raises:
        RefusedByPolicy: The address is not this machine's own.
        InvalidInput: No body, or a rate that is not above 0.
    """

    def __init__(
        self,
        url: str,
        bodies: Iterable[Any],
        rate: float,
        path: str = "/predict",
        headers: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        address = urllib.parse.urlsplit(url)
        self._host, self._port = str(address.hostname), address.port
        if not is_loopback(self._host):
            raise RefusedByPolicy(
                f"generated traffic for {self._host}", where=url, hint="it goes to services of this machine only"
            )
        self._bodies = [json.dumps(body).encode() for body in bodies]
        if not self._bodies or not rate > 0:
            raise InvalidInput(
                f"{len(self._bodies)} bodies at {rate:g} requests a second",
                where="traffic",
                hint="at least one, above 0",
            )
        self._rate = rate
        self._path = path
        self._headers = headers
        self._answers: list[Answer] = []
        self._due: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._pace, daemon=True, name="traffic")]
        self._threads += [threading.Thread(target=self._ask, daemon=True, name="traffic") for _ in range(WORKERS)]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=ANSWER_SECONDS + 1)

    def answers(self) -> list[Answer]:
        """What came back so far, in the order it came."""
        return list(self._answers)

    def _pace(self) -> None:
        started = time.monotonic()
        for number, body in enumerate(itertools.cycle(self._bodies)):
            if self._stop.wait(max(0.0, started + number / self._rate - time.monotonic())):
                break
            self._due.put(body)
        for _ in range(WORKERS):
            self._due.put(None)

    def _ask(self) -> None:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=ANSWER_SECONDS)
        while not self._stop.is_set() and (body := self._due.get()) is not None:
            started = time.monotonic()
            code, releases = 0, frozenset[str]()
            try:
                connection.request("POST", self._path, body, {"Content-Type": "application/json", **self._headers()})
                answer = connection.getresponse()
                data, code = answer.read(), answer.status
                releases = answered_by(json.loads(data)) if code == 200 else releases
            except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
                code = 0
                connection.close()  # the next request opens it again
            self._answers.append(Answer(time.time(), code, releases, time.monotonic() - started))
        connection.close()


def answered_by(answer: dict[str, Any]) -> frozenset[str]:
    """The releases that had a part in an answer: of predictions each row's own, else the answer's."""
    return frozenset(row.get("release", answer["release"]) for row in answer.get("predictions", [answer]))


def get_json(url: str, path: str, timeout: float = 3.0, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
    """Status and JSON of a GET; (0, None) when nothing answers."""
    address = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=timeout)
    try:
        connection.request("GET", path, headers=dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    except (OSError, http.client.HTTPException, ValueError):
        return 0, None
    finally:
        connection.close()
