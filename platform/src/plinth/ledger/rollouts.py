"""Rollouts in the ledger: each move in one transaction with what serves, the verdicts and the audit chain."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from plinth.core.failpoints import failpoint
from plinth.core.rollouts import ACTIVE, ENDED, Phase, Plan, RolloutVerdict, State, first_state, route
from plinth.core.routes import Route
from plinth.errors import Conflict, NotFound, RefusedByPolicy
from plinth.ledger import schema
from plinth.ledger.leases import Lease, check_held
from plinth.ledger.store import Ledger, now


@dataclass(frozen=True)
class Rollout:
    """A rollout as the ledger keeps it.

    `policy` is the digest of the product's manifest at the start; `verdicts` are the newest; `reason` says why it is in
    its phase; `revision` grows with every change.
    """

    id: int
    product: str
    generation: int
    candidate: str
    serving: str
    plan: Plan
    policy: str
    state: State
    revision: int
    verdicts: tuple[RolloutVerdict, ...]
    reason: str
    started_by: str
    started_at: str
    changed_at: str
    ended_at: str | None

    @property
    def active(self) -> bool:
        """Whether its outcome is open."""
        return self.state.phase in ACTIVE

    @property
    def route(self) -> Route:
        """How it wants traffic split now."""
        return route(self.plan, self.state, generation=self.generation, serving=self.serving, candidate=self.candidate)


@dataclass(frozen=True)
class Approval:
    """Somebody's consent to a release under a policy."""

    product: str
    digest: str
    policy: str
    actor: str
    reason: str
    at: str


@dataclass(frozen=True)
class RecordedVerdict:
    """A verdict as it stood when a rollout moved."""

    revision: int
    phase: Phase
    stage: int
    at: str
    verdict: RolloutVerdict


