"""Releases that misbehave, for drills: a good bundle made bad, out of the same allowed formats.

Nothing in the service knows of a drill. The model really takes long, really answers with what is no number, is really
wrong; the read plan really finds nothing.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from plinth.errors import Corrupt, InvalidInput, MissingExtra, NotFound
from plinth.models.onnx import INPUT, OUTPUT

Fault = Literal["latency", "errors", "bad-model", "skew", "missing-metrics"]
FAULTS: tuple[Fault, ...] = get_args(Fault)

SLOW_MS = 30.0
SHARE = 0.2

_OPSET = 9
"""The oldest operator set that has every operator used here; LightGBM's conversion gives this one."""

_SIDE = 256
"""Rows and columns of the matrices that a slow model multiplies."""


def make_faulty(
    fault: str, bundle: Mapping[str, bytes], *, slow_ms: float = SLOW_MS, share: float = SHARE
) -> dict[str, bytes]:
    """A bundle with a fault.

    Args:
        fault: `latency`: every run takes about `slow_ms` longer. `errors`: a share of the rows scores NaN, at which a
            service answers 500. `bad-model`: every probability is high, and the
            higher the lower it should be. `skew`: no feature is ever found, so each
            is its default. `missing-metrics`: the bundle as it is; what is missing is missing elsewhere.
        bundle: A good release's files by name, with `model.onnx` and `read_plan.json`.
        slow_ms: Milliseconds of useless work, on this machine.
        share: Share of the rows that score NaN; 0 < share < 0.5.

    Returns:
        Every file of the bundle.

    Raises:
        NotFound: The bundle lacks the file that the fault is made in.
        InvalidInput: No such fault, a share outside (0, 0.5), or a model of an operator set older than 9.
        Corrupt: The file cannot be read.
        MissingExtra: onnx or onnxruntime is not installed.
    """
    if fault not in FAULTS:
        raise InvalidInput(f"no fault {fault!r}", where="--fault", hint=f"one of {', '.join(FAULTS)}")
    if not 0 < share < 0.5:
        raise InvalidInput(f"a share of {share}", where="share", hint="above 0 and below a half")
    changed = dict(bundle)
    if fault == "latency":
        changed["model.onnx"] = _slow(_file(bundle, "model.onnx"), slow_ms)
    elif fault == "errors":
        changed["model.onnx"] = _edited(_file(bundle, "model.onnx"), lambda graph: _fail_rows(graph, share))
    elif fault == "bad-model":
        changed["model.onnx"] = _edited(_file(bundle, "model.onnx"), _be_wrong)
    elif fault == "skew":
        changed["read_plan.json"] = _blind(_file(bundle, "read_plan.json"))
    return changed


def _file(bundle: Mapping[str, bytes], name: str) -> bytes:
    if name not in bundle:
        raise NotFound(f"the bundle has no {name}", where="bundle", hint=f"it holds {', '.join(sorted(bundle))}")
    return bundle[name]


class _Graph:
    """An ONNX graph of which the output is taken over: what was `probabilities` is `good` here."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._graph = model.graph
        self._count = 0
        self.good = "drill_good"
        for node in self._graph.node:
            node.input[:] = [self.good if name == OUTPUT else name for name in node.input]
            node.output[:] = [self.good if name == OUTPUT else name for name in node.output]
        self.width = int(self._graph.input[0].type.tensor_type.shape.dim[1].dim_value)

    def constant(self, value: NDArray[Any]) -> str:
        """The name of a tensor in the file."""
        from onnx import numpy_helper

        name = self._name("constant")
        self._graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def node(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add an operator; the name of its output."""
        from onnx import helper

        output = output or self._name(operator.lower())
        self._graph.node.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def _name(self, what: str) -> str:
        self._count += 1
        return f"drill_{what}_{self._count}"


