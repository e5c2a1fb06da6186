"""One suite for the port of embedding models, run against every adapter.

fastembed runs for real, with MiniLM's own weights laid out as its cache; a model that it would have to download takes
part only where its cache is given (FASTEMBED_CACHE_PATH). The endpoint is a real HTTP server on 127.0.0.1.
"""

import os
import random
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

import openai_server
from embedding_models import CUSTOM, fastembed_cache, hub_layout, minilm_folder, read_weights
from openai_server import OpenAIServer, Reply
from plinth.core.answers import Hit
from plinth.core.corpus import Chunk
from plinth.errors import InvalidInput, Unavailable
from plinth.retrieval import openai as endpoint
from plinth.retrieval.fastembed import FastembedEmbedder, FastembedReranker
from plinth.retrieval.onnxruntime import OnnxEmbedder
from plinth.retrieval.openai import OpenAIEmbedder

SEED = int(os.environ.get("PLINTH_SEED", random.randrange(2**31)))
# What a neighbour may change in a vector. Texts run one by one: nothing. Behind an endpoint: float32's last bits.
BOUND = {"minilm": 0.0, "fastembed": 0.0, "fastembed-download": 0.0, "openai": 1e-6}
DOWNLOADED = "BAAI/bge-small-en-v1.5"

SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "A release pins the model, the index and the prompts.",
    "Rolling back restores all of them at once.",
    "Boundary layers separate where the pressure rises.",
    "",
    "How long is a piece of string?",
    "Chunks keep the headings that they stand below. " * 12,
    "x",
    "Ein Satz auf Deutsch, mit Umlauten: äöü.",
    "日本語のテキスト",
]


CACHE = os.environ.get("FASTEMBED_CACHE_PATH")
KINDS = ["minilm", "fastembed", "openai"]


