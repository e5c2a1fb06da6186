"""What decides an assistant's answer: chunking, embedding, index, retrieval, prompts, generator, guardrails. Pure.

The `assistant` part of `product.yaml` declares it, and a release pins it (`plinth.core.releases.AssistantRef`).
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from plinth.core.addresses import Address
from plinth.core.digests import digest_json
from plinth.core.durations import Duration
from plinth.core.regexes import LIMIT, ways

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$", max_length=50)]
Label = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=50)]
RelativePath = Annotated[
    str, StringConstraints(pattern=r"^\.?[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$", max_length=200)
]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def digest(self) -> str:
        """sha256 of the canonical JSON."""
        return digest_json(self.model_dump(mode="json"))


class SourceSpec(_Frozen):
    """Where documents come from."""

    name: Name
    kind: Literal["folder", "urls"] = Field(
        description="folder: files below `path`; urls: the pages listed in the file `path`, one a line."
    )
    path: str = Field(min_length=1, description="Relative to the workspace, or absolute.")
    tenant: Name = Field(default="public", description="Whose documents these are; those of public are everybody's.")
    labels: tuple[Label, ...] = Field(default=(), description="Who of the tenant may read them; none is everybody.")
    include: tuple[str, ...] = Field(
        default=("**/*.md", "**/*.html", "**/*.txt", "**/*.pdf", "**/*.docx"), description="Patterns of files to read."
    )
    exclude: tuple[str, ...] = Field(default=(), description="Patterns of files to leave out.")
    freshness: Duration = Field(default="1h", description="How long a change may take to become searchable.")


class Chunking(_Frozen):
    """How documents are cut. A change of it is a new index."""

    max_tokens: int = Field(
        default=220, ge=32, le=2000, description="Tokens of a chunk at most, title and headings included."
    )
    overlap: int = Field(
        default=30, ge=0, le=500, description="Tokens that a chunk repeats of the one before, within a block."
    )
    version: Literal[1] = 1

    @model_validator(mode="after")
    def _fits(self) -> Chunking:
        if self.overlap * 2 > self.max_tokens:
            raise ValueError("overlap is at most half of max_tokens")
        return self


class Embedding(_Frozen):
    """The embedding model. A change of it is a new index."""

    provider: Literal["minilm", "fastembed", "openai"] = Field(
        default="minilm", description="minilm: all-MiniLM-L6-v2 from the package index; fastembed: any of its models, "
        "downloaded; openai: any endpoint of that kind.",
    )  # fmt: skip
    model: str = Field(default="all-MiniLM-L6-v2-int8", min_length=1)
    base_url: Address | None = Field(
        default=None, description="openai only: address of the endpoint, such as http://host/v1."
    )
    api_key_env: str | None = Field(default=None, description="openai only: environment variable that holds the key.")
    dimension: int | None = Field(
        default=None, ge=1, description="openai only: numbers in a vector, where the model can vary."
    )

    @model_validator(mode="after")
    def _fits(self) -> Embedding:
        if (self.provider == "openai") != (self.base_url is not None):
            raise ValueError("base_url is given with the provider openai, and only then")
        return self


class Retrieval(_Frozen):
    """How chunks are found."""

    mode: Literal["hybrid", "dense", "sparse"] = "hybrid"
    candidates: int = Field(default=100, ge=1, le=1000, description="Chunks that dense and sparse search give each.")
    dense_weight: float = Field(default=1.0, ge=0, le=10, description="Weight of the dense side in the fusion.")
    sparse_weight: float = Field(default=1.0, ge=0, le=10, description="Weight of the sparse side in the fusion.")
    limit: int = Field(default=6, ge=1, le=50, description="Chunks that the answer is made of.")
    reranker: Literal["none", "fastembed", "lexical"] = "none"
    rerank_model: str | None = Field(default=None, description="fastembed only: name of the cross-encoder.")
    rerank_candidates: int = Field(default=30, ge=1, le=200, description="Chunks that are reranked.")

    @model_validator(mode="after")
    def _fits(self) -> Retrieval:
        if self.dense_weight + self.sparse_weight <= 0:
            raise ValueError("one of the weights is above 0")
        if (self.reranker == "fastembed") != (self.rerank_model is not None):
            raise ValueError("rerank_model is given with the reranker fastembed, and only then")
        return self


class Endpoint(_Frozen):
    """A model that generates."""

    provider: Literal["extractive", "openai"] = Field(
        default="extractive", description="extractive: quotes sentences, offline; openai: any endpoint of that kind."
    )
    model: str = Field(default="extractive-1", min_length=1)
    base_url: Address | None = Field(
        default=None, description="openai only: address of the endpoint, such as http://host/v1."
    )
    api_key_env: str | None = Field(default=None, description="openai only: environment variable that holds the key.")
    temperature: float = Field(default=0.0, ge=0, le=2)
    seed: int | None = 0
    price_prompt: float = Field(
        default=0.0, ge=0, description="Price of a million prompt tokens, in the budget's currency."
    )
    price_completion: float = Field(default=0.0, ge=0, description="Price of a million generated tokens.")

    @model_validator(mode="after")
    def _fits(self) -> Endpoint:
        if (self.provider == "openai") != (self.base_url is not None):
            raise ValueError("base_url is given with the provider openai, and only then")
        return self


class Generator(_Frozen):
    """How answers are generated, and within what limits."""

    primary: Endpoint = Endpoint()
    fallback: Endpoint | None = Field(default=None, description="Answers while the primary one cannot.")
    max_tokens: int = Field(default=400, ge=1, le=8192, description="Tokens of an answer at most.")
    timeout: float = Field(default=30.0, gt=0, le=600, description="Seconds an answer may take at most.")
    retries: int = Field(default=2, ge=0, le=5)
    max_cost: float | None = Field(
        default=None, ge=0, description="What a request may cost at most, in the budget's currency."
    )


class Pattern(_Frozen):
    """A named regular expression (Python's `re`, case ignored)."""

    name: Name
    pattern: str = Field(min_length=1, max_length=500)

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        if ways(pattern) > LIMIT:
            raise ValueError("can take too long on some texts: repeat less (no `*` or `+` around another repeat)")
        return pattern


class Guardrails(_Frozen):
    """What may be asked and answered: policy in code. Empty lists switch nothing off that is built in."""

    max_question_chars: int = Field(default=2000, ge=1, le=100_000)
    languages: tuple[Literal["en", "any"], ...] = Field(default=("any",), description="Languages that are answered.")
    injection: tuple[Pattern, ...] = Field(default=(), description="Injection patterns beside the built-in ones.")
    blocked_topics: tuple[Pattern, ...] = Field(default=(), description="What is neither asked nor answered.")
    canaries: tuple[str, ...] = Field(default=(), description="Strings that no answer may hold.")
    block_injection: bool = Field(
        default=True, description="Refuse a question with an injection pattern, not only count it."
    )
    drop_poisoned: bool = Field(default=True, description="Leave out retrieved chunks with an injection pattern.")
    min_support: float = Field(
        default=0.6, ge=0, le=1, description="Share of a sentence's content words that its citations must hold."
    )
    redact_personal_data: bool = True


class PromptSpec(_Frozen):
    """A prompt template of the product, and the variables that it must use."""

    name: Name
    file: RelativePath = Field(description="Jinja2 template, relative to the product.")
    variables: tuple[str, ...] = Field(min_length=1, description="Exactly the variables that the template uses.")


class AssistantSpec(_Frozen):
    """The `assistant` part of `product.yaml`."""

    sources: Annotated[tuple[SourceSpec, ...], Field(min_length=1)]
    chunking: Chunking = Chunking()
    embedding: Embedding = Embedding()
    retrieval: Retrieval = Retrieval()
    generator: Generator = Generator()
    guardrails: Guardrails = Guardrails()
    prompts: Annotated[tuple[PromptSpec, ...], Field(min_length=1)]
    golden: RelativePath = Field(description="Golden questions, JSON Lines, relative to the product.")

    @field_validator("sources", "prompts")
    @classmethod
    def _names_are_unique(cls, items: tuple[Any, ...]) -> tuple[Any, ...]:
        names = [item.name for item in items]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"the name {', '.join(twice)} stands twice")
        return items


