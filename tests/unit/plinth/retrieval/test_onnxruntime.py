import json

import numpy as np
import pytest
from onnx import TensorProto, helper

from embedding_models import HIDDEN, SMALL, small_model, write_model
from plinth.errors import Corrupt, NotFound, RefusedByPolicy
from plinth.retrieval.onnxruntime import OnnxEmbedder


@pytest.fixture
def folder(tmp_path):
    return small_model(tmp_path / "model")


@pytest.fixture
def embedder(folder):
    return OnnxEmbedder(folder)


def words(count, start=3):
    return " ".join(f"w{start + number % 40}" for number in range(count))


def test_more_texts_than_a_slice_keep_their_order(embedder):
    texts = [words(number % 14, 3 + number % 7) for number in range(1200)]
    seen = []
    vectors = embedder.embed_documents(texts, lambda done, total: seen.append((done, total)))
    assert vectors.shape == (1200, HIDDEN)
    assert vectors.dtype == np.float32
    for number in (0, 1, 511, 512, 513, 1023, 1024, 1199):
        assert (vectors[number] == embedder.embed_query(texts[number])).all()
    assert seen == [(done, 1200) for done in [*range(64, 1200, 64), 1200]]


def test_no_texts_give_no_vectors(embedder):
    assert embedder.embed_documents([]).shape == (0, HIDDEN)


def test_a_text_is_read_up_to_the_limit_of_tokens(embedder):
    limit = SMALL.max_tokens - 2
    full = embedder.embed_query(words(limit))
    assert (embedder.embed_query(words(limit) + " w3 w4") == full).all()
    assert not (embedder.embed_query(words(limit - 1)) == full).all()


def test_a_text_of_millions_of_characters_is_read_at_its_beginning_only(embedder):
    text = words(20) + " w5" * 5_000_000
    assert (embedder.embed_query(text) == embedder.embed_query(words(20))).all()


@pytest.mark.parametrize("odd", ["\0", "\x07", "\ud800"])
def test_characters_that_are_no_text_are_dropped(embedder, odd):
    assert (embedder.embed_query(f"w3{odd} w{odd}4") == embedder.embed_query("w3 w4")).all()
    assert embedder.count_tokens(f"w3{odd} w{odd}4") == 2


def test_an_empty_text_has_a_vector_of_length_one(embedder):
    vectors = embedder.embed_documents(["", " ", "\0"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert (vectors == vectors[0]).all()


def test_tokens_are_counted_beyond_the_limit_and_without_special_ones(embedder):
    assert embedder.count_tokens("") == 0
    assert embedder.count_tokens(words(1000)) == 1000


def test_one_thread_and_many_give_the_same_bytes(folder):
    texts = [words(number % 14) for number in range(100)]
    one, four = (OnnxEmbedder(folder, threads=threads).embed_documents(texts) for threads in (1, 4))
    assert one.tobytes() == four.tobytes()


def test_who_stops_in_the_middle_gets_the_error_of_the_callback(embedder):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embedder.embed_documents([words(3)] * 300, stop)
    assert embedder.embed_documents([words(3)]).shape == (1, HIDDEN)


def test_the_digest_changes_with_whatever_decides_a_vector(tmp_path):
    digests = [
        OnnxEmbedder(small_model(tmp_path / "a")).digest,
        OnnxEmbedder(small_model(tmp_path / "b", seed=1)).digest,
        OnnxEmbedder(small_model(tmp_path / "c", max_tokens=8)).digest,
    ]
    assert len(set(digests)) == 3
    assert OnnxEmbedder(small_model(tmp_path / "d", name="renamed")).digest == digests[0]


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "card.json"])
def test_a_missing_file_is_not_found(folder, name):
    (folder / name).unlink()
    with pytest.raises(NotFound):
        OnnxEmbedder(folder)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_a_changed_byte_is_corrupt(folder, name):
    path = folder / name
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    with pytest.raises(Corrupt, match="not the one that the card names"):
        OnnxEmbedder(folder)


@pytest.mark.parametrize(
    "card", [b"", b"[]", b"{}", b"\xff", b'{"files": 3}', b'{"files": {"model.onnx": "", "tokenizer.json": ""}}']
)
def test_a_broken_card_is_corrupt(folder, card):
    (folder / "card.json").write_bytes(card)
    with pytest.raises(Corrupt, match="card is unreadable"):
        OnnxEmbedder(folder)


@pytest.mark.parametrize("change", [{"dimension": 0}, {"dimension": "many"}, {"max_tokens": 2}, {"pooling": "cls"}])
def test_a_card_with_impossible_values_is_corrupt(tmp_path, change):
    with pytest.raises(Corrupt, match="card is unreadable"):
        OnnxEmbedder(small_model(tmp_path / "model", **change))


def test_a_model_with_operators_of_another_domain_is_refused_even_with_a_card(tmp_path):
    node = helper.make_node("EPContext", ["input_ids"], ["embedding"], domain="com.microsoft")
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("com.microsoft", 1)])
    write_model(tmp_path, {"model.onnx": model.SerializeToString(), "tokenizer.json": b"{}"})
    with pytest.raises(RefusedByPolicy):
        OnnxEmbedder(tmp_path)


def test_a_tokenizer_that_is_none_is_corrupt(folder):
    files = {"model.onnx": (folder / "model.onnx").read_bytes(), "tokenizer.json": b'{"model": "none"}'}
    with pytest.raises(Corrupt, match="tokenizer cannot be loaded"):
        OnnxEmbedder(write_model(folder, files))


def test_the_name_and_limits_are_the_cards(folder, embedder):
    card = json.loads((folder / "card.json").read_text())
    assert (embedder.name, embedder.dimension, embedder.max_tokens) == (
        card["name"],
        card["dimension"],
        card["max_tokens"],
    )


def test_the_kernels_for_processors_without_vnni_give_the_same_vectors(folder, embedder, monkeypatch):
    texts = [words(number) for number in range(14)]
    monkeypatch.setattr("plinth.retrieval.onnxruntime._products_overflow", lambda: True)
    np.testing.assert_allclose(OnnxEmbedder(folder).embed_documents(texts), embedder.embed_documents(texts), atol=1e-6)
