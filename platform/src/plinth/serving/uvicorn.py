"""uvicorn: an ASGI application as one process, so that a supervisor that restarts it leaves no orphan behind."""

from __future__ import annotations

import errno
import socket

from plinth.core.addresses import is_loopback
from plinth.errors import Conflict, MissingExtra, RefusedByPolicy, Unavailable
from plinth.serving.asgi import App


def bind(host: str, port: int, *, setting: str, guarded: bool = False) -> socket.socket:
    """A listening address, taken before anything is loaded.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        setting: Name of the setting that changes the port, for the error.
        guarded: What listens asks callers who they are.

    Raises:
        RefusedByPolicy: Others than this machine could reach it, and it asks nobody.
        Conflict: Something else listens there.
        Unavailable: The address cannot be listened on.
    """
    if not guarded and not is_loopback(host):
        raise RefusedByPolicy(
            f"the service would listen on {host or 'every address'}, and nobody would be asked who they are",
            where="--host",
            hint="set PLINTH_TOKEN_KEY (`plinth init compose` writes one), or listen on 127.0.0.1",
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise Conflict(
                f"port {port} is in use", where=f"{host}:{port}", hint=f"stop what listens there, or set {setting}"
            ) from error
        raise Unavailable(f"cannot listen: {error.strerror}", where=f"{host}:{port}", hint=f"set {setting}") from error
    return listener


def run(app: App, listener: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT; requests in flight get ten seconds.

    Raises:
        MissingExtra: uvicorn is not installed.
    """
    try:
        import uvicorn
    except ModuleNotFoundError:
        raise MissingExtra("uvicorn", "serving") from None
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="on",
        timeout_keep_alive=30,
        timeout_graceful_shutdown=10,
        limit_concurrency=1000,  # beyond it uvicorn sheds with 503 instead of queueing without bound
    )
    uvicorn.Server(config).run(sockets=[listener])
