import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from plinth.core.gates import Gate, judge, judge_all

GATES = [
    {"kind": "beats-baseline", "margin": 0.1},
    {"kind": "not-worse-than-serving", "tolerance": 0.001},
    {"kind": "slice-floor", "floor": 0.6, "minimum_rows": 500},
    {"kind": "calibration", "maximum": 0.05},
    {"kind": "contract"},
    {"kind": "no-skew", "tolerance": 1e-6},
    {"kind": "retrieval", "metric": "ndcg@10", "floor": 0.7},
    {"kind": "answers", "metric": "correctness", "floor": 0.6},
    {"kind": "no-harm"},
    {"kind": "not-worse", "metric": "correctness", "tolerance": 0.1},
    {"kind": "index-checks"},
]
GOOD = {
    "auc": 0.75,
    "baseline_auc": 0.63,
    "calibration_error": 0.03,
    "slices": [
        {"slice": "origin", "value": "EWR", "rows": 900, "auc": 0.7},
        {"slice": "carrier", "value": "OO", "rows": 9, "auc": 0.1},
    ],
    "contracts": [{"batch": "2013-01", "passed": True}],
    "skew": {"rows": 100, "max_difference": 0.0},
    "serving": {"log_loss_difference": -0.01, "upper_bound": -0.004, "days": 30},
    "retrieval": {"ndcg@10": {"value": 0.8, "questions": 40}},
    "answers": {"correctness": {"value": 0.7, "questions": 40}},
    "harm": {"harmful": 0, "questions": 60},
    "against": {"correctness": {"difference": 0.0, "lower_bound": -0.05, "questions": 40}},
    "index": [{"check": "count", "passed": True, "reason": "100 chunks"}],
}


def gate(value) -> Gate:
    return TypeAdapter(Gate).validate_python(value)


ALL = [gate(value) for value in GATES]

not_a_number = st.sampled_from([None, math.nan, math.inf, -math.inf, "0.9", True, [], {}])
fields = st.sampled_from(
    ["rows", "auc", "batch", "passed", "max_difference", "upper_bound", "log_loss_difference", "days"]
)
scalars = not_a_number | st.floats(-1, 1) | st.integers(-1, 1000)
records = st.dictionaries(fields, scalars, max_size=4)
junk = scalars | records | st.lists(records | scalars, max_size=3)


def test_good_evidence_passes_every_gate():
    assert [verdict.passed for verdict in judge_all(ALL, GOOD)] == [True] * len(ALL)


def test_no_evidence_passes_no_gate():
    verdicts = judge_all(ALL, {})
    assert not any(verdict.passed for verdict in verdicts)
    assert all("missing" in verdict.reason for verdict in verdicts)


@pytest.mark.parametrize("key", sorted(GOOD))
def test_dropping_any_evidence_fails_a_gate_and_turns_no_failure_into_a_pass(key):
    verdicts = judge_all(ALL, {name: value for name, value in GOOD.items() if name != key})
    assert sum(not verdict.passed for verdict in verdicts) == 1


@given(st.sampled_from(["auc", "baseline_auc", "calibration_error"]), not_a_number)
def test_a_value_that_is_no_finite_number_is_missing_evidence(key, value):
    assert not all(verdict.passed for verdict in judge_all(ALL, {**GOOD, key: value}))


@given(not_a_number)
def test_a_large_slice_without_an_auc_fails_the_floor(value):
    """min() skips a NaN that comes second, so the order must not matter either."""
    good, bad = GOOD["slices"][0], {"slice": "hour", "value": "5", "rows": 800, "auc": value}
    for slices in ([good, bad], [bad, good]):
        assert not judge(ALL[2], {"slices": slices}).passed


@given(
    st.sampled_from(["log_loss_difference", "upper_bound", "days"]), not_a_number | st.just("absent"), st.integers(0, 1)
)
def test_an_incomplete_comparison_with_serving_fails(key, value, skew):
    serving = {**GOOD["serving"], key: value}
    if value == "absent":
        del serving[key]
    assert not judge(ALL[1], {"serving": serving}).passed
    broken = {"rows": 0} if skew else {"rows": 10, "max_difference": value}
    assert not judge(ALL[5], {"skew": broken}).passed


@given(st.sampled_from(ALL), st.dictionaries(st.sampled_from(sorted(GOOD)), junk))
def test_junk_as_evidence_never_raises_and_never_yields_a_verdict_that_json_has_no_word_for(rule, evidence):
    verdict = judge(rule, evidence)
    json.dumps(verdict.model_dump(), allow_nan=False)
    assert verdict.reason


@given(st.floats(0.5, 1), st.floats(0.5, 1), st.floats(1e-3, 0.4), st.floats(0, 0.2))
def test_a_better_auc_never_turns_a_pass_into_a_fail(auc, baseline, margin, better):
    rule = gate({"kind": "beats-baseline", "margin": margin})
    if judge(rule, {"auc": auc, "baseline_auc": baseline}).passed:
        assert judge(rule, {"auc": auc + better, "baseline_auc": baseline}).passed


@given(st.lists(st.tuples(st.integers(1, 2000), st.floats(0, 1)), min_size=1))
def test_the_slice_floor_is_decided_by_the_worst_slice_that_is_large_enough(slices):
    rows = [{"slice": "s", "value": str(i), "rows": n, "auc": value} for i, (n, value) in enumerate(slices)]
    verdict = judge(ALL[2], {"slices": rows})
    large = [value for n, value in slices if n >= 500]
    assert verdict.passed == (bool(large) and min(large) >= 0.6)


@given(st.lists(st.booleans(), min_size=1))
def test_one_broken_batch_breaks_the_contract_gate_and_is_named(passed):
    batches = [{"batch": f"b{i}", "passed": value} for i, value in enumerate(passed)]
    verdict = judge(ALL[4], {"contracts": batches})
    assert verdict.passed == all(passed)
    assert all((f"b{i}" in verdict.reason) for i, value in enumerate(passed) if not value)


def test_a_first_release_has_nothing_to_be_worse_than():
    assert judge(ALL[1], {"serving": None}).passed
