"""What a person wishes of a rollout: start, pause, resume, abort, roll back, promote without one.

Each wish is one compare-and-swap on the ledger, made again where the controller wrote in between, and never carried
over to another rollout than the one that was seen. Abort and rollback need no controller: services read the ledger.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from plinth.core.durations import Duration
from plinth.core.products import Product
from plinth.core.rollout_policy import Strategy
from plinth.core.rollouts import Command, Phase, advance, make_plan
from plinth.errors import Conflict, InvalidInput, NotFound, RefusedByPolicy
from plinth.ledger.rollouts import Rollout, Rollouts
from plinth.ledger.store import Ledger, Serving
from plinth.rollouts import release
from plinth.rollouts.approvals import policy_digest

Wish = Literal["pause", "resume", "abort"]

TRIES = 20
"""Of a wish against the controller's writes, of which there is one a second."""

_FULFILLED: dict[Wish, frozenset[Phase]] = {
    "pause": frozenset({"paused"}),
    "resume": frozenset(),
    "abort": frozenset({"aborting", "rolled-back"}),
}


@dataclass(frozen=True)
class RolledBack:
    """What a rollback did.

    Attributes:
        serving: What serves now.
        bad: Digest of the release that answers no more.
        aborted: The rollout that it ended, or None.
        projected: Whether no effect waits in the outbox any more.
    """

    serving: Serving
    bad: str
    aborted: Rollout | None
    projected: bool


def start(
    ledger: Ledger,
    product: Product,
    digest: str,
    *,
    actor: str,
    reason: str,
    strategy: Strategy | None = None,
    steps: tuple[int, ...] | None = None,
    bake: str | None = None,
    drill: bool = False,
) -> Rollout:
    """Begin a rollout of a release (a prefix of its digest will do). What is not given comes from the policy.

    Raises:
        InvalidInput: The bake is no duration, or the strategy has no steps.
        Conflict: A rollout is running, or somebody else promoted meanwhile.
        RefusedByPolicy: The release may not serve the product, or serves it already.
        NotFound: No such release, or nothing serves yet.
    """
    if bake is not None:
        check_bake(bake)
    plan = make_plan(product, strategy=strategy, steps=steps, bake=bake, drill=drill)
    serving = ledger.current(product.name)
    return Rollouts(ledger).start(
        product.name,
        digest,
        plan,
        policy=policy_digest(product),
        expected_generation=serving.generation if serving is not None else 0,
        actor=actor,
        reason=reason,
    )


def check_bake(bake: str) -> None:
    """Raises InvalidInput unless it is a duration such as `60s`."""
    try:
        TypeAdapter(Duration).validate_python(bake)
    except ValidationError:
        raise InvalidInput(f"{bake!r} is no duration", where="--bake", hint="write it as 60s, 5m or 1h") from None


def pause(ledger: Ledger, product: str, *, actor: str, reason: str = "") -> Rollout:
    """Hold the product's rollout at its split. Its gates go on watching: harm still rolls it back.

    Raises:
        NotFound: No rollout is running.
        Conflict: It is paused already, or is being decided.
    """
    return _wish(ledger, _running(ledger, product), "pause", actor=actor, reason=reason)


def resume(ledger: Ledger, product: str, *, actor: str, reason: str = "") -> Rollout:
    """Let a paused rollout go on; raises as `pause`."""
    return _wish(ledger, _running(ledger, product), "resume", actor=actor, reason=reason)


def abort(ledger: Ledger, product: str, *, actor: str, reason: str = "") -> Rollout:
    """End the product's rollout: the release before answers everything again, at once.

    Raises:
        NotFound: No rollout is running.
        Conflict: Its outcome is decided already.
    """
    return _wish(ledger, _running(ledger, product), "abort", actor=actor, reason=reason)


