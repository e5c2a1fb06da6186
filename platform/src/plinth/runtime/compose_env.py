"""`.env` of the compose profile: names, ports and random secrets, written once and only ever added to."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from plinth.core.environment import HOST_VIEW, env_lines, env_text, home
from plinth.core.files import write_whole
from plinth.errors import Conflict, InvalidInput, NotFound
from plinth.runtime.compose_state import CONTAINER_ID, make_state

FILE = ".env"
PROFILES = ("observability", "llm", "gpu")
PORTS = {
    "POSTGRES_PORT": 15432,
    "S3_PORT": 18333,
    "VALKEY_PORT": 16379,
    "QDRANT_PORT": 16333,
    "MLFLOW_PORT": 5001,
    "PREFECT_PORT": 4200,
    "PROMETHEUS_PORT": 9090,
    "GRAFANA_PORT": 3000,
    "FLIGHT_DELAYS_PORT": 3001,
    "DOCS_ASSISTANT_PORT": 3002,
    "PLINTH_CONTROLLER_PORT": 3010,
    "OTLP_PORT": 4318,
    "LLM_PORT": 8081,
}
SECRETS = (
    "POSTGRES_PASSWORD", "LEDGER_DB_PASSWORD", "MLFLOW_DB_PASSWORD", "PREFECT_DB_PASSWORD", "FEAST_DB_PASSWORD",
    "S3_ACCESS_KEY", "S3_SECRET_KEY", "VALKEY_PASSWORD", "QDRANT_API_KEY", "MLFLOW_ADMIN_PASSWORD",
    "MLFLOW_SECRET_KEY", "PREFECT_AUTH", "GRAFANA_ADMIN_PASSWORD", "LLM_API_KEY", "PLINTH_TOKEN_KEY",
    "PLINTH_SCRAPE_TOKEN",
)  # fmt: skip
COLLECTOR = "http://collector:4318"
"""Where the profile `observability` takes traces and logs; whoever adds it later has to say so, too."""
MAY_BE_EMPTY = ("COMPOSE_PROFILES", "COLLECTOR_URL")
SECTIONS = (
    ("The project, and the profiles beside the core: observability, llm, gpu. With observability, the parts send\n"
     "# their traces and logs to COLLECTOR_URL, http://collector:4318; empty is MLflow",
     ("COMPOSE_PROJECT_NAME", "COMPOSE_PROFILES", "COLLECTOR_URL")),
    ("Who the platform's own containers run as, and what they share with this machine",
     ("PLINTH_UID", "PLINTH_GID", "PLINTH_HOME", "PLINTH_STATE")),
    ("Ports on 127.0.0.1", tuple(PORTS)),
    ("Secrets. PostgreSQL and Grafana take theirs when their volumes are made: a change here locks you out", SECRETS),
    ("What `plinth --profile compose` reads: the same servers as this machine sees them", tuple(HOST_VIEW)),
)  # fmt: skip
_HEAD = "# Written by `plinth init compose`: it adds what is missing and never changes a line. Not for a repository.\n"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


@dataclass(frozen=True)
class Wanted:
    """What the user asked for; None is not asked.

    Args:
        project: Name of the compose project.
        profiles: Profiles beside the core.
        offset: Added to every port.
        state: Folder that containers and this machine share.
    """

    project: str | None = None
    profiles: tuple[str, ...] | None = None
    offset: int | None = None
    state: Path | None = None


@dataclass(frozen=True)
class Written:
    """What `init` did. Names only: values stay in the file."""

    file: Path
    state: Path
    project: str
    created: bool
    added: tuple[str, ...]
    kept: tuple[str, ...]
    foreign: tuple[str, ...]
    tightened: bool


def init(wanted: Wanted) -> Written:
    """Write `.env` and make the state folder. Does nothing to what is there but add to it; safe when two run at once.

    Raises:
        InvalidInput: A wish does not fit, this is no workspace, or `.env` cannot be read as one.
        Conflict: `.env` says something else than what is asked for, or the state folder is another project's.
    """
    folder = home()
    if not (folder / "services").is_dir():
        raise InvalidInput(
            "this is no workspace", where=str(folder), hint="run plinth inside the workspace, or set PLINTH_HOME to it"
        )
    _check(wanted)
    path = (folder / FILE).resolve()  # a link stays a link
    with _alone(folder):
        text = env_text(path) if os.path.lexists(path) else ""
        before = env_lines(text, path)
        values = _values(folder, wanted)
        _check_same(before, values, wanted, path)
        for name in (*SECRETS, "COMPOSE_PROJECT_NAME", "PLINTH_STATE"):
            if name in before and not before[name]:
                raise InvalidInput(
                    f"{name} is empty", where=str(path), hint="give it a value, or delete its line: then it is written"
                )
        added = tuple(name for name in _names() if name not in before)
        ours = {**values, **before}
        state = Path(ours["PLINTH_STATE"])
        make_state(state, ours["COMPOSE_PROJECT_NAME"], _number(ours, "PLINTH_UID"), _number(ours, "PLINTH_GID"))
        if added:
            write_whole(path, _with(text, added, values).encode(), mode=0o600)
        tightened = _tighten(path)
    kept = tuple(name for name in before if name in values)
    return Written(
        file=path, state=state, project=ours["COMPOSE_PROJECT_NAME"], created=not text, added=added, kept=kept,
        foreign=tuple(name for name in before if name not in values), tightened=tightened and bool(text),
    )  # fmt: skip


def required() -> tuple[str, ...]:
    """Every variable that a complete `.env` has."""
    return _names()


def stale(path: Path) -> list[str]:
    """What a `.env` lacks: names without a line, and names that must have a value and have none. Raises as `read_env`.

    Raises:
        NotFound: There is no such file.
    """
    if not path.is_file():
        raise NotFound("there is no .env", where=str(path), hint="plinth init compose")
    there = env_lines(env_text(path), path)
    return [name for name in _names() if not there.get(name) and (name not in there or name not in MAY_BE_EMPTY)]


def _names() -> tuple[str, ...]:
    return tuple(name for _, names in SECTIONS for name in names)


def _project(folder: Path) -> str:
    """A name of this clone's own: by a common one, two clones on a machine would share, and reset, their volumes."""
    return f"plinth-{sha256(str(folder.resolve()).encode()).hexdigest()[:6]}"


