"""Feast's registry: a file in the product's state, or a database that several machines share.

Both give a lock of the project, under which alone definitions are applied and the online store is written: Feast
applies object after object, each in a transaction of its own, and creates its tables without asking who else does.
"""

from __future__ import annotations

import contextlib
import fcntl
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa

from plinth.errors import InvalidInput, Unavailable

LOCK = 7116417
"""Of PostgreSQL's advisory locks, the first half; the second is the project."""

LOCK_SECONDS = 120
CONNECT_SECONDS = 5
SILENT_SECONDS = 5
"""How long the server, or the network before it, may leave unacknowledged what was sent. A wait for a lock is not that:
the kernel of a server that lives acknowledges the question at once."""


class Registry(Protocol):
    """Where Feast keeps a project's definitions."""

    where: str
    """For people; without a secret."""

    secret: bool
    """Whether Feast's configuration of it holds a password."""

    def ready(self) -> bool:
        """Whether there is a registry that could hold the project."""
        ...

    def config(self) -> dict[str, Any]:
        """The registry's part of Feast's configuration."""
        ...

    def opening(self) -> contextlib.AbstractContextManager[None]:
        """Held while Feast opens the registry, and makes its tables where there are none.

        Raises:
            Unavailable: It cannot be had.
        """
        ...

    def lock(self, project: str) -> contextlib.AbstractContextManager[None]:
        """Nobody else applies or writes while this is held.

        Raises:
            Unavailable: It cannot be had.
        """
        ...


class FileRegistry:
    """A file, written by the processes of one machine.

    Args:
        folder: Where the file is; its owner makes it.
    """

    secret = False

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.where = str(folder / "registry.db")

    def ready(self) -> bool:
        """Whether the file is there."""
        return Path(self.where).is_file()

    def config(self) -> dict[str, Any]:
        """The registry's part of Feast's configuration."""
        return {"path": self.where}

    def opening(self) -> contextlib.AbstractContextManager[None]:
        """Nothing to hold: a file is written whole."""
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def lock(self, project: str) -> Iterator[None]:
        """Nobody else applies or writes while this is held."""
        try:
            file = (self._folder / "lock").open("a")
        except FileNotFoundError:  # nothing was applied yet, which whoever opens the store says better
            yield
            return
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


class SqlRegistry:
    """A PostgreSQL database. Its sessions hold the lock, so one that dies gives it back.

    Args:
        url: SQLAlchemy's.

    Raises:
        InvalidInput: It is no URL of a PostgreSQL database.
    """

    secret = True

    def __init__(self, url: str) -> None:
        try:
            parsed = sa.make_url(url)
            driver = parsed.get_backend_name()
        except sa.exc.ArgumentError as error:  # its text may hold the password
            raise _no_url() from error
        if driver != "postgresql":
            raise _no_url()
        self._url = parsed.set(drivername="postgresql+psycopg")
        self.where = f"{parsed.host}:{parsed.port or 5432}/{parsed.database}"
        options = {
            "connect_timeout": CONNECT_SECONDS,
            "tcp_user_timeout": SILENT_SECONDS * 1000,  # as the ledger's: else the kernel sends again for 15 minutes
            # A wait for a lock sends nothing: the kernel asks whether the server still lives.
            "keepalives_idle": SILENT_SECONDS,
            "keepalives_interval": SILENT_SECONDS,
            "keepalives_count": 3,
            "options": f"-c lock_timeout={LOCK_SECONDS * 1000}",
            "client_encoding": "utf8",  # of a database that was made without one (SQL_ASCII), text would come as bytes
        }
        self._options = {"pool_pre_ping": True, "pool_size": 1, "connect_args": options}
        self._engine = sa.create_engine(self._url, **self._options)

    def ready(self) -> bool:
        """Feast makes its tables where there are none."""
        return True

    def config(self) -> dict[str, Any]:
        """The registry's part of Feast's configuration."""
        return {
            "registry_type": "sql",
            "path": self._url.render_as_string(hide_password=False),
            "sqlalchemy_config_kwargs": {"echo": False, **self._options},
            # What others apply shows at once: nothing of Feast's is asked on a request path, so nothing is cached long.
            "cache_ttl_seconds": 1,
        }

    def opening(self) -> contextlib.AbstractContextManager[None]:
        """Of all projects, whose tables are the same ones."""
        return self.lock("")

    @contextlib.contextmanager
    def lock(self, project: str) -> Iterator[None]:
        """Nobody else applies or writes while this is held, on any machine.

        Raises:
            Unavailable: The database does not answer, or somebody held the lock for `LOCK_SECONDS`.
        """
        key = {"kind": LOCK, "project": zlib.crc32(project.encode()) - 2**31}
        try:
            connection = self._engine.connect()
            try:
                connection.execute(sa.text("SELECT pg_advisory_lock(:kind, :project)"), key)
                connection.commit()
            except BaseException:
                connection.invalidate()
                connection.close()
                raise
        except sa.exc.SQLAlchemyError as error:
            raise unavailable(error, self.where) from error
        try:
            yield
        finally:
            with contextlib.suppress(sa.exc.SQLAlchemyError):  # a session that is gone holds no lock
                connection.execute(sa.text("SELECT pg_advisory_unlock(:kind, :project)"), key)
                connection.commit()
            connection.close()


def unavailable(error: sa.exc.SQLAlchemyError, where: str) -> Unavailable:
    """What the database's error means to whoever uses features."""
    said = str(getattr(error, "orig", None) or error).strip().splitlines()
    return Unavailable(
        f"the feature registry cannot be used: {said[-1][:300] if said else type(error).__name__}", where=where,
        hint="check PLINTH_FEATURE_REGISTRY and that PostgreSQL runs",
    )  # fmt: skip


def _no_url() -> InvalidInput:
    return InvalidInput(
        "the address of the feature registry is no PostgreSQL URL", where="PLINTH_FEATURE_REGISTRY",
        hint="postgresql+psycopg://user:password@host:5432/feast",
    )  # fmt: skip
