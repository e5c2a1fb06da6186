import json
import sys

import numpy as np
import pytest

from plinth.core.gates import NoSkew, judge
from plinth.errors import InvalidInput
from plinth.features.skew import compare


def test_equal_values_have_no_skew_and_pass_the_gate():
    values = np.array([[1.0, np.nan], [3.0, np.inf]])
    report = compare(values, values.copy(), ["a", "b"])
    assert (report.rows, report.max_difference, report.differences) == (2, 0.0, ())
    assert judge(NoSkew(kind="no-skew"), {"skew": report.as_evidence()}).passed


def test_a_difference_names_the_feature_the_rows_and_the_worst_entity():
    offline = np.zeros((3, 2))
    online = np.array([[0.0, 0.1], [0.0, -0.7], [0.0, 0.0]])
    report = compare(online, offline, ["a", "b"], entities=["x", "y", "z"])
    (difference,) = report.differences
    assert (difference.feature, difference.rows, difference.max, difference.example) == ("b", 2, 0.7, "y")
    assert not judge(NoSkew(kind="no-skew"), {"skew": report.as_evidence()}).passed


def test_differences_up_to_the_tolerance_are_none_but_are_measured():
    report = compare(np.array([[1.0 + 1e-9]]), np.array([[1.0]]), ["a"], tolerance=1e-6)
    assert report.differences == ()
    assert 0 < report.max_difference < 1e-6


@pytest.mark.parametrize("online", [np.nan, np.inf, -np.inf])
def test_a_value_on_one_side_only_is_the_largest_difference_and_json_can_say_it(online):
    report = compare(np.array([[online]]), np.array([[0.0]]), ["a"])
    assert report.max_difference == sys.float_info.max
    json.dumps(report.as_evidence(), allow_nan=False)


def test_nothing_compared_is_no_evidence_for_the_gate():
    report = compare(np.empty((0, 1)), np.empty((0, 1)), ["a"])
    assert not judge(NoSkew(kind="no-skew"), {"skew": report.as_evidence()}).passed


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(InvalidInput):
        compare(np.zeros((2, 1)), np.zeros((3, 1)), ["a"])
    with pytest.raises(InvalidInput):
        compare(np.zeros((2, 1)), np.zeros((2, 1)), ["a", "b"])
