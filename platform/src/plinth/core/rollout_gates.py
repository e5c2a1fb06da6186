"""Gates of a running rollout: rules over what both releases did, and their verdicts. Pure: evidence in, verdicts out.

Missing evidence is inconclusive, and inconclusive never promotes. Comparisons are sequential tests
(`plinth.core.sequential`), so judging every second does not raise the number of false alarms. What each gate says and
how often it errs: docs/explanation/rollout-gates.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from plinth.core import error_budget as error_budgets
from plinth.core import sequential
from plinth.core.cells import bin_spread, mean_score, quantile_ms, slower, sound
from plinth.core.durations import seconds
from plinth.core.error_budget import error_budget as error_budget
from plinth.core.evidence import (
    LATENCY_BINS,
    LATENCY_RATIO,
    SCORE_WIDTH,
    Arm,
    Cell,
    Evidence,
    Outcomes,
    total,
)
from plinth.core.products import Product
from plinth.core.rollout_policy import Burn, BurnWindow, Compare, Contract, Drift, Quality, RolloutGate, Threshold
from plinth.core.rollouts import Outcome, Plan, RolloutVerdict, State

FALSE_ALARM = 0.05
"""Probability that a candidate no worse than the tolerances is ever rolled back by a test, over all gates together."""
FALSE_PASS = 1e-4
"""Probability that a gate ever passes a candidate that is worse by its `effect` or more."""
MINIMUM_POINTS = 50
"""Points of each arm below which nothing but a failure is concluded."""
MINIMUM_COST_POINTS = 500
"""Requests from which a mean cost is one: below, a single slow first request decides it."""

METHOD_SHARES = "universal inference on shares"
METHOD_SHIFT = "universal inference on the order of two histograms"
METHOD_SUPPORT = f"{METHOD_SHIFT}; to pass, betting on their means"
METHOD_MEAN = "betting on the mean difference of AUC blocks"


@dataclass(frozen=True, slots=True)
class _Pair:
    """Both arms of one step."""

    candidate: Cell
    serving: Cell


def judge(plan: Plan, state: State, evidence: Evidence, product: Product) -> list[RolloutVerdict]:
    """What each gate of the plan says, in the plan's order.

    In a shadow stage the shadow is compared with the serving release; later the candidate with the serving release,
    over all canary steps so far. A plan without canary steps keeps the verdict of its shadow stage.

    Args:
        plan: The rollout's plan.
        state: Where it is.
        evidence: What was counted. What is missing or contradicts itself is inconclusive.
        product: Its service levels and prices.
    """
    view = _View(plan, state, evidence, product)
    verdicts = []
    for name, gate in zip(gate_names(plan.gates), plan.gates, strict=True):
        outcome, reason, facts = _judge(gate, view)
        verdicts.append(RolloutVerdict(gate=name, outcome=outcome, reason=reason, evidence=_json(facts)))
    return verdicts


def gate_names(gates: Iterable[RolloutGate]) -> list[str]:
    """A unique name for each gate: its kind, its metric where it has one, and a number from the second one on."""
    names: list[str] = []
    for gate in gates:
        base = f"{gate.kind}-{gate.metric}" if isinstance(gate, Compare | Threshold) else gate.kind
        same = sum(1 for name in names if name == base or name.startswith(f"{base}-#"))
        names.append(base if same == 0 else f"{base}-#{same + 1}")
    return names


def windows(plan: Plan) -> tuple[int, ...]:
    """Lengths in seconds of the windows that `Evidence.windows` has to hold, shortest first."""
    pairs = [pair for gate in plan.gates if isinstance(gate, Burn) for pair in gate.windows]
    return tuple(sorted({length for pair in pairs for length in _lengths(pair)}))


_Said = tuple[Outcome, str, dict[str, Any]]


class _View:
    """The evidence as the gates of one stage see it."""

    def __init__(self, plan: Plan, state: State, evidence: Evidence, product: Product) -> None:
        self.product, self.evidence, self.plan = product, evidence, plan
        self.stage = plan.stages[min(max(state.stage, 0), len(plan.stages) - 1)]
        self.unseen = self.stage.kind == "shadow"
        kinds = {stage.kind for stage in plan.stages}
        # Without a canary step there is no candidate beside the serving release: what the shadow showed stays.
        self.compared: Arm | None = (
            "shadow" if self.unseen or ("shadow" in kinds and "canary" not in kinds)
            else "candidate" if "canary" in kinds else None
        )  # fmt: skip
        cells = getattr(evidence, "cells", None)
        self.cells: tuple[Cell, ...] = tuple(cells) if isinstance(cells, tuple | list) else ()
        self.broken = not sound(self.cells)
        tests = sum(isinstance(gate, Compare | Quality | Burn | Threshold) for gate in plan.gates)
        self.alpha = FALSE_ALARM / max(1, tests)

    @property
    def missing(self) -> str:
        """Why there is no evidence, for a verdict's reason."""
        if self.broken:
            return "the counts contradict themselves"
        return str(getattr(self.evidence, "problem", "") or "nothing was counted yet")

    @cached_property
    def pairs(self) -> list[_Pair]:
        """Both arms of every step in which both scored."""
        if self.compared is None or self.broken:
            return []
        kind = "shadow" if self.compared == "shadow" else "canary"
        steps = [number for number, stage in enumerate(self.plan.stages, 1) if stage.kind == kind]
        arms = [(total(self.cells, self.compared, [step]), total(self.cells, "serving", [step])) for step in steps]
        return [_Pair(one, other) for one, other in arms if one is not None and other is not None]

    @cached_property
    def own(self) -> Cell | None:
        """Everything the release on trial did: answered, or in the shadow scored."""
        return None if self.broken else total(self.cells, "shadow" if self.unseen else "candidate")

    def window(self, length: int) -> error_budgets.Window | None:
        """Both arms of a window, or None when it was not counted or contradicts itself."""
        held = getattr(self.evidence, "windows", None)
        cells = held.get(length) if isinstance(held, Mapping) else None
        if not isinstance(cells, tuple | list) or not sound(cells):
            return None
        return error_budgets.Window(
            tuple(cell for cell in cells if cell.arm == "candidate"),
            tuple(cell for cell in cells if cell.arm == "serving"),
        )


