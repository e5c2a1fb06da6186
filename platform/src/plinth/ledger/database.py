"""Opening the ledger's database: engine, pragmas, migrations, and the database's errors translated."""

from __future__ import annotations

import fcntl
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from plinth.core.failpoints import failpoint
from plinth.errors import Conflict, Corrupt, InvalidInput, MissingExtra, Unavailable

# How long a writer waits for another writer before it says so. Ledger transactions take milliseconds.
BUSY_SECONDS = 5.0
WRITER_LOCK, MIGRATION_LOCK = 7116416, 7116415  # PostgreSQL's advisory locks
HEAD = "0002"  # the newest revision in migrations/versions; a test holds it there


NOT_MIGRATED = "run any `plinth` command that writes (for example `plinth release list`): it creates the ledger"

DRIVERS = frozenset({"sqlite", "sqlite+pysqlite", "postgresql", "postgresql+psycopg"})
SETTING, EXAMPLE = "PLINTH_LEDGER_URL", "such as postgresql+psycopg://plinth@db/ledger; without it, SQLite"


def make_engine(url: str) -> sa.Engine:
    """An engine for `url`; SQLite gets WAL, foreign keys and a bounded wait for locks, PostgreSQL bounded waits.

    Raises:
        InvalidInput: It is no such URL. What it is is not repeated: it may hold a password.
        MissingExtra: The URL is PostgreSQL's, and the driver is not installed.
    """
    try:
        parsed = sa.engine.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise InvalidInput("the ledger's address is no SQLAlchemy URL", where=SETTING, hint=EXAMPLE) from None
    if parsed.drivername not in DRIVERS:
        raise InvalidInput(f"the ledger cannot be on {parsed.drivername!r}", where=SETTING, hint=EXAMPLE)
    if parsed.get_backend_name() == "postgresql":
        return _postgres(parsed)
    engine = sa.create_engine(parsed, connect_args={"timeout": BUSY_SECONDS})

    @sa.event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _record: Any) -> None:
        # The driver must not open transactions by itself: BEGIN IMMEDIATE below takes the write lock at the start,
        # so that a read-then-write transaction cannot fail half-way on an upgrade of its lock.
        connection.isolation_level = None
        cursor = connection.cursor()
        _write_ahead(cursor)
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        mode = "DEFERRED" if connection.get_execution_options().get("read_only") else "IMMEDIATE"
        connection.exec_driver_sql(f"BEGIN {mode}")

    return engine


def _write_ahead(cursor: Any) -> None:
    """Switch to WAL, which the file remembers. SQLite answers "locked" to two that switch at once, without waiting."""
    end = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.01)


def _postgres(url: sa.URL) -> sa.Engine:
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    try:
        from plinth.ledger.psycopg import BoundedConnection
    except ModuleNotFoundError as error:
        raise MissingExtra("psycopg", "postgres") from error
    # A lock that is not given in time, a server that went silent, or a writer that hangs in the middle of a transaction
    # is an error and not a hang.
    limits = {"lock": BUSY_SECONDS, "statement": BUSY_SECONDS * 2, "idle_in_transaction_session": BUSY_SECONDS * 2}
    engine = sa.create_engine(
        url,
        pool_pre_ping=True,
        pool_timeout=BUSY_SECONDS,
        connect_args={
            "connect_timeout": int(BUSY_SECONDS),
            "options": " ".join(f"-c {name}_timeout={seconds:.0f}s" for name, seconds in limits.items()),
            "tcp_user_timeout": int(BUSY_SECONDS * 1000),
        },
    )

    @sa.event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, _record: Any, args: Any, options: Any) -> Any:
        return BoundedConnection.connect(*args, **options)

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        # One writer at a time, as SQLite has it: every write ends in the audit chain anyway, and writers that come to
        # that row with others locked in another order would be each other's deadlock.
        if not connection.get_execution_options().get("read_only"):
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITER_LOCK})")

    return engine


