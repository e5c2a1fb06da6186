"""The containers of the compose profile, as far as a backup starts and stops them."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from plinth.errors import Unavailable

STORES = ("postgres", "seaweedfs", "valkey", "qdrant")
"""What has to run while it is restored. One that this stack leaves out is passed over."""

SECONDS = 900


class Stack:
    """One compose project.

    Args:
        home: The workspace, with its compose.yaml and .env.
        files: Further compose files beside the default one, as `docker compose --file` takes them.
    """

    def __init__(self, home: Path, files: Sequence[str] = ()) -> None:
        self._home = home
        self.command = ("docker", "compose", "--project-directory", str(home), *(f"--file={file}" for file in files))

    def services(self) -> tuple[str, ...]:
        """Names of the services of the active profiles."""
        return tuple(self._run("config", "--services").split())

    def stop_writers(self) -> None:
        """Stop everything but the stores."""
        writers = [name for name in self.services() if name not in STORES]
        self._run("stop", *writers)

    def start_stores(self) -> None:
        """Start the stores, empty or not, and wait for their health."""
        self._run("up", "--detach", "--wait", *(name for name in self.services() if name in STORES))

    def start(self) -> None:
        """Start everything and wait for its health."""
        self._run("up", "--detach", "--wait")

    def _run(self, *arguments: str) -> str:
        try:
            done = subprocess.run(
                [*self.command, *arguments],
                cwd=self._home,
                capture_output=True,
                text=True,
                timeout=SECONDS,
                stdin=subprocess.DEVNULL,
            )
        except FileNotFoundError:
            raise Unavailable("docker is not installed", hint="install Docker with Compose v2") from None
        except subprocess.TimeoutExpired:
            raise Unavailable(
                f"docker compose {arguments[0]} did not end within {SECONDS} s", where=str(self._home)
            ) from None
        if done.returncode:
            raise Unavailable(
                f"docker compose {arguments[0]} failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}",
                where=str(self._home),
                hint="plinth --profile compose doctor",
            )
        return done.stdout
