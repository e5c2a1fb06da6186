"""The rollout's state machine: every state that any plan can reach, under everything that can happen."""

import math
from collections import deque
from dataclasses import replace
from functools import cache
from itertools import product as every

import pytest

from plinth.core.rollout_policy import DEFAULT_GATES
from plinth.core.rollouts import (
    ACTIVE,
    ENDED,
    RUNNING,
    Approved,
    Command,
    Observed,
    Plan,
    RolloutVerdict,
    Stage,
    State,
    Tick,
    advance,
    first_state,
    route,
)
from plinth.core.routes import FULL
from plinth.errors import Conflict

BAKE, PATIENCE = 2.0, 3.0
SHADOW = Stage(kind="shadow", percent=0, bake=BAKE)
SMALL, LARGE = Stage(kind="canary", percent=10, bake=BAKE), Stage(kind="canary", percent=50, bake=BAKE)
ALL = Stage(kind="full", percent=100, bake=BAKE)
AT_ONCE = Stage(kind="full", percent=100, bake=0)


def plan(strategy, *stages, approvals=0, patience=PATIENCE, drill=False):
    return Plan(
        strategy=strategy, stages=stages, patience=patience, approvals=approvals, own_approval=True,
        gates=DEFAULT_GATES, drill=drill,
    )  # fmt: skip


PLANS = {
    "canary": plan("canary", SMALL, LARGE, ALL),
    "canary after shadow, approved": plan("canary", SHADOW, SMALL, LARGE, ALL, approvals=1),
    "shadow": plan("shadow", SHADOW, ALL),
    "blue-green": plan("blue-green", ALL),
    "no waiting": plan("blue-green", AT_ONCE, patience=0),
    "drill": plan("canary", SMALL, LARGE, drill=True),
    "drill in the shadow": plan("shadow", SHADOW, drill=True),
}

OUTCOMES = ("pass", "no-harm", "inconclusive", "fail", "not-applicable")


def said(*outcomes):
    return tuple(RolloutVerdict(gate=f"gate-{n}", outcome=outcome, reason="said") for n, outcome in enumerate(outcomes))


VERDICTS = [said(), *(said(one) for one in OUTCOMES), *(said(*pair) for pair in every(OUTCOMES, OUTCOMES))]
TICKS = [
    Tick(elapsed, applied, verdicts, points)
    for elapsed in (-1.0, 0.0, 1.0, 100.0)
    for applied in (True, False)
    for verdicts in VERDICTS
    for points in (0, 60)
]
WISHES = [Command("pause"), Command("resume"), Command("abort")]
HAPPENINGS = [Approved(), Observed(), *WISHES, *TICKS]


def bounded(plan, state):
    """The state with its clocks cut off where they no longer make a difference."""
    bake = plan.stages[state.stage].bake
    return replace(state, baked=min(state.baked, bake), waited=min(state.waited, bake + plan.patience))


@cache
def transitions(name):
    """Everything that can happen in every state that can be reached: (state, happening, next state or None, reason)."""
    plan = PLANS[name]
    first = first_state(plan)
    seen, queue, found = {first}, deque([first]), []
    while queue:
        state = queue.popleft()
        for happening in HAPPENINGS:
            try:
                transition = advance(plan, state, happening)
            except Conflict:
                found.append((state, happening, None, ""))
                continue
            after = bounded(plan, transition.state)
            found.append((state, happening, after, transition.reason))
            if after not in seen:
                seen.add(after)
                queue.append(after)
    return found


def moves(name):
    return [(state, what, after, why) for state, what, after, why in transitions(name) if after is not None]


def outcomes(tick):
    return {verdict.outcome for verdict in tick.verdicts}


pytestmark = pytest.mark.parametrize("name", PLANS)


def test_every_phase_that_the_plan_has_is_reached(name):
    plan = PLANS[name]
    phases = {state.phase for state, *_ in transitions(name)}
    expected = {stage.kind for stage in plan.stages} | {"paused", "aborting", "rolled-back"}
    expected |= {"waiting"} if plan.approvals else set()
    expected |= set() if plan.drill else {"promoting", "done"}
    assert phases == expected


def test_only_proof_on_an_applied_and_baked_last_stage_promotes(name):
    plan = PLANS[name]
    for state, what, after, _ in moves(name):
        if after.phase == "promoting" and state.phase != "promoting":
            assert state.phase == "full"
            assert state.stage == len(plan.stages) - 1
            assert isinstance(what, Tick)
            assert what.applied
            assert what.points
            assert "pass" in outcomes(what)
            assert outcomes(what) <= {"pass", "not-applicable"}
            assert state.baked + max(0.0, what.elapsed) >= plan.stages[-1].bake


def test_a_larger_share_needs_an_applied_and_baked_stage_without_doubt_or_harm(name):
    plan = PLANS[name]
    for state, what, after, _ in moves(name):
        if after.stage != state.stage:
            assert after.stage == state.stage + 1
            assert isinstance(what, Tick)
            assert what.applied
            assert what.points
            assert what.verdicts
            allowed = {"pass", "not-applicable"} | ({"no-harm"} if plan.stages[after.stage].kind == "canary" else set())
            assert outcomes(what) <= allowed
            assert outcomes(what) != {"not-applicable"}
            assert state.baked + max(0.0, what.elapsed) >= plan.stages[state.stage].bake
            assert after == State(plan.stages[after.stage].kind, after.stage)


def test_harm_is_rolled_back_at_once_paused_or_not(name):
    for state, what, after, why in moves(name):
        phase = state.resumes if state.phase == "paused" else state.phase
        if isinstance(what, Tick) and "fail" in outcomes(what) and phase in RUNNING:
            assert after.phase == "aborting"
            assert "said" in why