def reading(engine: sa.Engine) -> sa.Connection:
    """A connection whose transaction sees one state of the database, and waits for no writer."""
    connection = engine.connect()
    if engine.dialect.name == "postgresql":
        return connection.execution_options(read_only=True, isolation_level="REPEATABLE READ", postgresql_readonly=True)
    return connection.execution_options(read_only=True)


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Database errors as the platform's errors.

    Raises:
        Unavailable: Locked for too long, disk full, not reachable, not migrated.
        Conflict: A uniqueness rule was broken: somebody else was first.
        Corrupt: The file is no database.
        InvalidInput: A text is no Unicode, or longer than its column.
    """
    try:
        yield
    except (UnicodeEncodeError, sa.exc.DataError) as error:
        raise InvalidInput(
            "the ledger cannot keep this text: it is too long, or holds what is no character",
            where=where,
            hint="give a shorter one in UTF-8 as the name (PLINTH_ACTOR) or reason; nothing was changed",
        ) from error
    except sa.exc.IntegrityError as error:
        raise Conflict("somebody else changed the ledger first", where=where, hint="look again, then retry") from error
    except sa.exc.OperationalError as error:
        message = str(error.orig)
        hint = "see that the database is reachable and its folder writable"
        if "locked" in message or "lock timeout" in message:
            hint = f"another process has held the database for over {BUSY_SECONDS:.0f} s; retry when it is done"
        elif "full" in message or "disk I/O" in message or "No space left" in message:
            hint = "free disk space; nothing was changed"
        elif "no such table" in message:
            hint = NOT_MIGRATED
        raise Unavailable(f"the ledger cannot be used: {message}", where=where, hint=hint) from error
    except sa.exc.TimeoutError as error:
        raise Unavailable(
            "the ledger cannot be used: every connection is taken", where=where, hint="retry when others are done"
        ) from error
    except sa.exc.ProgrammingError as error:
        message = str(error.orig).splitlines()[0]
        raise Unavailable(f"the ledger cannot be used: {message}", where=where, hint=NOT_MIGRATED) from error
    except (sa.exc.InterfaceError, sa.exc.InternalError) as error:
        # PostgreSQL's driver: the connection was lost, or the server ended a transaction that idled.
        message = str(error.orig).splitlines()[0]
        raise Unavailable(
            f"the ledger cannot be used: {message}", where=where, hint="look again, then retry"
        ) from error
    except sa.exc.DatabaseError as error:
        raise Corrupt(
            f"the ledger's database is damaged: {error.orig}", where=where, hint="restore it from a backup"
        ) from error


def migrate(engine: sa.Engine) -> None:
    """Bring the schema to the newest revision, once, under a lock, forwards only. Cheap when it is there already.

    Raises:
        Conflict: A newer plinth has made the schema; this one does not touch it.
        Unavailable: The database does not answer, or is held for too long.
    """
    path = Path(engine.url.database or "") if engine.url.get_backend_name() == "sqlite" else None
    if path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable(
                f"the ledger's folder cannot be made: {error.strerror}", where=str(path.parent), hint="set PLINTH_STATE"
            ) from error
    with translated(engine.url.render_as_string()):
        if (found := _revision(engine)) == HEAD:
            return
        if found is not None and found > HEAD:
            raise Conflict(
                f"the ledger has schema {found}, which is newer than this plinth's ({HEAD})",
                where=engine.url.render_as_string(),
                hint="use the plinth that migrated it, or restore a backup from before",
            )
        if path is None:
            with engine.begin() as connection:
                connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
                _upgrade(connection)
            return
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if _revision(engine) != HEAD:
                with engine.connect() as connection:
                    # A table that others refer to is changed by making it anew, which SQLite allows only unchecked; the
                    # switch does nothing inside a transaction, so it comes before, and the connection goes after.
                    connection.connection.execute("PRAGMA foreign_keys=OFF")
                    with connection.begin():
                        _upgrade(connection)
                    connection.invalidate()


def _revision(engine: sa.Engine) -> str | None:
    with reading(engine) as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def _upgrade(connection: sa.Connection) -> None:
    # Imported here: Alembic is needed on the one call that changes the schema.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    failpoint("ledger.migrate.before-commit")