class Rollouts:
    """The rollouts of a ledger.

    Raises (every method): as `Ledger`.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    # Looking ----------------------------------------------------------------------------------------------------

    def route(self, product: str) -> Route | None:
        """How the product's traffic is to be split now, read in one transaction; None before the first promotion."""
        with self.ledger.read() as connection:
            serving = connection.execute(sa.select(schema.serving).where(schema.serving.c.product == product)).first()
            if serving is None:
                return None
            running = self._active(connection, product)
        if running is None or running.generation != serving.generation:
            return Route(serving.generation, 0, serving.digest)
        return running.route

    def active(self, product: str) -> Rollout | None:
        """The product's rollout whose outcome is open, or None."""
        with self.ledger.read() as connection:
            return self._active(connection, product)

    def unfinished(self) -> list[Rollout]:
        """Every product's rollouts that have not ended: those that are active, promoting or aborting. Oldest first."""
        table = schema.rollout
        query = sa.select(table).where(table.c.ended_at.is_(None)).order_by(table.c.id)
        with self.ledger.read() as connection:
            return [_rollout(row) for row in connection.execute(query)]

    def newest(self, product: str) -> Rollout | None:
        """The product's newest rollout, or None."""
        table = schema.rollout
        query = sa.select(table).where(table.c.product == product).order_by(table.c.id.desc()).limit(1)
        with self.ledger.read() as connection:
            row = connection.execute(query).first()
        return None if row is None else _rollout(row)

    def of(self, product: str) -> list[Rollout]:
        """The product's rollouts, newest first."""
        table = schema.rollout
        query = sa.select(table).where(table.c.product == product).order_by(table.c.id.desc())
        with self.ledger.read() as connection:
            return [_rollout(row) for row in connection.execute(query)]

    def get(self, number: int) -> Rollout:
        """One rollout.

        Raises:
            NotFound: There is none of that number.
        """
        with self.ledger.read() as connection:
            row = connection.execute(sa.select(schema.rollout).where(schema.rollout.c.id == number)).first()
        if row is None:
            raise NotFound(f"there is no rollout {number}", hint="`plinth rollout status PRODUCT` shows the newest")
        return _rollout(row)

    def verdicts(self, number: int) -> list[RecordedVerdict]:
        """What the gates said each time the rollout moved, oldest first."""
        table = schema.verdict
        query = sa.select(table).where(table.c.rollout == number).order_by(table.c.id)
        with self.ledger.read() as connection:
            return [
                RecordedVerdict(
                    row.revision,
                    row.phase,
                    row.stage,
                    row.at,
                    RolloutVerdict(
                        gate=row.gate, outcome=row.outcome, reason=row.reason, evidence=json.loads(row.evidence)
                    ),
                )
                for row in connection.execute(query)
            ]

    # Moving -----------------------------------------------------------------------------------------------------

    def start(
        self,
        product: str,
        candidate: str,
        plan: Plan,
        *,
        policy: str,
        expected_generation: int,
        actor: str,
        reason: str,
    ) -> Rollout:
        """Begin a rollout: a new generation that still serves what serves, with the rollout beside it.

        Args:
            product: The product's name.
            candidate: Digest of the release (a prefix will do).
            plan: Its way.
            policy: Digest of the product's manifest, which approvals are bound to.
            expected_generation: The generation the caller saw.
            actor: Who starts it.
            reason: Why, for the history.

        Raises:
            Conflict: Somebody else promoted since, or a rollout is running.
            RefusedByPolicy: The release may not serve the product, or serves it already.
            NotFound: No such release, or nothing serves yet.
        """
        record = self.ledger.promotable(product, candidate, drill=plan.drill)
        state = first_state(plan)
        with self.ledger.write() as connection:
            self.ledger.check_promotable(connection, product, record.digest, drill=plan.drill)  # not retired since
            serving = connection.execute(sa.select(schema.serving).where(schema.serving.c.product == product)).first()
            if serving is None:
                raise NotFound(
                    f"{product} serves nothing yet, so there is nothing to compare a candidate with",
                    where=product,
                    hint=f"`plinth release promote {product} {record.digest[:12]}` begins",
                )
            if serving.digest == record.digest:
                raise RefusedByPolicy(
                    f"{product} serves release {record.digest[:12]} already", where=f"generation {serving.generation}"
                )
            running = self._active(connection, product)
            if running is not None:
                raise Conflict(
                    f"a rollout of {product} is running: {running.candidate[:12]}, {running.state.phase}",
                    where=product,
                    hint=f"`plinth rollout status {product}`; `plinth rollout abort {product}` ends it",
                )
            generation = self.ledger.swap(
                connection, product, serving.digest, expected_generation, actor=actor, reason=reason, kind="start"
            ).generation
            at = now()
            values: dict[str, Any] = {
                "product": product,
                "generation": generation,
                "candidate": record.digest,
                "serving": serving.digest,
                "plan": plan.model_dump_json(),
                "policy": policy,
                **_columns(state),
                "revision": 1,
                "verdicts": "[]",
                "reason": reason,
                "started_by": actor,
                "started_at": at,
                "changed_at": at,
                "ended_at": None,
            }
            number: int = connection.execute(
                schema.rollout.insert().values(values).returning(schema.rollout.c.id)
            ).scalar_one()
            self.ledger.seal(
                connection, actor, "rollout.plan", product,
                {"rollout": number, "generation": generation, "candidate": record.digest, "plan": plan.model_dump()},
            )  # fmt: skip
            failpoint("rollout.start.before-commit")
        return self.get(number)

    def save(
        self,
        rollout: Rollout,
        state: State,
        *,
        actor: str,
        reason: str = "",
        verdicts: Sequence[RolloutVerdict] | None = None,
        lease: Lease | None = None,
    ) -> Rollout:
        """Write a rollout's next state. A move to `promoting` or `aborting` swaps what serves in the same transaction.

        A change of phase or stage goes to the audit chain with its verdicts; time that merely passed does not.

        Args:
            rollout: The rollout as it was read; its revision is the compare-and-swap.
            state: The next state, of `core.rollouts.advance`.
            actor: Who moves it.
            reason: Why, when the phase or stage changes.
            verdicts: What the gates say now; None leaves what they said before.
            lease: The controller's; a person's command has none.

        Raises:
            Conflict: The rollout was changed since, the product went to another generation, or the lease is lost.
        """
        moved = (state.phase, state.stage) != (rollout.state.phase, rollout.state.stage)
        newest = rollout.verdicts if verdicts is None else tuple(verdicts)
        at, table = now(), schema.rollout
        with self.ledger.write() as connection:
            if lease is not None:
                check_held(connection, lease)
            changed = connection.execute(
                table.update()
                .where(table.c.id == rollout.id, table.c.revision == rollout.revision)
                .values(
                    **_columns(state),
                    revision=rollout.revision + 1,
                    verdicts=json.dumps([verdict.model_dump() for verdict in newest]),
                    reason=reason or rollout.reason,
                    changed_at=at,
                    ended_at=at if state.phase in ENDED else None,
                )
            )
            if changed.rowcount != 1:
                raise Conflict(
                    f"the rollout of {rollout.product} was changed by somebody else",
                    where=f"rollout {rollout.id}",
                    hint=f"`plinth rollout status {rollout.product}` shows where it is; decide again",
                )
            if moved:
                self._moved(connection, rollout, state, newest, actor=actor, reason=reason, at=at)
            failpoint("rollout.save.before-commit")
        failpoint("rollout.save.after-commit")
        return replace(
            rollout, state=state, revision=rollout.revision + 1, verdicts=newest, reason=reason or rollout.reason,
            changed_at=at, ended_at=at if state.phase in ENDED else None,
        )  # fmt: skip

    def _moved(
        self,
        connection: sa.Connection,
        rollout: Rollout,
        state: State,
        verdicts: Sequence[RolloutVerdict],
        *,
        actor: str,
        reason: str,
        at: str,
    ) -> None:
        if state.phase == "promoting":
            self.ledger.check_promotable(connection, rollout.product, rollout.candidate)  # a drill's never passes
            self._swap(connection, rollout, rollout.candidate, actor=actor, reason=reason, kind="promote")
        elif state.phase == "aborting":
            self._swap(connection, rollout, rollout.serving, actor=actor, reason=reason, kind="rollback")
        for verdict in verdicts:
            connection.execute(
                schema.verdict.insert().values(
                    rollout=rollout.id,
                    revision=rollout.revision + 1,
                    phase=state.phase,
                    stage=state.stage,
                    at=at,
                    gate=verdict.gate,
                    outcome=verdict.outcome,
                    reason=verdict.reason,
                    evidence=json.dumps(verdict.evidence),
                )
            )
        self.ledger.seal(
            connection, actor, f"rollout.{state.phase}", rollout.product,
            {
                "rollout": rollout.id, "generation": rollout.generation, "candidate": rollout.candidate,
                "stage": state.stage, "reason": reason,
                "verdicts": {verdict.gate: verdict.outcome for verdict in verdicts},
            },
        )  # fmt: skip

    def _swap(self, connection: sa.Connection, rollout: Rollout, digest: str, **options: Any) -> None:
        self.ledger.swap(connection, rollout.product, digest, rollout.generation, **options)

    # Approvals --------------------------------------------------------------------------------------------------

    def approve(self, product: str, digest: str, policy: str, *, actor: str, reason: str) -> Approval:
        """Record that somebody approves a release under a policy. Approving twice is one effect.

        Whether they may is the caller's rule (rollouts/approvals.py).
        """
        at, table = now(), schema.approval
        values = {"product": product, "digest": digest, "policy": policy, "actor": actor, "reason": reason, "at": at}
        with self.ledger.write() as connection:
            known = connection.execute(
                sa.select(table).where(
                    table.c.product == product, table.c.digest == digest, table.c.policy == policy,
                    table.c.actor == actor,
                )
            ).first()  # fmt: skip
            if known is not None:
                return _approval(known)
            connection.execute(table.insert().values(values))
            self.ledger.seal(
                connection, actor, "release.approve", product, {"digest": digest, "policy": policy, "reason": reason}
            )
        return Approval(**values)

    def approvals(self, product: str, digest: str, policy: str) -> list[Approval]:
        """The approvals of a release under a policy, oldest first."""
        table = schema.approval
        query = (
            sa.select(table)
            .where(table.c.product == product, table.c.digest == digest, table.c.policy == policy)
            .order_by(table.c.id)
        )
        with self.ledger.read() as connection:
            return [_approval(row) for row in connection.execute(query)]

    def _active(self, connection: sa.Connection, product: str) -> Rollout | None:
        table = schema.rollout
        row = connection.execute(sa.select(table).where(table.c.product == product, table.c.active)).first()
        return None if row is None else _rollout(row)


def _columns(state: State) -> dict[str, Any]:
    return {
        "phase": state.phase,
        "stage": state.stage,
        "baked": state.baked,
        "waited": state.waited,
        "resumes": state.resumes,
        "active": state.phase in ACTIVE,
    }


def _rollout(row: Any) -> Rollout:
    return Rollout(
        id=row.id,
        product=row.product,
        generation=row.generation,
        candidate=row.candidate,
        serving=row.serving,
        plan=Plan.model_validate_json(row.plan),
        policy=row.policy,
        state=State(row.phase, row.stage, row.baked, row.waited, row.resumes),
        revision=row.revision,
        verdicts=tuple(RolloutVerdict.model_validate(item) for item in json.loads(row.verdicts)),
        reason=row.reason,
        started_by=row.started_by,
        started_at=row.started_at,
        changed_at=row.changed_at,
        ended_at=row.ended_at,
    )


def _approval(row: Any) -> Approval:
    return Approval(row.product, row.digest, row.policy, row.actor, row.reason, row.at)
