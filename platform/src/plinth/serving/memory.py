"""Ports of serving held in memory: for tests, and to try a product's service without a ledger or an online store.

They pass the same contract suite as the real adapters (tests/contract/test_serving.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from plinth.core.digests import digest_bytes
from plinth.core.routes import Route
from plinth.errors import InvalidInput, NotFound, Unavailable
from plinth.serving.body import read_json
from plinth.serving.port import FeatureBlock, FloatMatrix, Instances

Record = TypeVar("Record")


class MemoryReleases:
    """A release source whose bundles lie in a folder."""

    def __init__(self, folder: Path) -> None:
        self.wanted: Route | None = None
        self.unreachable = False
        self._folder = folder
        self._bundles: dict[str, dict[str, tuple[Path, str]]] = {}

    def register(self, files: Mapping[str, bytes]) -> str:
        """Store a bundle; its digest is that of its files."""
        digests = {name: digest_bytes(data) for name, data in files.items()}
        digest = digest_bytes(json.dumps(digests, sort_keys=True).encode())
        bundle: dict[str, tuple[Path, str]] = {}
        for name, data in files.items():
            path = self._folder / digests[name]
            path.write_bytes(data)
            bundle[name] = (path, digests[name])
        self._bundles[digest] = bundle
        return digest

    def promote(self, files: Mapping[str, bytes], generation: int) -> Route:
        """Store a bundle and want it served alone."""
        self.wanted = Route(generation, 0, self.register(files))
        return self.wanted

    def current(self) -> Route | None:
        """The wanted route."""
        if self.unreachable:
            raise Unavailable("the ledger cannot be reached")
        return self.wanted

    def artifacts(self, digest: str) -> Mapping[str, tuple[Path, str]]:
        """The files of a bundle."""
        if digest not in self._bundles:
            raise NotFound(f"no release {digest[:12]}")
        return self._bundles[digest]


@dataclass(frozen=True)
class MemoryBlock:
    """A feature block."""

    values: NDArray[np.float64]
    status: NDArray[np.uint8]


class MemoryReader:
    """Reads rows from a dictionary: entity id to values; one view, keyed by `id`."""

    def __init__(self, rows: Mapping[str, Sequence[float]], default: Sequence[float]) -> None:
        self.locked_reads = 0
        self._rows = rows
        self._default = default

    def read(self, keys: dict[str, Sequence[str | None]], at: NDArray[np.int64]) -> FeatureBlock:
        """The rows; unknown ids get the default and status 1."""
        if self.locked_reads > 0:
            self.locked_reads -= 1
            raise Unavailable("the online store is locked")
        found = [self._rows.get(key or "") for key in keys["id"]]
        values = np.array([self._default if row is None else row for row in found], dtype=np.float64)
        return MemoryBlock(values, np.array([[int(row is None)] for row in found], dtype=np.uint8))


class MemorySink(Generic[Record]):
    """Keeps records in a list; refuses them while `full`."""

    def __init__(self) -> None:
        self.entries: list[Record] = []
        self.full = False

    def write(self, entries: Sequence[Record]) -> None:
        """Keep them."""
        if self.full:
            raise OSError(28, "No space left on device")
        self.entries.extend(entries)


@dataclass
class MemoryObserver:
    """Keeps what it is told."""

    requests: list[dict[str, Any]] = field(default_factory=list)
    arms: list[dict[str, Any]] = field(default_factory=list)
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    defaulted: dict[str, int] = field(default_factory=dict)
    denials: list[str] = field(default_factory=list)

    def request(self, **fields: Any) -> None:
        """Keep an answered request."""
        self.requests.append(fields)

    def sample(self, traceparent: str) -> str:
        """The caller's trace."""
        return traceparent[3:35]

    def denied(self, reason: str) -> None:
        """Keep why."""
        self.denials.append(reason)

    def predicted(self, *, release: str, defaulted: Mapping[str, int]) -> None:
        """Add up defaulted rows."""
        for view, count in defaulted.items():
            self.defaulted[view] = self.defaulted.get(view, 0) + count

    def arm(self, **fields: Any) -> None:
        """Keep what an arm did."""
        self.arms.append(fields)

    def event(self, name: str, level: int, **fields: Any) -> None:
        """Keep an event."""
        self.events.append((name, fields))

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """One line."""
        return b"# nothing\n", "text/plain"


class MemoryProduct:
    """A product whose instances are `{"id": text, "x": number}`; the vector is the row's values and `x`."""

    name = "memory"
    entity = "id"

    def __init__(self, width: int = 3, max_batch: int = 16) -> None:
        self.max_batch = max_batch
        self.feature_names = tuple(f"f{i}" for i in range(width))

    def parse(self, body: bytes) -> Instances:
        """The instances of `{"rows": [...]}`."""
        rows = read_json(body, self._rows)
        ids = [str(row["id"]) for row in rows]
        return Instances(ids, np.full(len(ids), 1_370_000_000, dtype=np.int64), {"id": ids}, rows)

    def assemble(self, instances: Instances, values: NDArray[np.float64]) -> FloatMatrix:
        """The view's values, then `x`."""
        own = np.array([[float(row["x"])] for row in instances.rows])
        return np.hstack([values, own]).astype(np.float32)

    def openapi(self) -> dict[str, Any]:
        """Empty schemas."""
        return {"request": {}, "answer": {}, "example": {"rows": [{"id": "a", "x": 0.0}]}, "example_answer": {}}

    def _rows(self, value: Any) -> list[dict[str, Any]]:
        if not isinstance(value, dict) or not isinstance(value.get("rows"), list):
            raise InvalidInput("not a list", where="rows")
        rows = value["rows"]
        for i, row in enumerate(rows):
            if not isinstance(row, dict) or not isinstance(row.get("id"), str):
                raise InvalidInput("not a text", where=f"rows[{i}].id")
            if type(row.get("x")) not in {int, float} or not np.isfinite(row["x"]):
                raise InvalidInput("not a finite number", where=f"rows[{i}].x")
        if not 1 <= len(rows) <= self.max_batch:
            raise InvalidInput("wrong number of rows", where="rows")
        return list(rows)
