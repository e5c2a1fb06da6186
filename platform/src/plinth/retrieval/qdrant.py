"""Index builds on a Qdrant server, through qdrant-client: one collection a build.

The collection `<prefix>-build-<build>` is a build. It is complete when the alias `<prefix>-complete-<build>` points at
it, the last thing that `complete` does; readers go through that alias. Aliases of the port are `<prefix>-alias-<name>`.

The contract suite runs on the client's local mode, and on a server where its image can be had. Where the two differ, by
Qdrant's documentation: a server takes 32 MB a request (points go in pages), indexes in the background (`complete`
waits), and leaves a collection grey after a restart until something is written to it.
"""

from __future__ import annotations

import re
import time
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from plinth.core.addresses import is_own_machine
from plinth.core.answers import Hit
from plinth.core.corpus import EVERYBODY, Chunk, Scope
from plinth.errors import Conflict, Corrupt, InvalidInput, MissingExtra, NotFound, Unavailable
from plinth.retrieval.port import Point, Query, Sides, SparseVector

PAGE = 256
GRAPH_EF = 256
TIMEOUT_SECONDS = 10
OPTIMIZE_SECONDS = 3600.0
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")


class QdrantStore:
    """The vector store port over a server.

    Args:
        client_or_url: Address of the server, or a `QdrantClient`.
        prefix: Of its collections: the product.
        api_key: Key of the server; "" is none.

    Raises:
        MissingExtra: qdrant-client is not installed.
    """

    def __init__(self, client_or_url: Any, prefix: str, api_key: str = "") -> None:
        self.prefix = _checked(prefix)
        self._client = client_or_url
        if isinstance(client_or_url, str):
            # The check of versions at construction would be a request, and it warns on standard error.
            with warnings.catch_warnings():
                # A key over plain HTTP is what the address says: this machine's port, or containers' own network.
                warnings.filterwarnings("ignore", message="Api key is used with an insecure connection")
                self._client = _sdk().QdrantClient(
                    url=client_or_url, api_key=api_key or None, timeout=TIMEOUT_SECONDS, check_compatibility=False,
                    trust_env=not is_own_machine(client_or_url),  # a proxy of the environment is for other machines
                )  # fmt: skip

    def create(self, build: str, dimension: int) -> None:
        """Begin a build."""
        if self._complete(build):
            raise Conflict(f"index build {build} is complete already", where=self._collection(build))
        self.drop(build)
        self._make(self._collection(build), dimension)

    def add(self, build: str, points: Sequence[Point]) -> None:
        """Write points."""
        if self._complete(build):
            raise Conflict(f"index build {build} is complete", where=self._collection(build))
        if not self._there(self._collection(build)):
            raise Conflict(f"index build {build} was not begun", where=self._collection(build), hint="create it")
        self._upsert(self._collection(build), [_server_point(point) for point in points])

    def complete(self, build: str) -> None:
        """Wait until the server has indexed it, then mark it."""
        if not self._there(self._collection(build)):
            raise Conflict(f"index build {build} was not begun", where=self._collection(build), hint="create it")
        self._wait(self._collection(build))
        self._point_aliases({self._mark(build): self._collection(build)})

    def builds(self) -> dict[str, bool]:
        """Each build's id, and whether it is complete."""
        aliases = self._aliases()
        with _errors():
            names = [one.name for one in self._client.get_collections().collections]
        start = f"{self.prefix}-build-"
        # What stands behind ~ tells apart the collections of a build that was written anew.
        found = sorted({name.removeprefix(start).split("~")[0] for name in names if name.startswith(start)})
        return {build: self._mark(build) in aliases for build in found}

    def open(self, build: str) -> QdrantIndex:
        """Open a complete build to read."""
        collection = self._marked(build)
        if collection is None:
            if self._there(self._collection(build)):
                raise Conflict(f"index build {build} is not complete", where=build, hint="build it again")
            raise NotFound(f"there is no index build {build}", where=self.prefix)
        with _errors():
            vectors = self._client.get_collection(collection).config.params.vectors
        if not isinstance(vectors, dict) or "dense" not in vectors:
            raise Corrupt(f"collection {collection} is not one of ours", where=collection, hint="build it again")
        return QdrantIndex(build, vectors["dense"].size, self._client, self._mark(build))

    def verify(self, build: str) -> None:
        """See whether a complete build's collection is there: what it holds, the server checks itself."""
        self.open(build).close()

    def drop(self, build: str) -> None:
        """Delete a build: the mark first."""
        if self._complete(build):
            self._point_aliases({self._mark(build): None})
        for name in self._collections_of(build):
            self._delete(name)

    def remove_tenant(self, build: str, tenant: str) -> int:
        """Copy the rest to a new collection, point all aliases at it in one step, delete the old one.

        A reader that has the build open reads the new state from then on.
        """
        index, old = self.open(build), self._marked(build)
        for left in self._collections_of(build):
            if left != old:  # of a removal that was killed: before its step the new one, after it the old one
                self._delete(left)
        models = _sdk().models
        number = index.count_where(models.Filter(must=[_has("tenant", [tenant])]))
        if number:
            new = f"{self._collection(build)}~{uuid.uuid4().hex[:8]}"
            self._make(new, index.dimension)
            for page in index.records(models.Filter(must_not=[_has("tenant", [tenant])])):
                points = [models.PointStruct(id=one.id, vector=one.vector, payload=one.payload) for one in page]
                self._upsert(new, points)
            self._wait(new)
            self._point_aliases({name: new for name, collection in self._aliases().items() if collection == old})
            self._delete(str(old))
        return number

    def set_alias(self, name: str, build: str) -> None:
        """Point an alias at a complete build."""
        self.open(build)
        self._point_aliases({self._alias(name): self._marked(build)})

    def alias(self, name: str) -> str | None:
        """The build an alias points at, or None."""
        collection = self._aliases().get(self._alias(name))
        return None if collection is None else collection.removeprefix(f"{self.prefix}-build-").split("~")[0]

    def _collection(self, build: str) -> str:
        return f"{self.prefix}-build-{_checked(build)}"

    def _mark(self, build: str) -> str:
        return f"{self.prefix}-complete-{_checked(build)}"

    def _alias(self, name: str) -> str:
        return f"{self.prefix}-alias-{_checked(name)}"

    def _marked(self, build: str) -> str | None:
        return self._aliases().get(self._mark(build))

    def _complete(self, build: str) -> bool:
        return self._mark(build) in self._aliases()

    def _aliases(self) -> dict[str, str]:
        with _errors():
            return {one.alias_name: one.collection_name for one in self._client.get_aliases().aliases}

    def _there(self, collection: str) -> bool:
        with _errors():
            return bool(self._client.collection_exists(collection))

    def _collections_of(self, build: str) -> list[str]:
        own = self._collection(build)
        with _errors():
            names = [one.name for one in self._client.get_collections().collections]
        return [name for name in names if name == own or name.startswith(f"{own}~")]

    def _make(self, collection: str, dimension: int) -> None:
        models = _sdk().models
        fields = {
            "tenant": models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True),
            "labels": models.PayloadSchemaType.KEYWORD,
            "modified": models.PayloadSchemaType.FLOAT,
        }
        with _errors():
            self._client.create_collection(
                collection,
                vectors_config={"dense": models.VectorParams(size=dimension, distance=models.Distance.COSINE)},
                sparse_vectors_config={"sparse": models.SparseVectorParams(modifier=models.Modifier.IDF)},
            )
            for name, schema in fields.items():
                self._client.create_payload_index(collection, name, field_schema=schema)

    def _upsert(self, collection: str, points: list[Any]) -> None:
        for start in range(0, len(points), PAGE):
            with _errors():
                self._client.upsert(collection, points[start : start + PAGE], wait=True)

    def _wait(self, collection: str) -> None:
        until = time.monotonic() + OPTIMIZE_SECONDS
        while True:
            with _errors():
                status = str(self._client.get_collection(collection).status.value)
                if status == "grey":  # after a restart of the server it waits for this
                    self._client.update_collection(collection, optimizers_config=_sdk().models.OptimizersConfigDiff())
            if status == "green":
                return
            if status == "red" or time.monotonic() > until:
                raise Unavailable(f"the server does not finish indexing (status {status})", where=collection)
            time.sleep(0.2)

    def _point_aliases(self, wanted: dict[str, str | None]) -> None:
        """Point aliases at collections, or at nothing, all in one step."""
        models, there, operations = _sdk().models, self._aliases(), []
        for name, collection in wanted.items():
            if name in there:
                delete = models.DeleteAlias(alias_name=name)
                operations.append(models.DeleteAliasOperation(delete_alias=delete))
            if collection is not None:
                create = models.CreateAlias(alias_name=name, collection_name=collection)
                operations.append(models.CreateAliasOperation(create_alias=create))
        with _errors():
            self._client.update_collection_aliases(operations)

    def _delete(self, collection: str) -> None:
        with _errors():
            self._client.delete_collection(collection)


