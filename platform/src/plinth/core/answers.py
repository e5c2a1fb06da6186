"""Questions, answers, citations, guardrail hits. Plain data, no tool."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from plinth.core.corpus import Chunk

Stage = Literal["question", "sources", "answer"]

UNKNOWN = "The documents do not say."
"""The sentence that says nothing was found. It needs no citation; an answer that is nothing else is a refusal."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that was found.

    Attributes:
        chunk: The chunk.
        score: What it is ranked by, larger is better; its unit depends on the retrieval's mode.
        dense: Cosine similarity to the query, or None where the dense side did not find it.
        sparse: BM25 score, or None where the sparse side did not find it.
    """

    chunk: Chunk
    score: float
    dense: float | None = None
    sparse: float | None = None


@dataclass(frozen=True, slots=True)
class GuardrailHit:
    """A rule that stepped in.

    Attributes:
        rule: Its name, such as `injection:ignore-instructions`.
        stage: Where: in the question, in a retrieved chunk, in the answer.
        action: block: nothing is answered; drop: the chunk or sentence is left out; redact: part of it is.
        detail: What for, for people. Never the text that was hit: it may be a secret.
    """

    rule: str
    stage: Stage
    action: Literal["block", "drop", "redact", "note"]
    detail: str = ""

    def as_dict(self) -> dict[str, str]:
        """Stable JSON."""
        return {"rule": self.rule, "stage": self.stage, "action": self.action, "detail": self.detail}


@dataclass(frozen=True, slots=True)
class Citation:
    """Where a sentence of the answer comes from. `number` is what stands in brackets in the text."""

    number: int
    chunk: Chunk
    quote: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Stable JSON."""
        chunk = self.chunk
        return {
            "number": self.number,
            "chunk": chunk.id,
            "document": chunk.document,
            "version": chunk.version,
            "title": chunk.title,
            "headings": list(chunk.headings),
            "quote": self.quote,
        }


@dataclass(frozen=True, slots=True)
class Usage:
    """What generating took. `cost` is in the budget's currency; `estimated` says that nobody counted the tokens."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer.

    Attributes:
        text: The sentences, with citations as [1].
        citations: What they cite.
        refused: Why nothing was answered: "" if something was, "unknown" if the corpus does not say, "blocked" if a
            guardrail said no, "budget" if it would have cost too much.
        stale: Names of the sources whose documents may have changed longer ago than their freshness objective allows.
        support: How well the citations carry the sentences, 0 to 1; 0 of a refusal.
        hits: Guardrails that stepped in.
        retrieved: What was found, best first, before guardrails dropped any.
        usage: Tokens and cost.
        generator: Name of the model that generated, such as "extractive-1" (the fallback's when it answered).
    """

    text: str
    citations: tuple[Citation, ...] = ()
    refused: Literal["", "unknown", "blocked", "budget"] = ""
    stale: tuple[str, ...] = ()
    support: float = 0.0
    hits: tuple[GuardrailHit, ...] = ()
    retrieved: tuple[Hit, ...] = ()
    usage: Usage = field(default_factory=Usage)
    generator: str = ""
