"""Real servers as processes of this environment, with passwords: MLflow and Prefect, set up as in their containers."""

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from patience import PATIENCE

INHERITED = ("PATH", "HOME", "LANG", "VIRTUAL_ENV", "COVERAGE_PROCESS_START", "TMPDIR")


@dataclass(frozen=True)
class Mlflow:
    """A running MLflow server."""

    url: str
    user: str
    password: str
    artifacts: Path
    store: str


@dataclass(frozen=True)
class Prefect:
    """A running Prefect server. `auth` is its user:password."""

    url: str
    auth: str

    @property
    def api(self):
        return f"{self.url}/api"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def mlflow(folder, store=""):
    """An MLflow server that asks for a password; its store is SQLite unless another is given."""
    folder.mkdir(parents=True, exist_ok=True)
    port, password = free_port(), secrets.token_hex(12)
    store = store or f"sqlite:///{folder / 'mlflow.db'}"
    env = mlflow_environment(store, folder / "artifacts", password)
    argv = ["plinth.runtime.mlflow", "--host", "127.0.0.1", "--port", str(port), "--name", "mlflow"]
    url = f"http://127.0.0.1:{port}"
    with running(argv, env, f"{url}/health", folder / "mlflow.log"):
        yield Mlflow(url, "admin", password, folder / "artifacts", store)


def mlflow_environment(store, artifacts, password):
    return {
        "MLFLOW_BACKEND_STORE_URI": store,
        "MLFLOW_ARTIFACTS_DESTINATION": str(artifacts),
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(12),
    }


@contextlib.contextmanager
def prefect(folder, database=""):
    """A Prefect server with an auth string; its database is SQLite unless another is given."""
    folder.mkdir(parents=True, exist_ok=True)
    port, auth = free_port(), f"admin:{secrets.token_hex(12)}"
    env = {
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_API_AUTH_STRING": auth,
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": database or f"sqlite+aiosqlite:///{folder / 'prefect.db'}",
    }
    url = f"http://127.0.0.1:{port}"
    argv = ["plinth.runtime.prefect_server", "--host", "127.0.0.1", "--port", str(port), "--public-url", url]
    with running(argv, env, f"{url}/api/health", folder / "prefect.log"):
        yield Prefect(url, auth)


@contextlib.contextmanager
def running(argv, env, health, log):
    """A process of this environment, from when it answers until the end of the block."""
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", *argv], env={**inherited, **env}, stdout=output, stderr=output, cwd=log.parent
        )
    try:
        until = time.monotonic() + PATIENCE
        while not _answers(health):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{argv[0]} did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.2)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url):
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False
