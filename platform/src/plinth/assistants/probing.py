"""Asking a running service over HTTP, as the freshness probes do: with the probes' key."""

from __future__ import annotations

import http.client
import json
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

from plinth.assistants.tenants import HEADER
from plinth.errors import Unavailable

TIMEOUT = 5.0


class Service:
    """A running copy of a product's service.

    Args:
        url: Its base address.
        key: The probes' key; "" is none.
        headers: What its service wants of a request beside that, such as a token.
    """

    def __init__(self, url: str, key: str, headers: Mapping[str, str] | None = None) -> None:
        self._url = url
        self._headers = {**(headers or {}), "Content-Type": "application/json", **({HEADER: key} if key else {})}

    def answers(self) -> bool:
        """Whether anything answers at its address."""
        try:
            self._send("GET", "/livez")
        except Unavailable:
            return False
        return True

    def find(self, question: str) -> list[str]:
        """The texts that it finds.

        Raises:
            Unavailable: It does not answer, or not with what was found.
        """
        status, data = self._send("POST", "/search", json.dumps({"question": question, "limit": 5}))
        if status != 200:
            raise Unavailable(f"the service says {status}", where=f"{self._url}/search")
        try:
            return list(_texts(json.loads(data)))
        except ValueError:
            raise Unavailable("the service answers what is no JSON", where=f"{self._url}/search") from None

    def flush(self) -> None:
        """Have it write the answers that it holds in memory; one that does not run holds none.

        Raises:
            Unavailable: It runs, and does not do it.
        """
        try:
            status, _ = self._send("POST", "/answers-log/flush")
        except Unavailable as error:
            if isinstance(error.__cause__, ConnectionRefusedError):
                return
            raise
        if status != 200:
            raise Unavailable(
                f"the service cannot write its answer log ({status})", where=f"{self._url}/answers-log/flush",
                hint="free disk space, or stop the service; then run the same command again",
            )  # fmt: skip

    def _send(self, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
        address = urllib.parse.urlsplit(self._url)
        make = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
        connection = make(str(address.hostname), address.port, timeout=TIMEOUT)
        try:
            connection.request(method, address.path.rstrip("/") + path, body, self._headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(
                f"the service does not answer: {error or type(error).__name__}", where=self._url,
                hint="`plinth up` starts it; `plinth status` shows it",
            ) from error  # fmt: skip
        finally:
            connection.close()


def _texts(value: Any) -> Iterator[str]:
    """Every text in an answer but the question, which it may repeat."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name not in ("question", "query"):
                yield from _texts(item)
