"""The policy of a release at work (port: plinth.guardrails.port.Guard)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

from plinth.core.answers import UNKNOWN, GuardrailHit, Hit, Stage
from plinth.core.assistants import Guardrails
from plinth.core.corpus import Chunk
from plinth.core.privacy import Detector, redact
from plinth.guardrails import support
from plinth.guardrails.language import is_english
from plinth.guardrails.patterns import injections, topics
from plinth.guardrails.port import Looked, Sentence
from plinth.guardrails.rules import RULES
from plinth.guardrails.text import as_data, from_data, readings, squashed, visible

_SENTENCE_LIMIT = 4000
_SEAM = 200
_REMEMBERED = 20_000


class PolicyGuard:
    """Looks at questions, sources and answers as a policy says.

    Args:
        policy: The rules.
        personal_data: Finds what is redacted.
        secrets: Finds what is neither asked nor answered.
    """

    def __init__(self, policy: Guardrails, personal_data: Detector, secrets: Detector) -> None:
        self._policy = policy
        self._personal_data = personal_data
        self._secrets = secrets
        self._canaries = [squashed(canary) for canary in policy.canaries if squashed(canary)]
        self._looked_at: dict[bytes, tuple[str, ...]] = {}

    def question(self, text: str) -> Looked:
        """Look at a question: length, language, injection, blocked topics, secrets; personal data is redacted."""
        policy = self._policy
        if not text.strip() or len(text) > policy.max_question_chars:
            detail = f"{len(text)} characters; 1 to {policy.max_question_chars} are read"
            return Looked("", (_hit("length", "question", "block", detail),))
        plain = visible(text)
        hits: list[GuardrailHit] = []
        if "any" not in policy.languages and not is_english(plain):
            hits.append(_hit("language", "question", "block"))
        action: Literal["block", "note"] = "block" if policy.block_injection else "note"
        hits += [_hit(rule, "question", action) for rule in injections(text, "question", policy.injection)]
        hits += [_hit(rule, "question", "block") for rule in topics(policy.blocked_topics, text)]
        hits += [_hit("secret", "question", "block", kind) for kind in _kinds(self._secrets, plain)]
        if any(hit.action == "block" for hit in hits):
            return Looked("", tuple(hits))
        plain, redacted = self._redacted(plain, "question")
        return Looked(plain, (*hits, *redacted))

    def sources(self, hits: Sequence[Hit]) -> tuple[list[Hit], tuple[GuardrailHit, ...]]:
        """Look at what was retrieved: chunks that try to instruct are left out; returns the others."""
        rules = {hit.chunk.id: dict.fromkeys(self._in_source(_whole(hit.chunk))) for hit in hits}
        for first, second in _neighbours([hit.chunk for hit in hits]):
            for rule in self._in_source(f"{first.text[-_SEAM:]} {second.text[:_SEAM]}"):
                rules[first.id][rule] = rules[second.id][rule] = None
        action: Literal["drop", "note"] = "drop" if self._policy.drop_poisoned else "note"
        found = [
            _hit(rule, "sources", action, f"in {hit.chunk.document}, chunk {hit.chunk.position}")
            for hit in hits
            for rule in rules[hit.chunk.id]
        ]
        kept = [hit for hit in hits if not rules[hit.chunk.id]] if self._policy.drop_poisoned else list(hits)
        return kept, tuple(found)

    def as_data(self, text: str) -> str:
        """A retrieved text as it may stand inside a prompt's `<source>`: nothing in it can close or open a tag."""
        return as_data(text)

    def forbidden(self, text: str) -> bool:
        """Whether a text holds what nobody may be shown, whatever it cites: a canary, a secret, a blocked topic."""
        return any(rule != "markup" for rule in self._forbidden(text))

    def sentence(self, text: str, sources: Sequence[Hit]) -> tuple[Sentence | None, tuple[GuardrailHit, ...]]:
        """Look at a sentence of the answer, `sources` numbered from 1: it has to cite some of them, and they have to
        support it; canaries and blocked topics are never shown, personal data is redacted. None is left out."""
        if len(text) > _SENTENCE_LIMIT:
            return None, (_hit("length", "answer", "drop"),)
        shown = from_data(visible(text)).strip()
        claim = support.without_citations(shown).strip()
        if claim.strip(" *_\"'") == UNKNOWN:
            return Sentence(UNKNOWN, (), 0.0), ()
        cites = support.cited(shown)
        if rules := self._forbidden(shown) or _uncited(cites, len(sources)):
            return None, tuple(_hit(rule, "answer", "drop") for rule in rules)
        source = "\n".join(_whole(sources[number - 1].chunk) for number in cites)
        carried = support.support(claim, source)
        rules = ["link"] if support.links(claim) - support.links(source) else []
        rules += ["support:words"] if not carried.share or carried.share < self._policy.min_support else []
        rules += ["support:numbers"] if not carried.numbers else []
        rules += ["support:verbatim"] if not carried.verbatim else []
        if rules:
            return None, tuple(_hit(rule, "answer", "drop") for rule in rules)
        shown, redacted = self._redacted(shown, "answer")
        return Sentence(shown, cites, carried.share), redacted

    def _forbidden(self, text: str) -> list[str]:
        """Rules that a sentence breaks whatever it cites."""
        spellings = [squashed(reading) for reading in readings(text)]
        spellings += [spelling[::-1] for spelling in spellings]
        rules = (
            ["canary"] if any(_holds(spelling, canary) for spelling in spellings for canary in self._canaries) else []
        )
        rules += ["secret"] if self._secrets.find(text) else []
        rules += topics(self._policy.blocked_topics, text)
        return rules + (["markup"] if support.MARKUP.search(text) else [])

    def _in_source(self, text: str) -> tuple[str, ...]:
        """Rules that a retrieved text breaks. Remembered by digest: the same chunks are found again and again."""
        key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        rules = self._looked_at.get(key)
        if rules is None:
            rules = tuple(injections(text, "sources", self._policy.injection))
            if len(self._looked_at) >= _REMEMBERED:
                self._looked_at.clear()
            self._looked_at[key] = rules
        return rules

    def _redacted(self, text: str, stage: Stage) -> tuple[str, tuple[GuardrailHit, ...]]:
        if not self._policy.redact_personal_data:
            return text, ()
        redacted = redact(text, self._personal_data.find(text))
        return redacted.text, tuple(_hit("personal-data", stage, "redact", kind) for kind in redacted.counts)


