"""Where a product's rollout is, as one JSON document: what `plinth rollout status` shows and `--json` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plinth.core.products import Product
from plinth.core.rollouts import ENDED, RUNNING, Stage, State, Tick, advance
from plinth.core.routes import FULL, Route
from plinth.ledger.rollouts import Rollout, Rollouts
from plinth.ledger.store import Serving
from plinth.rollouts.approvals import counted, given, policy_digest
from plinth.serving.port import Observation


def describe(
    rollouts: Rollouts,
    product: Product,
    *,
    observations: Sequence[Observation] = (),
    budget: list[dict[str, Any]] | None = None,
    problem: str = "",
) -> dict[str, Any]:
    """The product's newest rollout beside what serves. Without any, `rollout` and `phase` are null.

    Args:
        rollouts: Where they are kept.
        product: The manifest as it is now.
        observations: What the running services say.
        budget: What is left of the error budget (`core.rollout_gates.error_budget`); None where it was not read.
        problem: Why it was not.

    Returns:
        The document that docs/how-to/roll-out-a-release.md describes. Times are UTC in ISO 8601, durations in
        seconds, shares in percent.
    """
    serving = rollouts.ledger.current(product.name)
    route = rollouts.route(product.name)
    rollout = rollouts.newest(product.name)
    document: dict[str, Any] = {
        "product": product.name,
        "serving": serving.digest if serving else None,
        "generation": serving.generation if serving else 0,
        "traffic": _traffic(route),
        "services": [_service(observation, route) for observation in observations],
        "error_budget": budget,
        "evidence_problem": problem,
        **_rollout(rollouts, product, rollout),
    }
    document["next"] = _next(product, serving, rollout, document)
    return document


def holding(rollout: Rollout) -> list[str]:
    """Gates whose verdict keeps a rollout in its stage, by the state machine itself: each is asked alone."""
    state, plan = rollout.state, rollout.plan
    phase = state.resumes if state.phase == "paused" and state.resumes else state.phase
    baked = State(phase, state.stage, baked=plan.stages[state.stage].bake)
    return [
        verdict.gate
        for verdict in rollout.verdicts
        if verdict.outcome != "not-applicable"
        and advance(plan, baked, Tick(0.0, applied=True, verdicts=(verdict,), points=1)).state == baked
    ]


_OF_A_ROLLOUT = (
    "rollout", "phase", "reason", "strategy", "drill", "candidate", "replaces", "rollout_generation", "step", "steps",
    "stage", "gates", "approvals", "manifest_changed", "started_by", "started_at", "changed_at", "ended_at",
)  # fmt: skip


def _rollout(rollouts: Rollouts, product: Product, rollout: Rollout | None) -> dict[str, Any]:
    if rollout is None:
        return dict.fromkeys(_OF_A_ROLLOUT)
    state, plan = rollout.state, rollout.plan
    waits = "waiting" in {state.phase, state.resumes}
    approved = counted(rollouts, rollout, product) if waits else given(rollouts, rollout)
    return {
        "rollout": rollout.id,
        "phase": state.phase,
        "reason": rollout.reason,
        "strategy": plan.strategy,
        "drill": plan.drill,
        "candidate": rollout.candidate,
        "replaces": rollout.serving,
        "rollout_generation": rollout.generation,
        "step": state.stage + 1,
        "steps": [
            {
                "step": number + 1,
                "kind": stage.kind,
                "percent": stage.percent,
                "bake_seconds": stage.bake,
                "state": _place(state, number),
            }
            for number, stage in enumerate(plan.stages)
        ],
        "stage": _stage(rollout),
        "gates": [verdict.model_dump(mode="json") for verdict in rollout.verdicts],
        "approvals": {
            "needed": plan.approvals,
            "given": [{"actor": item.actor, "at": item.at, "reason": item.reason} for item in approved],
            "own_approval": plan.own_approval,
        },
        "manifest_changed": policy_digest(product) != rollout.policy,
        "started_by": rollout.started_by,
        "started_at": rollout.started_at,
        "changed_at": rollout.changed_at,
        "ended_at": rollout.ended_at,
    }


def _place(state: State, number: int) -> str:
    if state.phase in {"done", "promoting"} or number < state.stage:
        return "passed"
    if number > state.stage or state.phase == "waiting":
        return "ahead"
    return "here" if state.phase not in ENDED | {"aborting"} else "stopped"


def _stage(rollout: Rollout) -> dict[str, Any] | None:
    """Time in the stage and what it waits for; None where no traffic moves."""
    state, plan = rollout.state, rollout.plan
    phase = state.resumes if state.phase == "paused" else state.phase
    if phase not in RUNNING:
        return None
    stage = plan.stages[state.stage]
    after: Stage | None = plan.stages[state.stage + 1] if state.stage + 1 < len(plan.stages) else None
    return {
        "kind": stage.kind,
        "percent": stage.percent,
        "baked_seconds": round(state.baked, 1),
        "waited_seconds": round(state.waited, 1),
        "bake_seconds": stage.bake,
        "bake_left_seconds": round(max(0.0, stage.bake - state.baked), 1),
        "patience_left_seconds": round(max(0.0, stage.bake + plan.patience - state.waited), 1),
        "held_by": holding(rollout),
        "judged": bool(rollout.verdicts),
        "then": {"kind": after.kind, "percent": after.percent} if after else None,
    }


def _traffic(route: Route | None) -> dict[str, Any] | None:
    if route is None:
        return None
    share = route.weight * 100 / FULL if route.candidate else 0.0
    return {
        "generation": route.generation,
        "step": route.step,
        "serving_percent": 100.0 - share,
        "candidate_percent": share,
        "shadow": route.shadow,
    }


def _service(observation: Observation, wanted: Route | None) -> dict[str, Any]:
    route = observation.route
    return {
        "where": observation.where,
        "follows": route is not None and route == wanted,
        "generation": route.generation if route else None,
        "step": route.step if route else None,
        "serving": route.serving if route else None,
        "candidate": route.candidate if route else None,
        "candidate_percent": route.weight * 100 / FULL if route and route.candidate else 0.0,
        "shadow": bool(route and route.shadow),
        "loaded": list(observation.loaded),
        "problem": observation.problem,
    }


def _next(product: Product, serving: Serving | None, rollout: Rollout | None, document: dict[str, Any]) -> list[str]:
    """What to type, the likeliest first."""
    name = product.name
    if serving is None:
        return [f"plinth release list {name}", f"plinth release promote {name} DIGEST"]
    begin = f"plinth rollout start {name} --to DIGEST"
    if rollout is None:
        return [begin, f"plinth release list {name}"]
    abort = f"plinth rollout abort {name}"
    match rollout.state.phase:
        case "waiting":
            if document["manifest_changed"]:
                return [abort, begin.replace("DIGEST", rollout.candidate[:12])]
            missing = rollout.plan.approvals > len(document["approvals"]["given"])
            ask = f"plinth approve {name} {rollout.candidate[:12]}"
            return [ask if missing else f"plinth rollout status {name} --watch", abort]
        case "paused":
            return [f"plinth rollout resume {name}", abort]
        case "promoting" | "aborting":
            return [f"plinth rollout status {name} --watch"]
        case "done":
            return [f"plinth rollback {name}"]
        case "rolled-back":
            return [f"plinth release show {rollout.candidate[:12]}", f"plinth audit tail --subject {name}", begin]
    return [f"plinth rollout status {name} --watch", f"plinth rollout pause {name}", abort]
