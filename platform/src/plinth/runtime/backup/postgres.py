"""PostgreSQL by its own tools, run inside its container: `pg_dump` and `pg_restore` of the server's own version."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from plinth.errors import Unavailable

DATABASES = ("ledger", "mlflow", "prefect", "feast")
"""The ledger first: what it refers to is dumped after it, so that all of it is there."""

SECONDS = 1800
BESIDE, BEFORE = "_restored", "_replaced"
"""Behind the names of databases while they are restored."""


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
        """As Part.restore. Each database is made anew beside the old one, then takes its place: it is the backup's,
        without a table that a newer schema had beside, or as it was."""
        for name in self._databases:
            made, old = f"{name}{BESIDE}", f"{name}{BEFORE}"
            for leftover in (made, old):  # of a restore that was killed
                self._sql(f'DROP DATABASE IF EXISTS "{leftover}" WITH (FORCE)')
            # As infra/compose/postgres/10-databases.sh makes it.
            self._sql(
                f'CREATE DATABASE "{made}" OWNER "{name}" TEMPLATE template0 '
                "ENCODING 'UTF8' LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'"
            )
            self._sql(f'REVOKE ALL ON DATABASE "{made}" FROM PUBLIC')
            with (folder / f"{name}.dump").open("rb") as file:
                self._run(
                    "pg_restore", "--username=postgres", "--single-transaction", f"--dbname={made}",
                    stdin=file, stdout=subprocess.DEVNULL,
                )  # fmt: skip
            # What still holds a connection loses it, and gets none until the names are changed, in one transaction.
            self._sql(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS false')
            try:
                self._sql(f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{name}'")
                self._sql(f'ALTER DATABASE "{name}" RENAME TO "{old}"; ALTER DATABASE "{made}" RENAME TO "{name}"')
            except Unavailable:
                self._sql(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS true')
                raise
            self._sql(f'DROP DATABASE "{old}" WITH (FORCE)')
        return len(self._databases)

    def _sql(self, text: str) -> None:
        self._run(
            "psql", "--username=postgres", "--quiet", "--set=ON_ERROR_STOP=1", "--dbname=postgres", "--command", text,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip

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
