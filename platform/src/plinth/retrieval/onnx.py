"""A BERT encoder as an ONNX graph that gives sentence vectors, built from its weights without torch.

Only operators of the standard domain, so that the file passes the same check as every other model
(`plinth.core.onnx`); ONNX Runtime fuses them when it loads the file (`DynamicQuantizeMatMul`, `BiasGelu`).
Sources: Devlin et al., BERT (2019); the operators' specifications at https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plinth.errors import MissingExtra

Weights = Mapping[str, NDArray[Any]]

OPSET, IR_VERSION = 23, 11  # Attention is an operator from 23 on
INPUT, MASK, OUTPUT = "input_ids", "attention_mask", "embedding"


@dataclass(frozen=True, slots=True)
class BertShape:
    """What the weights do not say about themselves: heads, epsilon of the normalisations, tokens at most."""

    layers: int
    heads: int
    epsilon: float
    max_tokens: int


def bert_graph(weights: Weights, shape: BertShape, *, quantize: bool, masked: bool = False) -> bytes:
    """The encoder, mean pooling and normalisation to length 1, as one self-contained ONNX file.

    Input "input_ids" int64 [b, n], n at most `max_tokens`; output "embedding" float32 [b, hidden]. Without a mask every
    row of a batch has n tokens. The same weights give the same bytes.

    Quantized, weights are int8 with a scale a column, symmetric, and activations uint8 with one scale a tensor, found
    at run time: what stands in one batch shares that scale. Embeddings, attention scores and normalisations stay
    float32.

    Args:
        weights: Tensors by the names of huggingface's BertModel, float32.
        shape: What the weights do not say.
        quantize: Whether the linear layers compute in int8.
        masked: Whether there is a second input, "attention_mask" int64 [b, n], for batches with padding.

    Raises:
        MissingExtra: onnx is not installed.
    """
    try:
        from onnx import TensorProto, helper
    except ImportError as error:
        raise MissingExtra("onnx", "embedding") from error
    graph = _Graph(quantize)
    hidden = weights["embeddings.LayerNorm.weight"].size
    bias, weight_of_tokens = _mask(graph) if masked else (None, None)
    x = _embeddings(graph, weights, shape)
    for layer in range(shape.layers):
        x = _layer(graph, weights, shape, f"encoder.layer.{layer}", x, bias)
    mean = _mean(graph, x, weight_of_tokens)
    length = graph.add("ReduceL2", [mean, graph.constant("last", np.array([-1]))], keepdims=1)
    graph.nodes.append(helper.make_node("Div", [mean, length], [OUTPUT], name="normalise"))
    inputs = [INPUT, MASK] if masked else [INPUT]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "bert",
            [helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "n"]) for name in inputs],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["b", hidden])],
            list(graph.constants.values()),
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    data: bytes = model.SerializeToString(deterministic=True)
    return data


class _Graph:
    """Collects nodes and constants; numbers give the names, so the same calls give the same bytes."""

    def __init__(self, quantize: bool) -> None:
        self.quantize = quantize
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def constant(self, name: str, value: NDArray[Any]) -> str:
        from onnx import numpy_helper

        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def add(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        return self.add_many(kind, inputs, 1, **attributes)[0]

    def add_many(self, kind: str, inputs: list[str], outputs: int, **attributes: Any) -> list[str]:
        from onnx import helper

        name = f"{kind}_{len(self.nodes)}"
        names = [f"{name}_{number}" for number in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, name=name, **attributes))
        return names

    def linear(self, x: str, name: str, weight: NDArray[Any], bias: NDArray[Any]) -> str:
        """x @ weight.T + bias, in int8 where the graph is quantized."""
        columns = np.ascontiguousarray(weight.T)
        if not self.quantize:
            product = self.add("MatMul", [x, self.constant(f"{name}.weight", columns)])
            return self.add("Add", [product, self.constant(f"{name}.bias", bias)])
        scale, rounded = quantized(columns)
        weights = self.constant(f"{name}.weight", rounded)
        # One each: ONNX Runtime replaces weights and zero points together where int8 products would overflow.
        zero = self.constant(f"{name}.zero_point", np.zeros((), np.int8))
        x8, x_scale, x_zero = self.add_many("DynamicQuantizeLinear", [x], 3)
        product = self.cast(self.add("MatMulInteger", [x8, weights, x_zero, zero]))
        scales = self.add("Mul", [x_scale, self.constant(f"{name}.scale", scale)])
        return self.add("Add", [self.add("Mul", [product, scales]), self.constant(f"{name}.bias", bias)])

    def cast(self, x: str) -> str:
        from onnx import TensorProto

        return self.add("Cast", [x], to=TensorProto.FLOAT)

    def normalised(self, x: str, name: str, weights: Weights, epsilon: float) -> str:
        gain = self.constant(f"{name}.weight", weights[f"{name}.weight"])
        bias = self.constant(f"{name}.bias", weights[f"{name}.bias"])
        return self.add("LayerNormalization", [x, gain, bias], axis=-1, epsilon=epsilon)


def quantized(columns: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Symmetric int8, a scale a column: (scales [m], numbers [k, m])."""
    largest = np.abs(columns).max(axis=0).astype(np.float32)
    scale = (np.where(largest > 0, largest, 1) / np.float32(127)).astype(np.float32)
    return scale, np.rint(columns / scale).astype(np.int8)