class QdrantIndex:
    """An opened build.

    Args:
        build: Its id.
        dimension: Numbers in a dense vector.
        client: The client of the server.
        collection: Name of the collection, or an alias of it.
    """

    def __init__(self, build: str, dimension: int, client: Any, collection: str) -> None:
        self.build = build
        self.dimension = dimension
        self._open = client
        self._collection = collection

    def search(self, query: Query, scope: Scope, limit: int) -> Sides:
        """The best chunks of each side, asked in one request."""
        models, sides = _sdk().models, []
        if query.dense is not None:
            sides.append(("dense", query.dense.tolist()))
        if query.sparse is not None and query.sparse.indices:
            sides.append(("sparse", _server_sparse(query.sparse)))
        if not sides:
            return Sides((), ())
        # As in the embedded engine; a server before 1.16 does not know ACORN and leaves it out.
        params = models.SearchParams(hnsw_ef=GRAPH_EF, acorn=models.AcornSearchParams(enable=True, max_selectivity=1.0))
        requests = [
            models.QueryRequest(
                query=vector, using=name, filter=_filter(scope), params=params, limit=limit, with_payload=True
            )
            for name, vector in sides
        ]
        with _errors():
            found = [one.points for one in self._client.query_batch_points(self._collection, requests)]
        dense = found.pop(0) if query.dense is not None else []
        sparse = found.pop(0) if found else []
        chunks = {point.id: Chunk.from_payload(point.payload) for point in (*dense, *sparse)}
        return Sides(
            tuple(Hit(chunks[point.id], point.score, dense=point.score) for point in dense),
            tuple(Hit(chunks[point.id], point.score, sparse=point.score) for point in sparse),
        )

    def count(self, scope: Scope | None = None) -> int:
        """How many chunks it holds, all or those in a scope."""
        return self.count_where(None if scope is None else _filter(scope))

    def count_where(self, wanted: Any) -> int:
        """How many chunks pass a filter of the server's."""
        with _errors():
            return int(self._client.count(self._collection, count_filter=wanted, exact=True).count)

    def points(self, tenant: str | None = None) -> Iterator[Point]:
        """Every chunk with its vectors, read page by page."""
        wanted = None if tenant is None else _sdk().models.Filter(must=[_has("tenant", [tenant])])
        for page in self.records(wanted):
            for one in page:
                sparse = one.vector["sparse"]
                pairs = sorted(zip(sparse.indices, sparse.values, strict=True))
                yield Point(
                    Chunk.from_payload(one.payload),
                    np.asarray(one.vector["dense"], dtype=np.float32),
                    SparseVector(tuple(index for index, _ in pairs), tuple(value for _, value in pairs)),
                )

    def records(self, wanted: Any) -> Iterator[list[Any]]:
        """The server's records that pass a filter, page by page."""
        offset = None
        while True:
            with _errors():
                page, offset = self._client.scroll(
                    self._collection, wanted, limit=PAGE, offset=offset, with_payload=True, with_vectors=True
                )
            yield page
            if offset is None:
                return

    def close(self) -> None:
        """Let go of it."""
        self._open = None

    @property
    def _client(self) -> Any:
        if self._open is None:
            raise InvalidInput(f"index build {self.build} was closed")
        return self._open