def _values(folder: Path, wanted: Wanted) -> dict[str, str]:
    offset = wanted.offset or 0
    own = os.geteuid() or CONTAINER_ID  # no container of ours runs as root
    group = os.getegid() if os.geteuid() else CONTAINER_ID
    return {
        "COMPOSE_PROJECT_NAME": wanted.project or _project(folder),
        "COMPOSE_PROFILES": ",".join(wanted.profiles or ()),
        "COLLECTOR_URL": COLLECTOR if "observability" in (wanted.profiles or ()) else "",
        "PLINTH_UID": str(own),
        "PLINTH_GID": str(group),
        "PLINTH_HOME": str(folder),
        "PLINTH_STATE": str((wanted.state or folder / ".plinth" / "compose").absolute()),
        **{name: str(port + offset) for name, port in PORTS.items()},
        **{name: _secret() for name in SECRETS},
        "PREFECT_AUTH": f"admin:{_secret()}",
        **HOST_VIEW,
    }


def _secret() -> str:
    # 192 bits of letters and digits only: nothing to quote in a URL, and no first "-" for a command line to trip over.
    return secrets.token_hex(24)


def _check(wanted: Wanted) -> None:
    if wanted.project is not None and not _NAME.fullmatch(wanted.project):
        raise InvalidInput(
            f"{wanted.project!r} is no project name",
            where="--project",
            hint="small letters, digits, hyphens and underscores",
        )
    bad = [name for name in wanted.profiles or () if name not in PROFILES]
    if bad:
        raise InvalidInput(f"there is no profile {bad[0]!r}", where="--with", hint=f"profiles: {', '.join(PROFILES)}")
    offset = wanted.offset or 0
    if not all(1024 <= port + offset <= 65535 for port in PORTS.values()):
        low, high = 1024 - min(PORTS.values()), 65535 - max(PORTS.values())
        raise InvalidInput(
            f"{offset} is no offset: a port would lie outside 1024 to 65535", where="--port-offset",
            hint=f"from {low} to {high}; 1000 keeps clear of the ports without an offset",
        )  # fmt: skip
    for what, path in (("--state", wanted.state), ("the workspace", home())):
        if path is not None and re.search(r"""[\s"'$#:\\]""", str(path)):
            raise InvalidInput(
                f"{what} is {str(path)!r}, and compose cannot mount a path with such signs",
                where=what,
                hint="a path without spaces, quotes, colons, $ and #",
            )


def _check_same(before: Mapping[str, str], values: Mapping[str, str], wanted: Wanted, path: Path) -> None:
    """What is there is never changed: where it is not what is asked for, say so."""
    asked = [
        *(["COMPOSE_PROJECT_NAME"] if wanted.project is not None else []),
        *(["COMPOSE_PROFILES"] if wanted.profiles is not None else []),
        *(["PLINTH_STATE"] if wanted.state is not None else []),
        *(PORTS if wanted.offset is not None else ()),
        "PLINTH_HOME",
    ]
    for name in asked:
        if name in before and before[name] != values[name]:
            fed = f" and COLLECTOR_URL ({COLLECTOR})" if name == "COMPOSE_PROFILES" and values["COLLECTOR_URL"] else ""
            raise Conflict(
                f"{name} is {before[name] or 'empty'!r} there, and not {values[name]!r}",
                where=str(path),
                hint=f"no line is ever changed: edit {name}{fed} yourself (what is in volumes stays as it was)",
            )


def _with(text: str, added: Sequence[str], values: Mapping[str, str]) -> str:
    """The text and, below it, what is added, in its sections."""
    end = "" if not text or text.endswith("\n") else "\n"
    parts = [_HEAD] if not text else ["\n# Added by `plinth init compose`\n"]
    for title, names in SECTIONS:
        lines = [f"{name}={values[name]}" for name in names if name in added]
        if lines:
            parts.append("\n".join([f"# {title}", *lines, ""]))
    return text + end + "\n".join(parts)


def _number(values: Mapping[str, str], name: str) -> int:
    if not values[name].isdecimal() or int(values[name]) == 0:
        raise InvalidInput(
            f"{name} is {values[name]!r}",
            where=FILE,
            hint="a number above 0: the platform's containers never run as root",
        )
    return int(values[name])


def _tighten(path: Path) -> bool:
    if path.stat().st_mode & 0o077 == 0:
        return False
    path.chmod(0o600)
    return True


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One `init` of a workspace at a time. The kernel drops the lock when its holder dies."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
