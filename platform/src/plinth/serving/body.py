"""Request bodies: strict JSON in, or an error that names the field.

orjson reads a good body. A body it refuses is read again leniently, only to find out which field holds the NaN or the
lone surrogate; what cannot be read even so is broken JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import orjson

from plinth.errors import InvalidInput

MAX_DEPTH = 32
"""Nesting beyond this is refused as such; a prediction request needs three levels."""

T = TypeVar("T")


class RequestRefused(InvalidInput):
    """A request that is refused before its fields are looked at. `http_status` says why (400, 408, 413, ...)."""

    def __init__(self, status: int, what: str, *, where: str = "body", hint: str = "") -> None:
        super().__init__(what, where=where, hint=hint)
        self.http_status = status


def read_json(body: bytes, check: Callable[[Any], T]) -> T:
    """The checked value of a JSON body.

    Args:
        body: UTF-8 JSON.
        check: Turns the parsed value into the product's own form; raises InvalidInput that names a field.

    Raises:
        RequestRefused: 400, the body is not JSON, not UTF-8 or nested too deep.
        InvalidInput: A field does not fit.
    """
    try:
        return check(orjson.loads(body))
    except orjson.JSONDecodeError as error:
        reason = str(error)
    except InvalidInput:
        _check_depth(body)
        raise
    _check_depth(body)
    try:
        lenient = json.loads(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise RequestRefused(400, "the body is not UTF-8", hint="encode it as UTF-8") from None
    except (ValueError, RecursionError):
        raise RequestRefused(
            400, f"the body is not JSON: {reason[:120]}", hint="send the JSON that /openapi.json shows"
        ) from None
    check(lenient)
    raise InvalidInput(
        "the body holds a value that JSON does not have", where="body", hint="no NaN, Infinity or lone surrogates"
    )


def _check_depth(body: bytes) -> None:
    """Only asked of bodies that failed, so brackets inside strings do no harm."""
    data = np.frombuffer(body, dtype=np.uint8)
    opened = np.isin(data, (0x5B, 0x7B)).astype(np.int8)
    closed = np.isin(data, (0x5D, 0x7D)).astype(np.int8)
    if data.size and int(np.cumsum(opened - closed, dtype=np.int32).max()) > MAX_DEPTH:
        raise RequestRefused(400, f"the body is nested deeper than {MAX_DEPTH} levels", hint="send a flat list")


def printable(text: str, limit: int = 200) -> str:
    """Text from outside made safe to send back: short, and without what UTF-8 cannot carry."""
    return text[:limit].encode("utf-8", "backslashreplace").decode("utf-8").replace("\x00", "\\x00")
