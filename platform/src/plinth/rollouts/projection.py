"""Projection: what the ledger decided, carried over to aliases in other stores and looked at again afterwards.

A model's release has aliases in the model registry, an assistant's on its index build and its prompts. These stores
cannot refuse an older write, so only who holds the controller's lease writes there; and since a process that was
asleep may write all the same, the aliases are compared with the ledger from time to time, and mended.
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
from plinth.core.releases import ReleaseManifest
from plinth.errors import Conflict, PlinthError, Unavailable
from plinth.ledger.rollouts import Rollouts
from plinth.ledger.store import Ledger

log = logging.getLogger(__name__)

LEASE = "controller"
"""The lease of who moves rollouts and writes to other stores."""

EFFECT = "registry-alias"
"""The outbox's name for what is done here."""

INDEX, PROMPT = "index:", "prompt:"
"""What the names of an assistant's parts begin with."""

VERIFY_SECONDS = 30.0
LONGEST_WAIT = 30.0
"""Seconds between two tries, at most."""

Alias = Literal["serving", "candidate"]


def process_name() -> str:
    """A name for this process that no other one has, for the lease."""
    return f"{socket.gethostname()[:100]}/{os.getpid()}/{secrets.token_hex(4)}"


class Version(Protocol):
    """What carries an alias."""

    @property
    def version(self) -> str:
        """Its number, or the id of an index build."""
        ...


class Aliases(Protocol):
    """What the decisions about a product are carried over to: a model registry, or `plinth.rollouts.targets.Targets`.

    A name is a registered model's, `index:PRODUCT` or `prompt:PRODUCT.NAME`.
    """

    def set_alias(self, name: str, version: str, alias: Alias, /) -> None:
        """Move an alias to a version. Raises NotFound."""
        ...

    def delete_alias(self, name: str, alias: Alias, /) -> None:
        """Take an alias away from a model."""
        ...

    def by_alias(self, name: str, alias: Alias, /) -> Version | None:
        """The version that carries the alias, or None."""
        ...


@dataclass(frozen=True, slots=True)
class Pin:
    """Something that a release pins and an alias can be put on; `name` as in `Aliases`."""

    name: str
    version: str


@dataclass(frozen=True)
class Wanted:
    """What the aliases of a product should be.

    Attributes:
        points: What each alias is on; none before the first promotion. An index and a prompt always have a candidate:
            while nothing is rolled out, it is what serves, so whoever reads by that alias never reads nothing.
        decided: Model versions that are candidates no longer: "candidate" is taken away from them, and left where
            somebody's training has put it otherwise.
    """

    points: tuple[tuple[Alias, Pin], ...] = ()
    decided: tuple[Pin, ...] = ()


def wanted(ledger: Ledger, product: str) -> Wanted:
    """What the aliases should be now. A drill's release is in no registry, so it never gets one."""
    serving = ledger.current(product)
    if serving is None:
        return Wanted()
    serves = ledger.release(serving.digest).manifest
    newest = next((rollout for rollout in Rollouts(ledger).of(product) if not rollout.plan.drill), None)
    rolled_out = ledger.release(newest.candidate).manifest if newest is not None else None
    trial = rolled_out if newest is not None and newest.active else None
    parts = {pin.name: pin for pin in (*_parts(serves), *_parts(trial))}
    points: list[tuple[Alias, Pin]] = [("serving", pin) for pin in (*_model(serves), *_parts(serves))]
    points += [("candidate", pin) for pin in (*_model(trial), *parts.values())]
    return Wanted(tuple(points), (*_model(serves), *_model(rolled_out)) if trial is None else ())


def _model(manifest: ReleaseManifest | None) -> tuple[Pin, ...]:
    model = manifest.model if manifest is not None else None
    return (Pin(model.name, model.version),) if model is not None else ()


def _parts(manifest: ReleaseManifest | None) -> tuple[Pin, ...]:
    """An assistant's index build and prompts."""
    if manifest is None or manifest.assistant is None:
        return ()
    pinned = manifest.assistant
    index = Pin(f"{INDEX}{manifest.product}", pinned.index.build)
    return (index, *(Pin(f"{PROMPT}{manifest.product}.{prompt.name}", prompt.version) for prompt in pinned.prompts))


