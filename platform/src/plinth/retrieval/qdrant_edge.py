"""Index builds in Qdrant's embedded engine (qdrant-edge-py 0.9): one directory a build, no server.

The engine neither locks nor checks: it opens a directory in any number of processes, and what it cannot read it leaves
out, or deletes. So a build is written by one process that holds its lock, is never changed once complete, and is
compared with the digests of its files before the engine sees it. Readers need no lock: they map the files, and go on
with them when the build is dropped or written anew.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from plinth.core.answers import Hit
from plinth.core.corpus import EVERYBODY, Chunk, Scope
from plinth.errors import Conflict, InvalidInput, MissingExtra, Unavailable
from plinth.retrieval.directories import Directories, corrupt, on_disk, size
from plinth.retrieval.port import Point, Query, Sides, SparseVector

PAGE = 512
# Up to so many KB of vectors (20,000 of 384 numbers) a scan is exact and takes milliseconds; beyond, a graph is made.
SCAN_KB = 30_000
# What the graph is searched with. ACORN goes through the neighbours' neighbours where a filter leaves few of them; at
# 100,000 points recall@10 without it falls to .91 with a filter of a third of them, and to less with fewer candidates.
GRAPH_EF = 256


class EdgeStore:
    """The vector store port over a folder.

    Args:
        folder: Made on first use.
    """

    def __init__(self, folder: Path) -> None:
        self._directories = Directories(folder)
        self._lock = threading.RLock()
        self._writing: dict[str, _Writing] = {}
        self._shards: dict[Path, _Shard] = {}

    def create(self, build: str, dimension: int) -> None:
        """Begin a build: this process's own until it is complete, dropped, or the process ends."""
        with self._lock:
            if self._directories.is_complete(build):
                raise Conflict(f"index build {build} is complete already", where=str(self._directories.home(build)))
            self.drop(build)
            with on_disk(self._directories.folder):
                path = self._directories.new_shard(build)
                handle = self._directories.own(build)
            self._writing[build] = _Writing(_new(path, dimension), path, dimension, handle)

    def add(self, build: str, points: Sequence[Point]) -> None:
        """Write points."""
        writing = self._written(build)
        self._directories.check_room()
        _upsert(writing.engine, [_engine_point(point) for point in points], writing.path)

    def complete(self, build: str) -> None:
        """Optimize, flush, and write the card."""
        with self._lock:
            writing = self._written(build)
            self._directories.check_room(size(writing.path))
            _finish(writing.engine, writing.path)
            with on_disk(writing.path):
                self._directories.mark_complete(build, writing.path, writing.dimension)
            del self._writing[build]
            os.close(writing.handle)

    def builds(self) -> dict[str, bool]:
        """Each build's id, and whether it is complete."""
        return self._directories.builds()

    def verify(self, build: str) -> None:
        """Compare a complete build's files with their digests."""
        self._directories.check(build, self._directories.card(build))

    def open(self, build: str) -> EdgeIndex:
        """Open a complete build to read; in this process all who have it open share one shard."""
        with self._lock:
            card = self._directories.card(build)
            path = self._directories.home(build) / card.shard
            shard = self._shards.get(path)
            if shard is None:
                shard = self._shards[path] = _Shard(_load(self._directories.check(build, card)))
            shard.users += 1

            def leave() -> None:
                with self._lock:
                    shard.users -= 1
                    if shard.users == 0:
                        del self._shards[path]
                        shard.engine.close()

            return EdgeIndex(build, card.dimension, shard.engine, leave)

    def drop(self, build: str) -> None:
        """Delete a build.

        Raises:
            Conflict: Another process is writing it.
        """
        with self._lock:
            writing = self._writing.pop(build, None)
            if writing is not None:
                writing.engine.close()
            elif not self._directories.home(build).is_dir():
                return
            handle = self._directories.own(build) if writing is None else writing.handle
            try:
                with on_disk(self._directories.folder):
                    self._directories.drop(build)
            finally:
                os.close(handle)

    def remove_tenant(self, build: str, tenant: str) -> int:
        """Write the build anew without the tenant, switch to that in one step, delete the old files."""
        with self._lock:
            card = self._directories.card(build)
            home = self._directories.home(build)
            handle = self._directories.own(build)
            try:
                with on_disk(home):
                    self._directories.sweep(build, keep=card.shard)
                index = self.open(build)
                try:
                    number = index.count_tenant(tenant)
                    if number:
                        self._rewrite(build, index, tenant)
                finally:
                    index.close()
            finally:
                os.close(handle)
        return number

    def _rewrite(self, build: str, index: EdgeIndex, without: str) -> None:
        old = self._directories.card(build).shard
        with on_disk(self._directories.folder):
            self._directories.check_room(2 * size(self._directories.home(build) / old))
            path = self._directories.new_shard(build)
        engine = _new(path, index.dimension)
        for page in index.records(without=without):
            _upsert(engine, [_edge().Point(item.id, item.vector, item.payload) for item in page], path)
        _finish(engine, path)
        with on_disk(path):
            self._directories.mark_complete(build, path, index.dimension)
            shutil.rmtree(self._directories.home(build) / old)

    def set_alias(self, name: str, build: str) -> None:
        """Point an alias at a complete build."""
        with on_disk(self._directories.folder):
            self._directories.set_alias(name, build)

    def alias(self, name: str) -> str | None:
        """The build an alias points at, or None."""
        return self._directories.alias(name)

    def _written(self, build: str) -> _Writing:
        found = self._writing.get(build)
        if found is None:
            state = "is complete" if self._directories.is_complete(build) else "was not begun by this process"
            raise Conflict(f"index build {build} {state}", where=str(self._directories.folder), hint="create it")
        return found


