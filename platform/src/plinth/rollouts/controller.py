"""The controller: looks at every unfinished rollout again and again, and moves each one step when the evidence allows.

Level-triggered: a tick re-reads everything and keeps nothing that a restart would miss. Of several controllers the one
that holds the lease acts; every write carries the lease, so that one that was taken for dead changes nothing. Time is
counted while this process looks, by its monotonic clock: neither a wall clock that jumps nor a machine that sleeps
bakes a release.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from plinth.core.evidence import Evidence
from plinth.core.products import Product
from plinth.core.rollouts import (
    RUNNING,
    Approved,
    Observed,
    Plan,
    RolloutVerdict,
    State,
    Tick,
    Transition,
    advance,
)
from plinth.core.routes import Route
from plinth.errors import Conflict, NotFound, PlinthError, RefusedByPolicy, Unavailable
from plinth.ledger.leases import Candidate, Lease
from plinth.ledger.rollouts import Rollout, Rollouts
from plinth.ledger.store import Ledger
from plinth.rollouts.approvals import counted, policy_digest
from plinth.rollouts.projection import Projector
from plinth.serving.port import Backend, Observation

log = logging.getLogger(__name__)

Judge = Callable[[Plan, State, Evidence, Product], Sequence[RolloutVerdict]]

RENEW_SECONDS = 1.0
TRUST_SECONDS = 3.0
"""So long after its last renewal a lease is surely ours: nobody takes it in less than `Candidate`'s 5 s."""
LONGEST_STEP = 3.0
"""Seconds that one tick may count at most."""
SAVE_SECONDS = 2.0
"""A crash loses at most so much of a stage's time."""
SAVE_PAUSED_SECONDS = 10.0
RESTARTS = 3
"""Times a service may be started again during a rollout. A process that dies takes the evidence of its death along."""
LONGEST_WAIT = 30.0
"""Seconds between two tries of a rollout that fails, at most."""


@dataclass
class _Memory:
    """What this process knows of a rollout beside the ledger. Losing it costs `SAVE_SECONDS` of a stage's time.

    `state` is where the rollout is by the time that passed since `revision` was written; `instances` are the processes
    seen last at each address, `restarts` how often there was another one.
    """

    revision: int
    state: State
    ticked_at: float
    saved_at: float
    failures: int = 0
    retry_at: float = 0.0
    problem: str = ""
    instances: dict[str, str] = field(default_factory=dict)
    restarts: int = 0

    def see(self, observations: Iterable[Observation]) -> None:
        """Count the services that were started again since they were seen last."""
        for seen in observations:
            before = self.instances.get(seen.where, seen.instance)
            self.restarts += before != seen.instance
            self.instances[seen.where] = seen.instance