def _judge(gate: RolloutGate, view: _View) -> _Said:
    match gate:
        case Compare():
            return _compare(gate, view)
        case Threshold():
            return _threshold(gate, view)
        case Burn():
            return _burn(gate, view)
        case Quality():
            return _quality(gate, view)
        case Drift():
            return _drift(gate, view.evidence)
        case Contract():
            return _contract(view.evidence)


# --- comparison ------------------------------------------------------------------------------------------------------


def _compare(gate: Compare, view: _View) -> _Said:
    if view.compared is None:
        return "not-applicable", "nothing serves beside the candidate to compare it with", {}
    if gate.metric == "latency" and view.compared == "shadow":
        return "not-applicable", "a shadow scores in the background: its latency is nobody's", {}
    pairs = view.pairs
    if not pairs:
        return "inconclusive", f"no evidence: {view.missing}", {}
    return (
        _compare_shift(gate, pairs, view) if gate.metric in ("latency", "scores") else _compare_share(gate, pairs, view)
    )


def _compare_share(gate: Compare, pairs: Sequence[_Pair], view: _View) -> _Said:
    arms = sequential.Arms.of([(*_share(pair.candidate, gate), *_share(pair.serving, gate)) for pair in pairs])
    fails = float(sequential.log_e_share(arms, "at-most", gate.tolerance)[0])
    passes = float(sequential.log_e_share(arms, "at-least", gate.effect, same=True)[0])
    n_candidate, n_serving = int(arms.candidate_n.sum()), int(arms.serving_n.sum())
    k_candidate, k_serving = int(arms.candidate_k.sum()), int(arms.serving_k.sum())
    seen = k_candidate / max(1, n_candidate), k_serving / max(1, n_serving)
    facts = _facts(METHOD_SHARES, view, fails, passes, gate.tolerance, gate.effect, (n_candidate, n_serving), seen)
    least = sequential.detectable_share(seen[1] + gate.tolerance, (n_candidate, n_serving), view.alpha) - seen[1]
    facts |= {"counts": {"candidate": k_candidate, "serving": k_serving}, "minimum_detectable_effect": least}
    what = f"{gate.metric} {seen[0]:.2%} of {n_candidate} against {seen[1]:.2%} of {n_serving}"
    return _concluded(what, fails, passes, facts, view, hint=fails)


