"""Tenants that were deleted: remembered in the ledger, so that nothing of theirs ever comes back."""

from __future__ import annotations

from plinth.errors import RefusedByPolicy
from plinth.ledger.store import Ledger

EVENT = "tenant-deleted"


def deleted_tenants(ledger: Ledger, product: str) -> frozenset[str]:
    """Names of the product's tenants that were deleted."""
    return frozenset(str(event.payload["tenant"]) for event in ledger.events(product, EVENT))


def refuse_deleted(ledger: Ledger, product: str, tenant: str) -> None:
    """Raises RefusedByPolicy for the name of a tenant that was deleted: it is never given again."""
    if tenant in deleted_tenants(ledger, product):
        raise RefusedByPolicy(
            f"the tenant {tenant!r} was deleted", where=product, hint="choose another name: nothing of it comes back"
        )


def bury(ledger: Ledger, product: str, tenant: str, actor: str) -> bool:
    """Remember that a tenant is deleted, once; returns False when that was known."""
    made = ledger.record_event_once(
        product, EVENT, {"tenant": tenant, "actor": actor},
        unless=lambda events: any(event.payload["tenant"] == tenant for event in events),
    )  # fmt: skip
    if made:
        ledger.append_audit(actor, "tenant.delete", product, {"tenant": tenant})
    return made
