"""The HTTP face of a product: one bare ASGI application, mounted in the product's BentoML service.

It answers every path itself, so none of the framework's own routes and media types can be reached. Errors are rendered
here, once: `{"error": {"kind", "what", "where", "next"}, "request_id"}`. What a product answers is added to it:
`predictions.ServingApp`, and `plinth.assistants.app`.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson

from plinth.core.addresses import is_loopback
from plinth.errors import NotFound, PlinthError, RefusedByPolicy, Unavailable
from plinth.serving.access import Access, Unauthorized
from plinth.serving.body import RequestRefused, printable
from plinth.serving.buffer import BufferedLog
from plinth.serving.health import Health
from plinth.serving.port import Observer

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

JSON = b"application/json"
REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
HOST = re.compile(rb"(\[[0-9a-f:.]{2,45}\]|[^:\[\]]{1,255})(?::[0-9]{0,5})?")


@dataclass(slots=True)
class Request:
    """What a handler needs of a request. `caller` is who calls, by the token; "" where none is asked for."""

    method: str
    path: str
    receive: Receive
    request_id: str
    headers: dict[bytes, bytes]
    caller: str = ""
    traceparent: str = ""
    trace_id: str = ""
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


@dataclass(frozen=True, slots=True)
class Streaming:
    """An answer that is sent as it comes. `parts` is closed when the client goes away; it renders its own errors."""

    parts: AsyncIterator[bytes]
    content_type: bytes = b"text/event-stream"
    headers: tuple[tuple[bytes, bytes], ...] = ((b"cache-control", b"no-store"),)
    status: int = 200


Handler = Callable[[Request], Awaitable[Response | Streaming]]
Result = TypeVar("Result")


class ClientGone(RequestRefused):
    """The client closed the connection before it was answered; nobody reads this."""

    def __init__(self) -> None:
        super().__init__(499, "the client went away before it was answered", where="connection")


class Application:
    """What every product's service has: checks of the sender, limits of the body, errors, health, metrics, pages.

    Args:
        routes: Path to method to handler: what the product itself answers.
        observer: Is told of every request.
        health: Answers /healthz and /readyz.
        logs: Written by `flush`.
        pages: Path to body and content type of what never changes (`/openapi.json`, `/`).
        max_body: Largest body in bytes; nothing more than this is ever held of one request.
        body_timeout: Seconds in which a body has to arrive.
        stream_timeout: Seconds in which an answer that is sent as it comes has to end, whoever is slow.
        allowed_hosts: Host names beside the loopback's that requests may be addressed to, without port.
        access: Asks callers for their token; without it only this machine is answered.
    """

    def __init__(
        self,
        routes: Mapping[str, dict[str, Handler]],
        observer: Observer,
        health: Health,
        logs: Sequence[BufferedLog[Any]],
        pages: dict[str, tuple[bytes, str]],
        *,
        max_body: int = 1_000_000,
        body_timeout: float = 10.0,
        stream_timeout: float = 600.0,
        allowed_hosts: Iterable[str] = (),
        access: Access | None = None,
    ) -> None:
        self._observer = observer
        self._access = access
        self._health = health
        self._logs = tuple(logs)
        self._pages = pages
        self._max_body = max_body
        self._body_timeout = body_timeout
        self._stream_timeout = stream_timeout
        self._hosts = frozenset(name.encode().lower() for name in (*LOOPBACK, *allowed_hosts))
        self._routes: dict[str, dict[str, Handler]] = {
            **routes,
            "/healthz": {"GET": self._healthz},
            "/readyz": {"GET": self._readyz},
            "/metrics": {"GET": self._metrics},
            **{path: {"GET": self._page} for path in pages},
        }

    def start(self) -> None:
        """Start what runs beside requests: the writer of refused tokens."""
        if self._access is not None:
            self._access.refusals.start()

    def close(self) -> None:
        """Stop it, and write what is left."""
        if self._access is not None:
            self._access.refusals.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; never raises for anything that a client sent."""
        if scope["type"] != "http":
            # No WebSockets here: closing before accepting is a 403.
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = dict(scope["headers"])
        request = Request(scope["method"], _raw_path(scope), receive, _request_id(headers), headers)
        response: Response | Streaming
        try:
            self._admit(request, scope.get("client"))
            response = await self._dispatch(request)
        except PlinthError as error:
            response = self.error(error, request)
        except Exception as error:  # noqa: BLE001  (the process never dies of input; the line below keeps the cause)
            response = self.error(self.unexpected(error, request), request)
        status = response.status
        if type(response) is Response:
            await _send(send, response, request)
        elif isinstance(response, Streaming):
            status = await self._stream(send, response, request)
        self._observer.request(
            path=request.path if request.path in self._routes else "other",
            code=status,
            seconds=time.perf_counter() - request.started,
            rows=request.rows,
            request_id=request.request_id,
            release=request.release,
            traceparent=request.traceparent,
            marks=request.marks,
            trace_id=request.trace_id,
            caller=request.caller,
        )

    def error(self, error: PlinthError, request: Request) -> Response:
        """An error as the answer."""
        fields = {name: printable(text, 500) for name, text in error.as_dict().items()}
        body = orjson.dumps({"error": fields, "request_id": request.request_id})
        return Response(body, error.http_status, headers=error_headers(error))

    def unexpected(self, error: Exception, request: Request) -> PlinthError:
        """What nobody foresaw, with its cause in the log and not in the answer."""
        traced = {"trace_id": request.trace_id} if request.trace_id else {}
        self._observer.event("unexpected error", 40, request_id=request.request_id, exc_info=error, **traced)
        return PlinthError("an unexpected error", where=request.path)

    async def body(self, request: Request) -> bytes:
        """The body of a request that carries JSON, within its limits of size and time.

        Raises:
            RequestRefused: 415, it is no JSON; 413, it is too large; 408, it does not arrive; 400, it ends early.
        """
        _check_media_type(request.headers)
        match = TRACEPARENT.fullmatch(request.headers.get(b"traceparent", b""))
        request.traceparent = match.group().decode() if match else ""
        request.trace_id = self._observer.sample(request.traceparent)
        return await self._body(request)

    async def while_there(self, request: Request, work: Coroutine[Any, Any, Result]) -> Result:
        """What comes of some work that is ended when the client goes away.

        Raises:
            ClientGone: It went away.
        """
        task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request.receive))
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ClientGone
            return task.result()
        finally:
            await _end(task, gone)

    async def flush(self, request: Request) -> Response:
        """Write the logs, in a thread: the disk must not hold up other requests."""
        for log in self._logs:
            if not await asyncio.get_running_loop().run_in_executor(None, log.flush):
                raise Unavailable(f"the {log.name} cannot be written", where=log.failing, hint="free disk space")
        first, requests = (log.stats() for log in self._logs)
        return Response(orjson.dumps({**first, "requests": requests}))

    async def _stream(self, send: Send, response: Streaming, request: Request) -> int:
        """Send an answer as it comes. Returns the status it is counted under: one that was sent may still fail."""
        await send({"type": "http.response.start", "status": response.status, "headers": _headers(response, request)})

        async def pump() -> None:
            try:
                async for part in response.parts:
                    await send({"type": "http.response.body", "body": part, "more_body": True})
            finally:
                close = getattr(response.parts, "aclose", None)
                if close is not None:
                    await close()
            await send({"type": "http.response.body", "body": b""})

        try:
            async with asyncio.timeout(self._stream_timeout):
                await self.while_there(request, pump())
        except ClientGone as error:
            return error.http_status
        except TimeoutError:
            return 408  # the body stays without its end: the server closes the connection
        except Exception as error:  # noqa: BLE001  (the status is sent already: all that is left is to end the body)
            self.unexpected(error, request)
            await send({"type": "http.response.body", "body": b""})
            return 500
        return response.status

    async def _dispatch(self, request: Request) -> Response | Streaming:
        methods = self._routes.get(request.path)
        if methods is None:
            raise NotFound("no such path", where=printable(request.path), hint="/openapi.json lists the paths")
        handler = methods.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            raise RequestRefused(
                405, f"{request.method} is not allowed here", where=request.path, hint=f"use {', '.join(methods)}"
            )
        return await handler(request)

    def _admit(self, request: Request, client: Sequence[Any] | None) -> None:
        """The token first: whoever has none learns nothing, not even which names the service has.

        Raises:
            Unauthorized: No token that counts.
            RefusedByPolicy: It comes from elsewhere and nobody can say who it is, or from a page of another site.
        """
        if self._access is not None:
            try:
                request.caller = self._access.caller(request.method, request.path, request.headers)
            except Unauthorized as error:
                self._observer.denied(error.reason)
                raise
        elif client and not is_loopback(client[0]):
            self._observer.denied("foreign-address")
            raise RefusedByPolicy(
                "without a key for tokens only this machine is answered", where="address", hint="set PLINTH_TOKEN_KEY"
            )
        self._check_sender(request.headers)

    def _check_sender(self, headers: dict[bytes, bytes]) -> None:
        """A page in a browser must not reach this service through DNS rebinding or a form."""
        host = headers.get(b"host", b"")
        if _without_port(host) not in self._hosts:
            self._observer.denied("foreign-host")
            raise RefusedByPolicy("foreign Host header", where="Host", hint="address the service by its own name")
        origin = headers.get(b"origin")
        if origin is not None and _without_port(origin.partition(b"://")[2]) not in self._hosts:
            self._observer.denied("foreign-origin")
            raise RefusedByPolicy("foreign Origin header", where="Origin", hint="call the service from its own host")

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

    async def _healthz(self, request: Request) -> Response:
        return Response(b'{"status":"alive"}')

    async def _readyz(self, request: Request) -> Response:
        state = await asyncio.get_running_loop().run_in_executor(None, self._health.state)
        return Response(orjson.dumps(state), 200 if state["ready"] else 503)

    async def _metrics(self, request: Request) -> Response:
        body, content_type = self._observer.render(request.headers.get(b"accept", b"").decode("latin-1"))
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
    """A host's name in small letters; b"" for what is no name and, at most, a port."""
    found = HOST.fullmatch(host.lower())
    return found[1] if found else b""


