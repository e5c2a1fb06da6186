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
from collections.abc import AsyncIterator, Callable, Sequence

from plinth.core.answers import UNKNOWN, Usage
from plinth.generation.budget import estimate_prompt, estimate_tokens
from plinth.generation.passages import Passage, passages, read_prompt
from plinth.generation.port import Message, Piece, Request
from plinth.generation.words import terms

Similarity = Callable[[str, Sequence[str]], Sequence[float]]
"""How alike a question and each of some sentences are: cosine of their embeddings."""

MOST_SENTENCES = 3
EVIDENCE = 0.45
"""Score that an answer begins at, of 1. Set on the READMEs of 21 Python packages and on this repository's documents,
with questions that were written for it (docs/reference/generation.md says what it reaches there).
"""

_CLOSE = 0.8  # of the best score: what else is quoted

_SHORT_LIST = 12  # embedding so many takes about 25 ms of one core
_WORDS = 0.6  # of the score; the rest is the embedding's
_CONTEXT = 0.8  # of a word's weight, where only the title or the line that leads in has it
_HOW = re.compile(
    r"\bhow (?:do|can|to|would|should)\b|\b(?:which|what) (?:command|option|flag|setting|variable)", re.IGNORECASE
)
_COUNT = re.compile(
    r"\bhow (?:many|much|long|often|fast|large|big|old|far)\b|\bwh(?:en|ich version|at (?:port|year|version))\b",
    re.IGNORECASE,
)
_WHAT = re.compile(r"^\W*(?:what|who)(?:'s| is| are| was| were| does| do)\b|^\W*(?:define|explain)\b", re.IGNORECASE)
_DEFINES = re.compile(
    r"\b(?:is|are|was|means|provides?|lets|allows?|helps|gives|describes?|holds?)\b|^An? ", re.IGNORECASE
)


class ExtractiveGenerator:
    """Quotes one to three sentences. Deterministic, free, thread-safe.

    Args:
        similarity: Makes it understand other words for the same thing; without it only words count.
    """

    name = "extractive-1"

    def __init__(self, similarity: Similarity | None = None) -> None:
        self._similarity = similarity

    async def stream(self, request: Request) -> AsyncIterator[Piece]:
        """As Generator.stream: a sentence a piece; tokens are estimated.

        Raises:
            InvalidInput: There is no `<question>` in the messages.
        """
        # Embedding takes milliseconds of a core: not those of the event loop.
        said = await asyncio.to_thread(self.sentences, request.messages)
        spent = 0
        for number, sentence in enumerate(said):
            tokens = estimate_tokens(sentence)
            if number and spent + tokens > request.max_tokens:
                break
            spent += tokens
            yield Piece(("\n\n" if number else "") + sentence)
        yield Piece("", Usage(estimate_prompt(request.messages), spent, estimated=True), self.name)

    def sentences(self, messages: Sequence[Message]) -> list[str]:
        """The sentences of the answer with their citations."""
        question, sources = read_prompt(messages)
        wanted = list(dict.fromkeys(terms(question)))
        found = [passage for source in sources for passage in passages(source) if not _repeats(passage.text, question)]
        if not wanted or not found:
            return [UNKNOWN]
        chosen = _choose(self._scores(question, wanted, found))
        return [passage.quoted() for passage in chosen] or [UNKNOWN]

    def _scores(self, question: str, wanted: Sequence[str], found: Sequence[Passage]) -> list[tuple[float, Passage]]:
        weights = _weights(wanted, found)
        scored = [(_overlap(weights, passage), passage) for passage in found]
        scored = [(overlap + _fit(question, weights, passage), passage) for overlap, passage in scored]
        scored.sort(key=lambda pair: (-pair[0], pair[1].rank, pair[1].position))
        if self._similarity is None:
            return scored
        short = scored[:_SHORT_LIST]
        alike = self._similarity(question, [passage.in_context for _, passage in short])
        return [
            ((score + max(0.0, cosine)) / 2, passage) for (score, passage), cosine in zip(short, alike, strict=True)
        ]


def _repeats(text: str, question: str) -> bool:
    """Whether a text holds the question word for word: a text that quotes it does not answer it."""
    asked, said = (re.findall(r"[^\W_]+", one.lower()) for one in (question, text))
    return len(asked) > 3 and f" {' '.join(asked)} " in f" {' '.join(said)} "


def _weights(wanted: Sequence[str], found: Sequence[Passage]) -> dict[str, float]:
    """How much each word of the question says, by how few passages have it; the weights add up to 1."""
    counts = Counter(term for passage in found for term in passage.terms)
    raw = {term: math.log(1 + (len(found) + 0.5) / (counts[term] + 0.5)) for term in wanted}
    total = sum(raw.values())
    return {term: weight / total for term, weight in raw.items()}


def _overlap(weights: dict[str, float], passage: Passage) -> float:
    """The share of the question that the passage, its title and the line that leads in to it speak of."""
    return sum(
        weight if term in passage.terms else _CONTEXT * weight if term in passage.context else 0.0
        for term, weight in weights.items()
    )


def _fit(question: str, weights: dict[str, float], passage: Passage) -> float:
    """Whether it is the kind of sentence that answers the kind of question, and where it stands."""
    fit = -0.02 * passage.rank
    if _HOW.search(question):
        fit += 0.1 if passage.code or "`" in passage.text else 0.0
    elif passage.code:
        fit -= 0.15
    if _COUNT.search(question) and re.search(r"\d", passage.text):
        fit += 0.1
    if _WHAT.match(question) and _DEFINES.search(" ".join(passage.text.split()[:8])):
        fit += 0.1
    if len(passage.terms - weights.keys()) < 2:
        fit -= 0.2  # it repeats the question and says nothing more
    elif passage.text.endswith(":") or (len(passage.terms) < 4 and not passage.code):
        fit -= 0.1
    return fit


def _choose(scored: list[tuple[float, Passage]]) -> list[Passage]:
    """The best ones, best first; none where the evidence is too weak."""
    ranked = sorted(scored, key=lambda pair: (-pair[0], pair[1].rank, pair[1].position))
    best = ranked[0][0]
    if best < EVIDENCE:
        return []
    chosen: list[Passage] = []
    for score, passage in ranked:
        if score < max(_CLOSE * best, EVIDENCE) or len(chosen) == MOST_SENTENCES:
            break
        if not any(_says_the_same(passage.terms, other.terms) for other in chosen):
            chosen.append(passage)
    return chosen


def _says_the_same(some: frozenset[str], others: frozenset[str]) -> bool:
    return len(some & others) >= 0.6 * min(len(some), len(others))
