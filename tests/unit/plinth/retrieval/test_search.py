"""Fusion, and the way of a question through both sides."""

import numpy as np
import pytest

from plinth.core.answers import Hit
from plinth.core.assistants import Retrieval
from plinth.core.corpus import Chunk, Scope
from plinth.retrieval.port import Sides, SparseVector
from plinth.retrieval.search import fuse, retrieve


def chunk(name):
    return Chunk(name, "v", "docs", "", (), f"text of {name}", 0)


def dense(**scores):
    return tuple(Hit(chunk(name), score, dense=score) for name, score in scores.items())


def sparse(**scores):
    return tuple(Hit(chunk(name), score, sparse=score) for name, score in scores.items())


def names(hits):
    return [hit.chunk.document for hit in hits]


def test_each_side_counts_from_its_worst_to_its_best():
    found = fuse(Sides(dense(a=0.9, b=0.7, c=0.5), sparse(b=20.0, d=10.0)), Retrieval())
    assert {hit.chunk.document: hit.score for hit in found} == pytest.approx({"a": 1.0, "b": 1.5, "c": 0.0, "d": 0.0})
    assert names(found) == ["b", "a", "c", "d"]


def test_hits_keep_the_scores_of_the_sides_that_found_them():
    found = {hit.chunk.document: hit for hit in fuse(Sides(dense(a=0.9, b=0.7), sparse(b=20.0, c=1.0)), Retrieval())}
    assert (found["a"].dense, found["a"].sparse) == (0.9, None)
    assert (found["b"].dense, found["b"].sparse) == (0.7, 20.0)
    assert (found["c"].dense, found["c"].sparse) == (None, 1.0)


def test_weights_shift_the_balance():
    sides = Sides(dense(a=0.9, b=0.1), sparse(c=9.0, d=1.0))
    assert names(fuse(sides, Retrieval(dense_weight=2.0)))[0] == "a"
    assert names(fuse(sides, Retrieval(sparse_weight=2.0)))[0] == "c"
    assert names(fuse(sides, Retrieval(dense_weight=0.0)))[0] == "c"


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_unit_of_a_side_does_not_matter(scale):
    plain = Sides(dense(a=0.9, b=0.7, c=0.5), sparse(c=3.0, b=2.0, d=1.0))
    other = Sides(plain.dense, tuple(Hit(hit.chunk, hit.score * scale, sparse=hit.score) for hit in plain.sparse))
    assert names(fuse(other, Retrieval())) == names(fuse(plain, Retrieval()))


def test_a_side_with_one_hit_or_none_is_no_division_by_zero():
    assert [hit.score for hit in fuse(Sides(dense(a=0.4), ()), Retrieval())] == [1.0]
    assert [hit.score for hit in fuse(Sides((), sparse(a=4.0, b=4.0)), Retrieval())] == [1.0, 1.0]
    assert fuse(Sides((), ()), Retrieval()) == []


def test_equal_scores_stand_in_one_order_whatever_order_they_came_in():
    hits = sparse(b=1.0, a=1.0, c=1.0)
    assert (
        names(fuse(Sides((), hits), Retrieval())) == names(fuse(Sides((), hits[::-1]), Retrieval())) == ["a", "b", "c"]
    )


@pytest.mark.parametrize("mode", ["dense", "sparse"])
def test_one_side_alone_keeps_its_own_scores(mode):
    sides = Sides(dense(a=0.9, b=0.7), sparse(b=20.0))
    assert fuse(sides, Retrieval(mode=mode)) == list(getattr(sides, mode))


class Both:
    """Embedder and encoder that remember whether they were asked."""

    def __init__(self):
        self.asked = []

    def embed_query(self, text):
        self.asked.append("dense")
        return np.ones(2, np.float32)

    def encode_query(self, text):
        self.asked.append("sparse")
        return SparseVector((1,), (1.0,))


class Found:
    """An index that finds what it is given, for the sides that are asked."""

    def __init__(self, sides):
        self.sides, self.calls = sides, []

    def search(self, query, scope, limit):
        self.calls.append((scope, limit))
        return Sides(
            () if query.dense is None else self.sides.dense[:limit],
            () if query.sparse is None else self.sides.sparse[:limit],
        )


class Backwards:
    name = "backwards"

    def rerank(self, question, hits):
        self.seen = len(hits)
        return list(hits)[::-1]


SIDES = Sides(dense(a=0.9, b=0.7, c=0.5), sparse(d=9.0, b=8.0, e=1.0))


def run(config, reranker=None, scope=None):
    both, index = Both(), Found(SIDES)
    hits = retrieve(index, both, both, config, "why?", scope or Scope("acme"), reranker)
    return hits, both.asked, index.calls


@pytest.mark.parametrize("mode", ["dense", "sparse"])
def test_a_side_that_is_not_needed_is_not_computed(mode):
    hits, asked, _ = run(Retrieval(mode=mode))
    assert asked == [mode]
    assert hits == list(getattr(SIDES, mode))


def test_the_scope_and_the_number_of_candidates_go_to_the_store():
    scope = Scope("acme", frozenset({"hr"}), since=3.0)
    assert run(Retrieval(candidates=7), scope=scope)[2] == [(scope, 7)]


def test_the_limit_cuts_last():
    assert len(run(Retrieval(limit=2))[0]) == 2
    assert len(run(Retrieval(limit=50))[0]) == 5


def test_only_the_first_are_reranked_and_the_rest_stand_behind():
    plain = names(run(Retrieval())[0])
    reranker = Backwards()
    found = names(run(Retrieval(rerank_candidates=3), reranker)[0])
    assert found == [*plain[:3][::-1], *plain[3:]]
    assert reranker.seen == 3
