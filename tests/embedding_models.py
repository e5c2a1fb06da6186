"""Embedding models for tests: MiniLM made once a run, its weights as a model of fastembed, a small random BERT."""

import json
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime

from plinth.core.digests import digest_bytes
from plinth.retrieval import minilm
from plinth.retrieval.onnx import BertShape, bert_graph

COMMIT = "a" * 40
CUSTOM = "plinth-tests/minilm"
SMALL = BertShape(layers=2, heads=2, epsilon=1e-12, max_tokens=16)
HIDDEN, INNER, WORDS = 8, 32, 50


@cache
def read_weights():
    return minilm.read_weights()


@cache
def float32_weights():
    from safetensors.numpy import load

    return load(read_weights()["model.safetensors"])


def fastembed_cache(folder):
    """MiniLM in float32, laid out as Hugging Face's cache, and known to fastembed by the name CUSTOM."""
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    model = bert_graph(float32_weights(), minilm.SHAPE, quantize=False, masked=True)
    files = {"model.onnx": model, "tokenizer.json": read_weights()["tokenizer.json"]}
    hub_layout(folder, files)
    if CUSTOM not in {known["model"] for known in TextEmbedding.list_supported_models()}:
        TextEmbedding.add_custom_model(
            CUSTOM, PoolingType.DISABLED, False, ModelSource(hf=CUSTOM), minilm.DIMENSION, "model.onnx"
        )
    return folder


def hub_layout(folder, files, name=CUSTOM):
    repository = folder / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    texts = {
        "config.json": json.dumps({"pad_token_id": 0}),
        "tokenizer_config.json": json.dumps({"model_max_length": 256, "pad_token": "[PAD]"}),
        "special_tokens_map.json": "{}",
    }
    for file, text in texts.items():
        (snapshot / file).write_text(text)
    for file, data in files.items():
        (snapshot / file).write_bytes(data)


def small_weights(rng):
    """Random weights of a BERT with 2 layers, 2 heads and 8 hidden numbers."""
    sizes = {
        "embeddings.word_embeddings.weight": (WORDS, HIDDEN),
        "embeddings.position_embeddings.weight": (SMALL.max_tokens, HIDDEN),
        "embeddings.token_type_embeddings.weight": (2, HIDDEN),
    }
    norms = ["embeddings.LayerNorm"]
    for layer in range(SMALL.layers):
        name = f"encoder.layer.{layer}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            sizes[f"{name}.attention.{part}.weight"] = (HIDDEN, HIDDEN)
            sizes[f"{name}.attention.{part}.bias"] = (HIDDEN,)
        sizes |= {f"{name}.intermediate.dense.weight": (INNER, HIDDEN), f"{name}.intermediate.dense.bias": (INNER,)}
        sizes |= {f"{name}.output.dense.weight": (HIDDEN, INNER), f"{name}.output.dense.bias": (HIDDEN,)}
        norms += [f"{name}.attention.output.LayerNorm", f"{name}.output.LayerNorm"]
    sizes |= {f"{norm}.{part}": (HIDDEN,) for norm in norms for part in ("weight", "bias")}
    return {name: rng.normal(size=size).astype(np.float32) for name, size in sizes.items()}


def small_model(folder, seed=0, **card):
    """The folder of a random model with MiniLM's tokenizer cut to nothing but its first words; for what may break."""
    rng = np.random.default_rng(seed)
    tokenizer = json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                       "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing", "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                       {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
            "special_tokens": {name: {"id": name, "ids": [number], "tokens": [name]}
                               for number, name in enumerate(("[CLS]", "[SEP]"))}},
        "decoder": None,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100,
                  "vocab": {"[CLS]": 0, "[SEP]": 1, "[UNK]": 2} | {f"w{n}": n for n in range(3, WORDS)}},
    }).encode()  # fmt: skip
    files = {
        "model.onnx": bert_graph(small_weights(rng), SMALL, quantize=True),
        "tokenizer.json": tokenizer,
    }
    folder.mkdir(parents=True, exist_ok=True)
    return write_model(folder, files, **card)


def write_model(folder, files, **card):
    """Files with a card that names their digests."""
    described = {
        "name": "small",
        "dimension": HIDDEN,
        "max_tokens": SMALL.max_tokens,
        "pooling": "mean",
        "files": {name: digest_bytes(data) for name, data in files.items()},
        **card,
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "card.json").write_text(json.dumps(described))
    return folder


def run(model, **inputs):
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, inputs)[0]


@cache
def minilm_folder():
    """MiniLM's folder, made once a run and deleted with the process."""
    holder = tempfile.TemporaryDirectory(prefix="minilm-")
    _KEPT.append(holder)
    return minilm.make_minilm(Path(holder.name))


_KEPT: list = []
