"""What stands before MLflow's application where passwords are asked for: nobody gets past it without one.

MLflow guards its parts one by one (Flask's routes, then the native ones that have a validator), and leaves open what
begins with /static, /health or /favicon.ico, and server-info. This asks first, for every path but one.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

OPEN = "/health"
CHECKS_AT_ONCE = 2
"""A password's check takes 32 MiB: a flood of wrong ones must not take all of the container's memory."""


class Gate:
    """An ASGI application before another.

    Args:
        app: The other.
        authenticate: The user of a request, or None. Called in a thread.
    """

    def __init__(self, app: Any, authenticate: Callable[[Any], Any]) -> None:
        self._app = app
        self._authenticate = authenticate
        self._limiter: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, or answer 401."""
        if scope["type"] == "lifespan" or (scope["type"] == "http" and _open(scope)) or await self._known(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await _refuse(send)

    async def _known(self, scope: Any) -> bool:
        if scope["type"] != "http" or not _shows_something(scope):
            return False
        from anyio import CapacityLimiter, to_thread
        from starlette.requests import Request

        self._limiter = self._limiter or CapacityLimiter(CHECKS_AT_ONCE)
        return await to_thread.run_sync(self._authenticate, Request(scope), limiter=self._limiter) is not None


def _open(scope: Any) -> bool:
    return scope["path"] == OPEN and scope["method"] in {"GET", "HEAD"}


def _shows_something(scope: Any) -> bool:
    return any(name in {b"authorization", b"x-mlflow-authorization"} for name, _ in scope["headers"])


async def _refuse(send: Any) -> None:
    body = b"a user and a password are asked for here\n"
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"www-authenticate", b'Basic realm="mlflow"'),
    ]
    await send({"type": "http.response.start", "status": HTTPStatus.UNAUTHORIZED.value, "headers": headers})
    await send({"type": "http.response.body", "body": body})
