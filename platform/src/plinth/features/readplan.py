"""The compiled read plan: what a service reads of Feast's own online store, without Feast.

Readers (sqlite.py, redis.py) need no Feast, no pandas and no protobuf on the request path. A plan is pinned in a
release and the same on every online store: it holds the names of views, features and keys, of which each store's
places follow. The entity key is that of `feast/infra/key_encoding_utils.py` (version 3) of Feast 0.67; a contract test
compares every value with Feast's own `get_online_features`.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plinth.errors import Corrupt, InvalidInput

if TYPE_CHECKING:
    from plinth.features.sqlite import SqliteReader

OK, MISSING, STALE, FUTURE = 0, 1, 2, 3
"""Status of a view's row: used; absent; older than the TTL; stamped after the time asked for."""

DTYPES = ("float32", "float64", "int64")
_IDENTIFIER = re.compile(r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")
_STRING = 2  # feast.types.ValueType.STRING


@dataclass(frozen=True)
class FeaturePlan:
    """One feature: its name, how it is stored, and what stands in when its row cannot be used."""

    name: str
    dtype: str
    default: float


@dataclass(frozen=True)
class ViewPlan:
    """One feature view and its online table."""

    name: str
    table: str
    join_keys: tuple[str, ...]
    ttl_seconds: int
    features: tuple[FeaturePlan, ...]

    @cached_property
    def key_prefix(self) -> bytes:
        """The part of the serialized entity key that does not depend on the values."""
        names = [name.encode() for name in sorted(self.join_keys)]
        return struct.pack("<I", len(names)) + b"".join(struct.pack("<II", _STRING, len(n)) + n for n in names)

    def entity_keys(self, keys: Mapping[str, Sequence[str | None]]) -> list[bytes | None]:
        """Serialized entity keys, one a row; None where any part of the key is None."""
        prefix = self.key_prefix
        parts = [[_key_value(value) for value in keys[name]] for name in sorted(self.join_keys)]
        if len(parts) == 1:
            return [None if value is None else prefix + value for value in parts[0]]
        return [None if None in row else prefix + b"".join(row) for row in zip(*parts, strict=True)]

    def entity_of(self, key: bytes) -> tuple[tuple[str, ...], bytes] | None:
        """The values in a serialized entity key, in the order of the sorted join keys, and what follows it.

        None when it is no key of this view's entity.
        """
        if not key.startswith(self.key_prefix):
            return None
        values, at = [], len(self.key_prefix)
        try:
            for _ in self.join_keys:
                kind, length = struct.unpack_from("<II", key, at)
                end = at + 8 + length
                if kind != _STRING or end > len(key):
                    return None
                values.append(key[at + 8 : end].decode("utf-8", "surrogatepass"))
                at = end
        except (struct.error, UnicodeDecodeError):
            return None
        return tuple(values), key[at:]


def _key_value(value: str | None) -> bytes | None:
    if value is None:
        return None
    encoded = value.encode("utf-8", "surrogatepass")  # a lone surrogate is no key of ours: it finds nothing
    return struct.pack("<II", _STRING, len(encoded)) + encoded


@dataclass(frozen=True)
class FeatureBlock:
    """What was read. `values`: float64 [n, features], defaults filled in. `status`: uint8 [n, views]."""

    values: NDArray[np.float64]
    status: NDArray[np.uint8]


@dataclass(frozen=True)
class ReadPlan:
    """A feature service, compiled: which table to read by which key, and where each feature goes."""

    feature_service: str
    project: str
    views: tuple[ViewPlan, ...]

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> ReadPlan:
        """The plan from `read_plan.json`.

        Raises:
            Corrupt: The document is no read plan of schema 1 with entity keys of version 3.
        """
        try:
            # `store` is "sqlite" in every plan, wherever it is read: plans made before there was another store keep
            # their digests, and so do releases that pin them.
            if (value["schema"], value["entity_key_version"], value["store"]["type"]) != (1, 3, "sqlite"):
                raise ValueError("only schema 1 over sqlite with entity keys of version 3 can be read")
            views = tuple(_view(view) for view in value["views"])
            if not views:
                raise ValueError("it names no view")
            return cls(str(value["feature_service"]), str(value["project"]), views)
        except (KeyError, TypeError, ValueError) as error:
            raise Corrupt(
                f"the read plan cannot be used: {error}", where="read_plan.json", hint="compile it again"
            ) from error

    @cached_property
    def columns(self) -> list[str]:
        """Names of the value columns in order, as `view__feature`."""
        return [f"{view.name}__{feature.name}" for view in self.views for feature in view.features]

    @cached_property
    def join_keys(self) -> list[str]:
        """Every join key that any view needs, sorted."""
        return sorted({key for view in self.views for key in view.join_keys})

    @cached_property
    def defaults(self) -> NDArray[np.float64]:
        """Default of each column, float64 [features]."""
        return np.array([feature.default for view in self.views for feature in view.features], dtype=np.float64)

    @cached_property
    def slices(self) -> list[slice]:
        """The columns of each view."""
        ends = np.cumsum([len(view.features) for view in self.views]).tolist()
        return [slice(end - len(view.features), end) for view, end in zip(self.views, ends, strict=True)]

    def fill(self, raw: NDArray[np.float64]) -> FeatureBlock:
        """Values of an offline join (NaN where no row was usable) with the same defaults and statuses as online.

        The join cannot tell a missing row from a stale one: both are `MISSING` here.
        """
        if raw.ndim != 2 or raw.shape[1] != len(self.columns):
            raise InvalidInput(
                f"the join has shape {raw.shape}, not [n, {len(self.columns)}]", hint="keep the plan's column order"
            )
        gaps = np.isnan(raw)
        status = np.zeros((len(raw), len(self.views)), dtype=np.uint8)
        for position, columns in enumerate(self.slices):
            status[gaps[:, columns].all(axis=1), position] = MISSING
        return FeatureBlock(np.where(gaps, self.defaults, raw.astype(np.float64, copy=False)), status)

    def open(self, sqlite_path: Path, **waiting: Any) -> SqliteReader:
        """A reader over Feast's SQLite online store. Opens no file yet, so a service may start before the store.

        `waiting` is how it waits for a lock: `busy_seconds` and `attempts` of `SqliteReader`.
        """
        from plinth.features.sqlite import SqliteReader

        return SqliteReader(self, sqlite_path, **waiting)


def _view(value: Mapping[str, Any]) -> ViewPlan:
    features = tuple(FeaturePlan(str(f["name"]), str(f["dtype"]), float(f["default"])) for f in value["features"])
    view = ViewPlan(
        str(value["name"]), str(value["table"]), tuple(value["join_keys"]), int(value["ttl_seconds"]), features
    )
    _check_names([view.name, view.table, *view.join_keys, *(feature.name for feature in features)])
    if not features or not view.join_keys:
        raise ValueError(f"view {view.name!r} has no feature or no join key")
    if view.ttl_seconds <= 0:
        raise ValueError(f"view {view.name!r} has no time to live")
    for feature in features:
        if feature.dtype not in DTYPES or not np.isfinite(feature.default):
            raise ValueError(f"feature {feature.name!r} has dtype {feature.dtype!r}, default {feature.default}")
    return view


def _check_names(names: Iterable[str]) -> None:
    for name in names:
        if not _IDENTIFIER.match(name):  # names go into SQL
            raise ValueError(f"{name!r} is no identifier")
