import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from plinth.core.evidence import LATENCY_BINS, LATENCY_BOUNDS, SCORE_BINS, Cell, Evidence, Outcomes, bin_of
from plinth.core.products import Product
from plinth.core.rollout_gates import error_budget, gate_names, judge, shift_bins, windows
from plinth.core.rollout_policy import DEFAULT_GATES, RolloutGate
from plinth.core.rollouts import Plan, Stage, State, make_plan

MANIFEST = yaml.safe_load((Path(__file__).parents[4] / "services" / "flight-delays" / "product.yaml").read_text())
PRODUCT = Product.model_validate({**MANIFEST, "rollout": None})
SHADOW, SMALL = Stage(kind="shadow", percent=0, bake=1), Stage(kind="canary", percent=10, bake=1)
HALF, ALL = Stage(kind="canary", percent=50, bake=1), Stage(kind="full", percent=100, bake=1)
CANARY = (SHADOW, SMALL, HALF, ALL)
ASSISTANT = Path(__file__).parents[4] / "services" / "docs-assistant" / "product.yaml"
FAST, SLOW = 0.004, 0.3  # seconds: well within and far beyond the product's latency level


def gate(kind, **fields):
    return TypeAdapter(RolloutGate).validate_python({"kind": kind, **fields})


ERRORS = gate("compare", metric="errors", tolerance=0.001, effect=0.02)
LATENCY = gate("compare", metric="latency", tolerance=1.2, effect=1.5)
SCORES = gate("compare", metric="scores", tolerance=0.05, effect=0.1)
DEFAULTED = gate("compare", metric="defaulted", tolerance=0.02, effect=0.1)
BURN = gate("burn")
QUALITY = gate("quality", required=True)


def plan(*gates, stages=CANARY, strategy="canary"):
    return Plan(
        strategy=strategy, stages=stages, patience=60, approvals=0, own_approval=True, gates=gates or DEFAULT_GATES
    )


def spread(middle, n, bins, width=3):
    """n values around a bin, evenly over 2 * width + 1 bins."""
    histogram = [0] * bins
    for number in range(n):
        histogram[min(bins - 1, max(0, middle - width + number % (2 * width + 1)))] += 1
    return tuple(histogram)


def cell(step, arm, n=0, *, errors=0, defaulted=0, seconds=FAST, score=0.3, rows=None, **more):
    rows = n - errors if rows is None else rows
    latency = spread(bin_of(seconds, LATENCY_BOUNDS), n, LATENCY_BINS)
    scores = spread(round(score * SCORE_BINS), rows, SCORE_BINS)
    return Cell(step, arm, arm * 8, n, errors, latency, scores, rows, defaulted, more.get("busy", n * seconds))


def counted(*cells, **more):
    """Evidence of a rollout that is younger than all its windows."""
    return Evidence(cells, dict.fromkeys((300, 1800, 3600, 21600, 259200), cells), **more)


def both(n=1000, of=1000, *, step=3, **fault):
    return cell(step, "serving", of), cell(step, "candidate", n, **fault)


def one(gate, evidence, *, stage=2, stages=CANARY, strategy="canary", product=PRODUCT):
    """What a single gate says in a stage."""
    (verdict,) = judge(
        plan(gate, stages=stages, strategy=strategy), State(stages[stage].kind, stage), evidence, product
    )
    return verdict


def outcome(*args, **more):
    return one(*args, **more).outcome


# --- all gates


def test_a_healthy_candidate_passes_every_gate():
    verdicts = judge(plan(), State("canary", 2), counted(*both(), contract_violations=0), PRODUCT)
    assert {verdict.outcome for verdict in verdicts} == {"pass", "not-applicable"}
    assert [verdict.gate for verdict in verdicts] == [
        "compare-errors", "compare-latency", "compare-scores", "compare-defaulted", "burn", "quality", "contract",
    ]  # fmt: skip
    assert [verdict.gate for verdict in verdicts if verdict.outcome == "not-applicable"] == ["quality"]


