"""The evaluation of retrieval on a collection, with a small embedder of its own."""

import zlib

import numpy as np
import pytest

from plinth.retrieval.beir import Collection
from plinth.retrieval.bm25 import Bm25Encoder
from plinth.retrieval.evaluation import MODES, differences, evaluate, index_collection
from plinth.retrieval.qdrant_edge import EdgeStore


class BagOfWords:
    """Each word has a direction; a text is the sum of its words'."""

    name, dimension, max_tokens, digest = "bag", 64, 1000, "d" * 64

    def __init__(self):
        self.embedded = 0

    def embed_query(self, text):
        total = np.full(self.dimension, 1e-3)
        for word in text.lower().split():
            total += np.random.default_rng(zlib.crc32(word.encode())).normal(size=self.dimension)
        return (total / np.linalg.norm(total)).astype(np.float32)

    def embed_documents(self, texts, on_progress=None):
        self.embedded += len(texts)
        return np.stack([self.embed_query(text) for text in texts])

    def count_tokens(self, text):
        return len(text.split())


def collection(count=40):
    documents = {str(n): f"report number{n} about topic{n % 5}" for n in range(count)} | {"empty": ""}
    queries = {"q1": "report number7", "q2": "the topic3"}
    judged = {"q1": {"7": 1}, "q2": {str(n): 1 for n in range(count) if n % 5 == 3}}
    return Collection(documents, queries, judged, "c" * 64)


def test_known_answers_get_known_numbers(tmp_path):
    asked, embedder, store = collection(), BagOfWords(), EdgeStore(tmp_path / "index")
    build = index_collection(asked, store, embedder, tmp_path / "vectors")
    results = evaluate(asked, store.open(build), embedder, Bm25Encoder(1.0))
    assert list(results) == list(MODES)
    for mode in MODES:
        summary = results[mode].summary()
        assert set(summary) == {"ndcg@10", "recall@100", "mrr", "p50_ms", "p95_ms"}
        assert summary["ndcg@10"] == pytest.approx(1.0)
        assert summary["recall@100"] == pytest.approx(1.0)
        assert 0 < summary["p50_ms"] <= summary["p95_ms"]
    gains = differences(results)
    assert set(gains) == {"hybrid-dense", "hybrid-sparse"}
    assert gains["hybrid-dense"]["ndcg@10"].n == 2


def test_a_second_run_embeds_no_document_again(tmp_path):
    embedder, store = BagOfWords(), EdgeStore(tmp_path / "index")
    seen = []
    first = index_collection(
        collection(), store, embedder, tmp_path / "vectors", lambda done, all_: seen.append((done, all_))
    )
    assert embedder.embedded == 41
    assert seen == [(41, 41)]
    assert index_collection(collection(), EdgeStore(tmp_path / "index"), embedder, tmp_path / "vectors") == first
    assert embedder.embedded == 41
    assert list((tmp_path / "vectors").iterdir()) == []


def test_a_damaged_index_of_a_collection_is_made_again(tmp_path):
    folder, embedder = tmp_path / "index", BagOfWords()
    build = index_collection(collection(), EdgeStore(folder), embedder, tmp_path / "vectors")
    next(path for path in (folder / build).rglob("shard-*/**/*") if path.is_file()).unlink()
    store = EdgeStore(folder)
    assert index_collection(collection(), store, embedder, tmp_path / "vectors") == build
    assert store.open(build).count() == 41


def test_who_was_interrupted_goes_on_with_the_vectors_that_were_computed(tmp_path, monkeypatch):
    monkeypatch.setattr("plinth.retrieval.evaluation.SLICE", 10)
    embedder = BagOfWords()

    def stop(done, _):
        if done == 30:
            raise KeyboardInterrupt

    broken = EdgeStore(tmp_path / "index")
    with pytest.raises(KeyboardInterrupt):
        index_collection(collection(), broken, embedder, tmp_path / "vectors", stop)
    (half, *_) = sorted((tmp_path / "vectors").rglob("*.npy"))
    half.write_bytes(half.read_bytes()[:100])
    broken.drop(next(iter(broken.builds())))  # what the end of the process does to its lock
    embedder.embedded = 0
    store = EdgeStore(tmp_path / "index")
    assert store.open(index_collection(collection(), store, embedder, tmp_path / "vectors")).count() == 41
    assert embedder.embedded == 10 + 11


def test_another_model_or_corpus_is_another_build(tmp_path):
    store, embedder, other = EdgeStore(tmp_path / "index"), BagOfWords(), BagOfWords()
    other.digest = "e" * 64
    builds = {index_collection(collection(), store, one, tmp_path / "vectors") for one in (embedder, other)}
    assert len(builds) == 2


def test_one_mode_alone_has_no_differences(tmp_path):
    asked, embedder, store = collection(), BagOfWords(), EdgeStore(tmp_path / "index")
    index = store.open(index_collection(asked, store, embedder, tmp_path / "vectors"))
    results = evaluate(asked, index, embedder, Bm25Encoder(1.0), modes=["sparse"])
    assert list(results) == ["sparse"]
    assert differences(results) == {}
