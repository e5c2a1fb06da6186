"""Guardrails' port: three places where a policy looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from plinth.core.answers import GuardrailHit, Hit


@dataclass(frozen=True, slots=True)
class Looked:
    """What became of a text: the text to go on with ("" when blocked), and what stepped in."""

    text: str
    hits: tuple[GuardrailHit, ...] = ()

    @property
    def blocked(self) -> bool:
        """Whether a rule said no."""
        return any(hit.action == "block" for hit in self.hits)


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of an answer that may be shown: its text with citations as [1], what it cites, how well that
    supports it (0 to 1)."""

    text: str
    cites: tuple[int, ...]
    support: float


class Guard(Protocol):
    """A policy at work. Thread-safe, keeps nothing."""

    def question(self, text: str) -> Looked:
        """Look at a question: length, language, injection, blocked topics, secrets; personal data is redacted."""

    def sources(self, hits: Sequence[Hit]) -> tuple[list[Hit], tuple[GuardrailHit, ...]]:
        """Look at what was retrieved: chunks that try to instruct are left out; returns the others."""

    def as_data(self, text: str) -> str:
        """A retrieved text as it may stand inside a prompt's `<source>`: nothing in it can close or open a tag."""

    def forbidden(self, text: str) -> bool:
        """Whether a text holds what nobody may be shown, whatever it cites: a canary, a secret, a blocked topic."""

    def sentence(self, text: str, sources: Sequence[Hit]) -> tuple[Sentence | None, tuple[GuardrailHit, ...]]:
        """Look at a sentence of the answer, `sources` numbered from 1: it has to cite some of them, and they have to
        support it; canaries and blocked topics are never shown, personal data is redacted. None is left out."""