def rollback(
    ledger: Ledger, aliases: release.Aliases, product: str, digest: str | None = None, *, actor: str, reason: str
) -> RolledBack:
    """Take away what is bad, at once: abort the rollout that is running, else serve the release before again.

    Args:
        ledger: The ledger.
        aliases: Where the product's aliases are.
        product: The product's name.
        digest: Release to go back to, past a running rollout; None is the one that served before.
        actor: Who decides.
        reason: Why, for the history.

    Raises:
        NotFound: There is no earlier release.
        RefusedByPolicy: `digest` never served the product, or serves it already.
        Conflict: Somebody else was faster, or the bad release is gone already: going back once more needs a `digest`.
    """
    newest = Rollouts(ledger).newest(product)
    running = newest if newest is not None and newest.active else None
    if running is not None and (digest is None or ledger.release(digest).digest == running.serving):
        try:
            aborted = _wish(ledger, running, "abort", actor=actor, reason=reason)
        except Conflict:
            # It was promoted before the wish came: then its release is what has to go.
            if Rollouts(ledger).get(running.id).state.phase not in {"promoting", "done"}:
                raise
            digest = running.serving
        else:
            serving = ledger.current(product)
            assert serving is not None  # noqa: S101 - a rollout starts beside a serving release only
            return RolledBack(serving, running.candidate, aborted, not ledger.pending_effects(product))
    elif digest is None and newest is not None:
        _refuse_going_too_far(ledger, newest)
    change = release.rollback(ledger, aliases, product, digest, actor=actor, reason=reason)
    bad = change.previous.digest if change.previous is not None else ""
    return RolledBack(change.serving, bad, running, change.projected)


def promote(
    ledger: Ledger, aliases: release.Aliases, product: Product, digest: str, *, actor: str, reason: str
) -> release.Change:
    """Make the product serve a release without a rollout, where its policy allows that or nothing serves yet.

    Raises:
        RefusedByPolicy: The policy wants a rollout, or as `release.promote`.
        Conflict, NotFound: As `release.promote`.
    """
    record = ledger.release(digest)
    if ledger.current(product.name) is not None and not product.rollout_policy.direct:
        refusal = RefusedByPolicy(
            f"a release of {product.name} reaches all traffic by a rollout only",
            where=f"tier {product.tier}, rollout.direct in product.yaml",
            hint=f"`plinth rollout start {product.name} --to {record.digest[:12]}`",
        )
        ledger.append_audit(
            actor, "release.promote-refused", product.name, {"digest": record.digest, "reason": refusal.what}
        )
        raise refusal
    return release.promote(ledger, aliases, product.name, record.digest, actor=actor, reason=reason)


def _running(ledger: Ledger, product: str) -> Rollout:
    """The product's rollout that has not ended."""
    newest = Rollouts(ledger).newest(product)
    if newest is None or newest.ended_at is not None:
        raise NotFound(
            f"no rollout of {product} is running",
            where=product,
            hint=f"`plinth rollout start {product} --to DIGEST` begins one",
        )
    return newest


def _wish(ledger: Ledger, seen: Rollout, wish: Wish, *, actor: str, reason: str) -> Rollout:
    """Carry a wish out on the rollout that was seen, and on no other."""
    rollouts, now = Rollouts(ledger), seen
    for attempt in range(TRIES):
        if attempt and now.state.phase in _FULFILLED[wish]:
            return now  # the controller wished the same, and was faster
        transition = advance(now.plan, now.state, Command(wish))
        why = f"{transition.reason}: {reason}" if reason else transition.reason
        try:
            return rollouts.save(now, transition.state, actor=actor, reason=why)
        except Conflict:
            time.sleep(random.uniform(0.0, 0.02) * attempt)  # noqa: S311 - spreads writers, no secret
            now = rollouts.get(seen.id)
    raise Conflict(
        f"the rollout of {seen.product} changes too fast to {wish} it",
        where=f"rollout {seen.id}",
        hint=f"`plinth rollout status {seen.product}`; then try again",
    )


def _refuse_going_too_far(ledger: Ledger, newest: Rollout) -> None:
    """Who types `rollback` means the bad release. Where that one is gone already, the release before is a good one."""
    current = ledger.current(newest.product)
    undone = newest.state.phase == "aborting" or (newest.state.phase == "rolled-back" and not newest.plan.drill)
    if undone and current is not None and current.generation == newest.generation + 1:
        raise Conflict(
            f"release {newest.candidate[:12]} was rolled back already: {newest.product} serves {current.digest[:12]}",
            where=f"generation {current.generation}",
            hint=f"to go back further, name the release: `plinth rollback {newest.product} --to DIGEST`",
        )
