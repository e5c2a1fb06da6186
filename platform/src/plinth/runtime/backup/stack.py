"""The containers of the compose profile, as far as a backup starts and stops them."""

from __future__ import annotations

from collections.abc import Sequence

from plinth.errors import Unavailable
from plinth.runtime.compose import Project

STORES = ("postgres", "seaweedfs", "valkey", "qdrant")
"""What has to run while it is restored. One that this stack leaves out is passed over."""


class Stack:
    """One compose project, for a while without those that write into its stores.

    Args:
        project: Which.
    """

    def __init__(self, project: Project) -> None:
        self.project = project

    def exec(self, service: str, *command: str) -> Sequence[str]:
        """The command line that runs a command inside a service's container."""
        return self.project.command("exec", "-T", service, *command)

    def stop_writers(self) -> None:
        """Stop everything but the stores."""
        self._run("stop", *(name for name in self._names() if name not in STORES))

    def start_stores(self) -> None:
        """Start the stores, empty or not, and wait for their health."""
        self._run("up", "--detach", "--wait", *(name for name in self._names() if name in STORES))

    def start(self) -> None:
        """Start everything and wait for its health."""
        self._run("up", "--detach", "--wait")

    def _names(self) -> list[str]:
        return [service.name for service in self.project.declared()]

    def _run(self, *words: str) -> None:
        if self.project.run(*words):
            raise Unavailable(
                f"docker compose {words[0]} failed", where=self.project.name,
                hint="what it said stands above; `plinth --profile compose doctor`",
            )  # fmt: skip
