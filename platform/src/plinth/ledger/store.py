"""The ledger: releases, what serves, the audit chain and recorded events, each change in one transaction."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import sqlalchemy as sa

from plinth.core.failpoints import failpoint
from plinth.core.releases import ReleaseManifest
from plinth.errors import Conflict, InvalidInput, NotFound, RefusedByPolicy
from plinth.ledger import audit as chain
from plinth.ledger import events, schema
from plinth.ledger.database import make_engine, migrate, reading, translated
from plinth.ledger.events import Event as Event  # what `events` gives

Kind = Literal["promote", "rollback", "start"]
Status = Literal["accepted", "rejected", "drill", "retired"]


@dataclass(frozen=True)
class ReleaseRecord:
    """A release as the ledger keeps it.

    `status`: accepted or rejected by its gates; drill: made to fail, and never to serve all traffic; retired: its
    artefacts were collected.
    """

    digest: str
    product: str
    status: Status
    manifest: ReleaseManifest
    created_at: str
    created_by: str


@dataclass(frozen=True)
class Serving:
    """What a product serves: the release, and the generation that put it there."""

    product: str
    digest: str
    generation: int
    since: str


@dataclass(frozen=True)
class Promotion:
    """One generation of a product."""

    generation: int
    digest: str
    kind: Kind
    actor: str
    reason: str
    at: str


@dataclass(frozen=True)
class Effect:
    """Something a transaction decided that still has to be done in another store."""

    id: int
    product: str
    generation: int
    effect: str
    payload: dict[str, Any]


def now() -> str:
    """UTC now in ISO 8601 with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


