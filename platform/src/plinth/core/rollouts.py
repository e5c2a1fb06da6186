"""Rollouts as a state machine. Pure: a plan, a state and what happened give the next state.

waiting -> shadow -> canary steps -> full -> promoting -> done, and from anywhere before `promoting` to
paused (and back) or to aborting -> rolled-back. What is inconclusive never promotes; what is missing rolls back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from plinth.core.durations import seconds
from plinth.core.products import Product
from plinth.core.rollout_policy import RolloutGate, Strategy
from plinth.core.routes import FULL, Route
from plinth.errors import Conflict, InvalidInput, RefusedByPolicy

Phase = Literal[
    "waiting", "shadow", "canary", "full", "paused", "promoting", "done", "aborting", "rolled-back"
]  # fmt: skip
PHASES: tuple[Phase, ...] = (
    "waiting", "shadow", "canary", "full", "paused", "promoting", "done", "aborting", "rolled-back",
)  # fmt: skip
RUNNING: frozenset[Phase] = frozenset({"shadow", "canary", "full"})
"""Traffic or shadow traffic reaches the candidate, and time counts."""
ACTIVE: frozenset[Phase] = RUNNING | {"waiting", "paused"}
"""The rollout holds the product: its outcome is open."""
ENDED: frozenset[Phase] = frozenset({"done", "rolled-back"})

Outcome = Literal["pass", "no-harm", "inconclusive", "fail", "not-applicable"]
"""no-harm: enough points, nothing bad seen, and not yet proof. It lets a canary grow, but not reach all traffic."""


class RolloutVerdict(BaseModel):
    """What a gate said of a running rollout, and on what evidence."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gate: str
    outcome: Outcome
    reason: str
    evidence: dict[str, Any] = Field(default_factory=dict)


class Stage(BaseModel):
    """One stop on the way: who answers, and how long it is watched at least (seconds)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["shadow", "canary", "full"]
    percent: int = Field(ge=0, le=100)
    bake: float = Field(ge=0)


class Plan(BaseModel):
    """The way of one rollout, fixed when it starts.

    A drill's plan has no full stage, and ends by rolling back whatever the gates say.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategy: Strategy
    stages: tuple[Stage, ...] = Field(min_length=1)
    patience: float = Field(ge=0)
    approvals: int = Field(ge=0)
    own_approval: bool
    gates: tuple[RolloutGate, ...]
    drill: bool = False


@dataclass(frozen=True, slots=True)
class State:
    """Where a rollout is.

    Attributes:
        phase: What it does.
        stage: Index of the stage it is in (or was in, when it ended).
        baked: Seconds the stage was really applied and not paused.
        waited: Seconds since the stage began, pauses left out.
        resumes: The phase a paused rollout goes back to.
    """

    phase: Phase
    stage: int = 0
    baked: float = 0.0
    waited: float = 0.0
    resumes: Phase | None = None


@dataclass(frozen=True, slots=True)
class Approved:
    """As many people as the plan asks for have approved."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed, and the gates were asked.

    Attributes:
        elapsed: Seconds since the tick before, by a clock that never goes back.
        applied: Whether every service has been seen to route as this stage wants it.
        verdicts: What each gate says; empty is no evidence at all.
        points: Requests the candidate answered or shadowed in this stage. Without any, the stage is not left.
    """

    elapsed: float
    applied: bool
    verdicts: Sequence[RolloutVerdict] = ()
    points: int = 0


@dataclass(frozen=True, slots=True)
class Command:
    """Somebody's wish."""

    wish: Literal["pause", "resume", "abort"]


@dataclass(frozen=True, slots=True)
class Observed:
    """What serves, everywhere, is what the ledger says, and the projections are verified."""


Happening = Approved | Tick | Command | Observed


@dataclass(frozen=True, slots=True)
class Transition:
    """The next state, and why it is another phase or stage ("" when it is the same)."""

    state: State
    reason: str = ""


def make_plan(
    product: Product,
    *,
    strategy: Strategy | None = None,
    steps: tuple[int, ...] | None = None,
    bake: str | None = None,
    drill: bool = False,
) -> Plan:
    """The plan of a rollout: the product's policy, with what the caller says instead.

    Raises:
        InvalidInput: Steps for a strategy that has none, or a drill that could answer everything.
        RefusedByPolicy: A drill that would answer users of a product whose releases need approval.
    """
    policy = product.rollout_policy
    chosen = strategy or policy.strategy
    if steps is not None and chosen != "canary":
        raise InvalidInput(
            f"a {chosen} rollout has no steps", where="--steps", hint="leave --steps out, or take --strategy canary"
        )
    watched = float(seconds(bake or policy.bake or "1m"))
    stages = _stages(chosen, steps or policy.steps or (100,), watched, policy.shadow or "0s")
    if drill:
        if policy.approvals and chosen == "canary":
            raise RefusedByPolicy(
                f"{product.name} asks for approval before a release answers its users, and a drill's is bad on purpose",
                where="rollout.approvals", hint="drill with --strategy shadow, where it answers nobody",
            )  # fmt: skip
        stages = [stage for stage in stages if stage.kind != "full"]
        if not stages:
            raise InvalidInput(
                f"a drill cannot be {chosen}: its bad release would answer everything", where="--strategy",
                hint="take canary or shadow",
            )  # fmt: skip
    return Plan(
        strategy=chosen,
        stages=tuple(stages),
        patience=float(seconds(policy.patience or "10m")),
        approvals=0 if drill else policy.approvals or 0,
        own_approval=bool(policy.own_approval),
        gates=policy.gates or (),
        drill=drill,
    )