ONE_OF_EACH = (
    ERRORS, LATENCY, SCORES, DEFAULTED, BURN, QUALITY, gate("drift"), gate("contract"),
    gate("threshold", metric="error-rate", maximum=0.01), gate("threshold", metric="latency-p99-ms", maximum=50),
    gate("threshold", metric="defaulted-rate", maximum=0.1), gate("threshold", metric="cost-per-1000", maximum=1),
)  # fmt: skip
NOTHING = [
    Evidence(),
    Evidence(problem="the log cannot be read"),
    Evidence(cells=(cell(3, "serving", 1000),)),
    Evidence(cells=(cell(3, "candidate", 0), cell(3, "serving", 0)), windows={}),
    None,
    Evidence(cells=None, windows=None, outcomes=7, drift="much", contract_violations="none"),
    Evidence(cells=(None,), windows={300: (None,)}),
]


@pytest.mark.parametrize("evidence", NOTHING)
@pytest.mark.parametrize("stage", range(4))
def test_no_evidence_passes_no_gate_in_any_stage(evidence, stage):
    verdicts = judge(plan(*ONE_OF_EACH), State(CANARY[stage].kind, stage), evidence, PRODUCT)
    assert not {"pass", "no-harm", "fail"} & {verdict.outcome for verdict in verdicts}
    assert "inconclusive" in {verdict.outcome for verdict in verdicts}


def test_the_reason_names_what_could_not_be_read():
    assert "the log cannot be read" in one(ERRORS, Evidence(problem="the log cannot be read")).reason


@pytest.mark.parametrize(
    "broken",
    [{"requests": -5}, {"errors": 5000}, {"requests": math.nan}, {"latency": ()}, {"busy_seconds": math.inf}],
)
def test_counts_that_contradict_themselves_pass_nothing(broken):
    serving, candidate = both()
    verdicts = judge(plan(*ONE_OF_EACH), State("canary", 2), counted(serving, replace(candidate, **broken)), PRODUCT)
    assert not {"pass", "no-harm"} & {verdict.outcome for verdict in verdicts}


junk = st.one_of(st.none(), st.integers(-9, 99), st.floats(), st.text(max_size=3), st.booleans())
cells = st.builds(
    Cell, st.integers(0, 5), st.sampled_from(["serving", "candidate", "shadow"]), st.just("d"), junk, junk,
    st.just((0,) * LATENCY_BINS) | st.lists(junk, max_size=3).map(tuple),
    st.just((0,) * SCORE_BINS) | st.lists(junk, max_size=3).map(tuple), junk, junk, junk,
)  # fmt: skip
outcomes = st.builds(Outcomes, st.lists(junk, max_size=60).map(tuple), st.lists(junk, max_size=60).map(tuple))
garbage = st.builds(
    Evidence,
    st.lists(cells, max_size=4).map(tuple) | junk,
    st.dictionaries(st.sampled_from([300, 1800, 3600]), st.lists(cells, max_size=2).map(tuple) | junk) | junk,
    st.dictionaries(st.sampled_from(["serving", "candidate"]), outcomes | junk) | junk,
    st.dictionaries(st.text(max_size=2), junk) | junk,
    junk,
)


@given(garbage, st.integers(0, 3))
def test_garbage_passes_nothing_raises_nothing_and_stays_json(evidence, stage):
    gates = [one for one in ONE_OF_EACH if one.kind not in ("drift", "contract")]
    for verdict in judge(plan(*gates), State(CANARY[stage].kind, stage), evidence, PRODUCT):
        assert verdict.outcome in ("inconclusive", "not-applicable"), verdict
        json.dumps(verdict.evidence, allow_nan=False)


@pytest.mark.parametrize("points", [3, 1000])
def test_evidence_is_json(points):
    evidence = counted(*both(points, points), drift={"a": np.float64(0.1)}, contract_violations=0)
    for verdict in judge(plan(*ONE_OF_EACH), State("canary", 2), evidence, PRODUCT):
        json.dumps(verdict.evidence, allow_nan=False)


