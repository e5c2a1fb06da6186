"""Hybrid search: embed the question, ask both sides, fuse, rerank, cut."""

from __future__ import annotations

from collections.abc import Sequence

from plinth.core.answers import Hit
from plinth.core.assistants import Retrieval
from plinth.core.corpus import Chunk, Scope
from plinth.retrieval.port import Embedder, Index, Query, Reranker, Sides, SparseEncoder


def retrieve(
    index: Index,
    embedder: Embedder,
    sparse: SparseEncoder,
    config: Retrieval,
    question: str,
    scope: Scope,
    reranker: Reranker | None = None,
) -> list[Hit]:
    """The chunks of a scope that a question is answered from, best first, `config.limit` at most.

    Args:
        index: The opened build.
        embedder: The model that the build was made with.
        sparse: The encoder that the build was made with.
        config: How to retrieve.
        question: What is asked.
        scope: What may be read.
        reranker: Orders the best again; None leaves the order of the fusion.

    Raises:
        Unavailable: The embedding endpoint or the store does not answer.
    """
    query = Query(
        dense=None if config.mode == "sparse" else embedder.embed_query(question),
        sparse=None if config.mode == "dense" else sparse.encode_query(question),
    )
    found = fuse(index.search(query, scope, config.candidates), config)
    if reranker is not None and found:
        first = found[: config.rerank_candidates]
        found = [*reranker.rerank(question, first), *found[config.rerank_candidates :]]
    return found[: config.limit]


def fuse(sides: Sides, config: Retrieval) -> list[Hit]:
    """One ranking of both sides, best first; each hit keeps the scores of the sides that found it.

    The score of a chunk is the weighted sum of its scores on each side, brought to 0..1 by that side's own worst and
    best (relative score fusion; CombSUM of Fox and Shaw, TREC-2, with min-max normalisation); a side that did not find
    it adds 0. With one side only, the score is that side's own.
    """
    if config.mode == "dense":
        return list(sides.dense)
    if config.mode == "sparse":
        return list(sides.sparse)
    dense, sparse = ({hit.chunk: hit.score for hit in hits} for hits in (sides.dense, sides.sparse))
    scores: dict[Chunk, float] = {}
    for side, weight in ((dense, config.dense_weight), (sparse, config.sparse_weight)):
        for chunk, score in zip(side, _normalised(list(side.values())), strict=True):
            scores[chunk] = scores.get(chunk, 0.0) + weight * score
    ranking = sorted(scores, key=lambda chunk: (-scores[chunk], chunk.document, chunk.position))
    return [Hit(chunk, scores[chunk], dense.get(chunk), sparse.get(chunk)) for chunk in ranking]


def _normalised(scores: Sequence[float]) -> list[float]:
    if not scores:
        return []
    low, high = min(scores), max(scores)
    return [(score - low) / (high - low) if high > low else 1.0 for score in scores]
