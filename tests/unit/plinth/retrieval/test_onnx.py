import math
import os
import random

import numpy as np
import onnx
import pytest

from embedding_models import HIDDEN, SMALL, WORDS, float32_weights, read_weights, run, small_weights
from plinth.core.onnx import check_onnx
from plinth.retrieval.minilm import SHAPE
from plinth.retrieval.onnx import bert_graph, quantized

SEED = int(os.environ.get("PLINTH_SEED", random.randrange(2**31)))


@pytest.fixture
def rng():
    print(f"PLINTH_SEED={SEED}")
    return np.random.default_rng(SEED)


def reference(weights, tokens):
    """BERT as the paper writes it, in float64, one text."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}

    def normalised(x, name):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    x = w["embeddings.word_embeddings.weight"][tokens] + w["embeddings.position_embeddings.weight"][: len(tokens)]
    x = normalised(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    size = HIDDEN // SMALL.heads
    for layer in range(SMALL.layers):
        name = f"encoder.layer.{layer}"
        q, k, v = (linear(x, f"{name}.attention.self.{part}") for part in ("query", "key", "value"))
        heads = []
        for head in range(SMALL.heads):
            part = slice(head * size, (head + 1) * size)
            scores = np.exp(q[:, part] @ k[:, part].T / math.sqrt(size))
            heads.append(scores / scores.sum(-1, keepdims=True) @ v[:, part])
        x = normalised(
            x + linear(np.hstack(heads), f"{name}.attention.output.dense"), f"{name}.attention.output.LayerNorm"
        )
        inner = linear(x, f"{name}.intermediate.dense")
        inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
        x = normalised(x + linear(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm")
    mean = x.mean(0)
    return mean / np.linalg.norm(mean)


@pytest.mark.parametrize("tokens", [1, 2, 7, 16])
def test_the_graph_computes_what_the_paper_writes(rng, tokens):
    weights = small_weights(rng)
    ids = rng.integers(0, WORDS, (1, tokens))
    found = run(bert_graph(weights, SMALL, quantize=False), input_ids=ids)
    np.testing.assert_allclose(found[0], reference(weights, ids[0]), atol=2e-5)


def test_padding_behind_a_mask_changes_nothing(rng):
    weights = small_weights(rng)
    ids = rng.integers(0, WORDS, (3, 9))
    mask = np.ones_like(ids)
    mask[1, 4:], mask[2, 1:] = 0, 0
    batch = run(bert_graph(weights, SMALL, quantize=False, masked=True), input_ids=ids, attention_mask=mask)
    for row, length in enumerate((9, 4, 1)):
        alone = run(bert_graph(weights, SMALL, quantize=False), input_ids=ids[row : row + 1, :length])
        np.testing.assert_allclose(batch[row], alone[0], atol=1e-5)


def test_the_same_weights_give_the_same_bytes(rng):
    weights = small_weights(rng)
    assert bert_graph(weights, SMALL, quantize=True) == bert_graph(dict(weights), SMALL, quantize=True)


def test_the_file_is_a_valid_model_of_standard_operators_alone(rng, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(bert_graph(small_weights(rng), SMALL, quantize=True, masked=True))
    check_onnx(path)
    onnx.checker.check_model(str(path), full_check=True)


def test_quantized_numbers_are_at_most_half_a_step_off(rng):
    columns = rng.normal(size=(40, 9)).astype(np.float32) * 10.0 ** rng.integers(-4, 4, 9).astype(np.float32)
    scale, rounded = quantized(columns)
    assert rounded.dtype == np.int8
    assert np.abs(rounded.astype(int)).max(axis=0).tolist() == [127] * 9
    assert (np.abs(rounded * scale - columns) <= scale * 0.5001).all()


def test_a_column_of_zeros_quantizes_to_zeros():
    scale, rounded = quantized(np.zeros((4, 2), np.float32))
    assert not rounded.any()
    assert np.isfinite(scale).all()


def test_minilm_in_float32_gives_the_similarities_that_its_authors_publish():
    """The example of sentence-transformers' documentation (sbert.net, Quickstart)."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_buffer(read_weights()["tokenizer.json"])
    tokenizer.no_padding()
    texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    model = bert_graph(float32_weights(), SHAPE, quantize=False)
    vectors = np.vstack([run(model, input_ids=np.array([tokenizer.encode(text).ids])) for text in texts])
    published = [[1.0000, 0.6660, 0.1046], [0.6660, 1.0000, 0.1411], [0.1046, 0.1411, 1.0000]]
    np.testing.assert_allclose(vectors @ vectors.T, published, atol=1e-4)
