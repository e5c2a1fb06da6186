"""Index builds: from chunks to an immutable build in the vector store, named by what it is made of.

The same chunks, embedding model and settings give the same id, and are not built again. Vectors of chunks that the
build before holds are taken from it, those that a killed try computed from its cache; only the others are computed.
Nothing here touches what serves: a build serves when a release that pins it is promoted.
"""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from plinth.assistants.pyarrow import write_chunks
from plinth.assistants.records import (
    BUILD,
    CHUNKS,
    DOCUMENTS,
    BuildRecord,
    RefusedRecord,
    SourceRecord,
    build_folder,
    builds_folder,
    write_file,
    write_json,
)
from plinth.assistants.records import kept as kept  # what fsck and gc ask for
from plinth.assistants.records import read_build as read_build
from plinth.assistants.vectors import VectorCache
from plinth.core.assistants import IndexRef
from plinth.core.corpus import PROBE_TENANT, Chunk, checksum
from plinth.core.digests import digest_json
from plinth.core.failpoints import failpoint
from plinth.errors import Conflict, Corrupt, PlinthError
from plinth.pipelines.slots import slot
from plinth.retrieval.port import Embedder, Point, Progress, SparseEncoder, SparseVector, VectorStore

log = logging.getLogger(__name__)

SLICE = 512
"""Chunks that are embedded, kept in the cache and added as one."""


@dataclass(frozen=True)
class Engine:
    """What a build is made with: the embedding model, the BM25 encoder by average length, the vector store."""

    embedder: Embedder
    sparse: Callable[[float], SparseEncoder]
    store: VectorStore


@dataclass(frozen=True)
class Contents:
    """What goes into a build.

    Attributes:
        chunks: All of them, probes included.
        sources: What was read of each source, and when.
        refused: Files that were quarantined.
        documents: What ingestion wants to know next time, as JSON.
    """

    chunks: Sequence[Chunk]
    sources: Mapping[str, SourceRecord]
    refused: tuple[RefusedRecord, ...] = ()
    documents: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Built:
    """A finished build. `made` is False when it was there already."""

    record: BuildRecord
    made: bool


def average_length(chunks: Iterable[Chunk], length: Callable[[str], float]) -> float:
    """The average length of chunks, in steps of a tenth: a small change of the corpus changes no sparse vector."""
    lengths = [length(chunk.indexed_text) for chunk in chunks]
    mean = max(1.0, sum(lengths) / len(lengths)) if lengths else 1.0
    return round(1.1 ** round(math.log(mean, 1.1)), 6)


def reference(chunks: Sequence[Chunk], embedder: Embedder, chunking: str, avg_len: float) -> IndexRef:
    """What a build of these chunks is, by content: the id, and what it is checked against."""
    tenants: dict[str, list[Chunk]] = {}
    for chunk in chunks:
        tenants.setdefault(chunk.tenant, []).append(chunk)
    sums = {tenant: checksum(own) for tenant, own in sorted(tenants.items())}
    made_of = {
        "schema": 1, "embedding": embedder.digest, "dimension": embedder.dimension, "chunking": chunking,
        "sparse": {"avg_len": avg_len}, "tenants": sums,
    }  # fmt: skip
    return IndexRef(
        build=digest_json(made_of)[:16],
        checksum=sums,
        chunks={tenant: len(own) for tenant, own in sorted(tenants.items())},
        documents=len({(chunk.tenant, chunk.document) for chunk in chunks if chunk.tenant != PROBE_TENANT}),
        dimension=embedder.dimension,
        embedding=embedder.digest,
        chunking=chunking,
    )


def make_build(
    state: Path,
    contents: Contents,
    engine: Engine,
    chunking: str,
    *,
    previous: BuildRecord | None = None,
    run: str = "",
    on_progress: Progress | None = None,
) -> Built:
    """Make the build of these contents, or find it made. The caller holds `alone`.

    Args:
        state: The product's state folder.
        contents: What goes in.
        engine: What it is made with.
        chunking: Digest of how the chunks were cut.
        previous: A complete build whose vectors may be used again, where the embedding model is the same.
        run: The pipeline run that makes it.
        on_progress: Told how many chunks are in.

    Raises:
        Unavailable: The disk is full, or a server does not answer. What was embedded is kept for the next try.
    """
    avg_len = average_length(contents.chunks, engine.sparse(1.0).length)
    ref = reference(contents.chunks, engine.embedder, chunking, avg_len)
    folder = build_folder(state, ref.build)
    complete = engine.store.builds().get(ref.build, False) and _whole(engine.store, ref.build)
    if complete and (folder / BUILD).is_file():
        os.utime(folder / BUILD)  # found again is as good as made: gc leaves what is young
        return Built(read_build(folder), made=False)
    cache = VectorCache(state / "cache" / "vectors", ref.embedding)
    embedded = 0
    if not complete:
        embedded = _fill(ref, contents.chunks, engine, avg_len, previous, cache, on_progress)
    record = BuildRecord(
        index=ref, made_at=datetime.now(UTC).isoformat(timespec="microseconds"), run=run, avg_len=avg_len,
        sources=dict(contents.sources), refused=contents.refused, embedded=embedded,
    )  # fmt: skip
    write_chunks(folder / CHUNKS, contents.chunks)
    write_json(folder / DOCUMENTS, dict(contents.documents))
    failpoint("index.before-manifest")
    write_file(folder / BUILD, record.model_dump_json(indent=1).encode())
    cache.clear()
    return Built(record, made=True)


