"""Everything a ledger holds, read in one transaction, so that what is compared was true at one moment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import sqlalchemy as sa

from plinth.core.releases import ReleaseManifest
from plinth.core.rollouts import Plan
from plinth.ledger import audit as chain
from plinth.ledger import schema
from plinth.ledger.store import Ledger

MOVES = frozenset({"release.promote", "release.rollback", "rollout.start"})
"""Actions that make a generation."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An audit entry, with the parts of its payload that are compared."""

    seq: int
    actor: str
    action: str
    subject: str
    generation: int | None
    digest: str
    reason: str


@dataclass(frozen=True, slots=True)
class Step:
    """The newest audit entry of a rollout's way."""

    seq: int
    action: str
    stage: int | None


@dataclass
class Audit:
    """What the audit chain says, and where it is broken first (None: it is whole)."""

    entries: int = 0
    broken: int | None = None
    moves: list[Entry] = field(default_factory=list)
    registered: dict[str, Entry] = field(default_factory=dict)
    drills: set[str] = field(default_factory=set)
    retired: dict[str, int] = field(default_factory=dict)
    effects: set[tuple[str, str, int]] = field(default_factory=set)
    approvals: set[tuple[str, str, str, str]] = field(default_factory=set)
    planned: dict[int, Entry] = field(default_factory=dict)
    steps: dict[int, Step] = field(default_factory=dict)

    def take(self, entry: chain.AuditEntry) -> None:
        """Keep what is compared with the other tables. The payload may be anything: somebody may have edited it."""
        payload = entry.payload if isinstance(entry.payload, dict) else {}
        number = payload.get("rollout")
        kept = Entry(
            entry.seq, entry.actor, entry.action, entry.subject, _integer(payload.get("generation")),
            str(payload.get("digest", payload.get("candidate", ""))), str(payload.get("reason", "")),
        )  # fmt: skip
        if entry.action in MOVES:
            self.moves.append(kept)
        elif entry.action == "release.register":
            self.registered.setdefault(entry.subject, kept)
            self.retired.pop(entry.subject, None)  # made again
            if payload.get("status") == "drill":
                self.drills.add(entry.subject)
        elif entry.action == "release.retire":
            self.retired[entry.subject] = entry.seq
        elif entry.action == "release.approve":
            self.approvals.add((entry.subject, kept.digest, str(payload.get("policy", "")), entry.actor))
        elif entry.action.startswith("effect."):
            self.effects.add((entry.subject, entry.action.removeprefix("effect."), kept.generation or 0))
        elif entry.action.startswith("rollout.") and isinstance(number, int):
            if entry.action == "rollout.plan":
                self.planned[number] = kept
            self.steps[number] = Step(entry.seq, entry.action, _integer(payload.get("stage")))


@dataclass
class Snapshot:
    """A ledger's rows. `manifests` and `plans` hold None where the stored text cannot be read."""

    database: list[str]
    releases: dict[str, Any]
    manifests: dict[str, ReleaseManifest | None]
    serving: dict[str, Any]
    promotions: dict[str, list[Any]]
    outbox: list[Any]
    rollouts: list[Any]
    plans: dict[int, Plan | None]
    verdicts: list[Any]
    approvals: list[Any]
    leases: list[Any]
    audit: Audit

    def promotion(self, product: str, generation: int) -> Any:
        """The row of one generation, or None."""
        return self._by_generation.get((product, generation))

    @cached_property
    def _by_generation(self) -> dict[tuple[str, int], Any]:
        return {(row.product, row.generation): row for rows in self.promotions.values() for row in rows}


def take(ledger: Ledger, *, thorough: bool = True) -> Snapshot:
    """Read everything.

    Args:
        ledger: The ledger.
        thorough: Have SQLite look through every page of its file as well.

    Raises:
        Unavailable: The database is locked, unreachable or not migrated.
        Corrupt: It is damaged.
    """
    with ledger.read() as connection:
        rows = {
            table.name: connection.execute(table.select().order_by(*table.primary_key.columns)).all()
            for table in (
                schema.release, schema.serving, schema.promotion, schema.outbox, schema.rollout, schema.verdict,
                schema.approval, schema.lease,
            )
        }  # fmt: skip
        promotions: dict[str, list[Any]] = {}
        for row in sorted(rows["promotion"], key=lambda row: int(row.generation)):
            promotions.setdefault(row.product, []).append(row)
        return Snapshot(
            database=_database(connection, thorough),
            releases={row.digest: row for row in rows["release"]},
            manifests={row.digest: _parsed(ReleaseManifest, row.manifest) for row in rows["release"]},
            serving={row.product: row for row in rows["serving"]},
            promotions=promotions,
            outbox=list(rows["outbox"]),
            rollouts=list(rows["rollout"]),
            plans={row.id: _parsed(Plan, row.plan) for row in rows["rollout"]},
            verdicts=list(rows["verdict"]),
            approvals=list(rows["approval"]),
            leases=list(rows["lease"]),
            audit=_audit(connection),
        )


def _database(connection: sa.Connection, thorough: bool) -> list[str]:
    """What SQLite itself says of its file; other servers see to theirs."""
    if connection.dialect.name != "sqlite":
        return []
    said = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA quick_check(20)")] if thorough else ["ok"]
    lost = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    return [line for line in said if line != "ok"] + [
        f"row {row[1]} of table {row[0]} refers to a row of {row[2]} that is not there" for row in lost
    ]


def _audit(connection: sa.Connection) -> Audit:
    audit = Audit()
    end = connection.execute(schema.audit_head.select().where(schema.audit_head.c.id == 1)).first()
    last: tuple[int, str] = (0, chain.GENESIS)

    def entries() -> Iterator[chain.AuditEntry]:
        nonlocal last
        for row in connection.execute(schema.audit.select().order_by(schema.audit.c.seq)):
            audit.entries += 1
            last = (row.seq, row.hash)
            entry = chain.AuditEntry(
                row.seq,
                row.at,
                row.actor,
                row.action,
                row.subject,
                chain.read_payload(row.payload),
                row.previous,
                row.hash,
            )
            audit.take(entry)
            yield entry

    reading = entries()
    broken = chain.first_broken(reading)
    for _ in reading:  # what comes after the break is compared all the same
        pass
    if broken is not None:
        audit.broken = broken.seq
    elif end is None or last != (end.seq, end.hash):
        audit.broken = last[0] + 1
    return audit


def _parsed(kind: Any, text: str) -> Any:
    try:
        return kind.model_validate_json(text)
    except ValueError:
        return None


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) else None
