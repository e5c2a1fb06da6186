"""Checks of an index build as it is read back from the store: evidence for the gate `index-checks`.

A build that fails one is never promoted. What a check reports is counts and names, never text of a chunk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from plinth.assistants.builds import Engine
from plinth.assistants.records import BuildRecord
from plinth.core.assistants import IndexRef
from plinth.core.corpus import PROBE_TENANT, Chunk, Scope
from plinth.core.digests import digest_json
from plinth.core.privacy import Detector
from plinth.errors import PlinthError, RefusedByPolicy
from plinth.retrieval.port import Index, Point, Query

SAMPLE = 32
"""Chunks that are looked for by their own text, and looked through for personal data and secrets."""

NEAR = 5
"""Among so many of the best a chunk has to find itself."""

ALIKE = 0.95
"""Cosine at least between a stored vector and the one the model gives now: quantized models depend on the batch."""


@dataclass(frozen=True)
class Check:
    """What a check found."""

    check: str
    passed: bool
    reason: str


@dataclass
class _Seen:
    """What reading a build back adds up to; one point is in memory at a time."""

    rows: dict[str, list[list[Any]]] = field(default_factory=dict)
    documents: set[str] = field(default_factory=set)
    bad_vectors: int = 0
    sample: list[tuple[str, Point]] = field(default_factory=list)

    def add(self, point: Point) -> None:
        chunk, vector = point.chunk, np.asarray(point.dense)
        self.rows.setdefault(chunk.tenant, []).append([chunk.id, chunk.version, sorted(chunk.labels)])
        self.documents.add(chunk.document.partition("/")[2])
        if not np.isfinite(vector).all() or abs(float(np.linalg.norm(vector)) - 1.0) > 1e-3:
            self.bad_vectors += 1
        if chunk.tenant == PROBE_TENANT:
            return
        # The smallest digests of the ids: the same sample every time, spread over the whole build.
        self.sample.append((digest_json(chunk.id), point))
        if len(self.sample) >= 2 * SAMPLE:
            self.trim()

    def trim(self) -> None:
        self.sample = sorted(self.sample, key=lambda pair: pair[0])[:SAMPLE]

    @property
    def chosen(self) -> list[Point]:
        self.trim()
        return [point for _, point in self.sample]


def check_build(
    record: BuildRecord,
    engine: Engine,
    *,
    golden: Sequence[str] = (),
    detectors: Iterable[Detector] = (),
    on_read: Callable[[Chunk], None] = lambda chunk: None,
) -> list[Check]:
    """Every check of a build.

    Args:
        record: What the build is to be.
        engine: The embedding model it is to be searched with, and the store.
        golden: Paths (in their sources) of documents that the golden questions need.
        detectors: Of personal data and secrets.
        on_read: Given every chunk that is read back.
    """
    ref = record.index
    try:
        index = engine.store.open(ref.build)
    except PlinthError as error:
        return [Check("complete", False, error.what)]
    try:
        seen = _Seen()
        for point in index.points():
            seen.add(point)
            on_read(point.chunk)
        return [
            Check("complete", True, f"build {ref.build} opens"),
            _counts(record, seen),
            _checksums(record, seen),
            _model(ref, index, engine),
            _vectors(seen),
            *_sampled(index, engine, seen.chosen, detectors),
            _golden(golden, seen),
        ]
    finally:
        index.close()


def evidence(checks: Iterable[Check]) -> dict[str, Any]:
    """The checks as the gate `index-checks` reads them."""
    return {"index": [asdict(check) for check in checks]}


def require(record: BuildRecord, checks: Iterable[Check]) -> None:
    """Raises RefusedByPolicy unless every check passed; the reason names the first that did not."""
    failed = [check for check in checks if not check.passed]
    if failed:
        raise RefusedByPolicy(
            f"index build {record.index.build} failed {len(failed)} of its checks: {failed[0].check}: "
            f"{failed[0].reason}",
            where=f"build {record.index.build}",
            hint="`plinth index build PRODUCT` makes a new one; what serves goes on serving",
        )


def require_complete(record: BuildRecord, engine: Engine) -> None:
    """Refuse a build that is not complete, or whose embedding model is not the one that would ask it.

    Raises:
        RefusedByPolicy: With the reason.
    """
    ref = record.index
    complete = engine.store.builds().get(ref.build)
    if not complete:
        state = "is not complete" if complete is False else "is not in the vector store"
        raise RefusedByPolicy(
            f"index build {ref.build} {state}", where=f"build {ref.build}",
            hint="`plinth index build PRODUCT` goes on where it stopped",
        )  # fmt: skip
    require(record, [_same_model(ref, ref.dimension, engine)])


def _counts(record: BuildRecord, seen: _Seen) -> Check:
    found = {tenant: len(rows) for tenant, rows in seen.rows.items()}
    wrong = {
        tenant: (found.get(tenant, 0), expected)
        for tenant, (expected, _) in record.expected.items()
        if found.get(tenant, 0) != expected
    }
    foreign = sorted(set(found) - set(record.expected))
    if foreign:
        return Check("count", False, f"there are chunks of tenants that it must not hold: {', '.join(foreign)}")
    if wrong:
        tenant, (got, expected) = next(iter(wrong.items()))
        return Check("count", False, f"{tenant} has {got} chunks instead of {expected}")
    return Check("count", True, f"{sum(found.values())} chunks of {len(found)} tenants")


def _checksums(record: BuildRecord, seen: _Seen) -> Check:
    # As `core.corpus.checksum` makes it, of rows that were collected while reading.
    wrong = sorted(
        tenant
        for tenant, (_, expected) in record.expected.items()
        if digest_json(sorted(seen.rows.get(tenant, []))) != expected
    )
    if wrong:
        return Check("checksum", False, f"the chunks of {', '.join(wrong)} are not those that were written")
    return Check("checksum", True, f"{len(record.expected)} tenants")


def _model(ref: IndexRef, index: Index, engine: Engine) -> Check:
    return _same_model(ref, index.dimension, engine)


def _same_model(ref: IndexRef, dimension: int, engine: Engine) -> Check:
    embedder = engine.embedder
    if not dimension == ref.dimension == embedder.dimension:
        reason = f"vectors have {dimension} numbers, the build says {ref.dimension}, {embedder.name} makes "
        return Check("model", False, f"{reason}{embedder.dimension}")
    if ref.embedding != embedder.digest:
        reason = f"it was embedded with model {ref.embedding[:12]}, questions would be with {embedder.digest[:12]}"
        return Check("model", False, reason)
    return Check("model", True, f"{embedder.name}, {dimension} dimensions")


def _vectors(seen: _Seen) -> Check:
    if seen.bad_vectors:
        return Check("vectors", False, f"{seen.bad_vectors} vectors are not finite or not of length 1")
    return Check("vectors", True, "all are finite and of length 1")


def _sampled(index: Index, engine: Engine, sample: list[Point], detectors: Iterable[Detector]) -> list[Check]:
    """A chunk finds itself by its own text; its vector is what the model makes now; it holds nothing it must not."""
    if not sample:
        return [Check("self-retrieval", False, "the build holds no chunk"), Check("private", True, "no chunk")]
    vectors = engine.embedder.embed_documents([point.chunk.indexed_text for point in sample])
    lost, unlike = 0, 0
    for point, vector in zip(sample, vectors, strict=True):
        with np.errstate(invalid="ignore"):  # a vector that is not finite is found above
            alike = vector.shape == np.asarray(point.dense).shape and float(vector @ point.dense) >= ALIKE
        if not alike:
            unlike += 1
            continue
        chunk = point.chunk
        sides = index.search(Query(vector, None), Scope(chunk.tenant, frozenset(chunk.labels)), NEAR)
        found = {hit.chunk.content_digest for hit in sides.dense}
        lost += chunk.content_digest not in found
    kinds = Counter(
        finding.kind for detector in detectors for point in sample for finding in detector.find(point.chunk.text)
    )
    size = len(sample)
    return [
        Check("embedding", not unlike, f"{unlike} of {size} vectors are not what the model makes of their text"),
        Check("self-retrieval", not lost, f"{lost} of {size} chunks do not find themselves by their own text"),
        Check("private", not kinds, f"{sum(kinds.values())} findings in {size} chunks: {', '.join(sorted(kinds))}")
        if kinds
        else Check("private", True, f"nothing in {size} chunks"),
    ]


def _golden(golden: Sequence[str], seen: _Seen) -> Check:
    missing = sorted(set(golden) - seen.documents)
    if missing:
        shown = ", ".join(missing[:3])
        return Check("golden", False, f"{len(missing)} documents of golden questions are missing: {shown}")
    return Check("golden", True, f"{len(set(golden))} documents of golden questions are there")