def _embeddings(graph: _Graph, weights: Weights, shape: BertShape) -> str:
    """Words, positions and the first token type, normalised."""
    words = graph.constant("words", weights["embeddings.word_embeddings.weight"])
    places = weights["embeddings.position_embeddings.weight"][: shape.max_tokens]
    table = graph.constant("positions", places + weights["embeddings.token_type_embeddings.weight"][0])
    zero = graph.constant("first", np.array([0]))
    tokens = graph.add("Shape", [INPUT], start=1, end=2)
    positions = graph.add("Slice", [table, zero, tokens, zero])
    x = graph.add("Add", [graph.add("Gather", [words, INPUT]), positions])
    return graph.normalised(x, "embeddings.LayerNorm", weights, shape.epsilon)


def _layer(graph: _Graph, weights: Weights, shape: BertShape, name: str, x: str, bias: str | None) -> str:
    """One encoder layer: attention, then the feed-forward part, each added to its input and normalised."""

    def linear(x: str, part: str) -> str:
        return graph.linear(x, f"{name}.{part}", weights[f"{name}.{part}.weight"], weights[f"{name}.{part}.bias"])

    # One multiplication for all three instead of three.
    parts = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
    together = graph.linear(
        x,
        f"{name}.attention.self",
        np.concatenate([weights[f"{part}.weight"] for part in parts]),
        np.concatenate([weights[f"{part}.bias"] for part in parts]),
    )
    each = graph.add_many("Split", [together], 3, axis=-1, num_outputs=3)
    inputs = each if bias is None else [*each, bias]
    context = graph.add("Attention", inputs, q_num_heads=shape.heads, kv_num_heads=shape.heads)
    x = graph.add("Add", [linear(context, "attention.output.dense"), x])
    x = graph.normalised(x, f"{name}.attention.output.LayerNorm", weights, shape.epsilon)
    inner = graph.add("Gelu", [linear(x, "intermediate.dense")], approximate="none")
    x = graph.add("Add", [linear(inner, "output.dense"), x])
    return graph.normalised(x, f"{name}.output.LayerNorm", weights, shape.epsilon)


def _mask(graph: _Graph) -> tuple[str, str]:
    """(what is added to the attention scores [b, 1, n, n], weight of each token [b, n, 1])."""
    mask = graph.cast(MASK)
    rows = graph.add("Unsqueeze", [mask, graph.constant("middle", np.array([1, 2]))])
    closed = graph.add("Sub", [rows, graph.constant("one", np.array(1, np.float32))])
    bias = graph.add("Mul", [closed, graph.constant("far", np.array(1e4, np.float32))])
    one = graph.constant("one_long", np.array([1]))
    tokens = graph.add("Shape", [INPUT], start=1, end=2)
    bias = graph.add("Expand", [bias, graph.add("Concat", [one, one, tokens, one], axis=0)])
    return bias, graph.add("Unsqueeze", [mask, graph.constant("last", np.array([-1]))])


def _mean(graph: _Graph, x: str, weight: str | None) -> str:
    """The mean over the tokens, [b, hidden]."""
    axis = graph.constant("tokens_axis", np.array([1]))
    if weight is None:
        return graph.add("ReduceMean", [x, axis], keepdims=0)
    total = graph.add("ReduceSum", [graph.add("Mul", [x, weight]), axis], keepdims=0)
    return graph.add("Div", [total, graph.add("ReduceSum", [weight, axis], keepdims=0)])
