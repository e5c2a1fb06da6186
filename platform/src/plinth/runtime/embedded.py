"""The embedded profile: everything as supervised processes on this machine, state in one folder.

`up`, `down`, `status` and `logs` are what the command line and the demo call.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from plinth.core.digests import digest_json
from plinth.core.files import locked
from plinth.errors import Conflict, NotFound, RefusedByPolicy, Unavailable
from plinth.runtime import leftovers
from plinth.runtime.health import look
from plinth.runtime.logs import last_lines
from plinth.runtime.port import Progress, Service, Status
from plinth.runtime.ports import check_free, is_loopback
from plinth.runtime.services import embedded_services, environment
from plinth.runtime.supervisor import Supervisor
from plinth.wiring import Platform

START_SECONDS = 120.0
POLL_SECONDS = 0.25


def up(
    platform: Platform,
    *,
    services: Sequence[Service] | None = None,
    wait: bool = True,
    on_progress: Progress | None = None,
    timeout: float = START_SECONDS,
) -> Status:
    """Start the profile. Where it runs already, start what is missing and change nothing else.

    Args:
        platform: The platform whose services to run.
        services: What to run instead of all of the profile's services.
        wait: Return when every service is healthy, not before.
        on_progress: Told of the state while waiting.
        timeout: Seconds to wait for health.

    Raises:
        RefusedByPolicy: The address is not this machine's own.
        Conflict: A port is in use, another `plinth up` is starting, or what runs was started with other settings.
        InvalidInput: A product's manifest does not fit, or two services share a port.
        Unavailable: The state folder cannot be written, or a service does not become healthy.
    """
    state = platform.settings.state_dir
    if not is_loopback(platform.settings.host):
        raise RefusedByPolicy(
            f"the services would listen on {platform.settings.host}, and nobody is asked who they are",
            where="PLINTH_HOST",
            hint="unset it: the embedded profile has no authentication and is for this machine only",
        )
    supervisor = Supervisor(state)
    services = embedded_services(platform) if services is None else services
    env = environment(platform.settings)
    _make_folders(state)
    platform.ledger.current("")  # creates the ledger, which the services only read
    with _lock(state, wait=0.0):
        if supervisor.pid() is not None:
            _check_same(state, services, env)
            supervisor.start_stopped()
        else:
            leftovers.end_all(state)
            check_free(platform.settings.host, services)
            for old in [*supervisor.run.glob("*.starts"), *supervisor.run.glob("*.ready")]:
                old.unlink(missing_ok=True)
            try:
                _remember(state, services, env)
                supervisor.start(services, platform.settings.home, env)
            except OSError as error:
                raise _unwritable(state, error) from error
    if wait:
        _wait_healthy(platform, services, on_progress, timeout)
    return status(platform)


def down(platform: Platform, *, timeout: float = 30.0) -> int:
    """Stop the profile. Returns how many processes were ended; 0 when nothing ran.

    Ends what a killed supervisor left behind, too. Needs no readable manifest.

    Raises:
        Conflict: A `plinth up` is starting the profile right now.
        Unavailable: A process does not end.
    """
    state = platform.settings.state_dir
    before = len(leftovers.find(state))
    if not state.exists() and not before:
        return 0
    with contextlib.ExitStack() as stack:
        # The state folder may have been deleted under running processes; they are ended all the same.
        if (state / "run").is_dir():
            stack.enter_context(_lock(state, wait=timeout))
        Supervisor(state).stop(timeout)
        leftovers.end_all(state)
        remaining = leftovers.find(state)
        if remaining:
            raise Unavailable(
                f"{len(remaining)} process(es) do not end: {'; '.join(map(leftovers.describe, remaining))}",
                where=str(state),
                hint="they are stuck in the kernel or belong to another user; look at them with `ps`",
            )
        Supervisor(state).clean_up()
        (state / "run" / "services.json").unlink(missing_ok=True)
    return before


def status(platform: Platform) -> Status:
    """How the profile is now. What runs is shown as it was started, else what would be started.

    Raises:
        InvalidInput: Nothing runs and a product's manifest does not fit.
    """
    state = platform.settings.state_dir
    supervisor = Supervisor(state)
    processes = supervisor.processes()
    services = (_remembered(state) if processes else None) or embedded_services(platform)
    found = look(services, processes, supervisor.run) if processes else look(services, {}, Path(os.devnull))
    return Status(platform.settings.profile, tuple(found))


def running(platform: Platform) -> bool:
    """Whether the profile's supervisor runs."""
    return Supervisor(platform.settings.state_dir).pid() is not None


