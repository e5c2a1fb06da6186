"""Ports: whether one is free, and who holds it when it is not."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from plinth.core.addresses import is_loopback as is_loopback
from plinth.errors import Conflict, InvalidInput
from plinth.runtime.leftovers import describe
from plinth.runtime.port import Service


def check_free(host: str, services: Sequence[Service]) -> None:
    """Refuse to start when a service's port is taken, before anything is started.

    Raises:
        InvalidInput: Two services were given the same port.
        Conflict: A port is in use; the message names port, setting and, if it can be found, the process.
    """
    seen: dict[int, Service] = {}
    for service in services:
        if service.port is None:
            continue
        if service.port in seen:
            other = seen[service.port]
            raise InvalidInput(
                f"{other.name} and {service.name} were given the same port {service.port}",
                where=f"{other.setting} and {service.setting}",
                hint=f"change {service.setting}",
            )
        seen[service.port] = service
        if not is_free(host, service.port):
            raise in_use(host, service.port, service.name, service.setting)


def in_use(host: str, port: int, name: str, setting: str) -> Conflict:
    """The error that a service's port is taken: by whom, if that can be found, and what moves it."""
    held = holder(port)
    return Conflict(
        f"port {port} of {name} is in use" + (f" by {held}" if held else ""),
        where=f"{host}:{port}",
        hint=f"end that process, or choose another port with {setting}",
    )


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now. A port in TIME_WAIT is free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def holder(port: int) -> str:
    """The process that listens on a port, in words; empty when it cannot be seen (another user's)."""
    import psutil

    try:
        for connection in psutil.net_connections(kind="tcp"):
            local = connection.laddr
            if connection.status == psutil.CONN_LISTEN and local and local.port == port and connection.pid:
                return describe(psutil.Process(connection.pid))
    except (psutil.Error, OSError):
        pass
    return ""
