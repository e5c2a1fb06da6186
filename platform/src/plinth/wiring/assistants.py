"""What assistants are made of, from settings and the parts of a release. Models are loaded once and shared."""

from __future__ import annotations

import os
import threading
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

from plinth.core.assistants import Embedding, Endpoint, Generator, Guardrails, Retrieval, SourceSpec
from plinth.errors import InvalidInput
from plinth.wiring.mlflow import mlflow_connection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plinth.core.privacy import Detector
    from plinth.generation.port import Generator as GeneratorPort
    from plinth.generation.prompts import PromptRegistry
    from plinth.guardrails.port import Guard
    from plinth.ingestion.port import Source
    from plinth.retrieval.port import Embedder, Reranker, SparseEncoder, VectorStore
    from plinth.settings import Settings


class AssistantPorts:
    """The ports of assistants in one profile.

    Args:
        settings: Of the profile.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._embedders: dict[str, Embedder] = {}
        self._stores: dict[str, VectorStore] = {}

    def embedder(self, spec: Embedding) -> Embedder:
        """The embedding model; the first use of the offline one builds it, which takes seconds.

        Raises:
            MissingExtra: Its package is not installed.
            InvalidInput: The environment variable of its key is not set.
            Unavailable: Its weights cannot be had.
        """
        with self._lock:
            found = self._embedders.get(spec.digest)
            if found is None:
                found = self._embedders[spec.digest] = self._make_embedder(spec)
            return found

    def _make_embedder(self, spec: Embedding) -> Embedder:
        models = self._settings.state_dir / "models"
        if spec.provider == "openai":
            from plinth.retrieval.openai import OpenAIEmbedder

            return OpenAIEmbedder(spec.model, str(spec.base_url), _key(spec.api_key_env), spec.dimension)
        if spec.provider == "fastembed":
            from plinth.retrieval.fastembed import FastembedEmbedder

            return FastembedEmbedder(spec.model, models / "fastembed")
        from plinth.retrieval.minilm import make_minilm
        from plinth.retrieval.onnxruntime import OnnxEmbedder

        return OnnxEmbedder(make_minilm(models / "minilm"))

    def sparse(self, avg_len: float) -> SparseEncoder:
        """The BM25 encoder for texts of `avg_len` tokens on average."""
        from plinth.retrieval.bm25 import Bm25Encoder

        return Bm25Encoder(avg_len)

    def store(self, product: str) -> VectorStore:
        """The vector store of a product, by the setting `vector_store`."""
        with self._lock:
            found = self._stores.get(product)
            if found is None:
                found = self._stores[product] = self._make_store(product)
            return found

    def _make_store(self, product: str) -> VectorStore:
        if self._settings.vector_store == "qdrant":
            from plinth.retrieval.qdrant import QdrantStore

            return QdrantStore(self._settings.qdrant_url, product, self._settings.qdrant_api_key.get_secret_value())
        from plinth.retrieval.qdrant_edge import EdgeStore

        return EdgeStore(self._settings.product_dir(product) / "index")

    def reranker(self, spec: Retrieval) -> Reranker | None:
        """What orders the found chunks again, or None."""
        if spec.reranker == "lexical":
            from plinth.retrieval.rerank import LexicalReranker

            return LexicalReranker()
        if spec.reranker == "fastembed":
            from plinth.retrieval.fastembed import FastembedReranker

            return FastembedReranker(str(spec.rerank_model), self._settings.state_dir / "models" / "fastembed")
        return None

    def generator(self, spec: Generator, embedder: Embedder) -> GeneratorPort:
        """What generates: the primary model with its limits, and the fallback behind it.

        Args:
            spec: The models and their limits.
            embedder: Tells how alike a question and a sentence are, for the extractive generator.
        """
        from plinth.generation.resilient import ResilientGenerator

        fallback = self._endpoint(spec.fallback, spec, embedder) if spec.fallback else None
        return ResilientGenerator(self._endpoint(spec.primary, spec, embedder), fallback, timeout=spec.timeout)

    def _endpoint(self, endpoint: Endpoint, spec: Generator, embedder: Embedder) -> GeneratorPort:
        if endpoint.provider == "openai":
            from plinth.generation.budget import BudgetedGenerator
            from plinth.generation.openai import OpenAIGenerator

            made = OpenAIGenerator(endpoint, _key(endpoint.api_key_env), spec.timeout, spec.retries)
            return made if spec.max_cost is None else BudgetedGenerator(made, endpoint, spec.max_cost)
        from plinth.generation.extractive import ExtractiveGenerator

        def similarity(question: str, sentences: Sequence[str]) -> list[float]:
            vectors = embedder.embed_documents(sentences)
            return cast("list[float]", (vectors @ embedder.embed_query(question)).tolist())

        return ExtractiveGenerator(similarity)

    def guard(self, policy: Guardrails) -> Guard:
        """A guardrail policy at work."""
        from plinth.guardrails.engine import PolicyGuard

        return PolicyGuard(policy, self.personal_data, self.secrets)

    @cached_property
    def personal_data(self) -> Detector:
        """Finds personal data."""
        from plinth.privacy.personal import PersonalData

        return PersonalData()

    @cached_property
    def secrets(self) -> Detector:
        """Finds secrets."""
        from plinth.privacy.secrets import Secrets

        return Secrets()

    @cached_property
    def prompts(self) -> PromptRegistry:
        """The prompt registry."""
        from plinth.generation.mlflow import MlflowPrompts

        return MlflowPrompts(mlflow_connection(self._settings))

    def source(self, spec: SourceSpec) -> Source:
        """A source of documents; a relative path is one of the workspace."""
        from plinth.ingestion.names import HarmlessNames
        from plinth.ingestion.sources import FolderSource, UrlSource

        path = self._settings.home / Path(spec.path)
        urls = spec.kind == "urls"
        found = UrlSource(spec.name, path) if urls else FolderSource(spec.name, path, spec.include, spec.exclude)
        return HarmlessNames(found, self.personal_data, self.secrets)


def _key(variable: str | None) -> str:
    """A key from the environment variable that the configuration names; "" where it names none.

    Raises:
        InvalidInput: The variable is not set.
    """
    if variable is None:
        return ""
    value = os.environ.get(variable, "")
    if not value:
        raise InvalidInput(
            f"the environment variable {variable} is not set", where="environment", hint="set it to the endpoint's key"
        )
    return value
