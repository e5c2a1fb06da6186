"""Many real processes quickly: forked from one that has imported the ledger and its drivers."""

import multiprocessing

PRELOAD = [
    "pytest", "alembic.command", "plinth.ledger.rollouts", "plinth.ledger.leases", "plinth.ledger.psycopg",
    "sqlalchemy.dialects.sqlite", "sqlalchemy.dialects.postgresql.psycopg",
]  # fmt: skip


def fork_context(more=()):
    """multiprocessing whose processes share no connection, thread or lock with the one that starts them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOAD, *more])
    return context
