"""Promote and roll back directly: one ledger transaction decides, then the aliases follow.

The ledger is the truth. Where a controller runs, the projection is its work; see `Change.projected`.
"""

from __future__ import annotations

from dataclasses import dataclass

from plinth.errors import NotFound, PlinthError, RefusedByPolicy
from plinth.ledger.leases import Candidate
from plinth.ledger.store import Ledger, Serving
from plinth.rollouts.projection import LEASE, process_name, project
from plinth.rollouts.projection import Aliases as Aliases  # what callers hand in


@dataclass(frozen=True)
class Change:
    """What a promotion or rollback did.

    `projected` is False while an effect waits in the outbox: a controller that runs carries it out within seconds. One
    that was killed keeps its lease until another takes it, so then the effect waits for the next controller.
    """

    serving: Serving
    previous: Serving | None
    projected: bool


def promote(ledger: Ledger, aliases: Aliases, product: str, digest: str, *, actor: str, reason: str) -> Change:
    """Make `product` serve the release `digest` (a prefix will do). Whether its tier allows that is the caller's rule.

    Raises:
        RefusedByPolicy: It serves already, or its gates rejected it.
        Conflict: Somebody else promoted meanwhile, or a rollout is running.
        NotFound: No such release.
    """
    return _move(ledger, aliases, product, digest, actor=actor, reason=reason, rollback=False)


def rollback(
    ledger: Ledger, aliases: Aliases, product: str, digest: str | None = None, *, actor: str, reason: str
) -> Change:
    """Make `product` serve a release that served before: `digest`, or the one before the current.

    A rollback is a new generation that points at an old release. It ends a rollout that is running.

    Raises:
        NotFound: There is no earlier release.
        RefusedByPolicy: `digest` never served the product.
        Conflict: Somebody else promoted meanwhile.
    """
    return _move(
        ledger, aliases, product, digest or previous_release(ledger, product), actor=actor, reason=reason, rollback=True
    )


def previous_release(ledger: Ledger, product: str) -> str:
    """Digest of the release that served before the current one.

    Raises:
        NotFound: The product has served one release at most.
    """
    current = ledger.current(product)
    for entry in ledger.history(product):
        if current is not None and entry.digest != current.digest:
            return entry.digest
    raise NotFound(
        f"{product} has no earlier release to roll back to",
        where=product,
        hint=f"`plinth release list {product}` shows its releases",
    )


def _move(
    ledger: Ledger, aliases: Aliases, product: str, digest: str, *, actor: str, reason: str, rollback: bool
) -> Change:
    record = ledger.release(digest)
    previous = ledger.current(product)
    if previous is not None and previous.digest == record.digest:
        _project(ledger, aliases, product, actor)  # what an earlier promotion could not carry out
        raise RefusedByPolicy(
            f"{product} serves release {record.digest[:12]} already", where=f"generation {previous.generation}"
        )
    serving = ledger.promote(
        product,
        record.digest,
        expected_generation=previous.generation if previous else 0,
        actor=actor,
        reason=reason,
        kind="rollback" if rollback else "promote",
    )
    return Change(serving, previous, _project(ledger, aliases, product, actor))


def _project(ledger: Ledger, aliases: Aliases, product: str, actor: str) -> bool:
    """Work off the outbox, if nobody holds the controller's lease: who holds it does. Returns whether nothing waits.

    Nobody waits here for a controller that may be dead: that takes seconds, and the decision holds already.
    """
    lease = Candidate(ledger, LEASE, process_name())
    try:
        if not ledger.pending_effects(product):
            return True
        if lease.hold() is None:
            return False
        try:
            project(ledger, lambda: aliases, product, actor=actor, may_write=lambda: lease.hold() is not None)
            return True
        finally:
            lease.release()
    except PlinthError:  # the decision is taken, whatever becomes of its projection
        return False
