"""A small ONNX model, a bundle around it, and a service in memory."""

import asyncio
import json
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from plinth.core.routes import Route
from plinth.serving import memory
from plinth.serving.onnxruntime import OnnxScorer
from plinth.serving.service import Service

PLAN = {"views": [{"name": "history", "join_keys": ["id"]}]}


def onnx_model(weights, bias=0.0, *, outputs="probabilities"):
    """Logistic regression as ONNX: input float32 [n, k], output float32 [n, 2]."""
    weights = np.asarray(weights, dtype=np.float32).reshape(-1, 1)
    nodes = [
        helper.make_node("MatMul", ["input", "w"], ["linear"]),
        helper.make_node("Add", ["linear", "b"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["late"]),
        helper.make_node("Sub", ["one", "late"], ["early"]),
        helper.make_node("Concat", ["early", "late"], [outputs], axis=1),
    ]
    constants = {"w": weights, "b": np.array([bias], np.float32), "one": np.array([1], np.float32)}
    graph = helper.make_graph(
        nodes,
        "logistic",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, len(weights)])],
        [helper.make_tensor_value_info(outputs, TensorProto.FLOAT, [None, 2])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def hanging_model(width):
    """Answers 0.5 for rows of zeros, and loops for hours on any other row."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Add", ["sum", "one"], ["sum_out"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum_out", TensorProto.FLOAT, []),
        ],
        [numpy_helper.from_array(np.array(1, np.float32), "one")],
    )
    nodes = [
        helper.make_node("Abs", ["input"], ["size"]),
        helper.make_node("ReduceMax", ["size"], ["largest"], keepdims=0),
        helper.make_node("Mul", ["largest", "hours"], ["turns_float"]),
        helper.make_node("Cast", ["turns_float"], ["turns"], to=TensorProto.INT64),
        helper.make_node("Loop", ["turns", "true", "zero"], ["looped"], body=body),
        helper.make_node("MatMul", ["input", "w"], ["rows"]),
        helper.make_node("Mul", ["rows", "zero"], ["zeros"]),
        helper.make_node("Add", ["zeros", "looped"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["late"]),
        helper.make_node("Concat", ["late", "late"], ["probabilities"], axis=1),
    ]
    constants = {
        "hours": np.array(1e12, np.float32),
        "true": np.array(True),
        "zero": np.array(0, np.float32),
        "w": np.zeros((width, 1), np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "hanging",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, width])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 2])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.fixture
def make_model():
    return onnx_model


@pytest.fixture
def make_hanging_model():
    return hanging_model


@pytest.fixture
def bundle():
    """Files of a release whose score depends on `bias` only, as far as a test cares."""

    def make(bias=0.0, plan=PLAN, model=None):
        model = model or onnx_model([1.0, 0.0, 0.5], bias)
        return {"model.onnx": model, "read_plan.json": json.dumps(plan).encode()}

    return make


class Client:
    """Speaks ASGI to an application, without a socket."""

    def __init__(self, app):
        self.app = app

    def __call__(self, method="GET", path="/", body=b"", headers=None, *, chunks=None, raw_path=None):
        return asyncio.run(self.send(method, path, body, headers, chunks=chunks, raw_path=raw_path))

    async def send(self, method, path, body=b"", headers=None, *, chunks=None, raw_path=None):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        given = {"host": "127.0.0.1:3001", "content-type": "application/json", **(headers or {})}
        pending = list(chunks) if chunks is not None else [body]
        sent = []

        async def receive():
            if not pending:
                await asyncio.sleep(3600)
            part = pending.pop(0)
            if isinstance(part, float):
                await asyncio.sleep(part)
                part = b""
            return {"type": "http.request", "body": part, "more_body": bool(pending)}

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": raw_path or path.encode(),
            "headers": [(k.lower().encode(), v.encode("latin-1")) for k, v in given.items() if v is not None],
        }
        await self.app(scope, receive, send)
        text = b"".join(message.get("body", b"") for message in sent[1:])
        answered = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
        is_json = answered["content-type"].startswith("application/json") and text
        return SimpleNamespace(
            status=sent[0]["status"], headers=answered, text=text, json=json.loads(text) if is_json else None
        )


@pytest.fixture
def client():
    return Client


@pytest.fixture
def running(tmp_path, bundle):
    """A started service in memory, with one release promoted.

    `.service`, `.source`, `.reader`, `.sink`, `.requests` (the request log's sink), `.observer`, `.call`.
    """
    source, observer = memory.MemoryReleases(tmp_path), memory.MemoryObserver()
    sink, requests = memory.MemorySink(), memory.MemorySink()
    reader = memory.MemoryReader({"a": [1.0, 2.0], "b": [3.0, 4.0]}, default=[0.0, 0.0])
    source.promote(bundle(), generation=1)
    service = Service(
        memory.MemoryProduct(),
        source,
        make_scorer=OnnxScorer,
        open_reader=lambda plan: reader,
        sink=sink,
        request_sink=requests,
        observer=observer,
        pages={"/": (b"<p>hello", "text/html")},
        max_body=2000,
        body_timeout=0.2,
    )
    service.start()
    yield SimpleNamespace(
        service=service, source=source, reader=reader, sink=sink, requests=requests, observer=observer,
        call=Client(service.app),
    )  # fmt: skip
    service.stop()


@pytest.fixture
def roll_out(running):
    """Applies a route with a candidate of these files beside the release that serves. Returns the route."""

    def apply(files, weight=5000, *, step=1, shadow=False):
        serving = running.service.releases.routing.route.serving
        route = Route(2, step, serving, running.source.register(files), weight, shadow)
        running.source.wanted = route
        running.service.releases.poll()
        assert running.service.releases.routing.route == route
        return route

    return apply