def _stages(strategy: Strategy, steps: tuple[int, ...], bake: float, shadow: str) -> list[Stage]:
    unseen = [Stage(kind="shadow", percent=0, bake=float(seconds(shadow)))] if shadow != "0s" else []
    last = Stage(kind="full", percent=100, bake=bake)
    if strategy == "blue-green":
        return [last]
    if strategy == "shadow":
        return [*(unseen or [Stage(kind="shadow", percent=0, bake=bake)]), last]
    return [*unseen, *(Stage(kind="canary", percent=step, bake=bake) for step in steps[:-1]), last]


def first_state(plan: Plan) -> State:
    """Where a rollout begins: waiting for approvals, or in its first stage."""
    return State("waiting") if plan.approvals else State(plan.stages[0].kind)


def route(plan: Plan, state: State, *, generation: int, serving: str, candidate: str) -> Route:
    """How traffic is split in a state. A paused rollout keeps the split it was paused at."""
    phase = state.resumes if state.phase == "paused" else state.phase
    if phase not in RUNNING:
        return Route(generation, 0, serving)
    stage = plan.stages[state.stage]
    return Route(generation, state.stage + 1, serving, candidate, stage.percent * FULL // 100, stage.kind == "shadow")


def advance(plan: Plan, state: State, happening: Happening) -> Transition:
    """The next state.

    Raises:
        Conflict: The wish does not fit the state (resuming what is not paused, aborting what is over).
    """
    match happening:
        case Command(wish):
            return _command(state, wish)
        case Approved():
            if state.phase != "waiting":
                return Transition(state)
            return Transition(State(plan.stages[0].kind), "approved")
        case Observed():
            if state.phase == "promoting":
                return Transition(replace(state, phase="done"), "the services serve it, and the projections follow")
            if state.phase == "aborting":
                return Transition(replace(state, phase="rolled-back"), "the services serve the release before")
            return Transition(state)
        case Tick():
            return _tick(plan, state, happening)


def _command(state: State, wish: str) -> Transition:
    if wish == "abort" and state.phase in ACTIVE:
        return Transition(replace(state, phase="aborting", resumes=None), "aborted by hand")
    if wish == "pause" and state.phase in RUNNING | {"waiting"}:
        return Transition(replace(state, phase="paused", resumes=state.phase), "paused by hand")
    if wish == "resume" and state.phase == "paused" and state.resumes is not None:
        # The wait begins anew: a stage that ran out of patience gets as much again.
        return Transition(replace(state, phase=state.resumes, resumes=None, waited=0.0), "resumed by hand")
    raise Conflict(
        f"the rollout is {state.phase}: there is nothing to {wish}",
        hint="`plinth rollout status` shows where it is",
    )


def _tick(plan: Plan, state: State, tick: Tick) -> Transition:
    phase = state.resumes if state.phase == "paused" else state.phase
    if phase not in RUNNING:
        return Transition(state)
    failed = [verdict for verdict in tick.verdicts if verdict.outcome == "fail"]
    if failed:  # a paused canary still answers its share: what harms is rolled back, paused or not
        names = "; ".join(f"{verdict.gate}: {verdict.reason}" for verdict in failed)
        return Transition(replace(state, phase="aborting", resumes=None), names)
    if state.phase == "paused":
        return Transition(state)
    elapsed = max(0.0, tick.elapsed)
    stage = plan.stages[state.stage]
    now = replace(state, waited=state.waited + elapsed, baked=state.baked + (elapsed if tick.applied else 0.0))
    # Verdicts may rest on earlier stages: what the candidate does in this one has to be seen as well.
    seen = tick.applied and tick.points > 0
    if now.baked >= stage.bake and seen and _good_enough(plan, state.stage, tick.verdicts):
        return _next_stage(plan, now)
    if now.waited < stage.bake + plan.patience:
        return Transition(now)
    if not tick.applied:
        return Transition(replace(now, phase="aborting"), "the services did not take the route over")
    if tick.points == 0:
        return Transition(
            replace(now, phase="aborting"), "no metrics of the candidate: missing evidence never promotes"
        )
    open_gates = ", ".join(v.gate for v in tick.verdicts if v.outcome in {"inconclusive", "no-harm"}) or "all gates"
    if plan.drill:  # nobody decides about a drill: a bad release must not be left answering its share
        return Transition(replace(now, phase="aborting"), f"the drill's fault was not detected: {open_gates}")
    return Transition(replace(now, phase="paused", resumes=now.phase), f"inconclusive: {open_gates}")


def _good_enough(plan: Plan, stage: int, verdicts: Sequence[RolloutVerdict]) -> bool:
    """Whether the verdicts let a rollout leave a stage: for a larger share no harm will do, for all it takes proof."""
    after = plan.stages[stage + 1] if stage + 1 < len(plan.stages) else None
    growing = after is not None and after.kind == "canary"
    allowed = {"pass", "not-applicable"} | ({"no-harm"} if growing else set())
    judged = [verdict for verdict in verdicts if verdict.outcome != "not-applicable"]
    return bool(judged) and all(verdict.outcome in allowed for verdict in verdicts)


def _next_stage(plan: Plan, state: State) -> Transition:
    following = state.stage + 1
    if following < len(plan.stages):
        stage = plan.stages[following]
        what = "all traffic" if stage.kind == "full" else f"{stage.percent}% of the entities"
        return Transition(State(stage.kind, following), f"the gates let it take {what}")
    if plan.drill:
        return Transition(replace(state, phase="aborting"), "the drill's fault was not detected")
    return Transition(replace(state, phase="promoting"), "every gate passed")