def _compare_shift(gate: Compare, pairs: Sequence[_Pair], view: _View) -> _Said:
    latency = gate.metric == "latency"
    candidate, serving = (
        np.array([(cell.latency if latency else cell.scores) for cell in cells], dtype=np.int64)
        for cells in ([pair.candidate for pair in pairs], [pair.serving for pair in pairs])
    )
    tolerance, effect = shift_bins(gate)
    support = not latency and view.product.assistant is not None
    # A release must not be slower. A model's scores must be neither higher nor lower, an assistant's answers not less
    # supported: more is better there. Lower is higher seen in a mirror.
    higher, lower = (candidate, serving), (candidate[:, ::-1], serving[:, ::-1])
    sides = [higher] if latency else [lower] if support else [higher, lower]
    failing = [sequential.log_e_shift(one, other, "at-most", tolerance) for one, other in sides]
    fails = sequential.log_average(np.array([sequential.log_average(log_e) for log_e in failing]))
    hint = max((float(log_e.max()) for log_e in failing if log_e.size), default=0.0)
    if support:
        # Most answers are supported as well as can be: values without room above them show no shift, their mean does.
        passes = sequential.log_e_means(candidate, serving, "at-most", -SCORE_WIDTH * effect)
    else:
        passes = min(sequential.log_average(sequential.log_e_shift(*side, "at-least", effect)) for side in sides)
    points = int(candidate.sum()), int(serving.sum())
    unit: dict[str, Any] = (
        {"tolerance": LATENCY_RATIO**tolerance, "effect": LATENCY_RATIO**effect} if latency
        else {"tolerance": SCORE_WIDTH * tolerance, "effect": SCORE_WIDTH * effect}
    )  # fmt: skip
    spreads = bin_spread(candidate.sum(axis=0)), bin_spread(serving.sum(axis=0))
    least = tolerance + sequential.detectable_shift(spreads, points, view.alpha)
    both = [histogram.sum(axis=0).tolist() for histogram in (candidate, serving)]
    if latency:
        seen = quantile_ms(both[0], 0.5), quantile_ms(both[1], 0.5)
        what = f"median latency {seen[0]:.3g} ms of {points[0]} against {seen[1]:.3g} ms of {points[1]}"
        extra = {"p99_ms": {"candidate": quantile_ms(both[0], 0.99), "serving": quantile_ms(both[1], 0.99)}}
        least_unit = LATENCY_RATIO ** min(least, float(LATENCY_BINS))
    else:
        seen = mean_score(both[0]), mean_score(both[1])
        what = f"mean score {seen[0]:.3f} of {points[0]} against {seen[1]:.3f} of {points[1]}"
        extra, least_unit = {}, min(1.0, SCORE_WIDTH * least)
    method = METHOD_SUPPORT if support else METHOD_SHIFT
    facts = _facts(method, view, fails, passes, unit["tolerance"], unit["effect"], points, seen)
    facts |= {**extra, "minimum_detectable_effect": least_unit}
    return _concluded(what, fails, passes, facts, view, hint=hint)


def shift_bins(gate: Compare) -> tuple[int, int]:
    """Tolerance and effect of a comparison of latency or scores in whole bins.

    The tolerance is rounded up and the effect down: both tests then claim less than they were asked for.
    """
    if gate.metric == "latency":
        size = math.log(LATENCY_RATIO)
        return math.ceil(math.log(gate.tolerance) / size - 1e-6), math.floor(math.log(gate.effect) / size + 1e-6)
    return math.ceil(gate.tolerance / SCORE_WIDTH - 1e-6), math.floor(gate.effect / SCORE_WIDTH + 1e-6)


def _concluded(what: str, fails: float, passes: float, facts: dict[str, Any], view: _View, *, hint: float) -> _Said:
    """Fail on proof of harm; pass on proof of its absence while nothing hints at harm; else wait for more."""
    enough = min(facts["points"].values()) >= MINIMUM_POINTS
    if fails >= math.log(1 / view.alpha):
        return "fail", f"{what}: worse than the tolerance", facts
    if not enough:
        return "inconclusive", f"{what}: fewer than {MINIMUM_POINTS} points an arm", facts
    if passes >= math.log(1 / FALSE_PASS) and hint < 0:
        return "pass", f"{what}: not worse by the effect", facts
    return "no-harm", f"{what}: nothing bad seen, and no proof yet", facts


def _facts(
    method: str, view: _View, fails: float, passes: float, tolerance: float, effect: float,
    points: tuple[int, int], seen: tuple[float, float],
) -> dict[str, Any]:  # fmt: skip
    return {
        "method": method, "alpha": view.alpha, "beta": FALSE_PASS, "arm": view.compared,
        "e_fail": sequential.e_value(fails), "e_pass": sequential.e_value(passes),
        "tolerance": tolerance, "effect": effect,
        "points": {"candidate": points[0], "serving": points[1]},
        "observed": {"candidate": seen[0], "serving": seen[1]},
    }  # fmt: skip


def _share(cell: Cell, gate: Compare) -> tuple[int, int]:
    """Trials and hits of a comparison of shares."""
    return (cell.requests, cell.errors) if gate.metric == "errors" else (cell.rows, cell.defaulted)


