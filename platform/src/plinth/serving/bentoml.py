"""BentoML: how a product's ASGI application becomes the whole face of its BentoML service.

BentoML's own `@api` path costs 0.6 to 0.9 ms of CPU a request, an application mounted with `@asgi_app` 0.15 ms behind
its router, and the same application as the service's middleware 0.1 ms; a bare ASGI application 0.08 ms
(docs/adr/0005-serving-path.md). As a middleware it also answers /healthz, /readyz and /metrics itself, and none of the
framework's own routes (and media types, pickle among them) can be reached from outside.
"""

from __future__ import annotations

from typing import Any

from plinth.serving.asgi import App, Receive, Scope, Send

CONFIG: dict[str, Any] = {
    # One worker: the watcher, the inference log and the metrics belong to one process.
    "workers": 1,
    # Metrics, access log and traces are the platform's own (plinth.telemetry); BentoML's would count everything twice.
    "metrics": {"enabled": False},
    "logging": {"access": {"enabled": False}},
    "tracing": {"excluded_urls": ".*"},
}
"""Configuration of the service decorator: `@bentoml.service(name=..., **CONFIG)`."""


class Front:
    """ASGI middleware that answers every request itself; the framework keeps the lifespan."""

    def __init__(self, app: App, serve: App) -> None:
        self._app = app
        self._serve = serve

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve it; hand the lifespan on."""
        if scope["type"] in {"http", "websocket"}:
            await self._serve(scope, receive, send)
        else:
            await self._app(scope, receive, send)
