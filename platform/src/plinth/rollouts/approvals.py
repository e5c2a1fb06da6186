"""Approvals: who may consent to a release, and which consents count for a rollout.

An approval is bound to a person, a release's digest and the product's manifest. Another digest or a changed manifest,
and it counts no more. Who the person is, the caller says: the embedded profile authenticates nobody.
"""

from __future__ import annotations

from plinth.core.digests import digest_json
from plinth.core.products import Product
from plinth.errors import RefusedByPolicy
from plinth.ledger.rollouts import Approval, Rollout, Rollouts
from plinth.ledger.store import Ledger, ReleaseRecord


def policy_digest(product: Product) -> str:
    """sha256 of the product's manifest, which approvals are bound to."""
    return digest_json(product.model_dump(mode="json", by_alias=True))


def approve(ledger: Ledger, product: Product, digest: str, *, actor: str, reason: str) -> Approval:
    """Record that `actor` approves a release (a prefix of its digest will do) under the manifest as it is now.

    Approving twice is one effect. A refusal is an entry of the audit chain, too.

    Raises:
        NotFound: No such release.
        RefusedByPolicy: The release may not serve the product (another product's, rejected, a drill's, retired), or it
            is the actor's own and the product's policy wants somebody else.
    """
    rollouts = Rollouts(ledger)
    record = ledger.release(digest)
    try:
        ledger.promotable(product.name, record.digest)
        running = rollouts.active(product.name)
        started_by = running.started_by if running is not None and running.candidate == record.digest else None
        own = bool(product.rollout_policy.own_approval)
        if not own:
            _refuse_own(product, record, started_by, actor)
    except RefusedByPolicy as refusal:
        ledger.append_audit(
            actor, "release.approve-refused", product.name, {"digest": record.digest, "reason": refusal.what}
        )
        raise
    return rollouts.approve(product.name, record.digest, policy_digest(product), actor=actor, reason=reason)


def counted(rollouts: Rollouts, rollout: Rollout, product: Product) -> list[Approval]:
    """The approvals that count for a rollout, oldest first.

    None does where the manifest is another one than at the rollout's start. Where the plan wants somebody else, neither
    that of who made the release nor that of who started the rollout counts, whenever it was given.

    Args:
        rollouts: Where they are kept.
        rollout: What they are for.
        product: The manifest as it is now.
    """
    return given(rollouts, rollout) if policy_digest(product) == rollout.policy else []


def given(rollouts: Rollouts, rollout: Rollout) -> list[Approval]:
    """The approvals of a rollout by people who may approve it, under its own manifest, whatever that one is now."""
    everybody = rollouts.approvals(rollout.product, rollout.candidate, rollout.policy)
    if rollout.plan.own_approval:
        return everybody
    involved = {rollout.started_by, rollouts.ledger.release(rollout.candidate).created_by}
    return [approval for approval in everybody if approval.actor not in involved]


def _refuse_own(product: Product, record: ReleaseRecord, started_by: str | None, actor: str) -> None:
    did = "made this release" if record.created_by == actor else "started its rollout" if started_by == actor else ""
    if did:
        raise RefusedByPolicy(
            f"{actor} {did} and may not approve it",
            where=f"{product.name}, tier {product.tier}",
            hint="ask somebody else to approve it",
        )
