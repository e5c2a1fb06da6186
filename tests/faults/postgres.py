"""A real PostgreSQL for tests: its own cluster in a temporary folder, a fresh database for each test.

fsync is off: the tests kill processes, they never cut the power, and do not claim to.
"""

import contextlib
import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from itertools import count
from pathlib import Path

import psycopg

from patience import PATIENCE


def find_binaries():
    """The folder of `initdb` and `postgres`, the newest version first; None when PostgreSQL is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    path = shutil.which("postgres")
    return Path(path).resolve().parent if path and shutil.which("initdb") else None


def why_not():
    """Why a PostgreSQL cannot be started here; "" when it can."""
    if find_binaries() is None:
        return "PostgreSQL is not installed (apt-get install postgresql)"
    if os.getuid() == 0:
        try:
            pwd.getpwnam("postgres")
        except KeyError:
            return "PostgreSQL refuses to run as root, and there is no user postgres"
    return ""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _die_with_parent():
    """In the child: end (fast shutdown) when the process that started it is gone, however it went."""
    ctypes.CDLL(None).prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG


class PostgresServer:
    """One cluster. `stop` ends it and removes its folder."""

    def __init__(self):
        self.binaries = find_binaries()
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="plinth-pg-"))
        self._as = {}
        if os.getuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        data = self.folder / "data"
        command = [
            self.binaries / "initdb", "--pgdata", data, "--username", "plinth", "--auth", "trust", "--no-sync",
            "--encoding", "UTF8", "--locale", "C",
        ]  # fmt: skip
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, **self._as)
        assert done.returncode == 0, done.stderr
        options = {
            "listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": self.folder, "fsync": "off",
            "max_connections": 200, "shared_buffers": "32MB",
        }  # fmt: skip
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.binaries / "postgres", "-D", data, *(f"-c{key}={value}" for key, value in options.items())],
                cwd=self.folder, stdout=log, stderr=log, preexec_fn=_die_with_parent, **self._as,
            )  # fmt: skip
        self._numbers = count(1)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self._execute("SELECT 1")
                return
            except psycopg.OperationalError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    message = (self.folder / "log").read_text()
                    self.stop()
                    raise AssertionError(f"PostgreSQL did not start: {message}") from None
                time.sleep(0.05)

    def _execute(self, statement):
        address = {"host": "127.0.0.1", "port": self.port, "user": "plinth", "dbname": "postgres"}
        with psycopg.connect(**address, autocommit=True, connect_timeout=5) as connection:
            connection.execute(statement)

    def url(self, name, port=None):
        """SQLAlchemy URL of a database, by another port when a proxy stands before the server."""
        return f"postgresql+psycopg://plinth@127.0.0.1:{port or self.port}/{name}"

    def create(self):
        """The name of a fresh, empty database."""
        name = f"test_{next(self._numbers)}"
        self._execute(f"CREATE DATABASE {name}")
        return name

    def drop(self, name):
        """Remove a database, whoever is still connected."""
        self._execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    @contextlib.contextmanager
    def database(self):
        """URL of a fresh database that is gone afterwards."""
        name = self.create()
        try:
            yield self.url(name)
        finally:
            self.drop(name)

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(PATIENCE)
        shutil.rmtree(self.folder, ignore_errors=True)
