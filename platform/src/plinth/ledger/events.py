"""Facts that other rooms keep in the ledger: lineage events, triggers. Within a transaction of the ledger."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from plinth.ledger import schema


@dataclass(frozen=True)
class Event:
    """A recorded fact."""

    at: str
    payload: dict[str, Any]


def insert(connection: sa.Connection, product: str, kind: str, payload: dict[str, Any], at: str) -> None:
    """Keep a fact."""
    connection.execute(schema.event.insert().values(product=product, kind=kind, at=at, payload=json.dumps(payload)))


def of(connection: sa.Connection, product: str, kind: str) -> list[Event]:
    """The product's events of that kind, oldest first."""
    table = schema.event
    query = sa.select(table).where(table.c.product == product, table.c.kind == kind).order_by(table.c.at, table.c.id)
    return [Event(row.at, json.loads(row.payload)) for row in connection.execute(query)]