def test_names_are_unique():
    assert gate_names([ERRORS, LATENCY, ERRORS, BURN, ERRORS]) == [
        "compare-errors", "compare-latency", "compare-errors-#2", "burn", "compare-errors-#3",
    ]  # fmt: skip
    assert gate_names([gate("threshold", metric="error-rate", maximum=0.1)]) == ["threshold-error-rate"]


def test_false_alarms_are_shared_by_all_tests_of_the_plan():
    alone = one(ERRORS, counted(*both())).evidence["alpha"]
    among = judge(plan(), State("canary", 2), counted(*both()), PRODUCT)[0].evidence["alpha"]
    assert alone == pytest.approx(0.05)
    assert among == pytest.approx(0.05 / 6)  # four comparisons, burn and quality; the contract is no test


# --- comparisons


@pytest.mark.parametrize(
    ("gate", "fault"),
    [
        (ERRORS, {"errors": 40}),
        (LATENCY, {"seconds": FAST * 2}),
        (SCORES, {"score": 0.5}),
        (SCORES, {"score": 0.1}),
        (DEFAULTED, {"defaulted": 200}),
    ],
)
def test_a_fault_fails_its_comparison_and_no_other(gate, fault):
    for other in (ERRORS, LATENCY, SCORES, DEFAULTED):
        assert outcome(other, counted(*both(**fault))) == ("fail" if other is gate else "pass")


@pytest.mark.parametrize("gate", [ERRORS, LATENCY, SCORES, DEFAULTED])
def test_few_points_are_inconclusive_then_harmless_then_proof(gate):
    assert outcome(gate, counted(*both(49, 1000))) == "inconclusive"
    assert outcome(gate, counted(*both(1000, 49))) == "inconclusive"
    assert outcome(gate, counted(*both(50, 50))) in ("no-harm", "pass")
    assert outcome(gate, counted(*both(1000, 1000))) == "pass"
    assert outcome(ERRORS, counted(*both(50, 450))) == "no-harm"


def test_proof_of_harm_does_not_wait_for_fifty_points():
    assert outcome(ERRORS, counted(*both(10, 90, errors=10))) == "fail"


def test_one_failure_of_ten_requests_is_no_harm_yet():
    assert outcome(ERRORS, counted(*both(10, 90, errors=1))) == "inconclusive"
    assert outcome(BURN, counted(*both(10, 90, errors=1))) == "inconclusive"


def test_a_difference_between_tolerance_and_effect_never_passes_by_waiting():
    verdict = one(ERRORS, counted(*both(20_000, 20_000, errors=300)))
    assert verdict.outcome == "fail"
    tolerant = gate("compare", metric="errors", tolerance=0.015, effect=0.016)
    assert outcome(tolerant, counted(*both(2000, 2000, errors=30))) == "no-harm"


def test_a_slow_tail_keeps_a_fast_middle_from_passing():
    # Most of the candidate's requests are as fast as ever, which rules out that all are slower; the others are not.
    def said(slow):
        candidate = cell(3, "candidate", 400 - slow) + cell(3, "candidate", slow, seconds=FAST * 3)
        return outcome(LATENCY, counted(cell(3, "serving", 400), candidate))

    answers = [said(slow) for slow in range(60)]
    assert answers == sorted(answers, key=["pass", "no-harm", "fail"].index)
    assert set(answers) == {"pass", "no-harm", "fail"}


def test_scores_pass_when_both_directions_are_ruled_out():
    serving, candidate = both(150, 150)
    serving = replace(serving, scores=spread(18, 150, SCORE_BINS, width=6))
    for bins in (3, -3):  # more than the tolerance, less than the effect, and few points
        moved = replace(candidate, scores=spread(18 + bins, 150, SCORE_BINS, width=6))
        verdict = one(SCORES, counted(serving, moved))
        assert verdict.outcome == "no-harm"
        assert verdict.evidence["e_pass"] < 1e4