def _edited(data: bytes, edit: Callable[[_Graph], None]) -> bytes:
    """The model with its output made by `edit` from the good one."""
    try:
        import onnx
    except ImportError as error:
        raise MissingExtra(error.name or "onnx", "models") from error
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's own, which has no types here
        raise Corrupt("the model is no ONNX model", where="model.onnx", hint="train and release again") from error
    names = [value.name for value in model.graph.input], [value.name for value in model.graph.output]
    opset = max((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), default=0)
    if names[0] != [INPUT] or OUTPUT not in names[1] or opset < _OPSET:
        raise InvalidInput(
            f"a model with inputs {names[0]}, outputs {names[1]} and operator set {opset} cannot be made faulty",
            where="model.onnx",
            hint=f"{INPUT!r}, {OUTPUT!r} and operator set {_OPSET} or newer, as plinth.models.onnx.convert makes them",
        )
    edit(_Graph(model))
    onnx.checker.check_model(model)
    edited: bytes = model.SerializeToString()
    return edited


def _be_wrong(graph: _Graph) -> None:
    """From p to 0.99 - 0.09 p.

    The mirror, 1 - p, would look like the good model wherever as many rows lie above a half as below.
    """
    wrong = np.array([[0.01, 0.99], [0.1, 0.9]], dtype=np.float32)  # each row adds up to 1, and so does each answer
    graph.node("MatMul", graph.good, graph.constant(wrong), output=OUTPUT)


def _fail_rows(graph: _Graph, share: float) -> None:
    """NaN where the sine of a weighted sum of the row's features is in its upper `share`.

    The row decides, so the same request fails each time. A row of zeros does not: a service warms up with those, and
    would refuse the release before it answers anybody.
    """
    weights = 5 + 10 * np.modf((np.arange(graph.width) + 1) * 0.6180339887)[0]
    phase = graph.node("MatMul", INPUT, graph.constant(weights.astype(np.float32)[:, None]))
    above = graph.constant(np.array([[math.cos(math.pi * share)]], dtype=np.float32))
    fails = graph.node("Greater", graph.node("Sin", phase), above)
    graph.node("Where", fails, graph.constant(np.array([[np.nan]], dtype=np.float32)), graph.good, output=OUTPUT)


def _slow(data: bytes, slow_ms: float) -> bytes:
    """Multiplications enough for `slow_ms` on this machine: a few are timed first."""
    few = 16
    extra = _milliseconds(_edited(data, lambda graph: _burn(graph, few))) - _milliseconds(data)
    count = max(1, math.ceil(slow_ms / max(extra / few, 1e-3)))
    return _edited(data, lambda graph: _burn(graph, count))


def _burn(graph: _Graph, count: int) -> None:
    """Multiply matrices that depend on the input (a constant would be computed once, at load), then add nothing."""
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(_SIDE, _SIDE)))
    turn = graph.constant(rotation.astype(np.float32))
    product = graph.node("Add", turn, graph.node("Tanh", graph.node("ReduceMean", INPUT)))
    for _ in range(count):
        product = graph.node("MatMul", product, turn)  # a rotation: it neither grows nor vanishes
    largest = graph.node("ReduceMax", product)
    # The smaller of a square and zero is zero, which no optimizer of graphs knows.
    nothing = graph.node("Min", graph.node("Mul", largest, largest), graph.constant(np.zeros((1, 1), dtype=np.float32)))
    graph.node("Add", graph.good, nothing, output=OUTPUT)


def _milliseconds(data: bytes) -> float:
    """The quickest of a few runs over one row, on one thread as a service runs it: that thread's time, without others'.

    On a busy machine time by the clock would be that of its neighbours: a drill's model too quick, or endless.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("onnxruntime", "models") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    row = np.zeros((1, session.get_inputs()[0].shape[1]), dtype=np.float32)
    times = []
    for _ in range(7):
        started = time.thread_time()
        session.run([OUTPUT], {INPUT: row})
        times.append(time.thread_time() - started)
    return min(times) * 1e3


def _blind(data: bytes) -> bytes:
    """A read plan that spells each entity key with its first part twice: it opens, and no row has such a key."""
    try:
        plan = json.loads(data)
        for view in plan["views"]:
            view["join_keys"] = [view["join_keys"][0], *view["join_keys"]]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise Corrupt(f"the read plan cannot be read: {error}", where="read_plan.json", hint="release again") from error
    return json.dumps(plan).encode()
