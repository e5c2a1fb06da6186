"""Projection: what the ledger decided, carried over to the model registry's aliases and looked at again afterwards.

A registry cannot refuse an older write, so only who holds the controller's lease writes there; and since a process that
was asleep may write all the same, the aliases are compared with the ledger from time to time, and mended.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from plinth.core.failpoints import failpoint
from plinth.core.releases import ModelRef
from plinth.errors import Conflict, PlinthError, Unavailable
from plinth.ledger.rollouts import Rollouts
from plinth.ledger.store import Ledger

log = logging.getLogger(__name__)

LEASE = "controller"
"""The lease of who moves rollouts and writes to other stores."""

EFFECT = "registry-alias"
"""The outbox's name for what is done here."""

VERIFY_SECONDS = 30.0
LONGEST_WAIT = 30.0
"""Seconds between two tries, at most."""

Alias = Literal["serving", "candidate"]


def process_name() -> str:
    """A name for this process that no other one has, for the lease."""
    return f"{socket.gethostname()[:100]}/{os.getpid()}/{secrets.token_hex(4)}"


class Version(Protocol):
    """A registered model version."""

    @property
    def version(self) -> str:
        """Its number."""
        ...


class Aliases(Protocol):
    """The part of a model registry (plinth.models.port) that projection needs."""

    def set_alias(self, model: str, version: str, alias: Alias) -> None:
        """Move an alias to a version. Raises NotFound."""
        ...

    def delete_alias(self, model: str, alias: Alias) -> None:
        """Take an alias away."""
        ...

    def by_alias(self, model: str, alias: Alias) -> Version | None:
        """The version that carries the alias, or None."""
        ...


@dataclass(frozen=True)
class Wanted:
    """What the aliases of a product should be.

    Attributes:
        serving: The version of what serves, None before the first promotion.
        candidate: The version of what is being rolled out, or None.
        decided: Versions that are candidates no longer: "candidate" is taken away from them, and left where somebody's
            training has put it otherwise.
    """

    serving: ModelRef | None
    candidate: ModelRef | None
    decided: tuple[ModelRef, ...]


def wanted(ledger: Ledger, product: str) -> Wanted:
    """What the aliases should be now. A drill's release is in no registry, so it never gets one."""
    serving = ledger.current(product)
    if serving is None:
        return Wanted(None, None, ())
    serves = ledger.release(serving.digest).manifest.tabular().model
    newest = next((rollout for rollout in Rollouts(ledger).of(product) if not rollout.plan.drill), None)
    if newest is None:
        return Wanted(serves, None, (serves,))
    rolled_out = ledger.release(newest.candidate).manifest.tabular().model
    return Wanted(serves, rolled_out, ()) if newest.active else Wanted(serves, None, (serves, rolled_out))


def align(ledger: Ledger, aliases: Aliases, product: str, may_write: Callable[[], bool]) -> list[str]:
    """Make the registry's aliases what the ledger says now, and read them again.

    Args:
        ledger: The ledger.
        aliases: The registry.
        product: Whose aliases.
        may_write: Asked before every write: whether this process still holds the lease.

    Returns:
        What was changed, in words; empty when everything was as it should be.

    Raises:
        Conflict: The lease is lost, or somebody else moves the same alias.
        Unavailable: The registry cannot be reached.
        NotFound: The registry does not know the version.
    """
    changed: list[str] = []
    now = wanted(ledger, product)
    while True:
        if now.serving is not None:
            changed += _point(aliases, "serving", now.serving, may_write)
        if now.candidate is not None:
            changed += _point(aliases, "candidate", now.candidate, may_write)
        for model in now.decided:
            changed += _clear(aliases, model, may_write)
        # Somebody may have promoted meanwhile; ours was then the older alias, written last.
        before, now = now, wanted(ledger, product)
        if now == before:
            return changed


def _point(aliases: Aliases, alias: Alias, model: ModelRef, may_write: Callable[[], bool]) -> list[str]:
    found = aliases.by_alias(model.name, alias)
    if found is not None and found.version == model.version:
        return []
    _allowed(may_write)
    failpoint("alias.before-write")
    aliases.set_alias(model.name, model.version, alias)
    failpoint("alias.after-write")
    seen = aliases.by_alias(model.name, alias)
    if seen is None or seen.version != model.version:
        raise Conflict(f"the alias {alias!r} of {model.name} was moved by somebody else", where=model.name)
    return [f"{alias} to version {model.version}, from {found.version if found else 'none'}"]


