"""Gates of assistants: what is missing, and what is worse, never passes."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from plinth.core.gates import Gate, judge


def gate(**value) -> Gate:
    return TypeAdapter(Gate).validate_python(value)


junk = st.sampled_from([None, math.nan, math.inf, -1, 1.5, "0.9", True, [], {}])


@given(st.floats(0, 1), st.floats(0.01, 1), st.sampled_from(["correctness", "groundedness", "refusal"]))
def test_a_floor_of_answers_is_kept_exactly(value, floor, metric):
    verdict = judge(
        gate(kind="answers", metric=metric, floor=floor), {"answers": {metric: {"value": value, "questions": 20}}}
    )
    assert verdict.passed == (value >= floor)


@given(junk, st.sampled_from(["value", "questions"]))
def test_a_floor_without_a_share_or_without_questions_fails(value, key):
    found = {"value": 0.9, "questions": 20, key: value}
    if key == "questions" and value == 1.5:
        return
    assert not judge(gate(kind="retrieval", metric="mrr", floor=0.5), {"retrieval": {"mrr": found}}).passed
    assert not judge(gate(kind="retrieval", metric="mrr", floor=0.5), {"retrieval": {"ndcg@10": found}}).passed


@given(st.integers(0, 5), st.integers(0, 5))
def test_one_harmful_answer_more_than_allowed_fails(harmful, maximum):
    verdict = judge(gate(kind="no-harm", maximum=maximum), {"harm": {"harmful": harmful, "questions": 60}})
    assert verdict.passed == (harmful <= maximum)


def test_no_harm_among_no_questions_is_no_evidence():
    assert not judge(gate(kind="no-harm"), {"harm": {"harmful": 0, "questions": 0}}).passed


@given(st.floats(-1, 1), st.floats(0, 1), st.floats(0, 0.9))
def test_not_worse_is_decided_by_the_lower_bound(difference, width, tolerance):
    against = {"refusal": {"difference": difference, "lower_bound": difference - width, "questions": 30}}
    verdict = judge(gate(kind="not-worse", metric="refusal", tolerance=tolerance), {"against": against})
    assert verdict.passed == (difference - width >= -tolerance)


def test_a_first_release_has_nothing_to_be_worse_than_but_the_question_has_to_be_asked():
    rule = gate(kind="not-worse", metric="ndcg@10", tolerance=0.05)
    assert judge(rule, {"against": None}).passed
    assert not judge(rule, {}).passed
    assert not judge(rule, {"against": {}}).passed


def test_a_lower_bound_above_the_difference_contradicts_itself():
    against = {"mrr": {"difference": -0.5, "lower_bound": 0.1, "questions": 30}}
    assert not judge(gate(kind="not-worse", metric="mrr", tolerance=0.1), {"against": against}).passed


def test_one_failed_check_of_an_index_fails_and_is_named():
    checks = [
        {"check": "count", "passed": True, "reason": ""},
        {"check": "checksum", "passed": False, "reason": "differs"},
    ]
    verdict = judge(gate(kind="index-checks"), {"index": checks})
    assert not verdict.passed
    assert "checksum: differs" in verdict.reason
    assert judge(gate(kind="index-checks"), {"index": checks[:1]}).passed


@pytest.mark.parametrize("passed", ["true", 1, None])
def test_a_check_that_does_not_say_that_it_passed_did_not(passed):
    assert not judge(gate(kind="index-checks"), {"index": [{"check": "count", "passed": passed}]}).passed


def test_a_metric_that_a_gate_does_not_know_is_refused_when_the_product_is_read():
    with pytest.raises(ValidationError):
        gate(kind="answers", metric="ndcg@10", floor=0.5)
