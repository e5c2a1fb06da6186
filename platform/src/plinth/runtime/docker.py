"""What the Docker engine says of a compose project's containers. Read-only: `docker compose` starts and ends them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from plinth.errors import MissingExtra, NotFound, Unavailable
from plinth.runtime.port import Health

if TYPE_CHECKING:
    from docker import DockerClient

PROJECT = "com.docker.compose.project"
SERVICE = "com.docker.compose.service"
ONEOFF = "com.docker.compose.oneoff"
FOLDER = "com.docker.compose.project.working_dir"
ANSWER_SECONDS = 20
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Container:
    """A container of a project, as it is now.

    Args:
        name: The engine's name for it.
        service: The compose service.
        health: In the platform's words.
        pid: Its first process on this machine, None when it does not run.
        restarts: How often the engine started it again.
        exit_code: Of its last end.
        ports: Published TCP ports: the container's, and this machine's.
        folder: The folder of the compose file it was made from.
        id: The engine's id.
    """

    name: str
    service: str
    health: Health
    pid: int | None
    restarts: int
    exit_code: int
    ports: dict[int, int]
    folder: str
    id: str


class Engine:
    """The Docker engine that the command `docker` talks to: `DOCKER_HOST`, else the current context, else its own."""

    def version(self) -> str:
        """The engine's version.

        Raises:
            Unavailable: No engine answers.
            MissingExtra: The SDK is not installed.
        """
        with _translated():
            return str(self._client.version().get("Version", "unknown"))

    def resources(self) -> tuple[int, int]:
        """Cores and bytes of memory that containers can have. Raises as `version`."""
        with _translated():
            found = self._client.info()
            return int(found.get("NCPU", 0)), int(found.get("MemTotal", 0))

    def containers(self, project: str) -> list[Container]:
        """Every container of the project's services, those that ended too. Raises as `version`."""
        with _translated():
            listed = self._client.containers.list(
                all=True, filters={"label": f"{PROJECT}={project}"}, ignore_removed=True
            )
            found = [_container(item.attrs) for item in listed if item.labels.get(ONEOFF, "False") != "True"]
        return sorted(found, key=lambda item: (item.service, item.name))

    def volumes(self, project: str) -> list[str]:
        """The names of the project's volumes. Raises as `version`."""
        with _translated():
            return sorted(item.name for item in self._client.volumes.list(filters={"label": f"{PROJECT}={project}"}))

    def last_lines(self, container: str, count: int) -> list[str]:
        """The last lines that a container said on both its outputs; those of its earlier starts too.

        Raises:
            NotFound: It is gone.
            Unavailable: No engine answers.
        """
        if not count:
            return []
        with _translated():
            data: bytes = self._client.containers.get(container).logs(tail=count)
        return data.decode(errors="replace").splitlines()

    def follow(self, container: str) -> Iterator[str]:
        """What a container says from now on, across its restarts; ends when it is removed. Raises as `last_lines`."""
        since = time.time()
        while True:
            with _translated():
                stream = self._client.containers.get(container).logs(stream=True, follow=True, since=since)
                yield from _lines(stream)
                since = time.time()
                while True:  # it stopped; the engine or somebody starts it again
                    found = self._client.containers.get(container)
                    if found.status == "running":
                        break
                    time.sleep(POLL_SECONDS)

    @cached_property
    def _client(self) -> DockerClient:
        try:
            import docker
            from docker.context import ContextAPI
        except ModuleNotFoundError as error:
            raise MissingExtra(error.name or "docker", "runtime") from error
        import os

        if os.environ.get("DOCKER_HOST"):
            return docker.from_env(timeout=ANSWER_SECONDS)
        context = ContextAPI.get_current_context()
        if context is None or not context.Host:
            return docker.DockerClient(timeout=ANSWER_SECONDS)
        return docker.DockerClient(base_url=context.Host, tls=context.TLSConfig, timeout=ANSWER_SECONDS)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    import requests
    from docker import errors

    try:
        yield
    except errors.NotFound as error:
        raise NotFound(
            "the container is gone", where="Docker engine", hint="plinth --profile compose status"
        ) from error
    except (errors.DockerException, requests.RequestException, OSError) as error:
        refused = "Permission denied" in str(error)
        raise Unavailable(
            "the Docker engine refuses this user" if refused else "no Docker engine answers",
            where="DOCKER_HOST, or the current context of `docker`",
            hint="`docker info` says why; a user needs the group `docker`"
            if refused
            else "start Docker; `docker info` says whether it runs",
        ) from error


def _container(attrs: dict[str, Any]) -> Container:
    state, labels = attrs["State"], attrs["Config"]["Labels"]
    ports = attrs.get("NetworkSettings", {}).get("Ports") or {}
    running = state.get("Status") in {"running", "paused", "restarting"}
    return Container(
        name=attrs["Name"].lstrip("/"),
        service=labels.get(SERVICE, attrs["Name"].lstrip("/")),
        health=_health(state),
        pid=(state.get("Pid") or None) if running else None,
        restarts=int(attrs.get("RestartCount", 0)),
        exit_code=int(state.get("ExitCode", 0)),
        ports={
            int(inner.partition("/")[0]): int(outer[0]["HostPort"])
            for inner, outer in ports.items()
            if outer and inner.endswith("/tcp")
        },
        folder=labels.get(FOLDER, ""),
        id=attrs["Id"],
    )


def _health(state: dict[str, Any]) -> Health:
    status = state.get("Status")
    if status in {"restarting", "paused"}:  # it died and waits to be started again, or somebody holds it
        return "unhealthy"
    if status != "running":
        return "stopped"
    said = (state.get("Health") or {}).get("Status", "none")
    return said if said in {"starting", "unhealthy"} else "healthy"


def _lines(stream: Iterator[bytes]) -> Iterator[str]:
    rest = b""
    for piece in stream:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line.decode(errors="replace").rstrip("\r")
    if rest:
        yield rest.decode(errors="replace")