def _clear(aliases: Aliases, model: ModelRef, may_write: Callable[[], bool]) -> list[str]:
    found = aliases.by_alias(model.name, "candidate")
    if found is None or found.version != model.version:
        return []
    _allowed(may_write)
    failpoint("alias.before-write")
    aliases.delete_alias(model.name, "candidate")
    failpoint("alias.after-write")
    return [f"candidate taken from version {model.version}"]


def _allowed(may_write: Callable[[], bool]) -> None:
    if not may_write():
        raise Conflict("the lease was taken by another process", where=LEASE, hint="it acts now; nothing to do")


def project(
    ledger: Ledger, aliases: Callable[[], Aliases], product: str, *, actor: str, may_write: Callable[[], bool]
) -> bool:
    """Carry out the effects that wait in the outbox. The aliases become what holds now: older effects are overtaken.

    Args:
        ledger: The ledger.
        aliases: Gives the registry; called only if something waits.
        product: Whose effects.
        actor: Who acts, for the audit chain.
        may_write: As of `align`.

    Returns:
        Whether anything waited.

    Raises:
        Conflict, Unavailable, NotFound: As `align`; the effects wait on.
    """
    effects = [effect for effect in ledger.pending_effects(product) if effect.effect == EFFECT]
    if effects:
        align(ledger, aliases(), product, may_write)
        for effect in effects:
            ledger.effect_done(effect, actor)
    return bool(effects)


@dataclass
class _Memory:
    failures: int = 0
    retry_at: float = 0.0
    verify_at: float = 0.0
    problem: str = ""


class Projector:
    """Works off the outbox of every product, and mends aliases that somebody moved. Level-triggered.

    Args:
        ledger: The ledger.
        aliases: Builds the registry when it is first needed: its import takes seconds and memory.
        actor: Who acts, for the audit chain.
        glance: A cheap way to see which version carries an alias (model and alias to its number or None), asked before
            the registry is built only to verify; raises Unavailable. None builds the registry.
        clock: Monotonic seconds; tests give their own.
    """

    def __init__(
        self,
        ledger: Ledger,
        aliases: Callable[[], Aliases],
        *,
        actor: str,
        glance: Callable[[str, Alias], str | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._build = aliases
        self._aliases: Aliases | None = None
        self._actor = actor
        self._glance = glance
        self._clock = clock
        self._memory: dict[str, _Memory] = {}

    def work(self, product: str, may_write: Callable[[], bool]) -> None:
        """One pass over one product, unless it failed a short while ago.

        Args:
            product: The product's name.
            may_write: Whether this process holds the lease; asked again before every write.
        """
        memory = self._memory.setdefault(product, _Memory(verify_at=self._clock() + VERIFY_SECONDS))
        if self._clock() < memory.retry_at or not may_write():
            return
        try:
            waited = project(self._ledger, self._registry, product, actor=self._actor, may_write=may_write)
            if not waited:
                if self._clock() < memory.verify_at:
                    return
                self._verify(product, may_write)
        except PlinthError as error:
            memory.failures += 1
            wait = min(2.0 ** (memory.failures - 1), LONGEST_WAIT)
            memory.retry_at = self._clock() + wait
            if str(error) != memory.problem:
                log.warning("the registry's aliases wait", extra={"product": product, "reason": str(error)})
            memory.problem = str(error)
        else:
            self._memory[product] = _Memory(verify_at=self._clock() + VERIFY_SECONDS)

    def _registry(self) -> Aliases:
        if self._aliases is None:
            self._aliases = self._build()
        return self._aliases

    def _verify(self, product: str, may_write: Callable[[], bool]) -> None:
        if self._looks_right(product):
            return
        changed = align(self._ledger, self._registry(), product, may_write)
        # A decision that came in between is no meddling: its effect is in the outbox.
        if changed and not self._ledger.pending_effects(product):
            log.warning("aliases mended", extra={"product": product, "changed": changed})
            self._ledger.append_audit(self._actor, "alias.mended", product, {"changed": changed})

    def _looks_right(self, product: str) -> bool:
        """What a glance says. A registry that is away is not worth building to see that it is away."""
        if self._glance is None or self._aliases is not None:
            return False
        try:
            now = wanted(self._ledger, product)
            if now.serving is None:
                return True
            if self._glance(now.serving.name, "serving") != now.serving.version:
                return False
            if now.candidate is not None:
                return self._glance(now.candidate.name, "candidate") == now.candidate.version
            return all(self._glance(model.name, "candidate") != model.version for model in now.decided)
        except Unavailable:
            return True