def test_of_an_assistants_answers_only_less_support_is_worse():
    assistant = Product.model_validate(yaml.safe_load(ASSISTANT.read_text()))
    compare = gate("compare", metric="scores", tolerance=0.05, effect=0.15)

    def said(product, candidate, serving=0.6):
        cells = (cell(3, "candidate", 2000, score=candidate), cell(3, "serving", 2000, score=serving))
        return one(compare, counted(*cells), product=product).outcome

    assert [said(assistant, score) for score in (0.9, 0.6, 0.3)] == ["pass", "pass", "fail"]
    assert [said(PRODUCT, score) for score in (0.9, 0.6, 0.3)] == ["fail", "pass", "fail"]


def test_answers_that_are_nearly_all_wholly_supported_are_proved_to_be_no_worse():
    assistant = Product.model_validate(yaml.safe_load(ASSISTANT.read_text()))
    scores = [20, *[0] * 25, *[5] * 13, 215]  # 300 answers: refusals, some support, all of it
    cells = [replace(cell(3, arm, 300), scores=scores) for arm in ("candidate", "serving")]
    verdict = one(gate("compare", metric="scores", tolerance=0.05, effect=0.15), counted(*cells), product=assistant)
    assert verdict.outcome == "pass"
    assert verdict.evidence["e_pass"] > 1e4
    assert "means" in verdict.evidence["method"]


def test_a_step_is_compared_with_the_same_steps_traffic():
    # Ten times as many errors in the second step, for both: the candidate had most of its requests there.
    cells = (
        cell(2, "serving", 4500, errors=5), cell(2, "candidate", 500),
        cell(3, "serving", 500, errors=50), cell(3, "candidate", 500, errors=50),
    )  # fmt: skip
    assert outcome(ERRORS, counted(*cells)) != "fail"
    assert one(ERRORS, counted(*cells)).evidence["points"] == {"candidate": 1000, "serving": 5000}


def test_in_the_shadow_the_shadow_is_compared_and_its_latency_is_not():
    cells = cell(1, "serving", 1000), cell(1, "shadow", 1000, errors=50, seconds=SLOW)
    assert outcome(ERRORS, counted(*cells), stage=0) == "fail"
    assert outcome(LATENCY, counted(*cells), stage=0) == "not-applicable"
    assert outcome(BURN, counted(*cells), stage=0) == "not-applicable"
    # What the shadow did is over once the candidate answers.
    assert outcome(ERRORS, counted(*cells, *both()), stage=2) == "pass"


def test_all_traffic_is_judged_by_the_canary_steps_comparison():
    cells = (*both(), cell(4, "candidate", 300, errors=300))
    assert outcome(ERRORS, counted(*cells), stage=3) == "pass"
    assert outcome(BURN, counted(*cells), stage=3) == "fail"


def test_a_shadow_rollouts_last_stage_keeps_the_shadows_comparison():
    stages = (SHADOW, ALL)
    shadow = cell(1, "serving", 1000), cell(1, "shadow", 1000)
    evidence = counted(*shadow, cell(2, "candidate", 100))
    how = {"stage": 1, "stages": stages, "strategy": "shadow"}
    assert outcome(ERRORS, evidence, **how) == "pass"
    assert outcome(LATENCY, evidence, **how) == "not-applicable"
    assert outcome(BURN, evidence, **how) == "pass"
    assert outcome(BURN, counted(*shadow, cell(2, "candidate", 49)), **how) == "inconclusive"


def test_blue_green_has_nothing_to_compare_with():
    how = {"stage": 0, "stages": (ALL,), "strategy": "blue-green"}
    evidence = counted(cell(1, "candidate", 100))
    assert outcome(ERRORS, evidence, **how) == "not-applicable"
    assert outcome(BURN, evidence, **how) == "pass"
    assert outcome(BURN, counted(cell(1, "candidate", 49)), **how) == "inconclusive"
    assert outcome(QUALITY, evidence, **how) == "inconclusive"


def test_a_comparison_says_on_what_evidence():
    facts = one(LATENCY, counted(*both(seconds=FAST * 2))).evidence
    assert facts["points"] == {"candidate": 1000, "serving": 1000}
    assert facts["observed"]["candidate"] > facts["observed"]["serving"]
    assert facts["e_fail"] > 1 / facts["alpha"]
    assert facts["beta"] == 1e-4
    assert "universal inference" in facts["method"]
    assert 1.22 < facts["minimum_detectable_effect"] < 2


