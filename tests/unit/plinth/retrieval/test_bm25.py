"""BM25 as sparse vectors."""

import math
import threading

import pytest

from plinth.retrieval.bm25 import K1, B, Bm25Encoder


def by_term(vector):
    return dict(zip(vector.indices, vector.values, strict=True))


def test_the_weights_are_those_of_the_formula():
    encoder = Bm25Encoder(4.0)
    (flow,) = encoder.encode_query("flow").indices
    (wing,) = encoder.encode_query("wing").indices
    found = by_term(encoder.encode_document("flow flow wing"))
    norm = K1 * (1 - B + B * 3 / 4.0)
    assert found[flow] == pytest.approx(2 * (K1 + 1) / (2 + norm), rel=1e-5)
    assert found[wing] == pytest.approx(1 * (K1 + 1) / (1 + norm), rel=1e-5)


def test_words_are_stemmed_and_stop_words_dropped():
    encoder = Bm25Encoder(4.0)
    assert encoder.encode_query("The wings of the flowing").indices == encoder.encode_query("wing flow").indices
    assert encoder.encode_query("the of and").indices == ()


def test_a_term_of_a_question_weighs_one_however_often_it_stands():
    assert set(Bm25Encoder(4.0).encode_query("flow flow wing").values) == {1.0}


def test_indices_are_sorted_and_fit_32_bits():
    vector = Bm25Encoder(9.0).encode_document("a wing in a slipstream at high speed with panels that flutter")
    assert list(vector.indices) == sorted(set(vector.indices))
    assert all(0 <= index < 2**32 for index in vector.indices)


def test_the_length_counts_what_stands_there_without_stop_words():
    assert Bm25Encoder(1.0).length("the wing and the wing of flow") == pytest.approx(3, abs=1e-3)
    assert Bm25Encoder(1.0).length("") == 0


def test_the_average_length_decides_documents_only():
    short, long = Bm25Encoder(2.0), Bm25Encoder(200.0)
    assert short.encode_query("wing flow") == long.encode_query("wing flow")
    assert short.encode_document("wing flow heat") != long.encode_document("wing flow heat")


@pytest.mark.parametrize("text", ["", "   ", "\x00\x00", "\ud800", "🙂", "漢字", "a" * 100_000, "-- ; --"])
def test_any_text_has_a_vector_of_finite_weights(text):
    text = text.encode("utf-8", "replace").decode()
    encoder = Bm25Encoder(10.0)
    assert all(math.isfinite(value) and value > 0 for value in encoder.encode_document(text).values)
    encoder.encode_query(text)


def test_threads_get_what_one_gets():
    encoder, found = Bm25Encoder(10.0), []
    texts = [f"wing {n} flow {n % 7}" for n in range(200)]
    threads = [
        threading.Thread(target=lambda: found.append([encoder.encode_document(t) for t in texts])) for _ in "abc"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[encoder.encode_document(text) for text in texts]] * 3
