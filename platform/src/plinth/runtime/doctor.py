"""`plinth doctor`: checks the machine, the installation and the services, and says what to do about each finding."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from plinth.errors import InvalidInput, PlinthError
from plinth.runtime import embedded, leftovers
from plinth.runtime.ports import holder, is_free, is_loopback
from plinth.runtime.services import embedded_services
from plinth.wiring import Platform

Level = Literal["ok", "warning", "error"]

GIB = 1 << 30
CORES = 2
MEMORY_GIB = 3.0
DISK_ERROR_GIB, DISK_WARNING_GIB = 1.0, 5.0
PYTHON = ((3, 11), (3, 13))
CLOCK_SKEW_SECONDS = 2.0
# Before this code was written: certificates and schedules are wrong on such a clock.
EARLIEST = 1_735_689_600  # 2025-01-01T00:00:00Z


@dataclass(frozen=True)
class Finding:
    """One check: what was found, and what to do about it."""

    check: str
    level: Level
    what: str
    next: str = ""


def findings() -> list[Finding]:
    """Every finding about the profile that the environment names, also where its settings cannot be read."""
    try:
        return examine(Platform.from_settings())
    except InvalidInput as error:
        wrong = Finding("settings", "error", f"{error.what} ({error.where})", error.hint)
        return [*machine(), python(), *versions(), wrong]


def examine(platform: Platform) -> list[Finding]:
    """Every finding, in the order of the checks. Changes nothing."""
    found = [*machine(), python(), *versions(), address(platform), state(platform), *disk(platform), clock(platform)]
    if platform.settings.profile == "compose":
        from plinth.runtime.compose_doctor import examine as containers

        services = list(containers(platform))
    else:
        services = [*_processes(platform), *audit(platform)]
    return [*found, *services]


def _processes(platform: Platform) -> Iterator[Finding]:
    """What the embedded profile's processes are examined for."""
    try:
        services = [*ports(platform), *health(platform)]
    except PlinthError as error:
        services = [Finding("products", "error", error.what, f"{error.where}: {error.hint}")]
    yield from services
    yield stray(platform)


def audit(platform: Platform) -> Iterator[Finding]:
    """Whether the audit chain is whole; nothing where there is no ledger yet."""
    if platform.settings.ledger_url is None and not (platform.settings.state_dir / "ledger.db").is_file():
        return
    try:
        broken = platform.ledger.broken_entry()
    except PlinthError as error:
        yield Finding("ledger", "error", error.what, error.hint)
        return
    if broken is None:
        yield Finding("audit", "ok", "the audit chain is whole")
    else:
        yield Finding(
            "audit", "error", f"the audit log was changed: entry {broken} is not what was written",
            "plinth audit verify names it; plinth fsck shows what else is wrong",
        )  # fmt: skip


def machine() -> Iterator[Finding]:
    """Cores and memory, against what the demo is measured with."""
    import psutil

    cores = os.cpu_count() or 1
    few = "the demo takes longer than five minutes here" if cores < CORES else ""
    yield Finding("cores", "warning" if few else "ok", f"{cores} cores", few)
    memory = psutil.virtual_memory()
    text = f"{memory.available / GIB:.1f} GiB of {memory.total / GIB:.1f} GiB available"
    little = memory.available < MEMORY_GIB * GIB
    advice = f"close other programs: the demo needs up to {MEMORY_GIB:g} GiB" if little else ""
    yield Finding("memory", "warning" if little else "ok", text, advice)


def python() -> Finding:
    """The interpreter's version."""
    here = sys.version_info[:2]
    text = f"Python {sys.version.split()[0]}"
    if PYTHON[0] <= here <= PYTHON[1]:
        return Finding("python", "ok", text)
    return Finding("python", "error", text, "use Python 3.11, 3.12 or 3.13 (`make install PYTHON=python3.12`)")


def versions() -> Iterator[Finding]:
    """Each tool's installed version against the pins of plinth's own metadata."""
    from packaging.requirements import Requirement

    bad = 0
    pins = [Requirement(text) for text in importlib.metadata.requires("plinth") or []]
    wanted = [pin for pin in pins if not pin.name.startswith("plinth")]
    for pin in wanted:
        try:
            installed = importlib.metadata.version(pin.name)
        except importlib.metadata.PackageNotFoundError:
            bad += 1
            yield Finding("versions", "error", f"{pin.name} is not installed", "make install")
            continue
        if not pin.specifier.contains(installed, prereleases=True):
            bad += 1
            yield Finding("versions", "error", f"{pin.name} {installed} is not {pin.specifier}", "make install")
    if not bad:
        yield Finding("versions", "ok", f"{len(wanted)} packages fit their pins")


