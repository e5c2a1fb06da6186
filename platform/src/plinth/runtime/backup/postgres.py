"""PostgreSQL by its own tools, run inside its container: `pg_dump` and `pg_restore` of the server's own version."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from plinth.errors import Unavailable

DATABASES = ("ledger", "mlflow", "prefect", "feast")
"""The ledger first: what it refers to is dumped after it, so that all of it is there."""

SECONDS = 1800


class PostgresPart:
    """The databases of the platform, one file each, in PostgreSQL's custom format.

    Args:
        inside: Gives the command line that runs a command in the container of a service.
        databases: Which.
    """

    name = "postgres"

    def __init__(self, inside: Callable[..., Sequence[str]], databases: Sequence[str] = DATABASES) -> None:
        self._inside = inside
        self._databases = databases

    def dump(self, folder: Path) -> int:
        """As Part.dump. Each database as of one moment (one snapshot)."""
        for database in self._databases:
            with (folder / f"{database}.dump").open("wb") as file:
                self._run("pg_dump", "--username=postgres", "--format=custom", "--compress=1", database, stdout=file)
        return len(self._databases)

    def restore(self, folder: Path) -> int:
        """As Part.restore. Each database in one transaction: it is all there or as it was."""
        for database in self._databases:
            self._run(
                "psql", "--username=postgres", "--quiet", "--set=ON_ERROR_STOP=1", "--dbname=postgres", "--command",
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "  # what still holds a connection
                f"WHERE datname = '{database}' AND pid <> pg_backend_pid()",
                stdout=subprocess.DEVNULL,
            )  # fmt: skip
            with (folder / f"{database}.dump").open("rb") as file:
                self._run(
                    "pg_restore", "--username=postgres", "--clean", "--if-exists", "--single-transaction",
                    f"--dbname={database}", stdin=file, stdout=subprocess.DEVNULL,
                )  # fmt: skip
        return len(self._databases)

    def _run(self, *command: str, stdout: object, stdin: object = subprocess.DEVNULL) -> None:
        try:
            done = subprocess.run(  # type: ignore[call-overload]
                self._inside("postgres", *command),
                stdin=stdin,
                stdout=stdout,
                stderr=subprocess.PIPE,
                timeout=SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unavailable(f"{command[0]} could not be run: {error}", where="postgres") from error
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise Unavailable(
                f"{command[0]} failed: {said[-1] if said else 'it said nothing'}",
                where="postgres",
                hint="see `plinth --profile compose logs postgres`; free disk space if that is what it says",
            )
