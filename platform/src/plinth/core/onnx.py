"""What an ONNX file may hold, decided from its bytes alone: no parser, no tool, memory flat whatever the size.

ONNX is a protobuf (onnx-ml.proto in https://github.com/onnx/onnx). Its tensors may name files outside of it, which a
runtime would open; it may carry operators of other domains, some of which read files too (com.microsoft's EPContext).
Looking for the byte pattern of such a field is not enough, as protobuf allows many spellings of one message, so this
walks every message that can hold a tensor.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

MAX_BYTES = 1 << 30
MAX_DEPTH = 64
# LightGBM with 500 trees of 31 leaves has 0.3 million; this bounds the walk to some seconds.
MAX_FIELDS = 5_000_000
DOMAINS = {b"", b"ai.onnx", b"ai.onnx.ml"}

# Message -> field number -> message: the ways that lead to a TensorProto or an operator set.
_PATHS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 8: "opset", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 9: "opset", 11: "attribute"},
    "tensor": {},
    "opset": {},
}
_EXTERNAL_DATA, _DATA_LOCATION, _OPSET_DOMAIN = 13, 14, 1
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class OnnxError(ValueError):
    """The bytes are no ONNX model, or not a self-contained one. The message is the reason."""


def check_onnx(path: Path) -> None:
    """Walk the file and refuse what is not a complete, self-contained ONNX model of the standard operators.

    Raises:
        OnnxError: With the reason.
    """
    size = path.stat().st_size
    if not 16 <= size <= MAX_BYTES:
        raise OnnxError(f"{size} bytes are too few or too many (limit {MAX_BYTES >> 20} MiB)")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        # ModelProto starts with ir_version, field 1 as a varint.
        if data[0] != 0x08:
            raise OnnxError("it does not start as a ModelProto")
        # ONNX Runtime takes a buffer with this mark for its own flatbuffer format, whatever else it is.
        if data[4:8] == b"ORTM":
            raise OnnxError("it carries the mark of ONNX Runtime's own format")
        _walk(data, size)


def _walk(data: mmap.mmap, size: int) -> None:
    # A stack of generators and not of messages: its length is the depth, so memory stays flat.
    stack = [("model", _fields(data, 0, size))]
    seen: set[int] = set()
    count = 0
    while stack:
        message, fields = stack[-1]
        paths = _PATHS[message]
        for field, wire, value, stop in fields:
            count += 1
            if count > MAX_FIELDS:
                raise OnnxError(f"it has more than {MAX_FIELDS} fields")
            if message == "model":
                seen.add(field)
            elif message == "tensor":
                _check_tensor(field, wire, value)
            elif message == "opset" and field == _OPSET_DOMAIN and data[value:stop] not in DOMAINS:
                raise OnnxError(f"it uses operators of the domain {data[value : min(stop, value + 60)]!r}")
            if wire == _BYTES and field in paths:
                stack.append((paths[field], _fields(data, value, stop)))
                break
        else:
            stack.pop()
        if len(stack) > MAX_DEPTH:
            raise OnnxError(f"it nests deeper than {MAX_DEPTH}")
    if not {1, 7, 8} <= seen:
        raise OnnxError("its graph or operator set is missing: the file is truncated or no ONNX model")


def _check_tensor(field: int, wire: int, value: int) -> None:
    if field == _EXTERNAL_DATA or (field == _DATA_LOCATION and (wire != _VARINT or value != 0)):
        raise OnnxError("it keeps tensors in external files")


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of one message: (number, wire type, value or start of the bytes, end of the bytes)."""
    at = start
    while at < end:
        tag, at = _varint(data, at, end)
        field, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = _varint(data, at, end)
            yield field, wire, value, at
            continue
        if wire == _BYTES:
            length, at = _varint(data, at, end)
        elif wire == _FIXED32:
            length = 4
        elif wire == _FIXED64:
            length = 8
        else:
            raise OnnxError(f"it holds a field of wire type {wire}, which ONNX has not")
        if not field or at + length > end:
            raise OnnxError("a field reaches past its end: the file is truncated or no ONNX model")
        yield field, wire, at, at + length
        at += length


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """A base-128 varint of at most ten bytes: (value, position after it)."""
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise OnnxError("a number reaches past its end: the file is truncated or no ONNX model")
