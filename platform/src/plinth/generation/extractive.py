"""The offline generator: answers with sentences quoted from the sources, each with its citation, or says that the
documents do not say. No model of language: it weighs words and, where it is given one, an embedding's similarity.

What it knows, it reads in the messages: `<source id="N">` with an optional `<title>`, and `<question>`. Instructions
in a source are sentences like any other.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass

from plinth.core.answers import UNKNOWN, Usage
from plinth.core.sentences import sentence_spans
from plinth.errors import InvalidInput
from plinth.generation.budget import estimate_prompt, estimate_tokens
from plinth.generation.port import Message, Piece, Request
from plinth.generation.words import terms

Similarity = Callable[[str, Sequence[str]], Sequence[float]]
"""How alike a question and each of some sentences are: cosine of their embeddings."""

MOST_SENTENCES = 3
_SHORT_LIST = 16
_SOURCE = re.compile(r'<source id="(\d+)">(.*?)</source>', re.DOTALL)
_TITLE = re.compile(r"\s*<title>(.*?)</title>", re.DOTALL)
_QUESTION = re.compile(r"<question>(.*?)</question>", re.DOTALL)
_FENCED = re.compile(r"^[ \t]*(```|~~~).*?(?:^[ \t]*\1|\Z)", re.DOTALL | re.MULTILINE)
_MARKER = re.compile(r"^\s*(?:[-*+•]\s+|\d{1,3}[.)]\s+|#{1,6}\s+|>\s+)+")
_ENTITY = {"&lt;": "<", "&gt;": ">", "&amp;": "&"}


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A sentence of a source: where it stands, and what it is about (`context`: its title and headings)."""

    source: int
    rank: int
    position: int
    text: str
    code: bool
    terms: tuple[str, ...]
    context: frozenset[str]


class ExtractiveGenerator:
    """Quotes one to three sentences. Deterministic, free, thread-safe.

    Args:
        similarity: Makes it understand other words for the same thing; without it only words count.
    """

    name = "extractive-1"

    def __init__(self, similarity: Similarity | None = None) -> None:
        self._similarity = similarity

    async def stream(self, request: Request) -> AsyncIterator[Piece]:
        """As Generator.stream: a sentence a piece.

        Raises:
            InvalidInput: There is no `<question>` in the messages.
        """
        # Embedding takes milliseconds of a core: not those of the event loop.
        said = await asyncio.to_thread(self.sentences, request.messages)
        prompt_tokens = estimate_prompt(request.messages)
        spent = 0
        for number, sentence in enumerate(said):
            spent += estimate_tokens(sentence)
            if number and spent > request.max_tokens:
                spent -= estimate_tokens(sentence)
                break
            yield Piece(("\n\n" if number else "") + sentence)
        yield Piece("", Usage(prompt_tokens, spent, estimated=True), self.name)

    def sentences(self, messages: Sequence[Message]) -> list[str]:
        """The sentences of the answer with their citations."""
        question, candidates = _read(messages)
        wanted = list(dict.fromkeys(terms(question)))
        if not wanted or not candidates:
            return [UNKNOWN]
        scored = self._scores(question, wanted, candidates)
        chosen = _choose(scored)
        return [_quoted(candidate) for candidate in chosen] or [UNKNOWN]

    def _scores(
        self, question: str, wanted: Sequence[str], candidates: Sequence[_Candidate]
    ) -> list[tuple[float, _Candidate]]:
        weights = _weights(wanted, candidates)
        lexical = sorted(((_overlap(weights, each), each) for each in candidates), key=lambda pair: -pair[0])
        if self._similarity is None:
            return lexical
        short = lexical[:_SHORT_LIST]
        alike = self._similarity(question, [each.text for _, each in short])
        return [((score + max(0.0, cosine)) / 2, each) for (score, each), cosine in zip(short, alike, strict=True)]


def _read(messages: Iterable[Message]) -> tuple[str, list[_Candidate]]:
    text = "\n".join(message.content for message in messages if message.role == "user")
    questions = _QUESTION.findall(text)
    if not questions:
        raise InvalidInput("the prompt holds no <question>", where="extractive-1", hint="check the template `answer`")
    candidates: list[_Candidate] = []
    for rank, (number, content) in enumerate(_SOURCE.findall(text)):
        title = _TITLE.match(content)
        body = content[title.end() :] if title else content
        context = frozenset(terms(_plain(title[1]))) if title else frozenset()
        candidates += _candidates(int(number), rank, body, context)
    return _plain(questions[-1]).strip(), candidates


def _candidates(number: int, rank: int, body: str, context: frozenset[str]) -> list[_Candidate]:
    fenced = [match.span() for match in _FENCED.finditer(body)]
    found = []
    for position, (start, end) in enumerate(sentence_spans(body)):
        raw = body[start:end]
        code = any(left <= start < right for left, right in fenced)
        if (raw.startswith("#") and not code) or set(raw) <= set("|-: \n"):
            continue
        text = " ".join(_MARKER.sub("", _plain(raw)).split()) if not code else _plain(raw).strip()
        if words := tuple(terms(text)):
            found.append(_Candidate(number, rank, position, text, code, words, context))
    return found


def _weights(wanted: Sequence[str], candidates: Sequence[_Candidate]) -> dict[str, float]:
    """How much each word of the question says, by how few sentences have it; the weights add up to 1."""
    counts = Counter(term for each in candidates for term in set(each.terms))
    raw = {term: math.log(1 + (len(candidates) + 0.5) / (counts[term] + 0.5)) for term in wanted}
    total = sum(raw.values())
    return {term: weight / total for term, weight in raw.items()}


def _overlap(weights: dict[str, float], candidate: _Candidate) -> float:
    own = set(candidate.terms)
    score = sum(
        weight if term in own else weight / 2 if term in candidate.context else 0.0 for term, weight in weights.items()
    )
    return score * (1.0 - 0.02 * candidate.rank)


def _choose(scored: list[tuple[float, _Candidate]]) -> list[_Candidate]:
    ranked = sorted(scored, key=lambda pair: (-pair[0], pair[1].rank, pair[1].position))
    best = ranked[0][0]
    if best < 0.4:
        return []
    chosen = [each for score, each in ranked[:MOST_SENTENCES] if score >= 0.8 * best]
    return sorted(chosen, key=lambda each: (each.rank, each.position))


def _quoted(candidate: _Candidate) -> str:
    """The sentence with its citation before the full stop, so that both stay together wherever sentences are cut."""
    text = f"`{candidate.text}`" if candidate.code else candidate.text.rstrip(" .:;")
    return f"{text} [{candidate.source}]."


def _plain(text: str) -> str:
    """The guardrails' `as_data`, undone."""
    return re.sub(r"&(?:lt|gt|amp);", lambda match: _ENTITY[match[0]], text)
