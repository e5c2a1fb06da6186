"""The HTTP face of a predictor: one bare ASGI application, mounted in the product's BentoML service.

It answers every path itself, so none of the framework's own routes and media types can be reached. Errors are rendered
here, once: `{"error": {"kind", "what", "where", "next"}, "request_id"}`.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from plinth.errors import NotFound, PlinthError, RefusedByPolicy, Unavailable
from plinth.serving.body import RequestRefused, printable
from plinth.serving.health import Health
from plinth.serving.predictor import Predictor

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

JSON = b"application/json"
REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


@dataclass(slots=True)
class Request:
    """What a handler needs of a request."""

    method: str
    path: str
    receive: Receive
    request_id: str
    headers: dict[bytes, bytes]
    traceparent: str = ""
    rows: int = 0
    release: str = ""
    marks: list[tuple[str, int]] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer."""

    body: bytes
    status: int = 200
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


Handler = Callable[[Request], Awaitable[Response]]


class ServingApp:
    """The ASGI application of one product's service.

    Args:
        predictor: Answers predictions.
        health: Answers /healthz and /readyz.
        pages: Path to body and content type of what never changes (`/openapi.json`, `/`).
        max_body: Largest body in bytes; nothing more than this is ever held of one request.
        body_timeout: Seconds in which a body has to arrive.
        allowed_hosts: Host names beside the loopback's that requests may be addressed to, without port.
    """

    def __init__(
        self,
        predictor: Predictor,
        health: Health,
        pages: dict[str, tuple[bytes, str]],
        *,
        max_body: int = 1_000_000,
        body_timeout: float = 10.0,
        allowed_hosts: Iterable[str] = (),
    ) -> None:
        self._predictor = predictor
        self._observer = predictor.observer
        self._health = health
        self._pages = pages
        self._max_body = max_body
        self._body_timeout = body_timeout
        self._hosts = frozenset(name.encode().lower() for name in (*LOOPBACK, *allowed_hosts))
        self._routes: dict[str, dict[str, Handler]] = {
            "/predict": {"POST": self._predict},
            "/inference-log/flush": {"POST": self._flush},
            "/healthz": {"GET": self._healthz},
            "/readyz": {"GET": self._readyz},
            "/metrics": {"GET": self._metrics},
            **{path: {"GET": self._page} for path in pages},
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; never raises for anything that a client sent."""
        if scope["type"] != "http":
            # No WebSockets here: closing before accepting is a 403.
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = dict(scope["headers"])
        request = Request(scope["method"], _raw_path(scope), receive, _request_id(headers), headers)
        try:
            response = await self._dispatch(request)
        except PlinthError as error:
            response = _error_response(error, request)
        except Exception as error:  # noqa: BLE001  (the process never dies of input; the line below keeps the cause)
            self._observer.event("unexpected error", 40, request_id=request.request_id, exc_info=error)
            response = _error_response(PlinthError("an unexpected error", where=request.path), request)
        await _send(send, response, request)
        self._observer.request(
            path=request.path if request.path in self._routes else "other",
            code=response.status,
            seconds=time.perf_counter() - request.started,
            rows=request.rows,
            request_id=request.request_id,
            release=request.release,
            traceparent=request.traceparent,
            marks=request.marks,
        )

    async def _dispatch(self, request: Request) -> Response:
        self._check_sender(request.headers)
        methods = self._routes.get(request.path)
        if methods is None:
            raise NotFound("no such path", where=printable(request.path), hint="/openapi.json lists the paths")
        handler = methods.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            raise RequestRefused(
                405, f"{request.method} is not allowed here", where=request.path, hint=f"use {', '.join(methods)}"
            )
        return await handler(request)

    def _check_sender(self, headers: dict[bytes, bytes]) -> None:
        """A page in a browser must not reach this service through DNS rebinding or a form."""
        host = headers.get(b"host", b"")
        if _without_port(host) not in self._hosts:
            raise RefusedByPolicy("foreign Host header", where="Host", hint="address the service by its own name")
        origin = headers.get(b"origin")
        if origin is not None and _without_port(origin.partition(b"://")[2]) not in self._hosts:
            raise RefusedByPolicy("foreign Origin header", where="Origin", hint="call the service from its own host")

    async def _predict(self, request: Request) -> Response:
        _check_media_type(request.headers)
        match = TRACEPARENT.fullmatch(request.headers.get(b"traceparent", b""))
        request.traceparent = match.group().decode() if match else ""
        body = await self._body(request)
        answer = await self._predictor.predict(body, request.request_id, request.marks)
        request.rows, request.release = answer.rows, answer.release
        return Response(answer.body)

    async def _body(self, request: Request) -> bytes:
        length = request.headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length[:20]) > self._max_body:
            raise self._too_large()
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._body_timeout):
                more = True
                while more:
                    message = await request.receive()
                    if message["type"] == "http.disconnect":
                        raise RequestRefused(400, "the client went away before the body was complete")
                    part = message.get("body", b"")
                    size += len(part)
                    if size > self._max_body:
                        raise self._too_large()
                    parts.append(part)
                    more = message.get("more_body", False)
        except TimeoutError:
            raise RequestRefused(
                408, f"the body did not arrive within {self._body_timeout:g} s", hint="send it in one go"
            ) from None
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _too_large(self) -> RequestRefused:
        return RequestRefused(413, f"the body is larger than {self._max_body} bytes", hint="send smaller batches")

    async def _flush(self, request: Request) -> Response:
        """In a thread: the disk must not hold up other requests."""
        logs = (self._predictor.log, self._predictor.requests)
        for log in logs:
            if not await asyncio.get_running_loop().run_in_executor(None, log.flush):
                raise Unavailable(f"the {log.name} cannot be written", where=log.failing, hint="free disk space")
        inference, requests = (log.stats() for log in logs)
        return Response(orjson.dumps({**inference, "requests": requests}))

    async def _healthz(self, request: Request) -> Response:
        return Response(b'{"status":"alive"}')

    async def _readyz(self, request: Request) -> Response:
        state = await asyncio.get_running_loop().run_in_executor(None, self._health.state)
        return Response(orjson.dumps(state), 200 if state["ready"] else 503)

    async def _metrics(self, request: Request) -> Response:
        body, content_type = self._observer.render()
        return Response(body, content_type=content_type.encode())

    async def _page(self, request: Request) -> Response:
        body, content_type = self._pages[request.path]
        policy = (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'")
        return Response(body, content_type=content_type.encode(), headers=(policy,))


def _raw_path(scope: Scope) -> str:
    """The path as sent: an encoded or doubled slash matches no route."""
    raw = scope.get("raw_path")
    return raw.decode("latin-1") if raw is not None else str(scope["path"])


def _request_id(headers: dict[bytes, bytes]) -> str:
    given = REQUEST_ID.fullmatch(headers.get(b"x-request-id", b""))
    return given.group().decode() if given else os.urandom(16).hex()


def _without_port(host: bytes) -> bytes:
    host = host.lower()
    if host.startswith(b"["):
        return host.partition(b"]")[0] + b"]"
    return host.partition(b":")[0]


def _check_media_type(headers: dict[bytes, bytes]) -> None:
    media = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if media != JSON:
        raise RequestRefused(
            415, "only application/json is accepted", where="Content-Type", hint="send Content-Type: application/json"
        )
    if headers.get(b"content-encoding", b"identity") != b"identity":
        raise RequestRefused(415, "compressed bodies are not accepted", where="Content-Encoding", hint="send it plain")


def _error_response(error: PlinthError, request: Request) -> Response:
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if error.http_status == 503:
        headers = ((b"retry-after", b"1"),)
    elif error.http_status == 405:
        headers = ((b"allow", error.hint.removeprefix("use ").encode()),)
    elif error.http_status in {400, 408, 413}:
        headers = ((b"connection", b"close"),)  # what is left of the body is not worth reading
    fields = {name: printable(text, 500) for name, text in error.as_dict().items()}
    body = orjson.dumps({"error": fields, "request_id": request.request_id})
    return Response(body, error.http_status, headers=headers)


async def _send(send: Send, response: Response, request: Request) -> None:
    headers = [
        (b"content-type", response.content_type),
        (b"content-length", str(len(response.body)).encode()),
        (b"x-request-id", request.request_id.encode()),
        (b"x-content-type-options", b"nosniff"),
        *response.headers,
    ]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if request.method == "HEAD" else response.body})
