"""Many real processes quickly: forked from one that has imported the ledger and its drivers."""

import multiprocessing
import os
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

PRELOAD = [
    "pytest", "alembic.command", "plinth.ledger.rollouts", "plinth.ledger.leases", "plinth.ledger.psycopg",
    "sqlalchemy.dialects.sqlite", "sqlalchemy.dialects.postgresql.psycopg",
]  # fmt: skip


def fork_context(more=()):
    """multiprocessing whose processes share no connection, thread or lock with the one that starts them.

    Args:
        more: Modules that are imported before the first fork.
    """
    wanted = [*PRELOAD, *more]
    server = forkserver._forkserver
    if server._forkserver_pid is not None and server._preload_modules != wanted:
        server._stop()  # what it imports is fixed when it starts
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(wanted)
    # It imports by PYTHONPATH, not by the path of the process that starts it.
    with mock.patch.dict(os.environ, PYTHONPATH=str(Path(__file__).parents[1])):
        server.ensure_running()
    return context
