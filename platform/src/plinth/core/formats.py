"""Which model files are safe to keep and to load: an allow-list, decided by content as well as by name.

Pickle executes code when it is loaded and scanners are tripwires, so a file has to prove that it is one of the allowed
formats; whatever cannot is refused, at registration and again at load. Source of the list: docs/reference/security.md.
"""

from __future__ import annotations

import json
import stat
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from plinth.core.onnx import OnnxError, check_onnx
from plinth.errors import NotFound, RefusedByPolicy

ALLOWED_SUFFIXES = {
    ".onnx": "ONNX",
    ".safetensors": "safetensors",
    ".skops": "skops",
    ".txt": "LightGBM text",
    ".json": "XGBoost JSON or serving metadata",
}

# Caps, so that looking at a hostile file costs little memory: parsed JSON takes some ten times its text.
MAX_JSON_BYTES = 64 << 20
MAX_TEXT_BYTES = 1 << 30
MAX_SAFETENSORS_HEADER = 16 << 20
MAX_ENTRIES = 10_000
MAX_UNPACKED_BYTES = 2 << 30
MAX_RATIO = 200

_HINT = "export the model as ONNX, safetensors, skops or LightGBM/XGBoost native text; pickles are never loaded"

# First bytes that tell a person more than "not ONNX" would. They decide nothing: the structure does.
_KNOWN_HEADS = (
    *((bytes([0x80, protocol]), "a pickle") for protocol in range(2, 6)),
    (b"PK\x03\x04", "a zip archive (torch and joblib files are ones, with pickles inside)"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"\x04\x22\x4d\x18", "an lz4 archive"),
    (b"\x89HDF", "an HDF5 file"),
)


def check_model_file(path: Path, name: str | None = None) -> None:
    """Refuse a file whose name or content is not one of the allowed formats.

    Args:
        path: The file.
        name: The name the file goes by, where it is stored under another one (its digest).

    Raises:
        NotFound: There is no such regular file.
        RefusedByPolicy: The format is not on the list, or the content is not what the name says.
    """
    where = str(path) if name is None else f"{name} ({path})"
    suffix = PurePosixPath(name or path.name).suffix.lower()
    check = _CHECKS.get(suffix)
    if check is None:
        shown = suffix or "without a suffix"
        raise RefusedByPolicy(f"model format {shown!r} is not allowed", where=where, hint=_HINT)
    try:
        # A named pipe would block the open, a device would never end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise RefusedByPolicy("a model must be a regular file", where=where, hint=_HINT)
        reason = check(path)
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise NotFound(
            f"the model file cannot be read: {error.strerror}", where=where, hint="check the path"
        ) from error
    if reason:
        known = next((f": it holds {what}" for start, what in _KNOWN_HEADS if head.startswith(start)), "")
        raise RefusedByPolicy(
            f"the file is refused as {ALLOWED_SUFFIXES[suffix]}, {reason}{known}", where=where, hint=_HINT
        )


def _onnx(path: Path) -> str | None:
    try:
        check_onnx(path)
    except OnnxError as error:
        return str(error)
    return None


def _json(path: Path) -> str | None:
    if path.stat().st_size > MAX_JSON_BYTES:
        return f"it is larger than {MAX_JSON_BYTES >> 20} MiB"
    try:
        value = json.loads(path.read_bytes())
    # Deep nesting ends in a RecursionError, which is no ValueError.
    except (ValueError, RecursionError):
        return "it is not JSON"
    return None if isinstance(value, dict | list) else "it is not a JSON object"


def _lightgbm_text(path: Path) -> str | None:
    if path.stat().st_size > MAX_TEXT_BYTES:
        return f"it is larger than {MAX_TEXT_BYTES >> 20} MiB"
    with path.open("rb") as file:
        if file.read(5) != b"tree\n":
            return "it does not start as one"
        while chunk := file.read(1 << 20):
            if b"\0" in chunk:
                return "it holds binary data"
    return None


def _safetensors(path: Path) -> str | None:
    """Format: 8 bytes of header length, a JSON header, the tensors without gaps (huggingface/safetensors README)."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 10 or length > min(size - 8, MAX_SAFETENSORS_HEADER):
            return f"its header claims {length} bytes, more than the file or the limit has"
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError):
            return "its header is not JSON"
    if not isinstance(header, dict):
        return "its header is not an object"
    header.pop("__metadata__", None)
    try:
        spans = sorted(tuple(entry["data_offsets"]) for entry in header.values())
        edges = [0, *(end for _, end in spans)]
        whole = [start for start, _ in spans] == edges[:-1] and edges[-1] == size - 8 - length
    except (TypeError, KeyError, ValueError):
        return "its header does not say where the tensors lie"
    return None if whole and all(a <= b for a, b in spans) else "its tensors overlap, leave gaps or lie outside"


def _skops(path: Path) -> str | None:
    """A zip of schema.json and arrays; which types it may build is decided at load, by the list of trusted types."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return "it is not a zip archive"
    if reason := archive_problem(entries, MAX_UNPACKED_BYTES):
        return reason
    for entry in entries:
        if PurePosixPath(entry.filename.replace("\\", "/")).suffix.lower() not in {".json", ".npy", ".npz", ""}:
            return f"its entry {entry.filename[:80]!r} is neither JSON nor an array"
    return None if "schema.json" in {entry.filename for entry in entries} else "it has no schema.json"


def archive_problem(entries: Sequence[zipfile.ZipInfo], max_unpacked: int) -> str | None:
    """Why the entries of a zip archive must not be unpacked, or None: a bomb, or a path that leads outside."""
    if len(entries) > MAX_ENTRIES:
        return f"it has more than {MAX_ENTRIES} entries"
    unpacked, packed = sum(entry.file_size for entry in entries), sum(entry.compress_size for entry in entries)
    if unpacked > max_unpacked or unpacked > MAX_RATIO * max(packed, 1):
        return f"it unpacks to {unpacked} bytes: more than the limit, or more than {MAX_RATIO} times its size"
    for entry in entries:
        parts = PurePosixPath(entry.filename.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or stat.S_ISLNK(entry.external_attr >> 16):
            return f"its entry {entry.filename[:80]!r} leads outside"
    return None


_CHECKS: dict[str, Callable[[Path], str | None]] = {
    ".onnx": _onnx,
    ".safetensors": _safetensors,
    ".skops": _skops,
    ".txt": _lightgbm_text,
    ".json": _json,
}
