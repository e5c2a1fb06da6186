"""What readers of a compiled read plan have in common: the check of keys, statuses and defaults, Feast's values.

A value is a serialized `feast.types.Value`: a float is the tag 0x35 and four bytes, a double 0x29 and eight, an int64
0x20 and a varint, a null nothing at all (https://protobuf.dev/programming-guides/encoding/).
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from plinth.errors import Corrupt, InvalidInput
from plinth.features.readplan import FUTURE, MISSING, OK, STALE, FeatureBlock, ReadPlan

Keys = Mapping[str, Sequence[str | None]]

ABSENT = np.iinfo(np.int64).min
"""Event time of a row that is not there."""

_FLOAT = np.dtype([("tag", "u1"), ("value", "<f4")])
_FLOAT_TAG, _DOUBLE_TAG, _INT64_TAG = 0x35, 0x29, 0x20
FLOAT_BYTES = _FLOAT.itemsize
"""Length of a serialized float that is no null."""


class Reader(ABC):
    """Reads feature rows from one kind of online store. Safe to share between threads.

    Args:
        plan: What to read.
    """

    def __init__(self, plan: ReadPlan) -> None:
        self.plan = plan
        self._ttl = np.array([view.ttl_seconds for view in plan.views], dtype=np.int64)
        self._widths = [len(view.features) for view in plan.views]

    def read(self, keys: Keys, at: NDArray[np.int64]) -> FeatureBlock:
        """Feature values of each row of keys, as they stand at `at`.

        Args:
            keys: One sequence of n values for each join key of the plan; None finds nothing.
            at: int64 [n], seconds since 1970 UTC.

        Raises:
            InvalidInput: A join key is missing or lengths differ.
            Unavailable: The online store does not exist, has not been filled, or stayed locked.
            Corrupt: A stored value is no Feast value.
        """
        missing = [key for key in self.plan.join_keys if key not in keys]
        if missing or any(len(keys[key]) != len(at) for key in self.plan.join_keys):
            raise InvalidInput(
                "the keys do not fit the read plan", where=f"missing: {missing}", hint=f"give {self.plan.join_keys}"
            )
        values = np.full((len(at), len(self.plan.columns)), np.nan)
        stamps = np.full((len(at), len(self.plan.views)), ABSENT, dtype=np.int64)
        if len(at):
            self._read_all(keys, values, stamps)
        return self._judge(values, stamps, np.asarray(at, dtype=np.int64)[:, None])

    def _judge(self, values: NDArray[np.float64], stamps: NDArray[np.int64], at: NDArray[np.int64]) -> FeatureBlock:
        """The status of every row of every view, and defaults for whatever cannot be used."""
        status = np.zeros(stamps.shape, dtype=np.uint8)
        status[at > stamps + self._ttl] = STALE
        status[stamps > at] = FUTURE
        status[stamps == ABSENT] = MISSING
        unusable = np.isnan(values)  # a null in a row that is there takes its default, as ReadPlan.fill does
        if status.any():
            unusable |= np.repeat(status != OK, self._widths, axis=1)
        if unusable.any():
            np.copyto(values, self.plan.defaults, where=unusable)
        return FeatureBlock(values, status)

    @abstractmethod
    def close(self) -> None:
        """Gives back what this thread holds; another read takes it again."""

    @abstractmethod
    def _read_all(self, keys: Keys, values: NDArray[np.float64], stamps: NDArray[np.int64]) -> None:
        """Puts values [n, features] and event times [n, views] in place; what is not there stays NaN and `ABSENT`."""


def decode_floats(blobs: bytes) -> NDArray[np.float32] | None:
    """Many serialized floats, one after the other; None when they are not all floats."""
    floats = np.frombuffer(blobs, dtype=_FLOAT)
    if not (floats["tag"] == _FLOAT_TAG).all():
        return None
    values: NDArray[np.float32] = floats["value"]
    return values


def decode_value(blob: bytes) -> float:
    """One serialized value; NaN for a null.

    Raises:
        Corrupt: It is of no kind that a read plan can name.
    """
    if not blob:
        return float("nan")
    tag = blob[0]
    if tag == _FLOAT_TAG and len(blob) == 5:
        return float(struct.unpack_from("<f", blob, 1)[0])
    if tag == _DOUBLE_TAG and len(blob) == 9:
        return float(struct.unpack_from("<d", blob, 1)[0])
    if tag == _INT64_TAG:
        value = shift = 0
        for byte in blob[1:]:
            value |= (byte & 0x7F) << shift
            shift += 7
        return float(value - (1 << 64) if value >= 1 << 63 else value)
    raise Corrupt(
        "a stored feature value is of no kind the read plan knows", where=blob[:16].hex(), hint="materialize it anew"
    )
