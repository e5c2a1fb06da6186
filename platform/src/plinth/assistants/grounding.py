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
_MINOR = 0.3
_CITES = re.compile(r"\[(\d{1,3}(?:[,;] ?\d{1,3})*)\]")
_AFTER_MARK = re.compile(r"([.!?…])((?:[ ]*\[[\d,; ]{1,12}\])+)")
_DENIES = re.compile(r"\b(?:not?|never|cannot|without|neither|nor|none|nobody|nothing)\b|n['’]t\b")


def ungrounded(answer: Answer) -> list[str]:
    """The sentences of an answer that no cited chunk carries. Citations with a sentence of their own belong to the one
    before. An answer that says that the documents do not say has none."""
    chunks = {citation.number: citation.chunk for citation in answer.citations}
    return [text for text in _claims(answer.text) if not _carried(text, chunks)]


def _claims(text: str) -> list[str]:
    text = _AFTER_MARK.sub(lambda match: f"{match[2]}{match[1]}", text)  # a citation belongs to the sentence before it
    return [claim for claim in sentences(text) if _CITES.sub("", claim).strip(" *_\"'.,;") not in ("", UNKNOWN[:-1])]


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
            known = set(_words(" ".join([context, *parts[start:end]])))
            numbers_stand = all(word in known for word in words if word[0].isdigit())
            if numbers_stand and _share(words, known) >= SHARE and denies == _place_denies(words, parts[start:end]):
                return True
    return False


def _share(words: list[str], known: set[str]) -> float:
    close = {word[:_PREFIX] for word in known}
    return sum(word[:_PREFIX] in close for word in words) / len(words)


def _place_denies(words: list[str], place: list[str]) -> bool:
    """Whether one of the sentences that the words come from is a denial."""
    return any(_DENIES.search(part.casefold()) and _share(words, set(_words(part))) > _MINOR for part in place)


def _words(text: str) -> list[str]:
    plain = unicodedata.normalize("NFKC", text).casefold()
    return [word for word in re.findall(r"[^\W_]+", plain) if len(word) > 2 or word.isdigit()]