def _check_media_type(headers: dict[bytes, bytes]) -> None:
    media = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if media != JSON:
        raise RequestRefused(
            415, "only application/json is accepted", where="Content-Type", hint="send Content-Type: application/json"
        )
    if headers.get(b"content-encoding", b"identity") != b"identity":
        raise RequestRefused(415, "compressed bodies are not accepted", where="Content-Encoding", hint="send it plain")


def error_headers(error: PlinthError) -> tuple[tuple[bytes, bytes], ...]:
    """Headers that belong to an error's status."""
    if error.http_status in {429, 503}:
        return ((b"retry-after", b"1"),)
    if error.http_status == 401:
        return ((b"www-authenticate", getattr(error, "challenge", b"Bearer")),)
    if error.http_status == 405:
        return ((b"allow", error.hint.removeprefix("use ").encode()),)
    if error.http_status in {400, 408, 413}:
        return ((b"connection", b"close"),)  # what is left of the body is not worth reading
    return ()


async def _gone(receive: Receive) -> None:
    """Returns when the client goes away; its body was read before."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(*tasks: asyncio.Future[Any]) -> None:
    """Cancel what still runs, and wait until it has let go of what it held."""
    running = [task for task in tasks if not task.done() and task.cancel()]
    if running:
        await asyncio.wait(running)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # looked at, or asyncio would say that nobody did


def _headers(response: Response | Streaming, request: Request) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-type", response.content_type),
        (b"x-request-id", request.request_id.encode()),
        (b"x-content-type-options", b"nosniff"),
        *response.headers,
    ]


async def _send(send: Send, response: Response, request: Request) -> None:
    headers = [(b"content-length", str(len(response.body)).encode()), *_headers(response, request)]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if request.method == "HEAD" else response.body})
