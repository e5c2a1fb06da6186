"""How much of everything the ledger holds, read in one transaction: what the controller's page of metrics shows."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import sqlalchemy as sa

from plinth.ledger import schema
from plinth.ledger.store import Ledger

Counts = dict[tuple[str, str], int]
"""(product, what) to how many."""


@dataclass(frozen=True)
class Totals:
    """What was there at one moment.

    Attributes:
        releases: By product, those that are not retired.
        running: Rollouts that have not ended, by (product, phase).
        ended: Rollouts that have, by (product, phase).
        pending: Effects that wait in the outbox, by product.
        audit: The number of the newest audit entry. It only grows.
        events: By (product, kind).
        evaluations: Metrics of the release that serves, by product.
    """

    releases: dict[str, int] = field(default_factory=dict)
    running: Counts = field(default_factory=dict)
    ended: Counts = field(default_factory=dict)
    pending: dict[str, int] = field(default_factory=dict)
    audit: int = 0
    events: Counts = field(default_factory=dict)
    evaluations: dict[str, dict[str, float]] = field(default_factory=dict)


def totals(ledger: Ledger) -> Totals:
    """Count it.

    Raises:
        Unavailable, Corrupt: As `Ledger`.
    """
    release, rollout, outbox, event = schema.release, schema.rollout, schema.outbox, schema.event
    with ledger.read() as connection:
        serving = connection.execute(
            sa.select(schema.serving.c.product, release.c.manifest).join(
                release, release.c.digest == schema.serving.c.digest
            )
        ).all()
        return Totals(
            releases=_by_product(connection, release, release.c.status != "retired"),
            running=_by_two(connection, rollout, rollout.c.phase, rollout.c.ended_at.is_(None)),
            ended=_by_two(connection, rollout, rollout.c.phase, rollout.c.ended_at.is_not(None)),
            pending=_by_product(connection, outbox, outbox.c.done_at.is_(None)),
            audit=connection.execute(sa.select(schema.audit_head.c.seq)).scalar() or 0,
            events=_by_two(connection, event, event.c.kind, sa.true()),
            evaluations={row.product: dict(json.loads(row.manifest).get("metrics", {})) for row in serving},
        )


def _by_product(connection: sa.Connection, table: sa.Table, which: sa.ColumnElement[bool]) -> dict[str, int]:
    query = sa.select(table.c.product, sa.func.count()).where(which).group_by(table.c.product)
    return {row[0]: row[1] for row in connection.execute(query)}


def _by_two(
    connection: sa.Connection, table: sa.Table, what: sa.ColumnElement[str], which: sa.ColumnElement[bool]
) -> Counts:
    query = sa.select(table.c.product, what, sa.func.count()).where(which).group_by(table.c.product, what)
    return {(product, name): count for product, name, count in connection.execute(query)}
