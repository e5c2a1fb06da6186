"""Is an answer in its sources? Measured for evaluations, on purpose by other means than the guardrails' own check.

The guardrail looks a sentence's content words up in whole chunks. Here every word counts, words are alike by their
first letters instead of a stemmer, they have to stand close together (at most three sentences of one cited chunk), and
a denial has to be a denial there, too.
"""

from __future__ import annotations

import re
import unicodedata

from plinth.core.answers import UNKNOWN, Answer
from plinth.core.corpus import Chunk
from plinth.core.sentences import sentences

SHARE = 0.7
"""Share of a sentence's words that the place in the chunk has to hold."""

_PREFIX = 5
_SPAN = 3
_CITES = re.compile(r"\[(\d{1,3}(?:[,;] ?\d{1,3})*)\]")
_DENIES = re.compile(r"\b(?:not?|never|cannot|without|neither|nor|none|nobody|nothing)\b|n['’]t\b")


def ungrounded(answer: Answer) -> list[str]:
    """The sentences of an answer that no cited chunk carries. Citations with a sentence of their own belong to the one
    before. An answer that says that the documents do not say has none."""
    chunks = {citation.number: citation.chunk for citation in answer.citations}
    return [text for text in _claims(answer.text) if not _carried(text, chunks)]


def _claims(text: str) -> list[str]:
    claims: list[str] = []
    for sentence in sentences(text):
        if claims and not _CITES.sub("", sentence).strip(" .,;"):
            claims[-1] += f" {sentence}"
        elif sentence.strip(" *_\"'") != UNKNOWN:
            claims.append(sentence)
    return claims


def _carried(sentence: str, chunks: dict[int, Chunk]) -> bool:
    numbers = [int(number) for group in _CITES.findall(sentence) for number in re.split("[,;]", group)]
    words = _words(re.sub(r"\[[a-z-]{3,30}\]", " ", _CITES.sub(" ", sentence)))  # [email] is what was redacted
    if not words or not numbers or not all(number in chunks for number in numbers):
        return False
    denies = _DENIES.search(sentence.casefold()) is not None
    return any(_stands_in(words, denies, chunks[number]) for number in numbers)


def _stands_in(words: list[str], denies: bool, chunk: Chunk) -> bool:
    parts = sentences(chunk.text) or [chunk.text]
    context = " ".join([chunk.title, *chunk.headings])
    for start in range(len(parts)):
        for end in range(start + 1, min(start + _SPAN, len(parts)) + 1):
            place = " ".join(parts[start:end])
            known = set(_words(f"{context} {place}"))
            close = {word[:_PREFIX] for word in known}
            numbers_stand = all(word in known for word in words if word[0].isdigit())
            share = sum(word[:_PREFIX] in close for word in words) / len(words)
            same_sense = denies == (_DENIES.search(place.casefold()) is not None) or end - start > 1
            if share >= SHARE and numbers_stand and same_sense:
                return True
    return False


def _words(text: str) -> list[str]:
    plain = unicodedata.normalize("NFKC", text).casefold()
    return [word for word in re.findall(r"[^\W_]+", plain) if len(word) > 2 or word.isdigit()]
