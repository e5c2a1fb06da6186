"""The backend of services that pull: they follow the ledger by themselves, and say at /readyz what they do."""

from __future__ import annotations

import http.client
import json
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from plinth.core.routes import Route
from plinth.errors import PlinthError
from plinth.serving.port import Observation

LONGEST_ANSWER = 1_000_000


class HttpBackend:
    """Products' services, looked at over HTTP.

    Args:
        urls: The base addresses of a product's running copies, such as `http://127.0.0.1:3001`.
        timeout: Seconds a copy has for its whole answer.
        headers: What a request to a product's copies carries, such as a token.
    """

    def __init__(
        self,
        urls: Callable[[str], Sequence[str]],
        timeout: float = 2.0,
        headers: Callable[[str], Mapping[str, str]] = lambda _product: {},
    ) -> None:
        self._urls = urls
        self._headers = headers
        self._timeout = timeout

    def apply(self, product: str, route: Route) -> None:
        """Does nothing: every copy reads the route from the ledger each half second, and refuses an older one."""

    def observe(self, product: str) -> Sequence[Observation]:
        """As Backend.observe. Copies are asked side by side: one that hangs costs `timeout` once."""
        try:
            urls, headers = self._urls(product), self._headers(product)
        except PlinthError as error:
            return [Observation(product, None, problem=f"it cannot be asked: {error}")]
        if len(urls) < 2:
            return [self._look(url, headers) for url in urls]
        with ThreadPoolExecutor(min(len(urls), 16)) as pool:
            return list(pool.map(lambda url: self._look(url, headers), urls))

    def _look(self, url: str, headers: Mapping[str, str]) -> Observation:
        try:
            state = json.loads(self._read(url, headers))
            if set(state) == {"error", "request_id"}:
                return Observation(url, None, problem=f"refuses to say: {state['error']['what']}")
            problems = [*state.get("reasons", ()), *state.get("warnings", ())]
            return Observation(
                url, _route(state.get("route")), tuple(map(str, state.get("loaded", ()))),
                "; ".join(map(str, problems)), str(state.get("instance", "")),
            )  # fmt: skip
        except (OSError, http.client.HTTPException) as error:
            return Observation(url, None, problem=f"does not answer: {error or type(error).__name__}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return Observation(url, None, problem=f"answers what is no state of a service: {error!r}"[:300])

    def _read(self, url: str, headers: Mapping[str, str]) -> bytes:
        """The body of /readyz, whatever its status: 503 has one, too."""
        until = time.monotonic() + self._timeout
        address = urllib.parse.urlsplit(url)
        make = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
        connection = make(str(address.hostname), address.port, timeout=self._timeout)
        try:
            connection.request("GET", f"{address.path.rstrip('/')}/readyz", headers=dict(headers))
            socket, answer = connection.sock, connection.getresponse()
            parts: list[bytes] = []
            while part := answer.read1(65_536):
                parts.append(part)
                left = until - time.monotonic()
                if left <= 0:  # the socket's own timeout begins anew with every byte
                    raise TimeoutError(f"no whole answer within {self._timeout:g} s")
                if sum(map(len, parts)) > LONGEST_ANSWER:
                    raise ValueError("the answer is too long")
                if not answer.isclosed():
                    socket.settimeout(left)
            return b"".join(parts)
        finally:
            connection.close()


def _route(value: Any) -> Route | None:
    """The route of /readyz; raises KeyError or TypeError where it is none."""
    if value is None:
        return None
    return Route(
        int(value["generation"]), int(value["step"]), str(value["serving"]),
        None if value["candidate"] is None else str(value["candidate"]), int(value["weight"]), bool(value["shadow"]),
    )  # fmt: skip
