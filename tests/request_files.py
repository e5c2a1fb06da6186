"""Files of the request log as a service writes them, for tests that need no service."""

import itertools
import time
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

UTC = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema(
    {
        "request_id": pa.string(), "at": UTC, "clock": pa.float64(), "generation": pa.int32(), "step": pa.int16(),
        "arm": pa.string(), "release": pa.string(), "code": pa.int16(), "seconds": pa.float64(), "rows": pa.int32(),
        "defaulted": pa.int32(), "entity_ids": pa.list_(pa.string()), "scores": pa.list_(pa.float64()),
    }
)  # fmt: skip
LABELS = pa.schema({"entity_id": pa.string(), "label": pa.int8(), "known_at": UTC})
_COUNT = itertools.count(1)


@dataclass
class Request:
    """One arm's part in a request; scores of a failed one are empty."""

    arm: str = "serving"
    release: str = "5" * 64
    generation: int = 7
    step: int = 1
    code: int = 200
    seconds: float = 0.003
    scores: tuple[float, ...] = (0.4,)
    entities: tuple[str, ...] = ()
    defaulted: int = 0
    clock: float = field(default_factory=time.monotonic)


def _entities(request, prefix):
    return [*request.entities] or [f"{prefix}-{n}" for n, _ in enumerate(request.scores)]


def write(state, requests, name=None):
    """One file of requests of one generation; returns its path."""
    number = next(_COUNT)
    rows = [
        {
            "request_id": f"r{number}-{i}", "at": 0, "clock": r.clock, "generation": r.generation, "step": r.step,
            "arm": r.arm, "release": r.release, "code": r.code, "seconds": r.seconds, "rows": len(r.scores) or 1,
            "defaulted": r.defaulted,
            "entity_ids": [] if r.code >= 500 else _entities(r, f"e{number}-{i}"),
            "scores": [] if r.code >= 500 else [*r.scores],
        }
        for i, r in enumerate(requests)
    ]  # fmt: skip
    (generation,) = {r.generation for r in requests}
    folder = state / "requests" / f"generation={generation}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (name or f"part-{number:06d}.parquet")
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path)
    return path


def write_labels(state, labels, name="2013-06-01.parquet"):
    """One file of labels: (entity id, label, when it was known in seconds)."""
    (state / "labels").mkdir(parents=True, exist_ok=True)
    rows = [{"entity_id": e, "label": label, "known_at": int(at * 1e6)} for e, label, at in labels]
    path = state / "labels" / name
    pq.write_table(pa.Table.from_pylist(rows, LABELS), path)
    return path