@pytest.mark.parametrize("gate", [ERRORS, LATENCY, SCORES, DEFAULTED])
def test_more_points_detect_smaller_effects(gate):
    detectable = [one(gate, counted(*both(n, n))).evidence["minimum_detectable_effect"] for n in (60, 600, 6000)]
    assert detectable == sorted(detectable, reverse=True)
    assert detectable[-1] < gate.effect * 1.05


@pytest.mark.parametrize(
    ("metric", "tolerance", "effect", "bins"),
    [
        ("latency", 1.0, 1.5, (0, 2)), ("latency", 1.2, 1.5, (1, 2)), ("latency", 1.25, 1.8, (2, 2)),
        ("scores", 0.05, 0.1, (2, 4)), ("scores", 0.0, 0.03, (0, 1)), ("scores", 0.06, 0.12, (3, 4)),
    ],
)  # fmt: skip
def test_tolerances_are_rounded_up_to_bins_and_effects_down(metric, tolerance, effect, bins):
    assert shift_bins(gate("compare", metric=metric, tolerance=tolerance, effect=effect)) == bins


# --- thresholds


@pytest.mark.parametrize(
    ("metric", "maximum", "good", "bad"),
    [
        ("error-rate", 0.01, {"errors": 2}, {"errors": 40}),
        ("latency-p99-ms", 50, {}, {"seconds": SLOW}),
        ("defaulted-rate", 0.1, {"defaulted": 50}, {"defaulted": 300}),
        ("cost-per-1000", 0.001, {}, {"seconds": SLOW}),
    ],
)
def test_a_threshold_passes_within_and_fails_beyond(metric, maximum, good, bad):
    threshold = gate("threshold", metric=metric, maximum=maximum)
    assert outcome(threshold, counted(*both(**good))) == "pass"
    assert outcome(threshold, counted(*both(**bad))) == "fail"
    assert outcome(threshold, counted(*both(49))) == "inconclusive"


def test_a_threshold_that_is_passed_by_chance_holds_up_and_does_not_roll_back():
    threshold = gate("threshold", metric="error-rate", maximum=0.01)
    assert outcome(threshold, counted(*both(100, errors=2))) == "inconclusive"


def test_a_latency_bin_that_the_threshold_cuts_neither_passes_nor_fails():
    middle = LATENCY_BOUNDS[20] * 1000 * 0.95
    latency = [0] * LATENCY_BINS
    latency[20] = 1000
    candidate = replace(cell(3, "candidate", 1000), latency=tuple(latency))
    threshold = gate("threshold", metric="latency-p99-ms", maximum=middle)
    assert outcome(threshold, counted(cell(3, "serving", 1000), candidate)) == "inconclusive"


def test_the_cost_of_a_thousand_requests_is_their_time_at_the_products_price():
    threshold = gate("threshold", metric="cost-per-1000", maximum=1)
    seen = one(threshold, counted(*both(1000, busy=36.0))).evidence["observed"]
    assert seen == pytest.approx(36.0 / 3600 * PRODUCT.budget.core_hour)


def test_one_slow_first_request_is_no_cost():
    threshold = gate("threshold", metric="cost-per-1000", maximum=0.0001)
    assert outcome(threshold, counted(*both(60, busy=3.0))) == "inconclusive"
    assert outcome(threshold, counted(*both(600, busy=60.0))) == "fail"


# --- burn


def test_the_windows_are_those_of_the_plans_pairs():
    assert windows(plan()) == (300, 1800, 3600, 21600, 259200)
    assert windows(plan(ERRORS)) == ()


def test_many_failures_burn_the_budget_and_a_few_do_not():
    assert outcome(BURN, counted(*both(1000, errors=100))) == "fail"
    assert outcome(BURN, counted(*both(1000, errors=4))) == "pass"
    assert outcome(BURN, counted(*both(100, errors=4))) == "no-harm"  # 4%, from four failures


