"""Which model files are safe to keep and to load: an allow-list, decided by content as well as by name.

Pickle executes code when it is loaded and scanners are tripwires, so anything that is not on the list is refused, at
registration and again at load. Source of the list: SECURITY design, "model files".
"""

from __future__ import annotations

import json
from pathlib import Path

from plinth.errors import RefusedByPolicy

ALLOWED_SUFFIXES = {
    ".onnx": "ONNX",
    ".safetensors": "safetensors",
    ".skops": "skops",
    ".txt": "LightGBM text",
    ".json": "XGBoost JSON or serving metadata",
}

# First bytes of what executes code or unpacks into something that may: pickle protocols 2 to 5, zip (torch, joblib,
# skops is checked below), gzip, bzip2, xz, zstd, zlib, lz4.
_PICKLE = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
_COMPRESSED = (
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ",
    b"\x28\xb5\x2f\xfd",
    b"\x78\x01",
    b"\x78\x9c",
    b"\x78\xda",
    b"\x04\x22\x4d\x18",
)
_ZIP = b"PK\x03\x04"

_HINT = "export the model as ONNX, safetensors, skops or LightGBM/XGBoost native text; pickles are never loaded"


def check_model_file(path: Path) -> None:
    """Refuse a file whose name or content is not one of the allowed formats.

    Raises:
        RefusedByPolicy: The format is not on the list, or the content is not what the name says.
    """
    suffix = path.suffix.lower()
    if suffix not in ALLOWED_SUFFIXES:
        raise RefusedByPolicy(
            f"model format {suffix or 'without a suffix'!r} is not allowed", where=str(path), hint=_HINT
        )
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(_PICKLE) or (head[:1] in (b"(", b"c", b"]", b"}") and suffix not in {".json", ".txt"}):
        raise RefusedByPolicy("the file holds a pickle", where=str(path), hint=_HINT)
    if head.startswith(_COMPRESSED) or (head.startswith(_ZIP) and suffix != ".skops"):
        raise RefusedByPolicy("the file holds a compressed archive, not a model", where=str(path), hint=_HINT)
    if suffix == ".json":
        try:
            json.loads(path.read_bytes())
        except ValueError as error:
            raise RefusedByPolicy("the file is not JSON", where=str(path), hint=_HINT) from error
    if suffix == ".txt" and not head.startswith(b"tree"):
        raise RefusedByPolicy("the file is not a LightGBM text model", where=str(path), hint=_HINT)
    if suffix == ".onnx":
        _check_onnx(path)


def _check_onnx(path: Path) -> None:
    """ONNX is a protobuf whose tensors may name files outside; those are refused without parsing the graph."""
    data = path.read_bytes()
    # ModelProto starts with ir_version, field 1 as a varint.
    if not data.startswith(b"\x08"):
        raise RefusedByPolicy("the file is not an ONNX model", where=str(path), hint=_HINT)
    # TensorProto.external_data holds key "location": a path that the runtime would follow.
    if b"\x0a\x08location\x12" in data:
        raise RefusedByPolicy(
            "the ONNX model keeps tensors in external files", where=str(path), hint="save it as one self-contained file"
        )
