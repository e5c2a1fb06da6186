"""supervisord, which starts, watches, restarts and logs the embedded profile's processes.

It runs in a session of its own, so that Ctrl-C in a terminal reaches us and not it. We speak to it over its Unix
socket with XML-RPC, the standard library's client and a timeout (supervisor's own client has none).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

from plinth.errors import MissingExtra, Unavailable
from plinth.runtime.launch import COMMANDS
from plinth.runtime.leftovers import own_environment
from plinth.runtime.port import Service

# sockaddr_un holds 107 bytes; supervisord binds to `<path>.<pid>` first.
LONGEST_SOCKET_PATH = 95
RPC_SECONDS = 10.0

_SERVER = """\
[supervisord]
nodaemon=true
silent=true
logfile=logs/supervisord.log
logfile_maxbytes=5MB
logfile_backups=2
pidfile=run/supervisord.pid
{user}
[unix_http_server]
file={socket}
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""

# startretries: each retry waits a second longer than the one before; after the last the service is given up.
_PROGRAM = """
[program:{name}]
command="%(ENV_PLINTH_PYTHON)s" -P -m plinth.runtime.launch {name}
autorestart=true
startsecs=2
startretries=5
stopwaitsecs=10
stopasgroup=true
killasgroup=true
redirect_stderr=true
stdout_logfile=logs/{name}.log
stdout_logfile_maxbytes=10MB
stdout_logfile_backups=3
"""


class Supervisor:
    """The supervisor of one state folder. Paths in its configuration are relative to that folder, its directory."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.run = state / "run"
        self.socket = socket_path(state)

    def pid(self) -> int | None:
        """Process id of the running supervisor, or None when none answers."""
        try:
            return cast("int", self._rpc().supervisor.getPID())
        except (OSError, xmlrpc.client.Error, http.client.HTTPException):
            return None

    def processes(self) -> dict[str, dict[str, Any]]:
        """Every service as supervisord sees it, by name; empty when it does not answer."""
        try:
            found = cast("list[dict[str, Any]]", self._rpc().supervisor.getAllProcessInfo())
            return {info["name"]: info for info in found}
        except (OSError, xmlrpc.client.Error, http.client.HTTPException):
            return {}

    def start(self, services: Sequence[Service], directory: Path, env: dict[str, str]) -> None:
        """Start supervisord with these services, and wait until it answers.

        Args:
            services: What to run.
            directory: Working directory of the services.
            env: Environment of every service, beside ours.

        Raises:
            Unavailable: It does not start.
            MissingExtra: The supervisor package is not installed.
        """
        config = self.run / "supervisord.conf"
        user = "user=root\n" if os.geteuid() == 0 else ""
        programs = "".join(_PROGRAM.format(name=service.name) for service in services)
        config.write_text(_SERVER.format(socket=self._configured_socket(), user=user) + programs, encoding="utf-8")
        commands = {
            service.name: {"argv": list(service.argv), "env": dict(service.env), "directory": str(directory)}
            for service in services
        }
        environment = {
            **own_environment(self.state), **env,
            "PLINTH_PYTHON": sys.executable, COMMANDS: json.dumps(commands), "PYTHONUNBUFFERED": "1",
        }  # fmt: skip
        with (self.run / "supervisord.out").open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "supervisor.supervisord", "-c", "run/supervisord.conf"],
                cwd=self.state, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        until = time.monotonic() + 20
        while self.pid() is None:
            if process.poll() is not None or time.monotonic() > until:
                process.terminate()
                said = (self.run / "supervisord.out").read_text(errors="replace")[-2000:].strip()
                if "No module named supervisor" in said:
                    raise MissingExtra("supervisor", "runtime")
                raise Unavailable(
                    f"the supervisor does not start: {said or 'no answer on its socket'}",
                    where=str(self.socket),
                    hint=f"see {self.state / 'logs' / 'supervisord.log'}",
                )
            time.sleep(0.05)

    def start_stopped(self) -> list[str]:
        """Start again what was stopped or given up. Returns the names."""
        names = [
            name
            for name, info in self.processes().items()
            if info["statename"] in {"STOPPED", "EXITED", "FATAL", "UNKNOWN"}
        ]
        for name in names:
            # Refused: supervisord has started it meanwhile. What does not run is seen when health is awaited.
            with contextlib.suppress(OSError, xmlrpc.client.Error, http.client.HTTPException):
                self._rpc().supervisor.startProcess(name, False)
        return names

    def stop(self, timeout: float = 30.0) -> bool:
        """Ask supervisord to end its services and itself. Returns whether it was there and is gone now."""
        pid = self.pid()
        if pid is None:
            return False
        try:
            self._rpc().supervisor.shutdown()
        except (OSError, xmlrpc.client.Error, http.client.HTTPException):
            return False
        return _gone(pid, timeout)

    def clean_up(self) -> None:
        """Remove the socket, and its folder where that is one of our own."""
        self.socket.unlink(missing_ok=True)
        if self.socket.parent != self.run:
            with contextlib.suppress(OSError):
                self.socket.parent.rmdir()

    def _configured_socket(self) -> str:
        if self.socket.parent != self.run:
            _make_private(self.socket.parent)
            return str(self.socket)
        return "run/supervisor.sock"

    def _rpc(self) -> xmlrpc.client.ServerProxy:
        return xmlrpc.client.ServerProxy("http://supervisor", transport=_UnixTransport(str(self.socket)))


def socket_path(state: Path) -> Path:
    """Where the supervisor's socket lies: in `run/`, or in a private temporary folder when that path is too long."""
    inside = state / "run" / "supervisor.sock"
    if len(os.fsencode(inside)) <= LONGEST_SOCKET_PATH:
        return inside
    name = f"plinth-{os.getuid()}-{sha256(os.fsencode(state)).hexdigest()[:16]}"
    return Path(tempfile.gettempdir()) / name / "supervisor.sock"


def _make_private(folder: Path) -> None:
    """Make a folder that is ours alone; somebody else's folder of that name is refused.

    Raises:
        Unavailable: It exists and belongs to another user, or others may write to it.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077 or folder.is_symlink():
        raise Unavailable(
            "the folder for the supervisor's socket is not ours alone",
            where=str(folder),
            hint="remove it, or set PLINTH_STATE to a shorter path",
        )


def _gone(pid: int, timeout: float) -> bool:
    import psutil

    try:
        psutil.Process(pid).wait(timeout)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=RPC_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, _host: Any) -> http.client.HTTPConnection:
        return _UnixConnection(self._path)
