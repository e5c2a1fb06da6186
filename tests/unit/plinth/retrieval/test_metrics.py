"""Metrics of rankings, against numbers worked out by hand."""

import math

import pytest

from plinth.retrieval.metrics import ndcg, recall, reciprocal_rank

JUDGED = {"a": 3, "b": 2, "c": 0, "d": 1, "e": -1}


def test_ndcg_has_linear_gains():
    ideal = 3 + 2 / math.log2(3) + 1 / 2
    assert ndcg(["a", "b", "d"], JUDGED) == pytest.approx(1.0)
    assert ndcg(["b", "x", "a"], JUDGED) == pytest.approx((2 + 3 / 2) / ideal)


def test_ndcg_looks_no_further_than_k():
    assert ndcg(["x"] * 10 + ["a"], JUDGED) == 0
    assert ndcg(["b", "a"], JUDGED, k=1) == pytest.approx(2 / 3)


def test_a_judgement_below_one_gains_and_costs_nothing():
    assert ndcg(["e", "a"], JUDGED) == ndcg(["x", "a"], JUDGED) == ndcg(["c", "a"], JUDGED)
    assert ndcg(["c"], {"c": 0}) == 0


def test_recall_counts_the_relevant():
    assert recall(["a", "c", "e"], JUDGED) == pytest.approx(1 / 3)
    assert recall(["x", "a", "b", "d"], JUDGED, k=2) == pytest.approx(1 / 3)
    assert recall(["a"], {"a": 0}) == 0


def test_reciprocal_rank_is_of_the_first_relevant():
    assert reciprocal_rank(["x", "c", "d", "a"], JUDGED) == pytest.approx(1 / 3)
    assert reciprocal_rank(["x", "c"], JUDGED) == 0
    assert reciprocal_rank(["x", "a"], JUDGED, k=1) == 0