# --- thresholds ------------------------------------------------------------------------------------------------------


def _threshold(gate: Threshold, view: _View) -> _Said:
    if view.unseen and gate.metric in ("latency-p99-ms", "cost-per-1000"):
        return "not-applicable", "a shadow scores in the background: its time is nobody's", {}
    cell = view.own
    if cell is None:
        return "inconclusive", f"no evidence: {view.missing}", {}
    n = (
        cell.rows
        if gate.metric == "defaulted-rate"
        else sum(cell.latency)
        if "latency" in gate.metric
        else cell.requests
    )
    facts: dict[str, Any] = {"metric": gate.metric, "maximum": gate.maximum, "points": n}
    if n == 0:
        return "inconclusive", f"no evidence: {view.missing}", facts
    if gate.metric == "cost-per-1000":
        return _cost(gate, cell, view, facts)
    if gate.metric == "latency-p99-ms":
        surely, possibly = slower(cell, gate.maximum)
        observed, maximum = quantile_ms(cell.latency, 0.99), 0.01
        what = f"p99 latency {observed:.3g} ms of {n} against at most {gate.maximum:g} ms"
    else:
        surely = possibly = cell.errors if gate.metric == "error-rate" else cell.defaulted
        observed, maximum = surely / n, gate.maximum
        what = f"{gate.metric} {observed:.2%} of {n} against at most {gate.maximum:.2%}"
    log_e = float(sequential.log_e_above(np.array(n), np.array(surely), min(maximum, 1.0)))
    facts |= {"observed": observed, "method": METHOD_SHARES, "alpha": view.alpha, "e_fail": sequential.e_value(log_e)}
    if log_e >= math.log(1 / view.alpha):
        return "fail", f"{what}: above it", facts
    if n < MINIMUM_POINTS:
        return "inconclusive", f"{what}: fewer than {MINIMUM_POINTS} points", facts
    if possibly / n > maximum:
        return "inconclusive", f"{what}: above it, and not yet proof", facts
    return "pass", f"{what}: within it", facts


def _cost(gate: Threshold, cell: Cell, view: _View, facts: dict[str, Any]) -> _Said:
    observed = cell.busy_seconds / cell.requests * 1000 / 3600 * view.product.budget.core_hour
    what = f"{observed:.3g} {view.product.budget.currency} for 1000 requests against at most {gate.maximum:g}"
    facts = facts | {"observed": observed}
    if cell.requests < MINIMUM_POINTS:
        return "inconclusive", f"{what}: fewer than {MINIMUM_POINTS} points", facts
    if observed <= gate.maximum:
        return "pass", f"{what}: within it", facts
    if cell.requests < MINIMUM_COST_POINTS:
        return "inconclusive", f"{what}: above it, from fewer than {MINIMUM_COST_POINTS} requests", facts
    return "fail", f"{what}: above it", facts


# --- burn ------------------------------------------------------------------------------------------------------------


def _burn(gate: Burn, view: _View) -> _Said:
    if view.unseen:
        return "not-applicable", "a shadow answers nobody: it burns no budget", {}
    levels = error_budgets.levels(view.product)
    if not levels:
        return "not-applicable", "the product has no service level of availability or latency", {}
    held = {length: view.window(length) for pair in gate.windows for length in _lengths(pair)}
    missing = [f"{length} s" for length, window in sorted(held.items()) if window is None]
    if missing:
        return "inconclusive", f"no evidence of the last {', '.join(missing)}", {}
    found = {length: window for length, window in held.items() if window is not None}
    alpha = view.alpha / (len(levels) * len(gate.windows))
    alerts = [
        error_budgets.check(level, pair, found[seconds(pair.long)], found[seconds(pair.short)], alpha)
        for level in levels
        for pair in gate.windows
    ]
    own = view.own
    facts = {"alpha": alpha, "alerts": [alert.facts for alert in alerts], "points": own.requests if own else 0}
    reasons = {
        alarm: "; ".join(one.reason for one in alerts if one.alarm == alarm)
        for alarm in ("alert", "shared", "unproven")
    }
    if reasons["alert"]:
        return "fail", reasons["alert"], facts
    if reasons["shared"]:
        return "inconclusive", reasons["shared"], facts
    if own is None or own.requests < MINIMUM_POINTS:
        return "inconclusive", f"fewer than {MINIMUM_POINTS} requests were answered by the candidate", facts
    shortest = min(found)
    if not any(cell.requests for cell in found[shortest].candidate):
        return "inconclusive", f"no request of the candidate was counted in the last {shortest} s", facts
    if reasons["unproven"]:
        return "no-harm", reasons["unproven"], facts
    return "pass", "no budget burns faster than a pair of windows allows", facts


