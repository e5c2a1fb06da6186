"""Fetches pages that somebody else names, without being led to what only this machine can reach (SSRF).

Every address that a name resolves to has to be a public one, and the connection goes to an address that was checked,
so that a second look-up cannot say something else. Redirects are followed by hand with the same check. Source of the
threat: OWASP Server-Side Request Forgery Prevention Cheat Sheet. Proxies of the environment are not used: they would
resolve the name themselves.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from plinth.errors import InvalidInput, MissingExtra, NotFound, RefusedByPolicy, Unavailable
from plinth.ingestion.limits import MAX_FILE_BYTES, TooLarge

if TYPE_CHECKING:
    import httpcore

MAX_REDIRECTS = 5
CONTENT_TYPES = frozenset(
    {
        "text/html", "application/xhtml+xml", "text/plain", "text/markdown", "text/x-markdown", "application/pdf",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    }
)  # fmt: skip
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_GONE = frozenset({404, 410})
_NAT64 = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
_AGENT = "plinth-ingestion/1"


@dataclass(frozen=True, slots=True)
class Page:
    """What a server answered: the headers (names in small letters) and, unless only they were asked for, the body."""

    headers: dict[str, str]
    body: bytes = b""


class Fetcher:
    """Fetches pages over http and https. Thread-safe.

    Args:
        max_bytes: Size of a page at most.
        timeout: Seconds to connect, and between two pieces of an answer.
        deadline: Seconds that a page may take as a whole, however slowly its server sends one byte after the other.
        allow: "address:port" pairs that are fetched though they are not public. Only tests pass any.
    """

    def __init__(
        self, *, max_bytes: int = MAX_FILE_BYTES, timeout: float = 10.0, deadline: float = 60.0,
        allow: Iterable[str] = (),
    ) -> None:  # fmt: skip
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._deadline = deadline
        self._allow = frozenset(allow)

    def head(self, url: str) -> Page:
        """The headers of a page; see `get`."""
        return self._follow("HEAD", url)

    def get(self, url: str) -> Page:
        """A page.

        Raises:
            InvalidInput: The URL is not one of http or https, or carries credentials.
            RefusedByPolicy: Its address, or that of a redirect, is not public; it redirects too often; its content
                type is not one that is read; it is too large.
            NotFound: The server says that there is no such page.
            Unavailable: It cannot be fetched now.
            MissingExtra: httpx is not installed.
        """
        return self._follow("GET", url)

    def _follow(self, method: str, url: str) -> Page:
        until = time.monotonic() + self._deadline
        with self._pool(until) as pool:
            target = url
            for _ in range(MAX_REDIRECTS + 1):
                check_url(target)
                with self._asked(pool, method, target) as response:
                    headers = {
                        name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers
                    }
                    if response.status in _REDIRECTS and "location" in headers:
                        target = urljoin(target, headers["location"])
                        continue
                    self._check(response.status, headers, method, url)
                    return Page(headers, self._body(response, until, url) if method == "GET" else b"")
        raise RefusedByPolicy(f"the page redirects more than {MAX_REDIRECTS} times", where=url)

    @contextmanager
    def _pool(self, until: float) -> Iterator[httpcore.ConnectionPool]:
        try:
            import httpcore
        except ModuleNotFoundError as error:
            raise MissingExtra(error.name or "httpcore", "ingestion") from error
        backend = _backend(self._allow, until)
        with httpcore.ConnectionPool(ssl_context=ssl.create_default_context(), network_backend=backend) as pool:
            yield pool

    @contextmanager
    def _asked(self, pool: httpcore.ConnectionPool, method: str, url: str) -> Iterator[httpcore.Response]:
        import httpcore

        timeouts = dict.fromkeys(("connect", "read", "write", "pool"), self._timeout)
        # Compressed answers could unpack to any size.
        headers = [
            ("Host", urlsplit(url).netloc), ("User-Agent", _AGENT), ("Accept", "*/*"), ("Accept-Encoding", "identity"),
        ]  # fmt: skip
        try:
            with pool.stream(method, url, headers=headers, extensions={"timeout": timeouts}) as response:
                yield response
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
            raise Unavailable(f"the page cannot be fetched ({type(error).__name__})", where=url) from error
        except (httpcore.UnsupportedProtocol, UnicodeError) as error:
            raise InvalidInput("the URL is not one that can be fetched", where=url) from error

    def _check(self, status: int, headers: dict[str, str], method: str, url: str) -> None:
        if status in _GONE:
            raise NotFound(f"the server says that there is no such page ({status})", where=url)
        if status != 200 and not (method == "HEAD" and status in (405, 501)):
            raise Unavailable(f"the server answered {status}", where=url)
        kind = headers.get("content-type", "text/html").partition(";")[0].strip().lower()
        if method == "GET" and kind not in CONTENT_TYPES:
            raise RefusedByPolicy(f"its content type {kind[:80]!r} is not one that is read", where=url)
        if headers.get("content-encoding", "identity") not in ("", "identity"):
            raise Unavailable("the server compresses its answer though it was asked not to", where=url)
        if int(headers.get("content-length", "0") or 0) > self._max_bytes:
            raise TooLarge(f"the page is larger than {self._max_bytes >> 20} MiB", where=url)

    def _body(self, response: httpcore.Response, until: float, url: str) -> bytes:
        parts, size = [], 0
        for part in response.iter_stream():
            size += len(part)
            if size > self._max_bytes:
                raise TooLarge(f"the page is larger than {self._max_bytes >> 20} MiB", where=url)
            if time.monotonic() > until:
                raise Unavailable(f"the page takes longer than {self._deadline:g} s", where=url)
            parts.append(part)
        return b"".join(parts)


def check_url(url: str) -> None:
    """Refuse a URL that is not http or https, names no host, or carries credentials.

    Raises:
        InvalidInput: It is such a one. The message does not repeat credentials.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname
        _ = parts.port
    except ValueError:
        raise InvalidInput("it is no URL", hint="write http://host/path or https://host/path") from None
    if parts.username is not None or parts.password is not None or "@" in parts.netloc:
        raise InvalidInput("the URL carries credentials", where=host or "", hint="list pages that need none")
    if parts.scheme not in ("http", "https") or not host:
        raise InvalidInput("only http and https URLs are fetched", where=url[:200])
    if any(char.isspace() or ord(char) < 32 for char in url):
        raise InvalidInput("the URL holds white space", where=url[:200])


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet, whatever IPv4 address it wraps."""
    ip: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if any(ip in network for network in _NAT64):
            inner = IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if ip.is_site_local or int(ip) < 1 << 32:  # the latter wrapped IPv4 addresses once, too
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


def _backend(allow: frozenset[str], until: float) -> httpcore.NetworkBackend:
    import httpcore

    def left(timeout: float | None) -> float:
        """Seconds that one wait may take: httpcore begins its timeout anew with every byte."""
        seconds = until - time.monotonic()
        if seconds <= 0:
            raise httpcore.ReadTimeout("the page takes too long")
        return seconds if timeout is None else min(timeout, seconds)

    class Bounded(httpcore.NetworkStream):
        """A connection that ends at the deadline."""

        def __init__(self, stream: httpcore.NetworkStream) -> None:
            self._stream = stream

        def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
            return self._stream.read(max_bytes, left(timeout))

        def write(self, buffer: bytes, timeout: float | None = None) -> None:
            self._stream.write(buffer, left(timeout))

        def close(self) -> None:
            self._stream.close()

        def start_tls(
            self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
        ) -> httpcore.NetworkStream:
            return Bounded(self._stream.start_tls(ssl_context, server_hostname, left(timeout)))

        def get_extra_info(self, info: str) -> Any:
            return self._stream.get_extra_info(info)

    class Checked(httpcore.SyncBackend):
        """Connects to checked addresses only. httpcore goes on to name the host to the server and to TLS."""

        def connect_tcp(
            self, host: str, port: int, timeout: float | None = None, *args: Any, **kwargs: Any
        ) -> httpcore.NetworkStream:
            error: Exception | None = None
            for address in _resolved(host, port, allow):
                try:
                    return Bounded(super().connect_tcp(address, port, left(timeout), *args, **kwargs))
                except (httpcore.ConnectError, httpcore.ConnectTimeout) as failed:
                    error = failed
            raise error or httpcore.ConnectError(f"{host} has no address")

        def connect_unix_socket(self, *args: Any, **kwargs: Any) -> httpcore.NetworkStream:
            raise RefusedByPolicy("only addresses of the internet are fetched from")

    return Checked()


def _resolved(host: str, port: int, allow: frozenset[str]) -> list[str]:
    """The addresses of a host. One that is not public refuses them all: a mixed answer is a trick."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise Unavailable("the name of the host cannot be resolved", where=host) from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for address in addresses:
        if not is_public(address) and f"{address}:{port}" not in allow:
            raise RefusedByPolicy(
                "the address of the host is not a public one", where=host,
                hint="only pages of the public internet are fetched; copy others into a folder",
            )  # fmt: skip
    return addresses
