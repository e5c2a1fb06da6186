"""BM25 as sparse vectors: the term frequencies here, the rarity of a term (IDF) by the store.

The engine's own encoder (qdrant_edge's `Bm25`): words in lower case, without English stop words, stemmed by Snowball,
hashed to 32 bits. k1 = 1.2 and b = 0.75 are Lucene's defaults. Both stores hold these same vectors.
"""

from __future__ import annotations

from typing import Any

from plinth.errors import MissingExtra
from plinth.retrieval.port import SparseVector

K1, B = 1.2, 0.75


class Bm25Encoder:
    """Texts to BM25 weights. Thread-safe.

    Args:
        avg_len: Words of a document on average, as `length` counts them: without stop words. It decides the weights of
            documents only; those of a question are 1.

    Raises:
        MissingExtra: qdrant-edge-py is not installed.
    """

    def __init__(self, avg_len: float) -> None:
        self.avg_len = avg_len
        self._engine = _engine(K1, B, avg_len)
        self._counter: Any = None

    def encode_document(self, text: str) -> SparseVector:
        """Weight of each term: tf (k1 + 1) / (tf + k1 (1 - b + b length / avg_len))."""
        return _sorted(self._engine.embed_document(text))

    def encode_query(self, text: str) -> SparseVector:
        """Weight 1 for each term, however often it stands there."""
        return _sorted(self._engine.embed_query(text))

    def length(self, text: str) -> float:
        """Words of a text that count: its length in `avg_len`'s unit."""
        if self._counter is None:
            # With an unlimited k1 and no b the weight of a term is how often it stands there.
            self._counter = _engine(1e9, 0.0, 1.0)
        return float(sum(self._counter.embed_document(text).values))


def _engine(k: float, b: float, avg_len: float) -> Any:
    try:
        import qdrant_edge
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or "qdrant_edge", "retrieval") from error
    return qdrant_edge.Bm25(qdrant_edge.Bm25Config(k=k, b=b, avg_len=avg_len, language="english"))


def _sorted(vector: Any) -> SparseVector:
    pairs = sorted(zip(vector.indices, vector.values, strict=True))
    return SparseVector(tuple(index for index, _ in pairs), tuple(value for _, value in pairs))
