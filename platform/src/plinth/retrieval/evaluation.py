"""How well a collection's documents are found, and how fast: dense, sparse and hybrid on the same index build.

A document is one chunk, its title before its text; the embedding model reads it up to its own length. Nothing is
chosen by the collection's questions.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from plinth.core.assistants import Retrieval
from plinth.core.bootstrap import Difference, paired_bootstrap
from plinth.core.corpus import Chunk, Scope
from plinth.core.digests import digest_bytes, digest_json
from plinth.errors import Corrupt, Unavailable
from plinth.retrieval.beir import Collection
from plinth.retrieval.bm25 import K1, B, Bm25Encoder
from plinth.retrieval.metrics import ndcg, recall, reciprocal_rank
from plinth.retrieval.port import Embedder, Index, Point, Progress, SparseEncoder, Vectors, VectorStore
from plinth.retrieval.search import retrieve

DEPTH = 100
SLICE = 512
MODES = ("dense", "sparse", "hybrid")


@dataclass
class ModeResult:
    """One mode's numbers, one a query, in the order of the collection's queries."""

    ndcg: list[float] = field(default_factory=list)
    recall: list[float] = field(default_factory=list)
    reciprocal_rank: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        """Stable JSON."""
        p50, p95 = np.percentile(self.seconds, (50, 95)) * 1000
        return {
            "ndcg@10": round(float(np.mean(self.ndcg)), 6),
            "recall@100": round(float(np.mean(self.recall)), 6),
            "mrr": round(float(np.mean(self.reciprocal_rank)), 6),
            "p50_ms": round(float(p50), 3),
            "p95_ms": round(float(p95), 3),
        }


def index_collection(
    collection: Collection, store: VectorStore, embedder: Embedder, cache: Path, on_progress: Progress | None = None
) -> str:
    """The index build of a collection, made if it is not there; returns its id.

    Args:
        collection: What to index.
        store: Where builds of collections are.
        embedder: The dense side.
        cache: Folder for the vectors of a build in the making: who is interrupted goes on from there.
        on_progress: Called with how many documents of how many are in.

    Raises:
        Unavailable: The disk is full, or the embedding endpoint does not answer.
        Conflict: Another process is making it.
    """
    texts = list(collection.documents.items())
    build = digest_json(
        {"schema": 1, "corpus": collection.digest, "embedding": embedder.digest, "bm25": {"k1": K1, "b": B}}
    )[:16]
    if store.builds().get(build):
        try:
            store.verify(build)
            return build
        except Corrupt:  # it is a cache: what is damaged is made again
            store.drop(build)
    counter = Bm25Encoder(1.0)
    sparse = Bm25Encoder(max(1.0, float(np.mean([counter.length(text) for _, text in texts]))))
    store.create(build, embedder.dimension)
    for start in range(0, len(texts), SLICE):
        some = texts[start : start + SLICE]
        vectors = _embedded([text for _, text in some], embedder, cache / build)
        points = [
            Point(_chunk(name, text), vector, sparse.encode_document(text))
            for (name, text), vector in zip(some, vectors, strict=True)
        ]
        store.add(build, points)
        if on_progress:
            on_progress(start + len(some), len(texts))
    store.complete(build)
    shutil.rmtree(cache / build, ignore_errors=True)
    return build


def evaluate(
    collection: Collection,
    index: Index,
    embedder: Embedder,
    sparse: SparseEncoder,
    *,
    modes: Sequence[str] = MODES,
    on_progress: Progress | None = None,
) -> dict[str, ModeResult]:
    """Ask every query in every mode.

    Returns:
        Mode to its numbers. The seconds are those of the whole retrieval of 100 documents, the embedding of the
        query included.

    Raises:
        Unavailable: The embedding endpoint or the store does not answer.
    """
    results = {mode: ModeResult() for mode in modes}
    configs = {
        # The port's limit is that of an answer; a ranking goes further down.
        mode: Retrieval.model_validate({"mode": mode, "candidates": DEPTH}).model_copy(update={"limit": DEPTH})
        for mode in modes
    }
    for config in configs.values():  # what is loaded by the first question is not the questions' latency
        retrieve(index, embedder, sparse, config, next(iter(collection.queries.values())), Scope())
    for done, (query, text) in enumerate(collection.queries.items(), 1):
        judged = collection.judged[query]
        for mode, config in configs.items():
            started = time.perf_counter()
            hits = retrieve(index, embedder, sparse, config, text, Scope())
            results[mode].seconds.append(time.perf_counter() - started)
            ranking = [hit.chunk.document for hit in hits]
            results[mode].ndcg.append(ndcg(ranking, judged))
            results[mode].recall.append(recall(ranking, judged))
            results[mode].reciprocal_rank.append(reciprocal_rank(ranking, judged))
        if on_progress:
            on_progress(done, len(collection.queries))
    return results


def differences(results: dict[str, ModeResult]) -> dict[str, dict[str, Difference]]:
    """What hybrid gains over each side, by query: "hybrid-dense" to metric to difference."""
    found = {}
    for side in ("dense", "sparse"):
        if side in results and "hybrid" in results:
            better, base = results["hybrid"], results[side]
            found[f"hybrid-{side}"] = {
                "ndcg@10": paired_bootstrap(better.ndcg, base.ndcg),
                "recall@100": paired_bootstrap(better.recall, base.recall),
                "mrr": paired_bootstrap(better.reciprocal_rank, base.reciprocal_rank),
            }
    return found


def _chunk(name: str, text: str) -> Chunk:
    return Chunk(document=name, version="", source="dataset", title="", headings=(), text=text, position=0)


def _embedded(texts: list[str], embedder: Embedder, cache: Path) -> Vectors:
    """Vectors of a slice, from the cache where it has them."""
    path = cache / f"{digest_bytes(json.dumps(texts).encode())[:32]}.npy"
    try:
        kept: Vectors = np.load(path, allow_pickle=False)
        if kept.shape == (len(texts), embedder.dimension) and kept.dtype == np.float32:
            return kept
    except (OSError, ValueError, EOFError):
        pass  # not there, or half of one
    vectors = embedder.embed_documents(texts)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        np.save(path, vectors)
    except OSError as error:
        raise Unavailable(
            f"vectors cannot be kept: {error.strerror}", where=str(cache), hint="free disk space"
        ) from error
    return vectors
