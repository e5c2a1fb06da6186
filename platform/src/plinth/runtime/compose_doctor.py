"""What `plinth doctor` looks at in the compose profile: `.env`, the engine, ports, containers, and what they answer."""

from __future__ import annotations

import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping

from plinth.core.basic_auth import authorization, credentials
from plinth.errors import PlinthError
from plinth.runtime.compose import HOST, START, Compose, Declared, Project
from plinth.runtime.compose_env import stale
from plinth.runtime.docker import Container
from plinth.runtime.doctor import GIB, Finding, Level, audit
from plinth.runtime.ports import holder, is_free
from plinth.wiring import Platform

COMPOSE = (2, 20)
"""The first version of Compose whose `include` and `up --wait` do what compose.yaml asks of them."""
MEMORY_GIB = 4.0
ANSWER_SECONDS = 3.0


def examine(platform: Platform) -> Iterator[Finding]:
    """Every finding. Changes nothing."""
    project = Project(platform.settings.home)
    yield from env(project)
    try:
        yield from engine(project)
        compose, declared, containers = Compose(project), project.declared(), project.containers()
    except PlinthError as error:
        yield Finding("compose", "error", error.what, error.hint)
        return
    yield from ports(compose, declared, containers)
    if not any(item.health != "stopped" for item in containers):
        yield Finding("services", "ok", "not running", START)
        return
    yield from health(compose)
    yield from reach(platform, {item.service for item in containers if item.health == "healthy"})


def env(project: Project) -> Iterator[Finding]:
    """Whether `.env` is there, complete, its owner's alone, and not overruled by this shell."""
    path = project.env_file
    if not path.is_file():
        yield Finding("env", "warning", f"there is no {path}: only the environment counts", "plinth init compose")
        return
    missing = stale(path)
    if missing:
        yield Finding("env", "error", f".env is stale: it lacks {', '.join(missing)}", "plinth init compose adds it")
    else:
        yield Finding("env", "ok", f"{path} is complete")
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        yield Finding("env", "error", f".env can be read by others (mode {mode:o})", f"chmod 600 {path}")
    over = [name for name in project.env if name in os.environ and not name.startswith("PLINTH_")]
    if over:
        yield Finding(
            "env", "warning", f"this shell's own {', '.join(over)} goes before .env, here and in docker compose",
            "unset it, if that is not meant",
        )  # fmt: skip


def engine(project: Project) -> Iterator[Finding]:
    """The engine, its Compose plugin, and the memory that containers can have. Raises as `Engine.version`."""
    yield Finding("docker", "ok", f"Docker engine {project.engine.version()}")
    text = project.version()
    numbers = re.match(r"(\d+)\.(\d+)", text)
    old = numbers is None or (int(numbers[1]), int(numbers[2])) < COMPOSE
    needed = ".".join(map(str, COMPOSE))
    yield Finding(
        "docker", "error" if old else "ok", f"Docker Compose {text}", f"install {needed} or newer" if old else ""
    )
    cores, memory = project.engine.resources()
    little = memory < MEMORY_GIB * GIB
    yield Finding(
        "docker", "warning" if little else "ok", f"containers can have {cores} cores and {memory / GIB:.1f} GiB",
        f"the core needs up to {MEMORY_GIB:g} GiB: give Docker more" if little else "",
    )  # fmt: skip


def ports(compose: Compose, declared: list[Declared], containers: list[Container]) -> Iterator[Finding]:
    """Each published port: free, or ours."""
    ours = {outer for item in containers if item.health != "stopped" for outer in item.ports.values()}
    taken, well = [], 0
    for service in declared:
        for port in service.ports.values():
            if port in ours or is_free(HOST, port):
                well += 1
                continue
            held = holder(port) or "a process that cannot be seen from here"
            taken.append(
                Finding(
                    "ports", "error", f"port {port} of {service.name} is in use by {held}",
                    f"end that process, or change {compose.port_variable(port)} in .env",
                )
            )  # fmt: skip
    yield from taken
    yield Finding("ports", "ok", f"{well} ports are free, or in use by the platform")


def health(compose: Compose) -> Iterator[Finding]:
    """Each service's health, and of those that are not well what they said last."""
    levels: dict[str, Level] = {"healthy": "ok", "starting": "warning", "unhealthy": "error", "stopped": "error"}
    for service in compose.status().services:
        again = f", started again {service.restarts} times" if service.restarts else ""
        said = ""
        if service.health != "healthy" and service.pid is not None:
            lines = [line for line in compose.last_lines(service.name, 5)[0] if line.strip()]
            said = f": {lines[-1].strip()[:200]}" if lines else ""
        advice = "" if service.health == "healthy" else f"plinth --profile compose logs {service.name}; {START}"
        yield Finding("services", levels[service.health], f"{service.name} is {service.health}{again}{said}", advice)


def reach(platform: Platform, healthy: set[str]) -> Iterator[Finding]:
    """Whether this machine reaches each healthy server, with the credentials of its settings."""
    settings = platform.settings
    bearer = settings.qdrant_api_key.get_secret_value()
    mlflow = authorization(settings.mlflow_username, settings.mlflow_password)
    prefect = credentials(settings.prefect_auth)
    checks: dict[str, Callable[[], None]] = {
        "postgres": lambda: None,
        "seaweedfs": lambda: _objects(platform),
        "valkey": lambda: _valkey(settings.online_store.get_secret_value()),
        "qdrant": lambda: _get(f"{settings.qdrant_url}/collections", {"api-key": bearer}),
        "mlflow": lambda: _get(f"{settings.mlflow_url}/api/2.0/mlflow/experiments/search?max_results=1", mlflow),
        "prefect": lambda: _get(f"{settings.prefect_api_url}/admin/version", prefect),
        "prometheus": lambda: _get(f"{settings.prometheus_url}/-/ready", {}),
        "grafana": lambda: _get(f"{settings.grafana_url}/api/health", {}),
    }
    for name, check in checks.items():
        if name not in healthy:
            continue
        if name == "postgres":
            yield from audit(platform)
            continue
        try:
            check()
        except (OSError, ValueError, PlinthError) as error:
            text = error.what if isinstance(error, PlinthError) else str(error)
            yield Finding(
                "reach", "error", f"{name} does not let this machine in: {text}",
                "its volume may have been made with another .env: put that one back, or `plinth reset compose`",
            )  # fmt: skip
        else:
            yield Finding("reach", "ok", f"{name} answers this machine")


def _get(url: str, headers: Mapping[str, str]) -> None:
    """A GET past the environment's proxies; raises unless it is answered with 200."""
    request = urllib.request.Request(url, headers=dict(headers))  # noqa: S310  (an address of the settings)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=ANSWER_SECONDS):
            pass
    except urllib.error.HTTPError as error:
        error.close()
        raise OSError(f"it answers {error.code}") from None
    except urllib.error.URLError as error:
        raise OSError(str(error.reason)) from None


def _objects(platform: Platform) -> None:
    platform.artifacts.exists("0" * 64)


def _valkey(url: str) -> None:
    from plinth.features.redis_connections import ping

    ping(url, ANSWER_SECONDS)
