"""Retrieval's ports: models that embed, stores that hold index builds, rerankers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from plinth.core.answers import Hit
from plinth.core.corpus import Chunk, Scope

Vectors = NDArray[np.float32]
Progress = Callable[[int, int], None]
"""Called with how many of how many are done."""


class Embedder(Protocol):
    """An embedding model. Vectors have length 1. Thread-safe."""

    name: str
    max_tokens: int

    @property
    def dimension(self) -> int:
        """Numbers in a vector."""

    @property
    def digest(self) -> str:
        """sha256 of everything that decides a vector: weights, tokenizer, how they are run. Pinned to the index."""

    def embed_documents(self, texts: Sequence[str], on_progress: Progress | None = None) -> Vectors:
        """One vector a text, [n, dimension], in the order given.

        Raises:
            Unavailable: The endpoint does not answer.
        """

    def embed_query(self, text: str) -> Vectors:
        """The vector of a question, [dimension]."""

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, without the special ones."""


@dataclass(frozen=True, slots=True)
class SparseVector:
    """Token ids (sorted, 0 to 2^32-1) and their weights."""

    indices: tuple[int, ...]
    values: tuple[float, ...]


class SparseEncoder(Protocol):
    """Texts to BM25 weights; what is rare counts more by the store's statistics (IDF)."""

    def encode_document(self, text: str) -> SparseVector:
        """Term frequency weights."""

    def encode_query(self, text: str) -> SparseVector:
        """Weight 1 for each term."""

    def length(self, text: str) -> float:
        """Words of a text that count: its length in the unit of the average that the encoder is made with."""


@dataclass(frozen=True, slots=True)
class Point:
    """A chunk with its vectors, as a store keeps it."""

    chunk: Chunk
    dense: Vectors
    sparse: SparseVector


@dataclass(frozen=True, slots=True)
class Query:
    """A question in both forms; None is a side that is not searched."""

    dense: Vectors | None
    sparse: SparseVector | None


@dataclass(frozen=True, slots=True)
class Sides:
    """What each side found, best first, with its own scores (cosine; BM25)."""

    dense: tuple[Hit, ...]
    sparse: tuple[Hit, ...]


class Index(Protocol):
    """An opened index build, to read. Thread-safe."""

    build: str
    dimension: int

    def search(self, query: Query, scope: Scope, limit: int) -> Sides:
        """The best chunks of each side. The scope is applied by the store, before anything is ranked."""

    def count(self, scope: Scope | None = None) -> int:
        """How many chunks it holds, all or those in a scope."""

    def points(self, tenant: str | None = None) -> Iterator[Point]:
        """Every chunk with its vectors, for the next build and for checks."""

    def close(self) -> None:
        """Let go of it. Searching it afterwards is an error."""


class VectorStore(Protocol):
    """Holds index builds side by side, and an alias a product that names one of them."""

    def create(self, build: str, dimension: int) -> None:
        """Begin a build; what an earlier try of the same id left is dropped.

        Raises:
            Conflict: The build is complete already.
            Unavailable: The disk is full, or the server does not answer.
        """

    def add(self, build: str, points: Sequence[Point]) -> None:
        """Write points of a build that is not complete. Writing a point twice is writing it once."""

    def complete(self, build: str) -> None:
        """Make its search structures and mark it complete, durably: the last thing that happens to a build."""

    def builds(self) -> dict[str, bool]:
        """Each build's id, and whether it is complete."""

    def verify(self, build: str) -> None:
        """See whether a complete build is whole, as far as the store can tell; it is not opened. Raises as `open`."""

    def open(self, build: str) -> Index:
        """Open a complete build to read.

        Raises:
            NotFound: There is no such build.
            Conflict: It is not complete.
            Corrupt: It is damaged.
        """

    def drop(self, build: str) -> None:
        """Delete a build; it need not be there."""

    def remove_tenant(self, build: str, tenant: str) -> int:
        """Delete every chunk of a tenant from a build, bytes included; returns how many there were.

        The build stays complete throughout; a reader that has it open reads the old state until it opens it again.
        """

    def set_alias(self, name: str, build: str) -> None:
        """Point an alias at a build, atomically. Only the reconciler does: the ledger says what serves."""

    def alias(self, name: str) -> str | None:
        """The build an alias points at, or None."""


class Reranker(Protocol):
    """Orders found chunks again by reading them beside the question."""

    name: str

    def rerank(self, question: str, hits: Sequence[Hit]) -> list[Hit]:
        """The same hits, best first, with new scores."""
