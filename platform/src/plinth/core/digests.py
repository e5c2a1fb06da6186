"""Digests: what content addressing means here, in one place. sha256, lower-case hex."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

CHUNK = 1 << 20


def canonical_json(value: Any) -> bytes:
    """`value` as JSON with sorted keys, no spaces, UTF-8 and no NaN: the same value gives the same bytes.

    Raises:
        ValueError: `value` holds a NaN or an infinity.
        TypeError: `value` holds something JSON has no word for.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest_bytes(data: bytes) -> str:
    """sha256 of `data`, as 64 hexadecimal characters."""
    return hashlib.sha256(data).hexdigest()


def digest_json(value: Any) -> str:
    """sha256 of the canonical JSON of `value`."""
    return digest_bytes(canonical_json(value))


def digest_file(path: Path) -> str:
    """sha256 of a file's content, read in chunks so that memory stays flat."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            state.update(chunk)
    return state.hexdigest()