class Controller:
    """Moves rollouts.

    Args:
        ledger: The ledger.
        candidate: This process's claim to the controller's lease.
        backend: What routes are applied on and observed at.
        evidence: Reads what a rollout's releases did.
        judge: The gates (core.rollout_gates.judge).
        product: A product's manifest as it is now.
        products: Names of the products whose effects are carried out.
        projector: Carries effects out.
        actor: Who acts, for the audit chain.
        clock: Monotonic seconds; tests give their own.
    """

    def __init__(
        self,
        ledger: Ledger,
        candidate: Candidate,
        *,
        backend: Backend,
        evidence: Callable[[Rollout], Evidence],
        judge: Judge,
        product: Callable[[str], Product],
        products: Callable[[], Iterable[str]],
        projector: Projector,
        actor: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._rollouts = Rollouts(ledger)
        self._candidate = candidate
        self._backend = backend
        self._evidence = evidence
        self._judge = judge
        self._product = product
        self._products = products
        self._projector = projector
        self._actor = actor
        self._clock = clock
        self._held: Lease | None = None
        self._held_at = float("-inf")
        self._memory: dict[int, _Memory] = {}

    # The lease --------------------------------------------------------------------------------------------------

    def leads(self) -> bool:
        """Whether this process surely holds the lease at this moment. Cheap; any thread may ask."""
        return self._held is not None and self._clock() - self._held_at < TRUST_SECONDS

    def keep(self) -> bool:
        """Take or keep the lease, and look at nothing. Returns whether this process leads. Raises Unavailable."""
        return self._hold() is not None

    def step_down(self) -> None:
        """Give the lease up, so that another controller need not wait. Raises Unavailable."""
        self._held = None
        self._memory.clear()
        self._candidate.release()

    def _hold(self) -> Lease | None:
        if self._held is not None and self._clock() - self._held_at < RENEW_SECONDS:
            return self._held
        before, asked_at = self._held, self._clock()
        lease = self._candidate.hold()
        if lease != before:
            # Somebody else may have acted in between: what is remembered is of another time.
            self._memory.clear()
            log.info("leads" if lease else "follows", extra={"holder": lease.holder if lease else ""})
        self._held, self._held_at = lease, asked_at
        return lease

    # Rollouts ---------------------------------------------------------------------------------------------------

    def tick(self) -> bool:
        """Take or keep the lease, and look once at every unfinished rollout. What fails on one stops no other.

        Returns:
            Whether this process leads.

        Raises:
            Unavailable, Corrupt: The ledger cannot be used.
        """
        if self._hold() is None:
            return False
        unfinished = self._rollouts.unfinished()
        self._memory = {number: kept for number, kept in self._memory.items() if number in {r.id for r in unfinished}}
        for rollout in unfinished:
            lease = self._hold()
            if lease is None:
                return False
            self._look_at(rollout, lease)
        return True

    def project(self) -> None:
        """One pass over every product's effects; does nothing without the lease. May run in a thread of its own.

        Raises:
            Unavailable, Corrupt: The ledger cannot be used.
        """
        if not self.leads():
            return
        # A rollout's effects are carried out even if its product's folder is gone.
        names = {*self._products(), *(rollout.product for rollout in self._rollouts.unfinished())}
        for product in sorted(names):
            self._projector.work(product, self.leads)

    def _look_at(self, rollout: Rollout, lease: Lease) -> None:
        memory = self._remembered(rollout)
        if self._clock() < memory.retry_at:
            return
        try:
            self._move(rollout, memory, lease)
        except Conflict as conflict:  # somebody else moved it, or leads now: look again at the next tick
            log.info("overtaken", extra={"product": rollout.product, "rollout": rollout.id, "reason": conflict.what})
            self._memory.pop(rollout.id, None)
            self._held_at = float("-inf")
        except MemoryError:  # nothing can be trusted to work on: the process ends, and is started again
            raise
        except Exception as error:  # noqa: BLE001  (whatever one rollout meets, the others go on)
            self._failed(rollout, memory, error)
        else:
            memory.failures, memory.problem = 0, ""

    def _remembered(self, rollout: Rollout) -> _Memory:
        now = self._clock()
        memory = self._memory.get(rollout.id)
        if memory is None:
            memory = self._memory[rollout.id] = _Memory(rollout.revision, rollout.state, now, now)
        elif memory.revision != rollout.revision:  # somebody's command: it must not wait for our back-off
            memory.revision, memory.state, memory.retry_at = rollout.revision, rollout.state, 0.0
        return memory

    def _failed(self, rollout: Rollout, memory: _Memory, error: Exception) -> None:
        memory.failures += 1
        # An abort is tried at every tick: the candidate may still answer somewhere.
        hurry = rollout.state.phase == "aborting"
        memory.retry_at = 0.0 if hurry else self._clock() + min(2.0 ** (memory.failures - 1), LONGEST_WAIT)
        problem = str(error) if isinstance(error, PlinthError) else f"{type(error).__name__}: {error}"
        if problem != memory.problem:
            known = isinstance(error, PlinthError)
            log.warning(
                "a rollout cannot be moved",
                extra={"product": rollout.product, "rollout": rollout.id, "reason": problem},
                exc_info=None if known else error,
            )
        memory.problem = problem

    def _move(self, rollout: Rollout, memory: _Memory, lease: Lease) -> None:
        match rollout.state.phase:
            case "waiting":
                self._wait(rollout, memory, lease)
            case "promoting" | "aborting":
                self._finish(rollout, memory, lease)
            case _ if rollout.state.phase in RUNNING or rollout.state.resumes in RUNNING:
                self._watch(rollout, memory, lease)

    def _wait(self, rollout: Rollout, memory: _Memory, lease: Lease) -> None:
        """Count approvals. Those given under another manifest are void."""
        product = self._product(rollout.product)
        given = counted(self._rollouts, rollout, product)
        if policy_digest(product) != rollout.policy:
            reason = "the product's manifest changed since the start, which voids every approval: abort and start again"
            self._say(rollout, memory, lease, reason)
        elif len(given) < rollout.plan.approvals:
            self._say(rollout, memory, lease, f"{len(given)} of {rollout.plan.approvals} approvals")
        else:
            who = ", ".join(approval.actor for approval in given)
            done = advance(rollout.plan, rollout.state, Approved())
            self._save(rollout, memory, lease, replace(done, reason=f"approved by {who}"), ())

    def _say(self, rollout: Rollout, memory: _Memory, lease: Lease, reason: str) -> None:
        if reason != rollout.reason:
            self._save(rollout, memory, lease, Transition(rollout.state, reason), rollout.verdicts)

    def _watch(self, rollout: Rollout, memory: _Memory, lease: Lease) -> None:
        """See whether the route is applied, ask the gates, and let time count."""
        now = self._clock()
        elapsed, memory.ticked_at = min(now - memory.ticked_at, LONGEST_STEP), now
        self._apply(rollout.product, rollout.route)
        answering = [seen for seen in self._backend.observe(rollout.product) if seen.route is not None]
        applied = bool(answering) and all(seen.route == rollout.route for seen in answering)
        memory.see(answering)
        verdicts, points = self._ask_gates(rollout, memory.state)
        verdicts = [*verdicts, *_restarted(memory.restarts)]
        tick = Tick(elapsed, applied, verdicts, points)
        after = advance(rollout.plan, memory.state, tick)
        moved = (after.state.phase, after.state.stage) != (rollout.state.phase, rollout.state.stage)
        every = SAVE_PAUSED_SECONDS if rollout.state.phase == "paused" else SAVE_SECONDS
        if moved or _outcomes(verdicts) != _outcomes(rollout.verdicts) or now - memory.saved_at >= every:
            self._save(rollout, memory, lease, after, verdicts)
        else:
            memory.state = after.state

    def _apply(self, product: str, route: Route) -> None:
        try:
            self._backend.apply(product, route)
        except Unavailable as error:  # not applied, which the observation shows, and time without it runs out
            log.warning("the route cannot be applied", extra={"product": product, "reason": str(error)})

    def _ask_gates(self, rollout: Rollout, state: State) -> tuple[Sequence[RolloutVerdict], int]:
        """The verdicts, and how many requests of this stage they rest on.

        What cannot be judged is inconclusive, on no points: when patience ends, that rolls back.
        """
        try:
            product = self._product(rollout.product)
            evidence = self._evidence(rollout)
            verdicts = self._judge(rollout.plan, state, evidence, product)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001  (whatever it is: a release that nobody can judge must not stay)
            reason = str(error) if isinstance(error, PlinthError) else f"{type(error).__name__}: {error}"
            log.warning("a rollout cannot be judged", extra={"product": rollout.product, "reason": reason})
            return [RolloutVerdict(gate="evidence", outcome="inconclusive", reason=reason)], 0
        step = state.stage + 1
        counts = [cell.requests for cell in evidence.cells if cell.step == step and cell.arm != "serving"]
        return verdicts, sum(counts)

    def _finish(self, rollout: Rollout, memory: _Memory, lease: Lease) -> None:
        """End what was decided, once every service that answers follows it and nothing waits in the outbox."""
        serving, route = self._ledger.current(rollout.product), self._rollouts.route(rollout.product)
        if serving is None or route is None:  # cannot be: a rollout begins beside a serving release
            raise NotFound(f"{rollout.product} serves nothing", where=rollout.product)
        self._apply(rollout.product, route)
        overtaken = serving.generation > rollout.generation + 1
        seen = self._backend.observe(rollout.product)
        answering = [observation for observation in seen if observation.route is not None]
        behind = [item for item in answering if not _follows(item, rollout, None if overtaken else serving.digest)]
        if not answering:
            problem = next((item.problem for item in seen if item.problem), "no service answers")
            self._say(rollout, memory, lease, _waits(rollout, f"no service answers: {problem}"))
        elif behind:
            problem = behind[0].problem or "it still routes as before"
            self._say(rollout, memory, lease, _waits(rollout, f"{behind[0].where}: {problem}"))
        elif not overtaken and self._ledger.pending_effects(rollout.product):
            self._say(rollout, memory, lease, _waits(rollout, "the registry's alias is not set yet"))
        else:
            # Its end says why it was decided so, which is what people ask for.
            why = rollout.reason.partition(WAITING)[0]
            why += f"; overtaken by generation {serving.generation}" if overtaken else ""
            self._save(
                rollout, memory, lease, replace(advance(rollout.plan, rollout.state, Observed()), reason=why), None
            )

    def _save(
        self,
        rollout: Rollout,
        memory: _Memory,
        lease: Lease,
        after: Transition,
        verdicts: Sequence[RolloutVerdict] | None,
    ) -> None:
        try:
            saved = self._rollouts.save(
                rollout, after.state, actor=self._actor, reason=after.reason, verdicts=verdicts, lease=lease
            )
        except (RefusedByPolicy, NotFound) as refusal:
            if after.state.phase != "promoting":
                raise
            # Retired, or unmasked as a drill's, since it began.
            back = replace(after.state, phase="aborting")
            saved = self._rollouts.save(
                rollout, back, actor=self._actor, reason=str(refusal), verdicts=verdicts, lease=lease
            )
        memory.revision, memory.state, memory.saved_at = saved.revision, saved.state, self._clock()
        if (saved.state.phase, saved.state.stage) != (rollout.state.phase, rollout.state.stage):
            log.info(
                "rollout moved",
                extra={
                    "product": rollout.product, "rollout": rollout.id, "generation": rollout.generation,
                    "candidate": rollout.candidate, "phase": saved.state.phase, "stage": saved.state.stage,
                    "reason": saved.reason,
                },
            )  # fmt: skip


def _restarted(times: int) -> list[RolloutVerdict]:
    """A verdict on the services' restarts, when there were too many."""
    if times < RESTARTS:
        return []
    reason = f"the service was started again {times} times while the rollout ran"
    return [RolloutVerdict(gate="restarts", outcome="fail", reason=reason, evidence={"restarts": times})]


def _outcomes(verdicts: Iterable[RolloutVerdict]) -> dict[str, str]:
    return {verdict.gate: verdict.outcome for verdict in verdicts}


def _follows(seen: Observation, rollout: Rollout, digest: str | None) -> bool:
    """Whether a service has left the rollout behind, and serves `digest` where that is asked for."""
    route = seen.route
    return route is not None and route.generation > rollout.generation and digest in {None, route.serving}


def _waits(rollout: Rollout, why: str) -> str:
    """The reason of its decision, kept, and what its end waits for."""
    return f"{rollout.reason.partition(WAITING)[0]}{WAITING}{why})"


WAITING = " (waiting: "