def align(ledger: Ledger, aliases: Aliases, product: str, may_write: Callable[[], bool]) -> list[str]:
    """Make the aliases what the ledger says now, and read them again.

    Args:
        ledger: The ledger.
        aliases: Where they are.
        product: Whose aliases.
        may_write: Asked before every write: whether this process still holds the lease.

    Returns:
        What was changed, in words; empty when everything was as it should be.

    Raises:
        Conflict: The lease is lost, or somebody else moves the same alias.
        Unavailable: A store cannot be reached.
        NotFound: A store does not know the version.
    """
    changed: list[str] = []
    now = wanted(ledger, product)
    while True:
        for alias, pin in now.points:
            changed += _point(aliases, alias, pin, may_write)
        for pin in now.decided:
            changed += _clear(aliases, pin, may_write)
        # Somebody may have promoted meanwhile; ours was then the older alias, written last.
        before, now = now, wanted(ledger, product)
        if now == before:
            return changed


def _point(aliases: Aliases, alias: Alias, pin: Pin, may_write: Callable[[], bool]) -> list[str]:
    found = aliases.by_alias(pin.name, alias)
    if found is not None and found.version == pin.version:
        return []
    _allowed(may_write)
    failpoint("alias.before-write")
    aliases.set_alias(pin.name, pin.version, alias)
    failpoint("alias.after-write")
    seen = aliases.by_alias(pin.name, alias)
    if seen is None or seen.version != pin.version:
        raise Conflict(f"the alias {alias!r} of {pin.name} was moved by somebody else", where=pin.name)
    return [f"{alias}{_of(pin)} to version {pin.version}, from {found.version if found else 'none'}"]


def _clear(aliases: Aliases, pin: Pin, may_write: Callable[[], bool]) -> list[str]:
    found = aliases.by_alias(pin.name, "candidate")
    if found is None or found.version != pin.version:
        return []
    _allowed(may_write)
    failpoint("alias.before-write")
    aliases.delete_alias(pin.name, "candidate")
    failpoint("alias.after-write")
    return [f"candidate{_of(pin)} taken from version {pin.version}"]


def _of(pin: Pin) -> str:
    """A model has one version that serves; of an assistant's parts it has to be said which one is meant."""
    return f" of {pin.name}" if pin.name.startswith((INDEX, PROMPT)) else ""


def _allowed(may_write: Callable[[], bool]) -> None:
    if not may_write():
        raise Conflict("the lease was taken by another process", where=LEASE, hint="it acts now; nothing to do")


def project(
    ledger: Ledger, aliases: Callable[[], Aliases], product: str, *, actor: str, may_write: Callable[[], bool]
) -> bool:
    """Carry out the effects that wait in the outbox. The aliases become what holds now: older effects are overtaken.

    Args:
        ledger: The ledger.
        aliases: Gives the product's aliases; called only if something waits.
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
        aliases: Builds a product's aliases when they are first needed: the registry's import takes seconds and memory.
        actor: Who acts, for the audit chain.
        glance: A cheap way to see which version carries an alias (name and alias to the version or None), asked before
            the registry is built only to verify; raises Unavailable. None builds the registry.
        clock: Monotonic seconds; tests give their own.
    """

    def __init__(
        self,
        ledger: Ledger,
        aliases: Callable[[str], Aliases],
        *,
        actor: str,
        glance: Callable[[str, Alias], str | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._build = aliases
        self._aliases: dict[str, Aliases] = {}
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
            waited = project(
                self._ledger, lambda: self._aliases_of(product), product, actor=self._actor, may_write=may_write
            )
            if not waited:
                if self._clock() < memory.verify_at:
                    return
                self._verify(product, may_write)
        except PlinthError as error:
            memory.failures += 1
            wait = min(2.0 ** (memory.failures - 1), LONGEST_WAIT)
            memory.retry_at = self._clock() + wait
            if str(error) != memory.problem:
                log.warning("the aliases wait", extra={"product": product, "reason": str(error)})
            memory.problem = str(error)
        else:
            self._memory[product] = _Memory(verify_at=self._clock() + VERIFY_SECONDS)

    def _aliases_of(self, product: str) -> Aliases:
        if product not in self._aliases:
            self._aliases[product] = self._build(product)
        return self._aliases[product]

    def _verify(self, product: str, may_write: Callable[[], bool]) -> None:
        if self._looks_right(product):
            return
        changed = align(self._ledger, self._aliases_of(product), product, may_write)
        # A decision that came in between is no meddling: its effect is in the outbox.
        if changed and not self._ledger.pending_effects(product):
            log.warning("aliases mended", extra={"product": product, "changed": changed})
            self._ledger.append_audit(self._actor, "alias.mended", product, {"changed": changed})

    def _looks_right(self, product: str) -> bool:
        """What a glance says. A registry that is away is not worth building to see that it is away."""
        if self._glance is None or product in self._aliases:
            return False
        try:
            now = wanted(self._ledger, product)
            return all(self._glance(pin.name, alias) == pin.version for alias, pin in now.points) and all(
                self._glance(pin.name, "candidate") != pin.version for pin in now.decided
            )
        except Unavailable:
            return True