@pytest.fixture(scope="module", params=[*KINDS, "fastembed-download"] if CACHE else KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return fastembed_cache(tmp_path_factory.mktemp("fastembed"))


@pytest.fixture(scope="module")
def embedder(kind, request):
    if kind == "minilm":
        yield OnnxEmbedder(minilm_folder())
    elif kind == "fastembed":
        yield FastembedEmbedder(CUSTOM, request.getfixturevalue("cache"))
    elif kind == "fastembed-download":
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HF_HUB_OFFLINE", "1")
            yield FastembedEmbedder(DOWNLOADED, Path(CACHE))
    else:
        inner = OnnxEmbedder(minilm_folder())
        # As endpoints do, it gives vectors of any length.
        with pytest.MonkeyPatch.context() as patch, OpenAIServer() as server:
            patch.setattr(openai_server, "vector", lambda text, _: (inner.embed_query(text) * 7).tolist())
            yield OpenAIEmbedder("minilm", server.url, "key")


@pytest.fixture(scope="module")
def vectors(embedder):
    return embedder.embed_documents(SENTENCES)


def test_vectors_are_float32_of_length_one_a_row_a_text(embedder, vectors):
    assert vectors.shape == (len(SENTENCES), embedder.dimension)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    query = embedder.embed_query(SENTENCES[0])
    assert query.shape == (embedder.dimension,)
    assert query.dtype == np.float32


def test_no_texts_give_no_vectors(embedder):
    assert embedder.embed_documents([]).shape == (0, embedder.dimension)


def test_vectors_come_in_the_order_of_the_texts_whatever_their_lengths(kind, embedder, vectors):
    print(f"PLINTH_SEED={SEED}")
    order = list(range(len(SENTENCES))) * 9
    random.Random(SEED).shuffle(order)
    found = embedder.embed_documents([SENTENCES[number] for number in order])
    np.testing.assert_allclose(found, vectors[order], atol=BOUND[kind])


def test_a_vector_does_not_depend_on_its_neighbours(kind, embedder, vectors):
    for number, text in enumerate(SENTENCES):
        for neighbours in ([], ["x"], [SENTENCES[6]] * 3):
            alone = embedder.embed_documents([text, *neighbours])[0]
            np.testing.assert_allclose(alone, vectors[number], atol=BOUND[kind], err_msg=text[:40])


def test_a_text_gives_the_same_vector_every_time(kind, embedder, vectors):
    np.testing.assert_allclose(embedder.embed_documents(SENTENCES), vectors, atol=BOUND[kind])


def test_questions_and_documents_meet_in_one_space(embedder, vectors):
    questions = [embedder.embed_query(f"{text} ") for text in SENTENCES]
    assert np.argmax(np.array(questions) @ vectors.T, axis=1).tolist() == list(range(len(SENTENCES)))
    close = embedder.embed_query("Rolling back brings all of them back at once.")
    assert np.argmax(vectors @ close) == 2


def test_many_threads_get_what_one_gets(kind, embedder, vectors):
    found, errors = {}, []

    def work(number):
        try:
            found[number] = embedder.embed_documents(SENTENCES), embedder.embed_query(SENTENCES[number])
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(found) == 6
    for documents, _ in found.values():
        np.testing.assert_allclose(documents, vectors, atol=BOUND[kind])


@pytest.mark.parametrize("text", ["", " ", "\0", "\0\0a", "\ud800", "a\udfffb", "\U0001f600" * 50, "word " * 30_000])
def test_no_text_breaks_it(embedder, text):
    vectors = embedder.embed_documents([text, "x"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(embedder.embed_query(text)), 1, atol=1e-5)
    assert embedder.count_tokens(text) >= 0


def test_tokens_are_counted_for_any_length(embedder):
    assert embedder.count_tokens("") == 0
    one = embedder.count_tokens("a release pins the model")
    assert 4 <= one <= 12
    assert embedder.count_tokens("a release pins the model " * 1000) >= 1000 * one * 0.99


def test_progress_ends_with_all_done(embedder):
    seen = []
    embedder.embed_documents(["x"] * 130, lambda done, total: seen.append((done, total)))
    assert len(seen) > 1
    assert seen == sorted(seen)
    assert seen[-1] == (130, 130)
    assert {total for _, total in seen} == {130}


def test_the_digest_is_a_sha256_that_stays(embedder):
    assert len(embedder.digest) == 64
    assert embedder.digest == embedder.digest
    assert embedder.name
    assert embedder.max_tokens >= 128


@pytest.mark.skipif(CACHE is None, reason=f"FASTEMBED_CACHE_PATH names no folder with the weights of {DOWNLOADED}")
def test_a_model_that_fastembed_downloaded_finds_the_answer_to_a_question():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        made = FastembedEmbedder(DOWNLOADED, Path(CACHE))
    close, far = made.embed_documents(["Cats purr when they are content.", "The bond market fell on Monday."])
    question = made.embed_query("Why do cats purr?")
    assert question @ close > question @ far


def test_a_model_opened_twice_has_one_digest(cache):
    assert FastembedEmbedder(CUSTOM, cache).digest == FastembedEmbedder(CUSTOM, cache).digest
    assert OnnxEmbedder(minilm_folder()).digest == OnnxEmbedder(minilm_folder()).digest == minilm_folder().name


# What only one of the adapters can do wrong.


def test_int8_stays_close_to_the_float32_of_the_same_weights(cache):
    """Measured: cosine .995 on average over Cranfield, .980 at least; nDCG@10 .3745 against .3736."""
    exact = FastembedEmbedder(CUSTOM, cache).embed_documents(SENTENCES)
    found = OnnxEmbedder(minilm_folder()).embed_documents(SENTENCES)
    assert (exact * found).sum(axis=1).min() > 0.975


def test_a_model_that_fastembed_does_not_know_is_refused_with_those_it_knows(tmp_path):
    for adapter in (FastembedEmbedder, FastembedReranker):
        with pytest.raises(InvalidInput, match="one of: ") as caught:
            adapter("no/such-model", tmp_path)
        assert "no/such-model" in str(caught.value)


def test_weights_that_cannot_be_had_are_unavailable(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for adapter, model in ((FastembedEmbedder, DOWNLOADED), (FastembedReranker, "Xenova/ms-marco-MiniLM-L-6-v2")):
        with pytest.raises(Unavailable, match="cannot be loaded"):
            adapter(model, tmp_path)


def test_weights_that_are_damaged_are_unavailable(tmp_path):
    cache = fastembed_cache(tmp_path)
    model = next(cache.rglob("model.onnx"))
    model.write_bytes(model.read_bytes()[: 1 << 20])
    with pytest.raises(Unavailable, match="cannot be loaded"):
        FastembedEmbedder(CUSTOM, cache)


def shorter_is_better():
    """A cross-encoder of one operator: the fewer tokens, the better."""
    nodes = [
        helper.make_node("ReduceSum", ["attention_mask", "axis"], ["tokens"], keepdims=1),
        helper.make_node("Cast", ["tokens"], ["count"], to=TensorProto.FLOAT),
        helper.make_node("Neg", ["count"], ["logits"]),
    ]
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [1])
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["b", "n"]) for n in ("input_ids", "attention_mask")]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", 1])
    graph = helper.make_graph(nodes, "shorter", inputs, [output], [axis])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return model.SerializeToString()


def test_a_cross_encoder_orders_hits_by_what_it_says_of_each(tmp_path):
    from fastembed.common.model_description import ModelSource
    from fastembed.rerank.cross_encoder import TextCrossEncoder

    name = "plinth-tests/shorter"
    hub_layout(tmp_path, {"model.onnx": shorter_is_better(), "tokenizer.json": read_weights()["tokenizer.json"]}, name)
    if name not in {known["model"] for known in TextCrossEncoder.list_supported_models()}:
        TextCrossEncoder.add_custom_model(name, ModelSource(hf=name), "model.onnx")
    chunk = Chunk("d", "v", "s", "", (), "", 0)
    texts = ["three words here", "one", "two words", "one", "bad \ud800 text with many words"]
    hits = [Hit(replace(chunk, text=text, position=number), 1.0, dense=0.5) for number, text in enumerate(texts)]
    found = FastembedReranker(name, tmp_path).rerank("what?", hits)
    assert [hit.chunk.position for hit in found] == [1, 3, 2, 0, 4]
    assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)
    assert {hit.dense for hit in found} == {0.5}