def test_four_failures_are_no_rate_even_if_they_are_all_there_is():
    assert outcome(BURN, counted(*both(4, errors=4))) == "inconclusive"
    assert outcome(BURN, counted(*both(5, errors=5))) == "fail"


def test_slow_answers_burn_the_latency_budget():
    verdict = one(BURN, counted(*both(1000, seconds=SLOW)))
    assert verdict.outcome == "fail"
    assert "latency" in verdict.reason
    assert "availability" not in verdict.reason


def windowed(short, long):
    cells = {300: short, 3600: long, 1800: short, 21600: long, 259200: long}
    return Evidence(long, cells)


def test_both_windows_of_a_pair_have_to_burn():
    bad, good = both(1000, errors=150), both(1000)
    burn = gate("burn", windows=[{"long": "1h", "short": "5m", "rate": 14.4}])
    assert outcome(burn, windowed(bad, bad)) == "fail"
    assert outcome(burn, windowed(good, bad)) == "pass"
    assert outcome(burn, windowed(bad, good)) == "pass"


def test_a_window_that_was_not_counted_is_inconclusive():
    evidence = counted(*both())
    evidence.windows.pop(300)
    assert outcome(BURN, evidence) == "inconclusive"


def test_a_candidate_that_was_not_counted_lately_burns_nothing_and_proves_nothing():
    evidence = counted(*both())
    evidence.windows[300] = (cell(3, "serving", 1000),)
    assert outcome(BURN, evidence) == "inconclusive"


def test_what_the_serving_release_burns_as_well_holds_up_until_it_is_as_fast_as_a_page():
    slowly = cell(3, "serving", 1000, errors=25), cell(3, "candidate", 1000, errors=25)
    assert outcome(BURN, counted(*slowly)) == "inconclusive"
    alone = cell(3, "serving", 1000), cell(3, "candidate", 1000, errors=25)
    assert outcome(BURN, counted(*alone)) == "fail"
    fast = cell(3, "serving", 1000, errors=200), cell(3, "candidate", 1000, errors=200)
    assert outcome(BURN, counted(*fast)) == "fail"


def test_a_product_without_such_service_levels_has_no_budget_to_burn():
    levels = tuple(level for level in PRODUCT.service_levels if level.indicator == "quality")
    product = PRODUCT.model_copy(update={"service_levels": levels})
    assert outcome(BURN, counted(*both()), product=product) == "not-applicable"
    assert error_budget(product, both()) == []


def test_the_error_budget_counts_the_candidates_requests():
    cells = (cell(3, "serving", 1000, errors=1000), cell(2, "candidate", 600), cell(3, "candidate", 400, errors=1))
    availability, latency = error_budget(PRODUCT, cells)
    assert availability == {
        "name": "availability", "indicator": "availability", "objective": 0.995, "window": "28d",
        "good": 999, "bad": 1, "left": pytest.approx(0.8), "burn_rate": pytest.approx(0.2),
    }  # fmt: skip
    assert (latency["good"], latency["bad"], latency["left"]) == (1000, 0, 1.0)
    assert [level["left"] for level in error_budget(PRODUCT, ())] == [1.0, 1.0]
    assert error_budget(PRODUCT, [cell(3, "candidate", 100, errors=10)])[0]["left"] == pytest.approx(-19)


# --- quality, drift, contract


def labelled(dice, n, noise=0.0):
    truth = dice.beta(1, 5, n)
    label = (dice.random(n) < truth).astype(int)
    score = np.where(dice.random(n) < noise, dice.beta(1, 5, n), truth)
    return Outcomes(tuple(score.tolist()), tuple(label.tolist()))


def known(n, noise=0.0, of=None):
    dice = np.random.default_rng(20260901)
    outcomes = {"serving": labelled(dice, of or n), "candidate": labelled(dice, n, noise)}
    return counted(*both(), outcomes=outcomes)