def _sdk() -> Any:
    try:
        import qdrant_client
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or "qdrant_client", "retrieval") from error
    return qdrant_client


@contextmanager
def _errors() -> Iterator[None]:
    """The client's errors as the port's: it raises its own, httpx's wrapped, and those of its local mode."""
    from qdrant_client.http.exceptions import ApiException, UnexpectedResponse

    try:
        yield
    except UnexpectedResponse as error:
        refused = error.status_code in (401, 403)
        hint = "PLINTH_QDRANT_API_KEY is not the server's (compose: .env)" if refused else "see the server's log"
        raise Unavailable(f"the Qdrant server answers {error.status_code}", where="qdrant", hint=hint) from error
    except (ApiException, OSError) as error:
        hint = "start the server, or set PLINTH_QDRANT_URL"
        raise Unavailable(f"the Qdrant server does not answer: {error}", where="qdrant", hint=hint) from error
    except ValueError as error:
        raise Unavailable(f"the request to Qdrant failed: {error}", where="qdrant") from error


def _server_point(point: Point) -> Any:
    vectors = {"dense": point.dense.tolist(), "sparse": _server_sparse(point.sparse)}
    return _sdk().models.PointStruct(id=point.chunk.id, vector=vectors, payload=point.chunk.payload())


def _server_sparse(vector: SparseVector) -> Any:
    return _sdk().models.SparseVector(indices=list(vector.indices), values=list(vector.values))


def _has(field: str, values: Sequence[str]) -> Any:
    models = _sdk().models
    return models.FieldCondition(key=field, match=models.MatchAny(any=list(values)))


def _filter(scope: Scope) -> Any:
    """A scope as the server's filter. See `plinth.core.corpus.Scope.holds`."""
    models = _sdk().models
    must = [_has("tenant", scope.tenants), _has("labels", [EVERYBODY, *sorted(scope.labels)])]
    if scope.since is not None or scope.until is not None:
        must.append(models.FieldCondition(key="modified", range=models.Range(gte=scope.since, lt=scope.until)))
    return models.Filter(must=must)


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidInput(f"{name!r} names no index build or alias", hint="small letters, digits, dot, dash")
    return name
