"""What loading and answering need of the rooms below: `wiring` builds it, tests give their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from plinth.core.answers import Answer
from plinth.core.assistants import AssistantConfig, Embedding, Generator, Guardrails, Retrieval
from plinth.core.privacy import Detector
from plinth.generation.port import Generator as TextGenerator
from plinth.guardrails.port import Guard
from plinth.retrieval.port import Embedder, Reranker, SparseEncoder, VectorStore
from plinth.serving.port import Observer


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


class AnswerObserver(Observer, Protocol):
    """Where an assistant's service reports to. Every call is cheap, and never raises; from any thread."""

    def answered(
        self,
        *,
        request_id: str,
        release: str,
        arm: str,
        config: AssistantConfig,
        answer: Answer | None,
        marks: Sequence[tuple[str, int]],
        seconds: float,
        traceparent: str = "",
        error: str = "",
        trace_id: str = "",
    ) -> str:
        """An answer, or a failure to give one.

        Args:
            request_id: The request's id.
            release: Digest of the release that answered.
            arm: Which release of the route that is.
            config: What it is made of.
            answer: The whole answer; None when the release failed.
            marks: When each step ended, in ns since 1970.
            seconds: The whole of it.
            traceparent: The caller's W3C trace context, or "".
            error: The kind of error, when it failed.
            trace_id: What `sample` said of its request.

        Returns:
            The trace id, 32 hexadecimal characters; "" where the answer is not traced.
        """
