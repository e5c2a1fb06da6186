"""The controller's own page: `GET /metrics` and `GET /healthz`. The standard library's server, in daemon threads.

It is beside the rollouts, never in their way: a port in use costs the page and not the controller, and whatever is slow
to read is read behind (`runtime/reading.py`).
"""

from __future__ import annotations

import hmac
import logging
import re
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import plinth
from plinth.core.addresses import is_loopback
from plinth.core.products import Product
from plinth.errors import PlinthError
from plinth.runtime.platform_readings import Files, archive_readings, ledger_readings
from plinth.runtime.prefect_readings import PrefectReadings
from plinth.runtime.reading import Source
from plinth.serving.access import host_names
from plinth.telemetry import metrics
from plinth.telemetry.platform import PlatformMetrics
from plinth.telemetry.prometheus import Reading
from plinth.wiring import Platform

log = logging.getLogger(__name__)

PATIENCE = 2.0
"""Seconds that a scrape waits for what is being read; then it shows what was known before."""
REQUEST_SECONDS = 5.0
AT_ONCE = 8
"""Requests that are answered at once; more are closed."""
PREFECT_SECONDS = 15.0
ARCHIVE_SECONDS = 60.0
"""Every folder of every log is listed, and an hour changes slowly."""
LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
HOST = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[^:\[\]]{1,255})(?::[0-9]{0,5})?")


class Exporter:
    """Metrics of the platform.

    Args:
        platform: Whose.
        manifest: A product's manifest as it is now.
        leads: Whether this controller holds the lease.
    """

    def __init__(self, platform: Platform, manifest: Callable[[str], Product], leads: Callable[[], bool]) -> None:
        self._platform = platform
        self._manifest = manifest
        self._leads = leads
        self._server: _Server | None = None
        settings = platform.settings
        prefect = PrefectReadings(settings.prefect_api_url, settings.prefect_auth, self._products)
        self.sources = (
            Source("ledger", lambda: ledger_readings(platform), metrics.LEDGER_UP),
            Source("files", Files(platform, manifest)),
            Source("prefect", prefect, metrics.PREFECT_UP, fresh=PREFECT_SECONDS),
            Source("archive", lambda: archive_readings(platform), fresh=ARCHIVE_SECONDS),
        )
        self.metrics = PlatformMetrics(self._scraped)

    @property
    def port(self) -> int | None:
        """Where it listens; None while it does not."""
        return self._server.server_port if self._server is not None else None

    def start(self) -> None:
        """Listen. What stands in the way is logged: the rollouts go on without a page."""
        settings = self._platform.settings
        try:
            self._server = _Server(settings.host, settings.controller_port, self._page)
        except OSError as error:
            log.warning(
                "no page of metrics",
                extra={"reason": error.strerror, "where": f"{settings.host}:{settings.controller_port}"},
            )
            return
        self._server.token = settings.scrape_token.get_secret_value()
        self._server.hosts = LOOPBACK | set(host_names(settings))
        threading.Thread(target=self._server.serve_forever, name="plinth-exporter", daemon=True).start()

    def close(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _page(self, accept: str) -> tuple[bytes, str]:
        return self.metrics.render(accept)

    def _scraped(self) -> Iterable[Reading]:
        until = time.monotonic() + PATIENCE
        for source in self.sources:
            source.ask()
        yield metrics.BUILD_INFO, (plinth.__version__,), 1
        yield metrics.CONTROLLER_LEADS, (), float(self._leads())
        for source in self.sources:
            source.wait(until - time.monotonic())
            yield from source.now()

    def _products(self) -> list[Product]:
        found = []
        for name in self._platform.products.names():
            try:
                found.append(self._manifest(name))
            except PlinthError:
                continue
        return found


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, host: str, port: int, page: Callable[[str], tuple[bytes, str]]) -> None:
        self.page = page
        self.token = ""
        self.hosts: set[str] | frozenset[str] = LOOPBACK
        self._room = threading.Semaphore(AT_ONCE)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread can be started: the slot is given back, or eight of these close the page
            self._room.release()
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a scrape failed", exc_info=True)

    def server_bind(self) -> None:
        # Not HTTPServer's: that asks the name service for our own name.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])


class _Handler(BaseHTTPRequestHandler):
    timeout = REQUEST_SECONDS
    server: _Server
    server_version = "plinth"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer the two paths."""
        path = self.path.partition("?")[0]
        if not self._host_is_ours():
            self._say(403, b"foreign Host header\n")
        elif path == "/healthz":
            self._say(200, b'{"status":"alive"}', "application/json")
        elif path != "/metrics":
            self._say(404, b"no such path: /metrics and /healthz are\n")
        elif not self._admitted():
            self._say(401, b"the scrape token is missing or another one\n", more=("WWW-Authenticate", "Bearer"))
        else:
            body, content_type = self.server.page(self.headers.get("Accept", ""))
            self._say(200, body, content_type)

    def do_HEAD(self) -> None:
        """As GET, without the body."""
        self.do_GET()

    def _host_is_ours(self) -> bool:
        found = HOST.fullmatch(self.headers.get("Host", "").lower())
        return found is not None and found[1] in self.server.hosts

    def _admitted(self) -> bool:
        """By the token; where there is none, only this machine."""
        if not self.server.token:
            return is_loopback(str(self.client_address[0]))
        scheme, _, given = self.headers.get("Authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self.server.token.encode())

    def _say(
        self, code: int, body: bytes, content_type: str = "text/plain", more: tuple[str, str] | None = None
    ) -> None:
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        if more is not None:
            self.send_header(*more)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: it is asked every few seconds."""
