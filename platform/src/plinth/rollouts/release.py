"""Promote and roll back: one ledger transaction decides, then the decision is projected onto the registry's alias.

The ledger is the truth. A projection that fails stays in the outbox and is carried out by the next call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from plinth.errors import NotFound, PlinthError, RefusedByPolicy
from plinth.ledger.store import Ledger, Serving


class Version(Protocol):
    """A registered model version."""

    @property
    def version(self) -> str:
        """Its number."""
        ...


class Aliases(Protocol):
    """The part of a model registry (plinth.models.port) that promotion needs."""

    def set_alias(self, model: str, version: str, alias: Literal["serving"]) -> None:
        """Move an alias to a version."""
        ...

    def by_alias(self, model: str, alias: Literal["serving"]) -> Version | None:
        """The version that carries the alias, or None."""
        ...


@dataclass(frozen=True)
class Change:
    """What a promotion or rollback did. `projected` is False when an effect is still waiting in the outbox."""

    serving: Serving
    previous: Serving | None
    projected: bool


def promote(ledger: Ledger, aliases: Aliases, product: str, digest: str, *, actor: str, reason: str) -> Change:
    """Make `product` serve the release `digest` (a prefix will do).

    Raises:
        RefusedByPolicy: It serves already, or its gates rejected it.
        Conflict: Somebody else promoted meanwhile.
        NotFound: No such release.
    """
    return _move(ledger, aliases, product, digest, actor=actor, reason=reason, rollback=False)


def rollback(
    ledger: Ledger, aliases: Aliases, product: str, digest: str | None = None, *, actor: str, reason: str
) -> Change:
    """Make `product` serve a release that served before: `digest`, or the one before the current.

    A rollback is a new generation that points at an old release.

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
        project(ledger, aliases, product, actor=actor)  # what an earlier promotion could not carry out
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
    return Change(serving, previous, project(ledger, aliases, product, actor=actor))


def project(ledger: Ledger, aliases: Aliases, product: str, *, actor: str) -> bool:
    """Carry out the effects that wait in the outbox: the alias is set to what serves now, older effects are overtaken.

    Returns:
        Whether nothing waits any more.
    """
    effects = ledger.pending_effects(product)
    if not effects:
        return True
    serving = ledger.current(product)
    while True:
        model = ledger.release(serving.digest if serving else effects[-1].payload["digest"]).manifest.model
        try:
            aliases.set_alias(model.name, model.version, "serving")
            observed = aliases.by_alias(model.name, "serving")
        except PlinthError:
            # The registry is a projection: its trouble must not undo a decision that the ledger has taken.
            return False
        # Somebody may have promoted and projected meanwhile; ours was then the older alias, written last.
        before, serving = serving, ledger.current(product)
        if serving == before:
            break
    if observed is None or observed.version != model.version:
        return False
    for effect in effects:
        ledger.effect_done(effect, actor)
    return True
