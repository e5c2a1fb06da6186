"""What loading and answering need of the rooms below: `wiring` builds it, tests give their own."""

from __future__ import annotations

from typing import Protocol

from plinth.core.assistants import Embedding, Generator, Guardrails, Retrieval
from plinth.core.privacy import Detector
from plinth.generation.port import Generator as TextGenerator
from plinth.guardrails.port import Guard
from plinth.retrieval.port import Embedder, Reranker, SparseEncoder, VectorStore


class Tools(Protocol):
    """The adapters of a profile, by what a release says it was made with."""

    @property
    def personal_data(self) -> Detector:
        """Finds personal data."""

    @property
    def secrets(self) -> Detector:
        """Finds secrets."""

    def embedder(self, spec: Embedding) -> Embedder:
        """The embedding model. Loading it may take seconds; whoever asks keeps it.

        Raises:
            NotFound: Its files are not there.
            Corrupt: They are not what they should be.
        """

    def sparse(self, avg_len: float) -> SparseEncoder:
        """BM25 weights, for chunks of so many terms on average. The query side does not depend on it."""

    def store(self, product: str) -> VectorStore:
        """The index builds of a product."""

    def reranker(self, spec: Retrieval) -> Reranker | None:
        """What orders found chunks again; None where the release has none."""

    def generator(self, spec: Generator, embedder: Embedder) -> TextGenerator:
        """What generates, with fallback, limits and prices as the release says."""

    def guard(self, policy: Guardrails) -> Guard:
        """The policy at work."""
