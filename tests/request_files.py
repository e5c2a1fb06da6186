"""Files of the request log and of labels, for tests that need no service. The service's own sink writes the log."""

import itertools
import time
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from plinth.serving.pyarrow import ParquetRequests
from plinth.serving.requests import RequestRecord

LABELS = pa.schema({"entity_id": pa.string(), "label": pa.int8(), "known_at": pa.timestamp("us", tz="UTC")})
_COUNT = itertools.count(1)


@dataclass
class Request:
    """One arm's part in a request. What failed has no scores; entities that are not named are new ones."""

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
    at: float = field(default_factory=time.time)


def write(state, requests, name=None):
    """One file of requests of one generation below a product's state folder; returns its path."""
    (generation,) = {request.generation for request in requests}
    folder = state / "requests" / f"generation={generation}"
    before = set(folder.glob("*.parquet"))
    ParquetRequests(state / "requests").write([_record(request) for request in requests])
    (path,) = set(folder.glob("*.parquet")) - before
    return path.rename(folder / name) if name else path


def _record(request):
    number, rows = next(_COUNT), max(1, len(request.scores))
    scores = () if request.code >= 500 else request.scores
    entities = request.entities or tuple(f"e{number}-{n}" for n in range(rows))
    return RequestRecord(
        request_id=f"r{number}", at=request.at, clock=request.clock, generation=request.generation,
        step=request.step, arm=request.arm, release=request.release, code=request.code, seconds=request.seconds,
        rows=rows, defaulted=request.defaulted, entity_ids=entities if scores else (), scores=np.array(scores, float),
    )  # fmt: skip


def write_labels(state, labels, name="2013-06-01.parquet"):
    """One file of labels: (entity id, label, when it was known in seconds)."""
    (state / "labels").mkdir(parents=True, exist_ok=True)
    rows = [{"entity_id": e, "label": label, "known_at": int(at * 1e6)} for e, label, at in labels]
    path = state / "labels" / name
    pq.write_table(pa.Table.from_pylist(rows, LABELS), path)
    return path