def _lengths(pair: BurnWindow) -> tuple[int, int]:
    return seconds(pair.long), seconds(pair.short)


# --- quality, drift, contract ----------------------------------------------------------------------------------------


def _quality(gate: Quality, view: _View) -> _Said:
    outcomes = view.evidence.outcomes if isinstance(getattr(view.evidence, "outcomes", None), Mapping) else None
    arm = view.compared or "candidate"
    arms = [_outcomes((outcomes or {}).get(name)) for name in (arm, "serving")]
    points = {"candidate": len(arms[0].label), "serving": len(arms[1].label)}
    if min(points.values()) < MINIMUM_POINTS:
        reason = f"{points['candidate']} and {points['serving']} labelled predictions, {MINIMUM_POINTS} needed"
        if gate.required:
            return "inconclusive", reason, {"points": points}
        return "not-applicable", f"{reason}; quality is not required", {"points": points}
    mine = sequential.auc_blocks(arms[0].score, arms[0].label)
    theirs = sequential.auc_blocks(arms[1].score, arms[1].label, most=len(mine))
    paired = len(theirs)
    mine = mine[:paired]
    difference = mine - theirs
    if paired == 0:
        outcome: Outcome = "inconclusive" if gate.required else "not-applicable"
        return outcome, "too few labelled predictions of each class", {"points": points}
    fails = sequential.log_e_mean(difference, "at-least", -gate.tolerance)
    passes = sequential.log_e_mean(difference, "at-most", -gate.effect)
    spread = float(difference.var(ddof=1)) if paired > 1 else 1.0
    seen = float(mine.mean()), float(theirs.mean())
    facts = _facts(
        METHOD_MEAN, view, fails, passes, gate.tolerance, gate.effect, (points["candidate"], points["serving"]), seen
    )
    least = gate.tolerance + sequential.detectable_mean(spread, paired, view.alpha)
    facts |= {"arm": arm, "blocks": paired, "minimum_detectable_effect": min(1.0, least)}
    what = f"AUC {seen[0]:.3f} against {seen[1]:.3f}, {paired} blocks"
    outcome, reason, facts = _concluded(what, fails, passes, facts, view, hint=-1.0)
    if outcome not in ("fail", "pass") and not gate.required:
        return "not-applicable", f"{reason}; quality is not required", facts
    return outcome, reason, facts


def _outcomes(found: object) -> Outcomes:
    """Sound outcomes, or none."""
    if not isinstance(found, Outcomes) or not isinstance(found.score, tuple) or not isinstance(found.label, tuple):
        return Outcomes()
    sound_scores = set(map(type, found.score)) <= {float, int, np.float64} and all(map(math.isfinite, found.score))
    sound_labels = set(map(type, found.label)) <= {int, np.int64} and set(found.label) <= {0, 1}
    return found if sound_scores and sound_labels and len(found.score) == len(found.label) else Outcomes()


def _drift(gate: Drift, evidence: Evidence) -> _Said:
    drift = getattr(evidence, "drift", None)
    if not isinstance(drift, Mapping) or not drift or not all(_finite(value) for value in drift.values()):
        return "inconclusive", "no evidence: the candidate's inputs were not compared with its reference", {}
    beyond = sorted(name for name, value in drift.items() if value > gate.psi)
    facts = {"psi": {str(name): float(value) for name, value in drift.items()}, "bound": gate.psi, "beyond": beyond}
    if len(beyond) > gate.features:
        return "fail", f"{len(beyond)} features drifted: {', '.join(beyond)}", facts
    return "pass", f"{len(beyond)} of {len(drift)} features drifted", facts


def _contract(evidence: Evidence) -> _Said:
    broken = getattr(evidence, "contract_violations", None)
    if isinstance(broken, bool) or not isinstance(broken, int) or broken < 0:
        return "inconclusive", "no evidence: quarantined batches were not counted", {}
    facts = {"violations": broken}
    return ("fail" if broken else "pass"), f"{broken} batches broke their contract since the rollout began", facts


# --- numbers ---------------------------------------------------------------------------------------------------------


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _json(value: Any) -> Any:
    """Only what JSON holds: no infinity, no NaN, no numpy."""
    if isinstance(value, Mapping):
        return {str(key): _json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    if isinstance(value, float | np.floating):
        number = float(value)
        return number if math.isfinite(number) else None
    return int(value) if isinstance(value, np.integer) else value