class Ledger:
    """One SQL database. Safe to share between threads.

    Args:
        url: SQLAlchemy URL.
        create: Bring the schema up to date on first use. A product's service passes False: it only reads, and must
            neither create nor change a database.

    Raises (every method):
        Unavailable: The database is locked for too long, full, unreachable or not migrated.
        Corrupt: The database is damaged.
    """

    def __init__(self, url: str, *, create: bool = True) -> None:
        self.engine = make_engine(url)
        self._where = self.engine.url.render_as_string()
        self._migrated = not create

    # Transactions -----------------------------------------------------------------------------------------------

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that writes: all of it or nothing. For the rooms of the ledger only."""
        self._ensure_schema()
        with translated(self._where), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that reads one state. For the rooms of the ledger only."""
        self._ensure_schema()
        with translated(self._where), reading(self.engine) as connection:
            yield connection

    def _ensure_schema(self) -> None:
        if not self._migrated:
            migrate(self.engine)
            self._migrated = True

    def close(self) -> None:
        """Close pooled connections."""
        self.engine.dispose()

    # Releases ---------------------------------------------------------------------------------------------------

    def register_release(self, manifest: ReleaseManifest, actor: str, *, drill: bool = False) -> str:
        """Keep a release; accepted when all its gates passed, rejected otherwise. Registering twice is one effect.

        A retired release that is registered again has its artefacts again, and is what it was before.

        Args:
            manifest: What it pins.
            actor: Who made it.
            drill: It is made to fail in a drill: whatever its gates say, it can never be promoted.

        Returns:
            The digest.
        """
        digest = manifest.digest
        status: Status = "drill" if drill else "accepted" if manifest.accepted else "rejected"
        failpoint("release.register")
        with self.write() as connection:
            table = schema.release
            known = connection.execute(sa.select(table.c.status).where(table.c.digest == digest)).scalar()
            if known not in {None, "retired"}:
                return digest
            if known is None:
                connection.execute(
                    table.insert().values(
                        digest=digest,
                        product=manifest.product,
                        status=status,
                        manifest=manifest.model_dump_json(),
                        created_at=now(),
                        created_by=actor,
                    )
                )
            else:
                connection.execute(table.update().where(table.c.digest == digest).values(status=status))
            failed = [verdict.gate for verdict in manifest.failed_gates()]
            self.seal(connection, actor, "release.register", digest, {"status": status, "failed_gates": failed})
        return digest

    def release(self, digest: str) -> ReleaseRecord:
        """The release of that digest, or of the one digest that starts so (at least 6 characters).

        Raises:
            NotFound: There is none.
            InvalidInput: The prefix is too short or fits several.
        """
        with self.read() as connection:
            return self._find(connection, digest)

    def _find(self, connection: sa.Connection, digest: str) -> ReleaseRecord:
        if len(digest) < 6 or not set(digest) <= set("0123456789abcdef"):
            raise InvalidInput(
                f"{digest!r} is no release digest", hint="give at least 6 hexadecimal characters of a digest"
            )
        table = schema.release
        rows = connection.execute(sa.select(table).where(table.c.digest.startswith(digest)).limit(2)).all()
        if not rows:
            raise NotFound(f"no release {digest}", where=self._where, hint="`plinth release list PRODUCT` names them")
        if len(rows) > 1:
            raise InvalidInput(f"several releases start with {digest}", hint="give more characters of the digest")
        return _release_record(rows[0])

    def releases(self, product: str) -> list[ReleaseRecord]:
        """The product's releases, newest first."""
        table = schema.release
        query = sa.select(table).where(table.c.product == product).order_by(table.c.created_at.desc())
        with self.read() as connection:
            return [_release_record(row) for row in connection.execute(query)]

    # What serves ------------------------------------------------------------------------------------------------

    def current(self, product: str) -> Serving | None:
        """What the product serves now; None before the first promotion."""
        with self.read() as connection:
            row = connection.execute(sa.select(schema.serving).where(schema.serving.c.product == product)).first()
        return None if row is None else Serving(row.product, row.digest, row.generation, row.since)

    def history(self, product: str) -> list[Promotion]:
        """Every generation of the product, newest first."""
        table = schema.promotion
        query = sa.select(table).where(table.c.product == product).order_by(table.c.generation.desc())
        with self.read() as connection:
            return [
                Promotion(row.generation, row.digest, row.kind, row.actor, row.reason, row.at)
                for row in connection.execute(query)
            ]

    def promote(
        self,
        product: str,
        digest: str,
        *,
        expected_generation: int,
        actor: str,
        reason: str,
        kind: Kind = "promote",
    ) -> Serving:
        """Make the product serve a release: compare-and-swap, history, outbox and audit in one transaction.

        Args:
            product: The product's name.
            digest: Full digest of an accepted release of the product.
            expected_generation: The generation the caller saw; 0 when nothing serves yet.
            actor: Who decides.
            reason: Why, for the history.
            kind: `rollback` demands that the release served before.

        Raises:
            Conflict: Somebody else promoted since, or (promote) a rollout is running.
            RefusedByPolicy: The release was rejected by its gates, belongs to another product, was made for a drill or
                retired, or (rollback) never served.
            NotFound: No such release.
        """
        record = self.promotable(product, digest)
        failpoint("promote.begin")
        with self.write() as connection:
            self.check_promotable(connection, product, record.digest)  # not retired since
            if kind == "rollback":
                self._must_have_served(connection, product, record.digest)
            serving = self.swap(
                connection, product, record.digest, expected_generation, actor=actor, reason=reason, kind=kind
            )
            self._end_rollout(connection, product, kind, actor=actor, reason=reason)
            failpoint("promote.before-commit")
        failpoint("promote.after-commit")
        return serving

    def promotable(self, product: str, digest: str, *, drill: bool = False) -> ReleaseRecord:
        """The release, if it may serve the product (with `drill`, if it may be drilled with).

        Raises:
            RefusedByPolicy: Rejected by its gates, a drill's, retired, or of another product.
            NotFound: No such release.
        """
        with self.read() as connection:
            return self.check_promotable(connection, product, digest, drill=drill)

    def check_promotable(
        self, connection: sa.Connection, product: str, digest: str, *, drill: bool = False
    ) -> ReleaseRecord:
        """As `promotable`, within a transaction: in one that writes, it stays so. For the rooms of the ledger only."""
        record = self._find(connection, digest)
        if record.product != product:
            raise RefusedByPolicy(f"release {digest[:12]} belongs to {record.product}, not {product}", where=product)
        if record.status == "rejected":
            failed = ", ".join(verdict.gate for verdict in record.manifest.failed_gates()) or "no gate has judged it"
            raise RefusedByPolicy(
                f"release {digest[:12]} was rejected by its gates: {failed}",
                where=product,
                hint=f"`plinth release show {digest[:12]}` has the evidence; train a better candidate",
            )
        if record.status == "retired":
            raise RefusedByPolicy(
                f"the artefacts of release {digest[:12]} were collected",
                where=product,
                hint="run the pipeline again: the same data and code make the same release",
            )
        if (record.status == "drill") != drill:
            what = "was made to fail in a drill" if record.status == "drill" else "is a real one, not a drill's"
            raise RefusedByPolicy(
                f"release {digest[:12]} {what}", where=product, hint="`plinth rollout drill` makes them"
            )
        return record

    def swap(
        self,
        connection: sa.Connection,
        product: str,
        digest: str,
        expected: int,
        *,
        actor: str,
        reason: str,
        kind: Kind,
    ) -> Serving:
        """Move the product to generation `expected` + 1 within a transaction: compare-and-swap, history, outbox, audit.

        For the rooms of the ledger only: it does not ask whether the release may serve.

        Raises:
            Conflict: The product is not at generation `expected`.
        """
        at, generation = now(), expected + 1
        table = schema.serving
        if expected == 0:
            # A first promotion that lost the race breaks the primary key: translated into Conflict.
            connection.execute(table.insert().values(product=product, digest=digest, generation=1, since=at))
        else:
            swapped = connection.execute(
                table.update()
                .where(table.c.product == product, table.c.generation == expected)
                .values(digest=digest, generation=generation, since=at)
            )
            if swapped.rowcount != 1:
                raise Conflict(
                    f"{product} is no longer at generation {expected}: somebody else promoted or rolled back",
                    where=self._where,
                    hint=f"`plinth release list {product}` shows what serves now; decide again",
                )
        change = {"product": product, "generation": generation, "digest": digest}
        connection.execute(schema.promotion.insert().values(**change, kind=kind, actor=actor, reason=reason, at=at))
        connection.execute(
            schema.outbox.insert().values(
                product=product,
                generation=generation,
                effect="registry-alias",
                payload=json.dumps({"digest": digest}),
                created_at=at,
            )
        )
        action = "rollout.start" if kind == "start" else f"release.{kind}"
        self.seal(connection, actor, action, product, {"generation": generation, "digest": digest, "reason": reason})
        return Serving(product, digest, generation, at)

    def _end_rollout(self, connection: sa.Connection, product: str, kind: Kind, *, actor: str, reason: str) -> None:
        """A rollback goes past a running rollout and ends it; a promotion does not.

        Raises:
            Conflict: A rollout is running and this is no rollback.
        """
        table = schema.rollout
        running = connection.execute(sa.select(table).where(table.c.product == product, table.c.active)).first()
        if running is None:
            return
        if kind != "rollback":
            raise Conflict(
                f"a rollout of {product} is running",
                where=self._where,
                hint=f"`plinth rollout status {product}`; `plinth rollout abort {product}` ends it",
            )
        why = f"overtaken by a rollback: {reason}"
        connection.execute(
            table.update()
            .where(table.c.id == running.id)
            .values(
                phase="aborting", active=False, resumes=None, changed_at=now(), revision=running.revision + 1,
                reason=why,
            )
        )  # fmt: skip
        self.seal(
            connection, actor, "rollout.aborting", product,
            {
                "rollout": running.id, "generation": running.generation, "candidate": running.candidate,
                "stage": running.stage, "reason": why, "verdicts": {},
            },
        )  # fmt: skip

    def _must_have_served(self, connection: sa.Connection, product: str, digest: str) -> None:
        table = schema.promotion
        served = connection.execute(
            sa.select(table.c.id).where(table.c.product == product, table.c.digest == digest).limit(1)
        ).first()
        if served is None:
            raise RefusedByPolicy(
                f"release {digest[:12]} has never served {product}, so it is nothing to roll back to",
                where=product,
                hint=f"`plinth release promote {product} {digest[:12]}` promotes it",
            )

    # Effects ----------------------------------------------------------------------------------------------------

    def pending_effects(self, product: str) -> list[Effect]:
        """Effects on other stores that are decided and not done, oldest first."""
        table = schema.outbox
        query = sa.select(table).where(table.c.product == product, table.c.done_at.is_(None)).order_by(table.c.id)
        with self.read() as connection:
            return [
                Effect(row.id, row.product, row.generation, row.effect, json.loads(row.payload))
                for row in connection.execute(query)
            ]

    def effect_done(self, effect: Effect, actor: str) -> None:
        """Record that an effect was carried out (once)."""
        table = schema.outbox
        failpoint("effect.before-done")
        with self.write() as connection:
            done = connection.execute(
                table.update().where(table.c.id == effect.id, table.c.done_at.is_(None)).values(done_at=now())
            )
            if done.rowcount == 1:
                payload = {"generation": effect.generation, **effect.payload}
                self.seal(connection, actor, f"effect.{effect.effect}", effect.product, payload)

    # Audit and events -------------------------------------------------------------------------------------------

    def append_audit(self, actor: str, action: str, subject: str, payload: dict[str, Any]) -> None:
        """Add an entry to the audit chain."""
        with self.write() as connection:
            self.seal(connection, actor, action, subject, payload)

    def audit(self, limit: int | None = None, subject: str | None = None) -> list[chain.AuditEntry]:
        """Audit entries, oldest first; with `limit`, the newest so many."""
        table = schema.audit
        query = sa.select(table).order_by(table.c.seq.desc())
        if subject is not None:
            query = query.where(table.c.subject == subject)
        if limit is not None:
            query = query.limit(limit)
        with self.read() as connection:
            rows = connection.execute(query).all()
        return [_audit_entry(row) for row in reversed(rows)]

    def broken_entry(self) -> int | None:
        """Number of the first audit entry that was edited, removed or cut off; None when the chain is whole."""
        head, table = schema.audit_head, schema.audit
        with self.read() as connection:  # one state: an entry that is added meanwhile is no break
            end = connection.execute(sa.select(head).where(head.c.id == 1)).first()
            entries = [_audit_entry(row) for row in connection.execute(sa.select(table).order_by(table.c.seq))]
        broken = chain.first_broken(entries)
        if broken is not None:
            return broken.seq
        last = entries[-1] if entries else None
        if end is None or (last.seq if last else 0, last.hash if last else chain.GENESIS) != (end.seq, end.hash):
            return (last.seq if last else 0) + 1
        return None

    def seal(self, connection: sa.Connection, actor: str, action: str, subject: str, payload: dict[str, Any]) -> None:
        """Add an entry to the audit chain within a transaction. For the rooms of the ledger only."""
        head = schema.audit_head
        # The update takes the row's lock first, so that two writers cannot both extend the same end.
        connection.execute(head.update().where(head.c.id == 1).values(seq=head.c.seq + 1))
        end = connection.execute(sa.select(head).where(head.c.id == 1)).one()
        entry = chain.seal(end.seq, now(), actor, action, subject, payload, end.hash)
        connection.execute(
            schema.audit.insert().values(
                seq=entry.seq,
                at=entry.at,
                actor=actor,
                action=action,
                subject=subject,
                payload=json.dumps(payload),
                previous=entry.previous,
                hash=entry.hash,
            )
        )
        connection.execute(head.update().where(head.c.id == 1).values(hash=entry.hash))

    def record_event(self, product: str, kind: str, payload: dict[str, Any], *, at: str | None = None) -> None:
        """Keep a fact, such as a lineage event or a retraining trigger. `at` defaults to now (UTC, ISO 8601)."""
        with self.write() as connection:
            events.insert(connection, product, kind, payload, at or now())

    def record_event_once(
        self,
        product: str,
        kind: str,
        payload: dict[str, Any],
        *,
        at: str | None = None,
        unless: Callable[[list[Event]], bool],
    ) -> bool:
        """Keep a fact unless the events of its kind already say enough: looked at and written in one transaction.

        Of many processes that see the same reason at once, one records it.

        Args:
            product: The product's name.
            kind: The event's kind.
            payload: The fact.
            at: When (UTC, ISO 8601); default now.
            unless: Is given the product's events of this kind, oldest first. Every other writer of the ledger waits for
                it, so it only looks at what it is given.

        Returns:
            Whether it was recorded.
        """
        with self.write() as connection:
            if unless(events.of(connection, product, kind)):
                return False
            events.insert(connection, product, kind, payload, at or now())
        return True

    def events(self, product: str, kind: str) -> list[Event]:
        """The product's events of that kind, oldest first."""
        with self.read() as connection:
            return events.of(connection, product, kind)


def _audit_entry(row: Any) -> chain.AuditEntry:
    return chain.AuditEntry(
        row.seq, row.at, row.actor, row.action, row.subject, chain.read_payload(row.payload), row.previous, row.hash
    )


def _release_record(row: Any) -> ReleaseRecord:
    manifest = ReleaseManifest.from_dict(json.loads(row.manifest))
    return ReleaseRecord(row.digest, row.product, row.status, manifest, row.created_at, row.created_by)
