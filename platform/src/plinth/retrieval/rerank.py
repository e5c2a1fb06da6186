"""A reranker without a model: it reads the found chunks for the question's words standing together.

The sequential dependence model of Metzler and Croft (SIGIR 2005) with its published weights: .85 for the words, .10 for
pairs of neighbouring words in the question's order, .05 for both words of a pair within 8 words of each other. The
words' part is the ranking that comes in, which knows how rare a word is in the whole build; the pairs are counted here
and weighted by how rare they are among the chunks that were found.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from plinth.core.answers import Hit

WORDS, ORDERED, WINDOW = 0.85, 0.10, 0.05
WINDOW_WORDS = 8
_WORD = re.compile(r"\w+")
_Pair = tuple[str, str]


class LexicalReranker:
    """Orders found chunks again by phrases and proximity. Thread-safe, no model, under a millisecond a chunk."""

    name = "lexical-sdm-1"

    def rerank(self, question: str, hits: Sequence[Hit]) -> list[Hit]:
        """The same hits, best first; the new score is 0 to 1."""
        words = _words(question)
        pairs = list(dict.fromkeys(itertools.pairwise(words)))
        texts = [_words(hit.chunk.indexed_text) for hit in hits]
        parts = (
            (WORDS, _scaled([hit.score for hit in hits])),
            (ORDERED, _scaled(_weighted(pairs, texts, _ordered))),
            (WINDOW, _scaled(_weighted(pairs, texts, _near))),
        )
        scores = [sum(weight * part[i] for weight, part in parts) for i in range(len(hits))]
        # Sorting is stable: equal scores stay in the order they came.
        return sorted((replace(hit, score=score) for hit, score in zip(hits, scores, strict=True)), key=_negative)


def _negative(hit: Hit) -> float:
    return -hit.score


def _words(text: str) -> list[str]:
    """Words in small letters, a plural's s and the ending of a verb cut: pairs need no better stems."""
    return [re.sub(r"(?<=\w{3})(ing|ed|es|s)$", "", word) for word in _WORD.findall(text.lower())]


def _weighted(
    pairs: Sequence[_Pair], texts: Sequence[list[str]], count: Callable[[_Pair, list[str]], int]
) -> list[float]:
    """For each text the sum over pairs of log(1 + count), times how rare the pair is among the texts."""
    totals = [0.0] * len(texts)
    for pair in pairs:
        counts = [count(pair, text) for text in texts]
        holders = sum(number > 0 for number in counts)
        rarity = math.log((len(texts) + 1) / (holders + 0.5))
        totals = [total + math.log1p(number) * rarity for total, number in zip(totals, counts, strict=True)]
    return totals


def _ordered(pair: _Pair, text: list[str]) -> int:
    return sum(two == pair for two in itertools.pairwise(text))


def _near(pair: _Pair, text: list[str]) -> int:
    first = [place for place, word in enumerate(text) if word == pair[0]]
    second = [place for place, word in enumerate(text) if word == pair[1]]
    return sum(any(0 < abs(there - here) < WINDOW_WORDS for there in second) for here in first)


def _scaled(values: Sequence[float]) -> list[float]:
    low, high = min(values, default=0.0), max(values, default=0.0)
    return [(value - low) / (high - low) if high > low else 0.0 for value in values]