def _hit(rule: str, stage: Stage, action: Literal["block", "drop", "redact", "note"], detail: str = "") -> GuardrailHit:
    return GuardrailHit(rule, stage, action, detail or RULES.get(rule, "A pattern of the product's policy."))


def _kinds(detector: Detector, text: str) -> list[str]:
    return sorted({finding.kind for finding in detector.find(text)})


def _whole(chunk: Chunk) -> str:
    """Everything of a chunk that can reach a prompt, and so a generator."""
    return "\n\n".join(dict.fromkeys([chunk.document, chunk.title, *chunk.headings, chunk.text]))


def _neighbours(chunks: Sequence[Chunk]) -> list[tuple[Chunk, Chunk]]:
    """Pairs that follow each other in a document: an instruction may be cut in two."""
    by_place = {(chunk.document, chunk.tenant, chunk.position): chunk for chunk in chunks}
    pairs = ((chunk, by_place.get((chunk.document, chunk.tenant, chunk.position + 1))) for chunk in chunks)
    return [(first, second) for first, second in pairs if second is not None]


def _uncited(cites: tuple[int, ...], sources: int) -> list[str]:
    if not cites:
        return ["citation:missing"]
    return [] if all(1 <= number <= sources for number in cites) else ["citation:unknown"]


def _holds(text: str, canary: str) -> bool:
    """Whether a squashed text holds a squashed canary, or a run of it long enough to be no accident."""
    run = max(12, len(canary) * 2 // 3)
    if len(canary) <= run:
        return canary in text
    return any(canary[start : start + run] in text for start in range(len(canary) - run + 1))