numbers_of_the_text_alone = openai_server.vector


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(openai_server, "vector", numbers_of_the_text_alone)
    monkeypatch.setattr(endpoint, "RETRIES", 1)
    with OpenAIServer() as running:
        yield running


def test_an_endpoint_gets_batches_the_key_and_the_dimension(server):
    made = OpenAIEmbedder("m", server.url, "secret", dimension=6)
    assert made.embed_documents([f"text {number}" for number in range(150)]).shape == (150, 6)
    assert sorted(len(asked.body["input"]) for asked in server.asked) == [22, 64, 64]
    assert {asked.body["dimensions"] for asked in server.asked} == {6}
    assert {asked.headers["authorization"] for asked in server.asked} == {"Bearer secret"}


def test_a_dimension_is_learned_from_the_first_answer(server):
    made = OpenAIEmbedder("m", server.url, "")
    assert made.dimension == 8
    assert len(server.asked) == 1
    assert made.dimension == 8
    assert len(server.asked) == 1
    assert "dimensions" not in server.asked[0].body


def test_another_dimension_than_the_one_asked_for_is_refused(server, monkeypatch):
    monkeypatch.setattr(openai_server, "vector", lambda text, size: [1.0] * 8)
    with pytest.raises(InvalidInput, match="8 numbers, not 6"):
        OpenAIEmbedder("m", server.url, "", dimension=6).embed_query("x")


def test_the_digest_is_of_address_model_and_dimension(server):
    digests = {
        OpenAIEmbedder("m", server.url, "a", 8).digest,
        OpenAIEmbedder("m", f"{server.url}/", "b").digest,
        OpenAIEmbedder("other", server.url, "a", 8).digest,
        OpenAIEmbedder("m", f"{server.url}/x", "a", 8).digest,
        OpenAIEmbedder("m", server.url, "a", 6).digest,
    }
    assert len(digests) == 4


def test_a_failure_that_passes_is_tried_again(server):
    server.script(Reply(status=503, headers={"Retry-After": "0"}), Reply())
    assert OpenAIEmbedder("m", server.url, "", 8).embed_query("x").shape == (8,)
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (401, Unavailable, "does not accept the key"),
        (404, Unavailable, "does not know the path or the model"),
        (400, InvalidInput, "refuses the request"),
        (429, Unavailable, "answers 429"),
        (500, Unavailable, "answers 500"),
        (302, Unavailable, "answers 302"),
    ],
)
def test_an_endpoints_refusal_is_told_without_what_it_wrote(server, status, kind, words):
    headers = {"Retry-After": "0", "Location": "http://169.254.169.254/"}
    server.script(Reply(("your key is sk-secret",), status=status, headers=headers))
    with pytest.raises(kind, match=words) as caught:
        OpenAIEmbedder("m", server.url, "sk-secret", 8).embed_documents(["x"])
    assert "sk-secret" not in str(caught.value)
    assert caught.value.hint


def test_an_endpoint_that_does_not_answer_is_unavailable(server, monkeypatch):
    monkeypatch.setattr(endpoint, "TIMEOUT", 0.2)
    monkeypatch.setattr(endpoint, "RETRIES", 0)
    server.script(Reply(wait=5))
    with pytest.raises(Unavailable, match="no answer in time"):
        OpenAIEmbedder("m", server.url, "", 8).embed_query("x")


def test_an_endpoint_that_is_not_there_is_unavailable(monkeypatch):
    monkeypatch.setattr(endpoint, "RETRIES", 0)
    with OpenAIServer() as gone:
        url = gone.url
    with pytest.raises(Unavailable, match="connection failed"):
        OpenAIEmbedder("m", url, "", 8).embed_query("x")


@pytest.mark.parametrize("bad", [[0.0] * 8, [float("nan")] * 8, [], ["a"] * 8, None])
def test_what_is_no_vector_is_refused(server, monkeypatch, bad):
    monkeypatch.setattr(openai_server, "vector", lambda text, size: bad)
    with pytest.raises((Unavailable, InvalidInput)):
        OpenAIEmbedder("m", server.url, "", 8).embed_query("x")


def test_a_missing_vector_is_refused(server, monkeypatch):
    class Fewer(openai_server._Handler):
        def _embeddings(self, body):
            answer = super()._embeddings(body)
            return {**answer, "data": answer["data"][:-1]}

    monkeypatch.setattr(server._server, "RequestHandlerClass", type("H", (Fewer,), {"owner": server}))
    with pytest.raises(Unavailable, match="1 vectors for 2 texts"):
        OpenAIEmbedder("m", server.url, "", 8).embed_documents(["x", "y"])