def test_a_worse_model_fails_and_an_equal_one_passes():
    assert outcome(QUALITY, known(12_000, noise=0.4)) == "fail"
    verdict = one(QUALITY, known(12_000))
    assert verdict.outcome == "pass"
    assert verdict.evidence["minimum_detectable_effect"] < 0.05
    assert verdict.evidence["blocks"] > 100
    assert outcome(QUALITY, known(400)) == "no-harm"


def test_an_inverted_model_fails_soon():
    evidence = known(600)
    turned = evidence.outcomes["candidate"]
    outcomes = {**evidence.outcomes, "candidate": Outcomes(tuple(1 - score for score in turned.score), turned.label)}
    assert outcome(QUALITY, replace(evidence, outcomes=outcomes)) == "fail"


def test_quality_that_is_required_waits_for_labels_and_other_quality_does_not():
    optional = gate("quality")
    for evidence in (counted(*both()), known(49), known(1000, of=49)):
        assert outcome(QUALITY, evidence) == "inconclusive"
        assert outcome(optional, evidence) == "not-applicable"
    assert outcome(optional, known(400)) == "not-applicable"
    assert outcome(optional, known(12_000)) == "pass"
    assert outcome(optional, known(12_000, noise=0.4)) == "fail"


def test_outcomes_of_one_class_prove_nothing():
    outcomes = {arm: Outcomes((0.1,) * 500, (0,) * 500) for arm in ("serving", "candidate")}
    assert outcome(QUALITY, counted(*both(), outcomes=outcomes)) == "inconclusive"


@pytest.mark.parametrize(
    "bad",
    [
        Outcomes((math.nan,) * 500, (0, 1) * 250),
        Outcomes((0.5,) * 500, ("1",) * 500),
        Outcomes((0.5,) * 500, (0, 2) * 250),
        Outcomes((0.5,) * 500, (1,)),
        Outcomes(("0.5",) * 500, (1,) * 500),
        Outcomes(None, None),
        None,
        7,
    ],
)
def test_outcomes_that_contradict_themselves_are_none(bad):
    evidence = known(500)
    assert outcome(QUALITY, replace(evidence, outcomes={**evidence.outcomes, "candidate": bad})) == "inconclusive"


def test_in_the_shadow_the_shadows_outcomes_are_judged():
    evidence = known(12_000, noise=0.4)
    moved = {"serving": evidence.outcomes["serving"], "shadow": evidence.outcomes["candidate"]}
    assert outcome(QUALITY, replace(evidence, outcomes=moved), stage=0) == "fail"
    assert outcome(QUALITY, evidence, stage=0) == "inconclusive"


@pytest.mark.parametrize(
    ("drift", "features", "expected"),
    [
        ({"a": 0.1, "b": 0.2}, 0, "pass"), ({"a": 0.1, "b": 0.3}, 0, "fail"), ({"a": 0.3, "b": 0.1}, 1, "pass"),
        ({"a": 0.3, "b": 0.4}, 1, "fail"), (None, 0, "inconclusive"), ({}, 0, "inconclusive"),
        ({"a": math.nan}, 0, "inconclusive"), ({"a": math.inf, "b": 0.1}, 0, "inconclusive"),
        ({"a": "0.1"}, 0, "inconclusive"),
    ],
)  # fmt: skip
def test_drift_is_counted_by_feature(drift, features, expected):
    assert outcome(gate("drift", features=features), counted(*both(), drift=drift)) == expected


@pytest.mark.parametrize(
    ("violations", "expected"),
    [(0, "pass"), (1, "fail"), *((unread, "inconclusive") for unread in (None, -1, True, 0.0, "0"))],
)
def test_a_broken_contract_fails_and_an_unread_one_is_inconclusive(violations, expected):
    assert outcome(gate("contract"), counted(*both(), contract_violations=violations)) == expected


def test_every_default_plan_can_be_judged_in_each_of_its_stages():
    for strategy in ("canary", "shadow", "blue-green"):
        made = make_plan(PRODUCT, strategy=strategy)
        for number, stage in enumerate(made.stages):
            assert len(judge(made, State(stage.kind, number), Evidence(), PRODUCT)) == len(DEFAULT_GATES)
