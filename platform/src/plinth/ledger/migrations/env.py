"""Alembic's environment: runs the revisions on the connection that `plinth.ledger.database` hands over."""

from alembic import context

from plinth.ledger.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