class EdgeIndex:
    """An opened build. Whoever has it open keeps the state it was opened in.

    Args:
        build: Its id.
        dimension: Numbers in a dense vector.
        engine: The opened shard.
        leave: Called once, when it is closed.
    """

    def __init__(self, build: str, dimension: int, engine: Any, leave: Callable[[], None]) -> None:
        self.build = build
        self.dimension = dimension
        self._open: tuple[Any, Callable[[], None]] | None = (engine, leave)

    def search(self, query: Query, scope: Scope, limit: int) -> Sides:
        """The best chunks of each side, searched in one batch."""
        edge, sides = _edge(), []
        if query.dense is not None:
            sides.append(edge.Query.Nearest(query.dense.tolist(), using="dense"))
        if query.sparse is not None and query.sparse.indices:
            sides.append(edge.Query.Nearest(_engine_sparse(query.sparse), using="sparse"))
        if not sides:
            return Sides((), ())
        wanted = _filter(scope)
        params = edge.SearchParams(hnsw_ef=GRAPH_EF, acorn=edge.AcornSearchParams(enable=True, max_selectivity=1.0))
        requests = [
            edge.QueryRequest(limit=limit, query=side, filter=wanted, params=params, with_payload=True)
            for side in sides
        ]
        with _errors(self.build):
            found = self._engine.query_batch(edge.QueryBatchRequest(requests))
        dense = found.pop(0) if query.dense is not None else []
        sparse = found.pop(0) if found else []
        chunks = {point.id: Chunk.from_payload(point.payload) for point in (*dense, *sparse)}
        return Sides(
            tuple(Hit(chunks[point.id], point.score, dense=point.score) for point in dense),
            tuple(Hit(chunks[point.id], point.score, sparse=point.score) for point in sparse),
        )

    def count(self, scope: Scope | None = None) -> int:
        """How many chunks it holds, all or those in a scope."""
        return self._count(None if scope is None else _filter(scope))

    def count_tenant(self, tenant: str) -> int:
        """How many chunks of a tenant it holds."""
        return self._count(_edge().Filter(must=[_has("tenant", [tenant])]))

    def points(self, tenant: str | None = None) -> Iterator[Point]:
        """Every chunk with its vectors, read page by page."""
        for page in self.records(tenant):
            for record in page:
                sparse = record.vector["sparse"]
                yield Point(
                    Chunk.from_payload(record.payload),
                    np.asarray(record.vector["dense"], dtype=np.float32),
                    SparseVector(tuple(sparse.indices), tuple(sparse.values)),
                )

    def records(self, tenant: str | None = None, *, without: str | None = None) -> Iterator[list[Any]]:
        """The engine's records, page by page: of one tenant, or of all but one."""
        edge, offset = _edge(), None
        wanted = edge.Filter(
            must=[] if tenant is None else [_has("tenant", [tenant])],
            must_not=[] if without is None else [_has("tenant", [without])],
        )
        while True:
            request = edge.ScrollRequest(offset=offset, limit=PAGE, filter=wanted, with_payload=True, with_vector=True)
            with _errors(self.build):
                page, offset = self._engine.scroll(request)
            yield page
            if offset is None:
                return

    def close(self) -> None:
        """Let go of it."""
        opened, self._open = self._open, None
        if opened is not None:
            opened[1]()

    def _count(self, wanted: Any) -> int:
        with _errors(self.build):
            return int(self._engine.count(_edge().CountRequest(exact=True, filter=wanted)))

    @property
    def _engine(self) -> Any:
        if self._open is None:
            raise InvalidInput(f"index build {self.build} was closed")
        return self._open[0]