def log_file(platform: Platform, name: str) -> Path:
    """The log file of a service (or of `supervisord`).

    Raises:
        NotFound: There is no log of that name.
    """
    folder = platform.settings.state_dir / "logs"
    path = folder / f"{name}.log"
    known = sorted(file.stem for file in folder.glob("*.log"))
    if name not in known:
        raise NotFound(
            f"there is no log of {name!r}",
            where=str(folder),
            hint=f"logs: {', '.join(known)}" if known else "nothing was started yet: `plinth up`",
        )
    return path


def _wait_healthy(
    platform: Platform, services: Sequence[Service], on_progress: Progress | None, timeout: float
) -> None:
    state = platform.settings.state_dir
    supervisor = Supervisor(state)
    until = time.monotonic() + timeout
    while True:
        processes = supervisor.processes()
        now = Status(platform.settings.profile, tuple(look(services, processes, supervisor.run)))
        if on_progress is not None:
            on_progress(now)
        if now.healthy:
            return
        given_up = [name for name, info in processes.items() if info["statename"] == "FATAL"]
        late = [] if time.monotonic() < until else [item.name for item in now.services if item.health != "healthy"]
        if given_up or late:
            name = (given_up or late)[0]
            said = last_lines(state / "logs" / f"{name}.log", 3)
            reason = "does not stay up" if given_up else f"is not healthy after {timeout:g} s"
            raise Unavailable(
                f"service {name!r} {reason}" + (f": {' | '.join(said)}" if said else ""),
                where=str(state / "logs" / f"{name}.log"),
                hint=f"plinth logs {name}; then `plinth up` again, or `plinth down`",
            )
        time.sleep(POLL_SECONDS)


def _make_folders(state: Path) -> None:
    try:
        for name in ("run", "logs", "mlflow", "prefect", "cache"):
            (state / name).mkdir(parents=True, exist_ok=True)
        (state / "run").chmod(0o700)
    except OSError as error:
        raise _unwritable(state, error) from error


def _unwritable(state: Path, error: OSError) -> Unavailable:
    return Unavailable(
        f"the state folder cannot be written: {error.strerror}",
        where=str(error.filename or state),
        hint="free space or permissions there, or choose another folder with PLINTH_STATE",
    )


def _lock(state: Path, wait: float) -> contextlib.AbstractContextManager[None]:
    """One `up` or `down` of a state folder at a time. The kernel drops the lock when its holder dies."""
    busy = Conflict(
        "another `plinth up` or `plinth down` is at work on this state folder",
        where=str(state),
        hint="wait for it, then look at `plinth status`",
    )
    return locked(state / "run" / "up.lock", busy, wait)


def _remember(state: Path, services: Sequence[Service], env: dict[str, str]) -> None:
    record = {"digest": _digest(services, env), "services": [asdict(service) for service in services]}
    (state / "run" / "services.json").write_text(json.dumps(record, indent=1), encoding="utf-8")


def _remembered(state: Path) -> Sequence[Service] | None:
    try:
        record = json.loads((state / "run" / "services.json").read_text(encoding="utf-8"))
        return [Service(**{**item, "argv": tuple(item["argv"])}) for item in record["services"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _check_same(state: Path, services: Sequence[Service], env: dict[str, str]) -> None:
    try:
        digest = json.loads((state / "run" / "services.json").read_text(encoding="utf-8"))["digest"]
    except (OSError, ValueError, KeyError):
        digest = ""
    if digest != _digest(services, env):
        raise Conflict(
            "the platform is already running, with other settings or products",
            where=str(state),
            hint="plinth down && plinth up",
        )


def _digest(services: Sequence[Service], env: dict[str, str]) -> str:
    return digest_json({"services": [asdict(service) for service in services], "env": env})
