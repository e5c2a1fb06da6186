"""A release of an assistant in memory: everything that decides its answers, checked against what the release pins."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TypeVar, cast

from pydantic import ValidationError

from plinth.assistants.port import Tools
from plinth.assistants.releases import CONFIG
from plinth.core.assistants import AssistantConfig
from plinth.core.corpus import Scope
from plinth.errors import Corrupt, InvalidInput, RefusedByPolicy
from plinth.generation.port import Generator
from plinth.generation.templates import Templates
from plinth.guardrails.port import Guard
from plinth.retrieval.port import Embedder, Index, Point, Query, Reranker, Sides, SparseEncoder
from plinth.serving.releases import Artifacts, read_artifact

QUERY_LENGTH = 1.0
"""The BM25 encoder asks for the average length of chunks; a question's weights do not depend on it."""

Part = TypeVar("Part")


@dataclass(frozen=True, eq=False)
class LoadedAssistant:
    """A release in memory. Its parts are shared with releases that pin the same."""

    digest: str
    config: AssistantConfig
    index: Index
    embedder: Embedder
    sparse: SparseEncoder
    reranker: Reranker | None
    generator: Generator
    guard: Guard
    templates: Templates


class SharedIndex:
    """An opened index build that is closed when the last release that uses it is let go."""

    def __init__(self, index: Index) -> None:
        self.build = index.build
        self.dimension = index.dimension
        self._index = index
        self._close = weakref.finalize(self, index.close)

    def search(self, query: Query, scope: Scope, limit: int) -> Sides:
        """As Index.search."""
        return self._index.search(query, scope, limit)

    def count(self, scope: Scope | None = None) -> int:
        """As Index.count."""
        return self._index.count(scope)

    def points(self, tenant: str | None = None) -> Iterator[Point]:
        """As Index.points."""
        return self._index.points(tenant)

    def close(self) -> None:
        """Let go of it now."""
        self._close()


class Loader:
    """Loads releases of one product, and shares what they have in common. Thread-safe.

    Args:
        product: Its name.
        tools: The adapters of the profile.
        without: A build to the tenants that were deleted from it after it was released.
    """

    def __init__(
        self, product: str, tools: Tools, *, without: Callable[[str], Collection[str]] = lambda build: ()
    ) -> None:
        self._product = product
        self._tools = tools
        self._without = without
        self._lock = threading.Lock()
        self._shared: weakref.WeakValueDictionary[tuple[str, str], object] = weakref.WeakValueDictionary()

    def load(self, digest: str, artifacts: Artifacts) -> LoadedAssistant:
        """A release, from its artefacts. Raises as `load_assistant`."""
        try:
            config = AssistantConfig.model_validate_json(read_artifact(artifacts, CONFIG))
        except ValidationError as error:
            raise Corrupt(
                f"the configuration does not fit: {error.errors()[0]['msg']}",
                where=CONFIG,
                hint="deploy the code that the release was made with (`plinth release show`)",
            ) from error
        return self.assemble(digest, config)

    def assemble(self, digest: str, config: AssistantConfig) -> LoadedAssistant:
        """The assistant of a configuration. Raises as `load_assistant`."""
        tools = self._tools
        embedder = tools.embedder(config.embedding)
        check_embedder(config, embedder)
        try:
            templates = Templates(config.prompts)
        except InvalidInput as error:
            raise Corrupt(f"the prompts do not fit: {error.what}", where=error.where, hint=error.hint) from error
        index = self._keep("index", config.index.build, lambda: self._open(config))
        return LoadedAssistant(
            digest=digest,
            config=config,
            index=index,
            embedder=embedder,
            sparse=tools.sparse(QUERY_LENGTH),
            reranker=tools.reranker(config.retrieval),
            # The same generator keeps its breaker and its connections over a change of prompts or index.
            generator=self._keep(
                "generator", config.generator.digest, lambda: tools.generator(config.generator, embedder)
            ),
            guard=self._keep("guard", config.guardrails.digest, lambda: tools.guard(config.guardrails)),
            templates=templates,
        )

    def _open(self, config: AssistantConfig) -> SharedIndex:
        index = SharedIndex(self._tools.store(self._product).open(config.index.build))
        try:
            check_index(config, index, self._without(config.index.build))
        except BaseException:
            index.close()
            raise
        return index

    def _keep(self, kind: str, name: str, make: Callable[[], Part]) -> Part:
        """The part of that name, made where there is none. Not under the lock: what hangs must hold up no other."""
        with self._lock:
            found = self._shared.get((kind, name))
        part = cast("Part", found) if found is not None else make()
        with self._lock:
            return cast("Part", self._shared.setdefault((kind, name), part))


def load_assistant(
    digest: str, artifacts: Artifacts, tools: Tools, product: str, *, without: Collection[str] = ()
) -> LoadedAssistant:
    """A release of an assistant from its artefacts and the index build it pins.

    Args:
        digest: Its digest.
        artifacts: File name to path and sha256; `assistant.json` is read.
        tools: The adapters of the profile.
        product: The product's name, for its vector store.
        without: Tenants that were deleted from the build after it was released.

    Raises:
        Corrupt: `assistant.json` is missing or damaged, the prompts or the index build are not what they should be.
        RefusedByPolicy: The embedding model is not the one that the index was made with.
        NotFound, Conflict: The index build is not there, or was never completed.
        Unavailable: The vector store or a model cannot be used now.
    """
    return Loader(product, tools, without=lambda build: without).load(digest, artifacts)


def check_embedder(config: AssistantConfig, embedder: Embedder) -> None:
    """Questions are embedded with the model that the index was made with, or not at all.

    Raises:
        RefusedByPolicy: It is another one.
    """
    pinned = config.index
    if not embedder.digest == config.embedding_digest == pinned.embedding:
        raise RefusedByPolicy(
            f"the embedding model is {embedder.digest[:12]}, the release pins {config.embedding_digest[:12]} and its "
            f"index was made with {pinned.embedding[:12]}",
            where=f"index build {pinned.build}",
            hint="build the index again with this model: `plinth index build PRODUCT`",
        )
    if embedder.dimension != pinned.dimension:
        raise RefusedByPolicy(
            f"the embedding model makes vectors of {embedder.dimension} numbers, the index has {pinned.dimension}",
            where=f"index build {pinned.build}",
            hint="build the index again with this model: `plinth index build PRODUCT`",
        )


def check_index(config: AssistantConfig, index: Index, without: Collection[str] = ()) -> None:
    """An opened build has the dimension and the chunks that the release pins, less those of deleted tenants.

    Raises:
        Corrupt: It has not.
    """
    pinned = config.index
    expected = sum(count for tenant, count in pinned.chunks.items() if tenant not in without)
    found = index.count()
    if index.dimension != pinned.dimension or found != expected:
        raise Corrupt(
            f"index build {pinned.build} has {found} chunks of {index.dimension} numbers, the release pins {expected} "
            f"of {pinned.dimension}",
            where=f"index build {pinned.build}",
            hint="`plinth index build PRODUCT` makes it again; `plinth fsck` looks at the others",
        )
