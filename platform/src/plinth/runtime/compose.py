"""The compose profile: the same platform as containers of one compose project.

State is read from the engine; what changes it is `docker compose` itself, as a child whose progress is shown.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from plinth.core.environment import env_lines, env_text, read_env
from plinth.errors import Conflict, InvalidInput, NotFound, Unavailable
from plinth.runtime.docker import Container, Engine
from plinth.runtime.port import Progress, ServiceStatus, Status
from plinth.runtime.ports import in_use, is_free

START_SECONDS = 300.0
COMMAND_SECONDS = 60.0
HOST = "127.0.0.1"
SCHEMES = {5432: "postgresql", 6379: "redis"}
START = "plinth --profile compose up"


@dataclass(frozen=True)
class Declared:
    """What the compose file says of a service that is enabled."""

    name: str
    ports: dict[int, int] = field(default_factory=dict)
    job: bool = False
    """It runs once and ends, such as what makes a bucket."""


class Project:
    """One compose project: a workspace's compose file and `.env`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.env_file = home / ".env"
        self.engine = Engine()

    @cached_property
    def env(self) -> dict[str, str]:
        """The variables that compose interpolates: those of `.env`, and of the environment before them."""
        values = read_env(self.env_file) if self.env_file.is_file() else {}
        return {**values, **{name: os.environ[name] for name in values if name in os.environ}}

    @property
    def name(self) -> str:
        """The project's name.

        Raises:
            InvalidInput: Nothing names it.
        """
        named = os.environ.get("COMPOSE_PROJECT_NAME") or self.env.get("COMPOSE_PROJECT_NAME")
        if not named:
            raise InvalidInput(
                "nothing names the compose project", where=str(self.env_file), hint="run `plinth init compose`"
            )
        return named

    def declared(self) -> list[Declared]:
        """The services that are enabled, by the compose file; of a broken file nothing but the error is told.

        Raises:
            Unavailable: `docker compose` is not there, or refuses the file.
        """
        said = self._read("config", "--format", "json")
        services: dict[str, Any] = json.loads(said)["services"]
        return [_declared(name, spec) for name, spec in services.items()]

    def containers(self) -> list[Container]:
        """The project's containers.

        Raises:
            Conflict: They are another workspace's, whose project has the same name.
            Unavailable: No engine answers.
        """
        found = self.engine.containers(self.name)
        strangers = {item.folder for item in found if item.folder and Path(item.folder) != self.home.resolve()}
        if strangers:
            raise Conflict(
                f"the project {self.name!r} is already that of another workspace, {sorted(strangers)[0]}",
                where=str(self.env_file),
                hint="give this one another COMPOSE_PROJECT_NAME and other ports in .env",
            )
        return found

    def version(self) -> str:
        """The version of `docker compose`. Raises as `declared`."""
        return self._read("version", "--short").strip().lstrip("v")

    def run(self, *words: str, file: bool = True) -> int:
        """Run `docker compose ...`, its progress on standard error; returns its exit code.

        Args:
            words: What follows `docker compose`.
            file: With the compose file and `.env`; without, the project is known by its name and labels alone, so
                that a broken or stale file does not keep anybody from stopping what runs.
        """
        # 2, and not sys.stderr: in a test there is no file behind that one.
        command = self.command(*words, file=file)
        return subprocess.run(command, stdout=2, stderr=2, cwd=self.home if file else "/", check=False,
                              env=_environment(file)).returncode  # fmt: skip

    def _read(self, *words: str) -> str:
        try:
            done = subprocess.run(
                self.command(*words), capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False,
                env=_environment(True), cwd=self.home,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise Unavailable("`docker compose` does not answer", where=str(self.home), hint="docker info") from error
        if done.returncode:
            raise Unavailable(
                f"docker compose {words[0]}: {_reason(done.stderr)}",
                where=str(self.home),
                hint="`plinth --profile compose doctor` looks at the engine, the file and .env",
            )
        return done.stdout

    def command(self, *words: str, file: bool = True) -> list[str]:
        """The command line of `docker compose ...` for this project.

        Raises:
            Unavailable: `docker` is not there.
        """
        docker = shutil.which("docker")
        if docker is None:
            raise Unavailable(
                "the command `docker` is not there",
                where="PATH",
                hint="install Docker with the Compose plugin: https://docs.docker.com/compose/install/",
            )
        where = ["--project-directory", str(self.home)] if file else ["--project-name", self.name]
        return [docker, "compose", *where, *words]


def _environment(file: bool) -> dict[str, str]:
    hidden = set() if file else {"COMPOSE_FILE", "COMPOSE_PROFILES", "COMPOSE_PROJECT_NAME"}
    return {name: value for name, value in os.environ.items() if name not in hidden}


def _reason(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip() and "level=warning" not in line]
    if any("is not a docker command" in line or "unknown flag" in line for line in lines):
        return "there is no Compose plugin: https://docs.docker.com/compose/install/"
    return lines[-1] if lines else "it failed and did not say why"


def _declared(name: str, spec: dict[str, Any]) -> Declared:
    ports = {
        int(port["target"]): int(port["published"])
        for port in spec.get("ports") or ()
        if str(port.get("published", "")).isdecimal() and port.get("protocol", "tcp") == "tcp"
    }
    # YAML's `no` may have become the word; what a healthy service never does is end.
    return Declared(name, ports, job=spec.get("restart") in {"no", "on-failure"} and "healthcheck" not in spec)


class Compose:
    """The profile: what `plinth up`, `status`, `logs` and `down` do to the project."""

    standing = True

    def __init__(self, project: Project) -> None:
        self.project = project

    def up(self, *, on_progress: Progress | None = None, timeout: float | None = None) -> Status:
        """Start what is not running, and wait until everything is healthy.

        Raises:
            Conflict: A port is in use, or the project is another workspace's.
            Unavailable: No engine or no compose answers, or a container does not become healthy.
        """
        before = self.project.containers()
        declared = self.project.declared()
        self._check_ports(declared, before)
        seconds = START_SECONDS if timeout is None else timeout
        code = self.project.run("up", "--detach", "--wait", "--wait-timeout", str(max(1, round(seconds))))
        found = self.status()
        if on_progress is not None:
            on_progress(found)
        late = [item for item in found.services if item.health != "healthy"]
        if not late and (code == 0 or found.services):
            return found  # where a job ends well, `up --wait` of some versions ends with 1
        self._fail(code, late)
        return found

    def down(self, *, timeout: float = 30.0) -> int:
        """Stop and remove the containers; volumes stay. Returns how many there were. Raises as `up`."""
        count = len(self.project.containers())
        if not count:
            return 0
        if self.project.run("down", "--remove-orphans", "--timeout", str(round(timeout)), file=False):
            raise Unavailable("docker compose down failed", where=self.project.name, hint="what it said stands above")
        return count

    def status(self) -> Status:
        """How each service is: those that are enabled, and those that run beside them. Raises as `Project`."""
        containers: dict[str, list[Container]] = {}
        for item in self.project.containers():
            containers.setdefault(item.service, []).append(item)
        declared = {item.name: item for item in self.project.declared()}
        found = []
        for name in [*declared, *(name for name in containers if name not in declared)]:
            service, copies = declared.get(name, Declared(name)), containers.get(name, [])
            if service.job and all(copy.health == "stopped" and not copy.exit_code for copy in copies):
                continue  # it did what it is there for, or will
            found += [_status(item, service, several=len(copies) > 1) for item in copies] or [
                ServiceStatus(name, _url(service.ports), "stopped", None, 0)
            ]
        return Status("compose", tuple(found))

    def running(self) -> bool:
        """Whether any container of the project runs. Raises as `Project.containers`."""
        return any(item.health != "stopped" for item in self.project.containers())

    def ensure(self, on_progress: Progress | None = None) -> Status:
        """What a story needs: a stack that is up. It is not started here.

        Raises:
            Unavailable: It is not, or a part of it is not well.
        """
        found = self.status()
        if on_progress is not None:
            on_progress(found)
        late = [item.name for item in found.services if item.health != "healthy"]
        if late:
            raise Unavailable(
                f"not healthy: {', '.join(late)}", where=f"compose project {self.project.name}", hint=START
            )
        return found

    def last_lines(self, name: str, count: int) -> tuple[list[str], Path | None]:
        """The last lines of a service's containers; they are in no file of ours. Raises NotFound for another name."""
        lines: list[str] = []
        for item in self._named(name):
            lines += self.project.engine.last_lines(item.id, count)
        return lines, None

    def follow(self, name: str) -> Iterator[str]:
        """What a service says from now on: of several copies, the first. Raises as `last_lines`."""
        item = self._named(name)[0]
        with contextlib.suppress(NotFound):  # it was removed: there is nothing more to come
            yield from self.project.engine.follow(item.id)

    def _named(self, name: str) -> list[Container]:
        found = self.project.containers()
        named = [item for item in found if name in (item.service, item.name)]
        if not named:
            known = ", ".join(dict.fromkeys(item.service for item in found))
            raise NotFound(
                f"there is no container of {name!r}",
                where=f"compose project {self.project.name}",
                hint=f"there are: {known}" if known else f"nothing was started yet: `{START}`",
            )
        return named

    def _check_ports(self, declared: list[Declared], containers: list[Container]) -> None:
        ours = {outer for item in containers if item.health != "stopped" for outer in item.ports.values()}
        for service in declared:
            for port in service.ports.values():
                if port in ours or is_free(HOST, port):
                    continue
                raise in_use(HOST, port, service.name, f"{self.port_variable(port)} in .env")

    def port_variable(self, port: int) -> str:
        """The variable of `.env` that holds a port."""
        written = env_lines(env_text(self.project.env_file), self.project.env_file)
        named = [name for name in written if name.endswith("_PORT") and self.project.env.get(name) == str(port)]
        return named[0] if named else "its _PORT variable"

    def _fail(self, code: int, late: list[ServiceStatus]) -> None:
        if not late:
            raise Unavailable(
                f"docker compose up ended with {code}",
                where=self.project.name,
                hint="what it said stands above; `plinth --profile compose doctor`",
            )
        worst = next((item for item in late if item.health == "unhealthy"), late[0])
        said: list[str] = []
        with contextlib.suppress(NotFound, Unavailable):
            said = self.last_lines(worst.name, 3)[0]
        raise Unavailable(
            f"service {worst.name!r} is {worst.health}" + (f": {' | '.join(said)}" if said else ""),
            where=f"compose project {self.project.name}",
            hint=f"plinth --profile compose logs {worst.name}; what runs stays: `up` again, or `down`",
        )


def _status(item: Container, declared: Declared, *, several: bool) -> ServiceStatus:
    url = _url(item.ports or declared.ports)
    return ServiceStatus(item.name if several else item.service, url, item.health, item.pid, item.restarts)


def _url(ports: dict[int, int]) -> str:
    """Where a person looks at it: the address of its first published port; empty where none is."""
    if not ports:
        return ""
    inner = min(ports)
    return f"{SCHEMES.get(inner, 'http')}://{HOST}:{ports[inner]}"