def address(platform: Platform) -> Finding:
    """Whether the services listen on this machine only: the embedded profile has no authentication."""
    host = platform.settings.host
    if is_loopback(host):
        return Finding("address", "ok", f"services listen on {host} only")
    return Finding(
        "address", "error", f"services listen on {host}, and nobody is asked who they are",
        "unset PLINTH_HOST: the embedded profile is for this machine only",
    )  # fmt: skip


def state(platform: Platform) -> Finding:
    """Whether the state folder can be written."""
    folder = platform.settings.state_dir
    existing = _existing(folder)
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"x" * 4096)
    except OSError as error:
        return Finding(
            "state", "error", f"{existing} cannot be written: {error.strerror}",
            "free space or permissions there, or choose another folder with PLINTH_STATE",
        )  # fmt: skip
    return Finding("state", "ok", f"{folder} can be written")


def disk(platform: Platform) -> Iterator[Finding]:
    """Free space for the state folder and for temporary files."""
    for name, folder in (("disk", _existing(platform.settings.state_dir)), ("tmp", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(folder).free / GIB
        level: Level = "error" if free < DISK_ERROR_GIB else "warning" if free < DISK_WARNING_GIB else "ok"
        advice = "" if level == "ok" else f"free some space on the disk of {folder}"
        yield Finding(name, level, f"{free:.1f} GiB free at {folder}", advice)


def clock(platform: Platform) -> Finding:
    """Whether the clock is plausible, and the same as the state folder's disk keeps."""
    now = time.time()
    if now < EARLIEST:
        return Finding("clock", "error", f"the clock says {time.strftime('%Y-%m-%d', time.gmtime(now))}", "set it")
    try:
        with tempfile.NamedTemporaryFile(dir=_existing(platform.settings.state_dir)) as file:
            skew = abs(os.stat(file.name).st_mtime - time.time())
    except OSError:
        skew = 0.0
    if skew > CLOCK_SKEW_SECONDS:
        return Finding(
            "clock", "warning", f"the disk of the state folder is {skew:.0f} s off this machine's clock",
            "keep the state folder on a local disk (PLINTH_STATE), or set the clocks",
        )  # fmt: skip
    return Finding("clock", "ok", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now)))


def ports(platform: Platform) -> Iterator[Finding]:
    """Each service's port: free, or ours."""
    up = embedded.running(platform)
    for service in embedded_services(platform):
        if service.port is None:
            continue
        where = f"port {service.port} of {service.name}"
        if is_free(platform.settings.host, service.port):
            yield Finding("ports", "ok", f"{where} is {'not listened on' if up else 'free'}")
        elif up:
            yield Finding("ports", "ok", f"{where} is in use, by the platform")
        else:
            held = holder(service.port) or "a process that cannot be seen from here"
            yield Finding(
                "ports", "error", f"{where} is in use by {held}",
                f"end that process, or choose another port with {service.setting}",
            )  # fmt: skip


def health(platform: Platform) -> Iterator[Finding]:
    """Each service's health, when the platform is up."""
    if not embedded.running(platform):
        yield Finding("services", "ok", "not running", "plinth up")
        return
    levels: dict[str, Level] = {"healthy": "ok", "starting": "warning", "unhealthy": "error", "stopped": "error"}
    for service in embedded.status(platform).services:
        again = f", started again {service.restarts} times" if service.restarts else ""
        level = levels[service.health]
        advice = "" if level == "ok" else f"plinth logs {service.name}; plinth up starts what is missing"
        yield Finding("services", level, f"{service.name} is {service.health}{again}", advice)


def stray(platform: Platform) -> Finding:
    """Processes that a killed supervisor left behind."""
    if not embedded.running(platform):
        found = leftovers.find(platform.settings.state_dir)
        if found:
            text = "; ".join(map(leftovers.describe, found))
            return Finding(
                "leftovers", "warning", f"{len(found)} processes of an earlier `plinth up`: {text}", "plinth down"
            )
    return Finding("leftovers", "ok", "none")


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(path for path in (folder, *folder.parents) if path.exists())
