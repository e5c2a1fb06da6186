"""Sentences out of a text that comes piece by piece, each with the citations that stand behind its full stop."""

from __future__ import annotations

import re

from plinth.core.sentences import sentence_spans

_CITES = re.compile(r"(?:\s*\[\d{1,3}(?:\s*,\s*\d{1,3})*\])+[.!?]?")
_PERHAPS_CITES = re.compile(r"(?:\s*\[[\d,\s]{0,12}\]?)+[.!?]?")
MAX_CHARS = 100_000
"""Of one answer; what comes after it is not looked at."""


class SentenceStream:
    """Cuts a growing text. A sentence is given out when the next one has begun, so that nothing is cut too early."""

    def __init__(self) -> None:
        self._text = ""
        self._done = 0

    def feed(self, piece: str) -> list[tuple[str, str]]:
        """What became complete: pairs of the white space before a sentence, and the sentence."""
        if len(self._text) < MAX_CHARS:
            self._text += piece
        return self._cut(last=False) if any(not sign.isalnum() for sign in piece) else []

    def rest(self) -> list[tuple[str, str]]:
        """What is left when the text has ended."""
        return self._cut(last=True)

    def _cut(self, *, last: bool) -> list[tuple[str, str]]:
        text = self._text
        spans = _with_citations(text, [span for span in sentence_spans(text) if span[1] > self._done])
        if not last:
            spans = spans[:-1] if spans and not _PERHAPS_CITES.fullmatch(text, *spans[-1]) else spans[:-2]
        found = []
        for start, end in spans:
            start = max(start, self._done)
            found.append((_space(text[self._done : start]), text[start:end].strip()))
            self._done = end
        return [(space, sentence) for space, sentence in found if sentence]


def _with_citations(text: str, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Citations that begin a sentence belong to the one before."""
    joined: list[tuple[int, int]] = []
    for start, end in spans:
        cites = _CITES.match(text, start, end) if joined else None
        if cites is not None and "\n" not in text[joined[-1][1] : start]:
            joined[-1] = (joined[-1][0], cites.end())
            start = cites.end()
        if text[start:end].strip():
            joined.append((start, end))
    return joined


def _space(between: str) -> str:
    """What stands between two sentences, as it is shown: a space, a line break or an empty line."""
    breaks = between.count("\n")
    return "\n\n" if breaks > 1 else "\n" if breaks else " "