def test_a_paused_rollout_stays_until_somebody_resumes_or_aborts_it_or_it_does_harm(name):
    for state, what, after, _ in moves(name):
        if state.phase != "paused" or after == state:
            continue
        match what:
            case Command("resume"):
                assert after == replace(state, phase=state.resumes, resumes=None, waited=0.0)
            case Command("abort"):
                assert after.phase == "aborting"
            case Tick():
                assert "fail" in outcomes(what)
                assert after.phase == "aborting"
            case _:
                pytest.fail(f"{what} moved {state} to {after}")


def test_an_end_is_final(name):
    for state, what, after, _ in transitions(name):
        if state.phase in ENDED:
            assert after == (None if isinstance(what, Command) else state)


def test_the_way_out_only_leads_out(name):
    for state, what, after, _ in moves(name):
        if state.phase in ("aborting", "promoting"):
            end = "rolled-back" if state.phase == "aborting" else "done"
            assert after.phase == (end if isinstance(what, Observed) else state.phase)


def test_only_what_was_observed_ends_a_rollout(name):
    for state, what, after, _ in moves(name):
        if after.phase in ENDED and state.phase not in ENDED:
            assert isinstance(what, Observed)


def test_every_active_rollout_can_be_aborted_and_no_other(name):
    for state, what, after, _ in transitions(name):
        if what == Command("abort"):
            assert (after is not None and after.phase == "aborting") == (state.phase in ACTIVE)


def test_only_a_paused_rollout_can_be_resumed_and_only_a_waiting_or_running_one_paused(name):
    for state, what, after, _ in transitions(name):
        if what == Command("resume"):
            assert (after is None) == (state.phase != "paused")
        if what == Command("pause"):
            assert (after is None) == (state.phase not in RUNNING | {"waiting"})


def test_only_approval_ends_the_waiting(name):
    plan = PLANS[name]
    for state, what, after, _ in moves(name):
        if state.phase == "waiting" and after.phase in RUNNING:
            assert isinstance(what, Approved)
            assert after == State(plan.stages[0].kind)
        if isinstance(what, Approved) and state.phase != "waiting":
            assert after == state


def test_a_drill_neither_promotes_nor_pauses_by_itself(name):
    if not PLANS[name].drill:
        assert any(after.phase == "promoting" for _, _, after, _ in moves(name))
        return
    for state, what, after, _ in moves(name):
        assert after.phase not in ("full", "promoting", "done")
        if after.phase == "paused" and state.phase != "paused":
            assert what == Command("pause")


def test_without_evidence_a_stage_is_rolled_back_when_patience_ends_and_otherwise_paused(name):
    plan = PLANS[name]
    for state, what, after, _ in moves(name):
        if not isinstance(what, Tick) or state.phase not in RUNNING or "fail" in outcomes(what):
            continue
        over = state.waited + max(0.0, what.elapsed) >= plan.stages[state.stage].bake + plan.patience
        if (after.stage, after.phase) == (state.stage, state.phase):
            assert not over
        elif after.phase == "paused":
            assert over
            assert what.applied
            assert what.points
        elif after.phase == "aborting" and not plan.drill:
            assert over
            assert not what.applied or not what.points


def test_no_rollout_runs_for_ever_and_every_state_has_a_way_to_an_end(name):
    plan = PLANS[name]
    ways = {}
    for state, _, after, _ in moves(name):
        ways.setdefault(after, set()).add(state)
    reached = {state for state in ways if state.phase in ENDED}
    queue = deque(reached)
    while queue:
        for before in ways.get(queue.popleft(), ()):
            if before not in reached:
                reached.add(before)
                queue.append(before)
    assert {state for state, *_ in transitions(name)} <= reached
    # Whatever the gates say, a stage is left in the time it has.
    for verdicts in VERDICTS:
        state = State(plan.stages[0].kind)
        for _ in range(int(len(plan.stages) * (BAKE + PATIENCE)) + 1):
            state = advance(plan, state, Tick(1.0, True, verdicts, 60)).state
        assert state.phase not in RUNNING


def test_a_reason_is_given_exactly_when_phase_or_stage_changes(name):
    for state, _, after, why in moves(name):
        assert bool(why) == ((state.phase, state.stage) != (after.phase, after.stage))


def test_a_clock_that_goes_back_or_is_no_number_moves_nothing(name):
    plan = PLANS[name]
    for state in {state for state, *_ in transitions(name)}:
        for elapsed in (-5.0, math.nan, -math.inf):
            after = advance(plan, state, Tick(elapsed, True, said("inconclusive"), 60)).state
            assert (after.baked, after.waited) == (state.baked, state.waited)


def test_what_is_not_applied_does_not_bake(name):
    for state, what, after, _ in moves(name):
        if isinstance(what, Tick) and not what.applied:
            assert after.baked <= state.baked
            assert after.phase != "promoting" or state.phase == "promoting"


def test_a_route_gives_the_candidate_exactly_the_stages_share(name):
    plan = PLANS[name]
    for state in {state for state, *_ in transitions(name)}:
        given = route(plan, state, generation=4, serving="a" * 64, candidate="b" * 64)
        phase = state.resumes if state.phase == "paused" else state.phase
        if phase not in RUNNING:
            assert (given.step, given.candidate, given.weight, given.shadow) == (0, None, 0, False)
            continue
        stage = plan.stages[state.stage]
        assert (given.step, given.candidate) == (state.stage + 1, "b" * 64)
        assert given.weight == stage.percent * FULL // 100
        assert given.shadow == (stage.kind == "shadow")
        assert given.weight == 0 or not given.shadow
