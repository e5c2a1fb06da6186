"""How each service is: what the supervisor knows of its process, and what the service itself answers."""

from __future__ import annotations

import http.client
import urllib.parse
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from plinth.runtime.port import Health, Service, ServiceStatus

PROBE_SECONDS = 2.0
GRACE_SECONDS = 60
"""A process that does not answer yet is starting for this long, and unhealthy after."""


def look(services: Sequence[Service], processes: Mapping[str, Mapping[str, Any]], run: Path) -> list[ServiceStatus]:
    """The state of every service.

    Args:
        services: What should run.
        processes: What supervisord says, by name.
        run: The folder of start counts and ready files.
    """
    if not services:
        return []
    with ThreadPoolExecutor(len(services)) as pool:
        return list(pool.map(lambda service: _look_at(service, processes.get(service.name), run), services))


def _look_at(service: Service, process: Mapping[str, Any] | None, run: Path) -> ServiceStatus:
    pid = int(process["pid"]) if process and process["pid"] else None
    return ServiceStatus(
        service.name, service.url, _health(service, process, pid, run), pid, restarts(service.name, run)
    )


def _health(service: Service, process: Mapping[str, Any] | None, pid: int | None, run: Path) -> Health:
    state = process["statename"] if process else "STOPPED"
    if process is None or state in {"STOPPED", "STOPPING", "EXITED"}:
        return "stopped"
    if state in {"FATAL", "UNKNOWN"}:
        return "unhealthy"
    if pid is not None and answers(service, pid, run):
        return "healthy"
    young = process["now"] - process["start"] < GRACE_SECONDS
    return "starting" if young or state in {"STARTING", "BACKOFF"} else "unhealthy"


def answers(service: Service, pid: int, run: Path) -> bool:
    """Whether the service says that it is well."""
    if not service.health.startswith("http"):
        try:
            return (run / service.health).read_text() == str(pid)
        except OSError:
            return False
    address = urllib.parse.urlsplit(service.health)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", address.path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def restarts(name: str, run: Path) -> int:
    """How often a service was started again since `plinth up`: its launcher writes a line a start."""
    try:
        return max(0, len((run / f"{name}.starts").read_text().splitlines()) - 1)
    except OSError:
        return 0
