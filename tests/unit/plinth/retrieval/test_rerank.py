"""The reranker that reads for phrases."""

from plinth.core.answers import Hit
from plinth.core.corpus import Chunk
from plinth.retrieval.rerank import LexicalReranker


def hits(*texts, scores=None):
    scores = scores or [1.0] * len(texts)
    return [
        Hit(Chunk(f"{n}", "v", "docs", "", (), text, 0), score)
        for n, (text, score) in enumerate(zip(texts, scores, strict=True))
    ]


def order(question, found):
    return [hit.chunk.document for hit in LexicalReranker().rerank(question, found)]


def test_the_phrase_stands_above_its_words_near_each_other_and_those_above_its_words_apart():
    apart = "boundary " + "filler " * 20 + "layer"
    assert order("boundary layers", hits(apart, "layer of the boundary", "the boundary layer")) == ["2", "1", "0"]


def test_what_the_search_found_best_stays_first_when_no_pair_stands_anywhere():
    assert order("boundary layer", hits("one", "two", "three", scores=[3.0, 2.0, 1.0])) == ["0", "1", "2"]


def test_phrases_weigh_less_than_the_search():
    assert order("boundary layer", hits("nothing", "boundary layer", scores=[3.0, 1.0])) == ["0", "1"]


def test_the_same_hits_come_back_with_the_scores_of_their_sides():
    found = [Hit(hit.chunk, hit.score, dense=0.3, sparse=4.0) for hit in hits("a b", "b a", "c")]
    again = LexicalReranker().rerank("a b", found)
    assert {hit.chunk for hit in again} == {hit.chunk for hit in found}
    assert {(hit.dense, hit.sparse) for hit in again} == {(0.3, 4.0)}
    assert [hit.score for hit in again] == sorted((hit.score for hit in again), reverse=True)


def test_no_hits_and_no_words_are_no_error():
    assert LexicalReranker().rerank("boundary layer", []) == []
    assert order("", hits("a", "b")) == ["0", "1"]
    assert order("?", hits("", "b")) == ["0", "1"]