class _Shard:
    """An opened shard, and how many indexes use it."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.users = 0


class _Writing:
    """A build in the making: its shard, where it is, and the handle that locks it."""

    def __init__(self, engine: Any, path: Path, dimension: int, handle: int) -> None:
        self.engine = engine
        self.path = path
        self.dimension = dimension
        self.handle = handle


def _edge() -> Any:
    try:
        import qdrant_edge
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or "qdrant_edge", "retrieval") from error
    return qdrant_edge


def _new(path: Path, dimension: int) -> Any:
    """A new shard. Without a log: a build counts when it is complete, and until then is made again from the start."""
    edge = _edge()
    config = edge.EdgeConfig(
        vectors={"dense": edge.EdgeVectorParams(dimension, edge.Distance.Cosine)},
        sparse_vectors={"sparse": edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf)},
        hnsw_config=edge.HnswIndexConfig(m=16, ef_construct=100, full_scan_threshold=SCAN_KB),
        optimizers=edge.EdgeOptimizersConfig(default_segment_number=1, indexing_threshold=SCAN_KB),
        wal_enabled=False,
    )
    # A graph for each value of these fields would triple the time that a build takes.
    fields = {
        "tenant": edge.KeywordIndexParams(is_tenant=True, enable_hnsw=False),
        "labels": edge.KeywordIndexParams(enable_hnsw=False),
        "modified": edge.FloatIndexParams(enable_hnsw=False),
    }
    with _errors(str(path)):
        engine = edge.EdgeShard.create(str(path), config)
        for name, params in fields.items():
            engine.update(edge.UpdateOperation.create_field_index(name, params))
    return engine


def _load(path: Path) -> Any:
    try:
        return _edge().EdgeShard.load(str(path))
    except BaseException as error:
        if not _is_engines(error):
            raise
        raise corrupt(path, str(error)) from error


def _upsert(engine: Any, items: list[Any], path: Path) -> None:
    if items:
        with _errors(str(path)):
            engine.update(_edge().UpdateOperation.upsert_points(items))


def _finish(engine: Any, path: Path) -> None:
    with _errors(str(path)):
        engine.optimize()
        engine.flush()
        engine.close()
    # The first opening tidies up (it takes its journals away); after it the files stay as they are.
    _load(path).close()


@contextmanager
def _errors(where: str) -> Iterator[None]:
    """The engine's errors as the port's."""
    try:
        yield
    except BaseException as error:
        if not _is_engines(error):
            raise
        raise Unavailable(
            f"the vector engine failed: {error}", where=where, hint="see whether the disk is full, then try again"
        ) from error


def _is_engines(error: BaseException) -> bool:
    # It raises bare Exceptions, and a panic of its Rust code is a BaseException.
    return type(error) is Exception or type(error).__name__ == "PanicException"


def _engine_point(point: Point) -> Any:
    chunk = point.chunk
    vectors = {"dense": point.dense.tolist(), "sparse": _engine_sparse(point.sparse)}
    return _edge().Point(chunk.id, vectors, chunk.payload())


def _engine_sparse(vector: SparseVector) -> Any:
    return _edge().SparseVector(list(vector.indices), list(vector.values))


def _has(field: str, values: Sequence[str]) -> Any:
    edge = _edge()
    return edge.FieldCondition(field, match=edge.MatchAny(list(values)))


def _filter(scope: Scope) -> Any:
    """A scope as the engine's filter. See `plinth.core.corpus.Scope.holds`."""
    edge = _edge()
    must = [_has("tenant", scope.tenants), _has("labels", [EVERYBODY, *sorted(scope.labels)])]
    if scope.since is not None or scope.until is not None:
        must.append(edge.FieldCondition("modified", range=edge.RangeFloat(gte=scope.since, lt=scope.until)))
    return edge.Filter(must=must)