class Prompt(_Frozen):
    """A prompt template as it is pinned: its version in the registry and its text."""

    name: str
    version: str
    template: str
    variables: tuple[str, ...]


class IndexRef(_Frozen):
    """An index build, as it is pinned.

    Attributes:
        build: Its id: the first 16 characters of the sha256 of everything it was made of.
        checksum: Tenant to sha256 over its chunks (`plinth.core.corpus.checksum`).
        chunks: Tenant to number of its chunks.
        documents: How many documents it holds.
        dimension: Numbers in a dense vector.
        embedding: Digest of the embedding model: its weights, its tokenizer and how it is run.
        chunking: Digest of the chunking.
    """

    build: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
    checksum: dict[str, Sha256]
    chunks: dict[str, Annotated[int, Field(ge=0)]]
    documents: int = Field(ge=0)
    dimension: int = Field(ge=1)
    embedding: Sha256
    chunking: Sha256


class AssistantConfig(_Frozen):
    """Everything that decides an answer, in one piece: the file `assistant.json` of a release."""

    chunking: Chunking
    embedding: Embedding
    embedding_digest: Sha256
    retrieval: Retrieval
    generator: Generator
    guardrails: Guardrails
    prompts: tuple[Prompt, ...]
    index: IndexRef

    def prompt(self, name: str) -> Prompt | None:
        """The prompt of that name, or None."""
        return next((prompt for prompt in self.prompts if prompt.name == name), None)