def _whole(store: VectorStore, build: str) -> bool:
    """Whether a complete build is as it was written; a damaged one is dropped, to be made again under its id."""
    try:
        store.verify(build)
    except Corrupt as error:
        log.warning("index build %s is made again: %s", build, error)
        store.drop(build)
        return False
    return True


@contextmanager
def alone(state: Path) -> Iterator[None]:
    """Nobody else makes or removes a build of the product meanwhile.

    Raises:
        Conflict: Somebody does already.
    """
    held = slot(builds_folder(state), limit=1, wait=0.0)
    try:
        held.__enter__()
    except Conflict:
        raise Conflict(
            "another index build of this product is being made",
            where=str(builds_folder(state)),
            hint="wait for it to end, then try again",
        ) from None
    try:
        yield
    finally:
        held.__exit__(None, None, None)


def _fill(
    ref: IndexRef,
    chunks: Sequence[Chunk],
    engine: Engine,
    avg_len: float,
    previous: BuildRecord | None,
    cache: VectorCache,
    on_progress: Progress | None,
) -> int:
    """Write every chunk into a new build and complete it; returns how many had to be embedded."""
    engine.store.create(ref.build, ref.dimension)
    filling = _Filling(ref.build, chunks, engine, avg_len, on_progress)
    if previous is not None and previous.index.embedding == ref.embedding:
        same_words = previous.avg_len == avg_len
        for point in _points(engine.store, previous.index.build):
            filling.take(point.chunk.content_digest, point.dense, point.sparse if same_words else None)
    for digests, vectors in cache.slices():
        for digest, vector in zip(digests, vectors, strict=True):
            filling.take(digest, vector)
    embedded = 0
    while some := filling.missing(SLICE):
        vectors = engine.embedder.embed_documents([text for _, text in some])
        cache.save([digest for digest, _ in some], vectors)
        for (digest, _), vector in zip(some, vectors, strict=True):
            embedded += filling.take(digest, vector)
    filling.flush()
    failpoint("index.before-complete")
    engine.store.complete(ref.build)
    failpoint("index.after-complete")
    return embedded


def _points(store: VectorStore, build: str) -> Iterator[Point]:
    """The points of the build before; none where it is not there any more: then they are computed again."""
    try:
        index = store.open(build)
    except PlinthError:
        return
    try:
        yield from index.points()
    finally:
        index.close()


class _Filling:
    """Chunks on their way into a build, by the digest of what is embedded: equal texts share a vector."""

    def __init__(
        self, build: str, chunks: Sequence[Chunk], engine: Engine, avg_len: float, on_progress: Progress | None
    ) -> None:
        self._build = build
        self._engine = engine
        self._sparse = engine.sparse(avg_len)
        self._on_progress = on_progress
        self._wanted: dict[str, list[Chunk]] = {}
        for chunk in chunks:
            self._wanted.setdefault(chunk.content_digest, []).append(chunk)
        self._total, self._done = len(chunks), 0
        self._batch: list[Point] = []

    def take(self, digest: str, dense: np.ndarray[Any, Any], sparse: SparseVector | None = None) -> int:
        """Give the chunks of a digest their vectors; returns how many there were that had none."""
        chunks = self._wanted.pop(digest, [])
        for chunk in chunks:
            words = sparse or self._sparse.encode_document(chunk.indexed_text)
            self._batch.append(Point(chunk, dense, words))
            if len(self._batch) >= SLICE:
                self.flush()
        return len(chunks)

    def missing(self, limit: int) -> list[tuple[str, str]]:
        """Digests and texts that have no vector yet."""
        found = []
        for digest, chunks in self._wanted.items():
            found.append((digest, chunks[0].indexed_text))
            if len(found) == limit:
                break
        return found

    def flush(self) -> None:
        """Write what is waiting."""
        if not self._batch:
            return
        failpoint("index.before-add")
        self._engine.store.add(self._build, self._batch)
        failpoint("index.after-add")
        self._done += len(self._batch)
        self._batch = []
        if self._on_progress is not None:
            self._on_progress(self._done, self._total)


def tenants(record: BuildRecord) -> Counter[str]:
    """How many chunks each tenant has in a build, probes left out."""
    return Counter({tenant: count for tenant, (count, _) in record.expected.items() if tenant != PROBE_TENANT})
