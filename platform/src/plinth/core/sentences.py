"""Sentences of Markdown-ish text, without a model: rules for English, exact for quoting. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

# Where a line begins a sentence whatever stood before it: a list item, a heading, a table row, a quote.
_OPENS = re.compile(r"[ \t]*(?:[-*+•] |\d{1,3}[.)] |#{1,6} |\||>)")
_WHOLE = re.compile(r"[ \t]*(?:#{1,6} |\|)")  # headings and table rows: no sentence ends inside
_MARKER = re.compile(r"[ \t]*(?:(?:[-*+•]|\d{1,3}[.)]|#{1,6}|>)[ \t]+)+")
_FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})")
_CODE_SPAN = re.compile(r"(`+)(?!`)[^`]{1,400}?(?<!`)\1(?!`)")
# The end of a sentence: its mark, what may close behind it, and white space; or a mark of Chinese and Japanese.
_END = re.compile(r"[.!?…][.!?…]{0,9}[)\]\"'”’»*_]{0,5}(?=\s)|[。！？]")
_STARTS_LOWER = re.compile(r"\s+[\"'“‘(\[*_]{0,3}[a-z]")
_LAST_WORD = re.compile(r"[\w.&'’-]+\Z")

# Never the end, then those that are not the end before a number, then those that are not before a small letter.
_NEVER = frozenset(
    re.findall(r"\S+", """
        e.g i.e cf vs mr mrs ms dr prof st jr sr approx resp incl viz al ca fig figs eq eqs sec secs ch vol pp ed eds
        gen rep sen col lt capt rev hon ph.d
    """)
)  # fmt: skip
_BEFORE_NUMBER = frozenset(
    re.findall(r"\S+", """
        no nos p art par para cl ref refs ver v nr num jan feb mar apr jun jul aug sep sept oct nov dec
    """)
)  # fmt: skip
_INITIALS = re.compile(r"[A-HJ-Z]|[A-Z](?:\.[A-Z])+")  # "J." Smith, "U.S." law; "and I." ends


def sentences(text: str) -> list[str]:
    """The sentences of a text, in order, each exactly as it stands in it (a line break inside stays).

    List items, headings, table rows and lines of fenced code are sentences of their own; code spans, numbers ("3.5"),
    versions ("v1.2") and abbreviations ("e.g.") are not cut. Nothing but white space and code fences lies between
    two of them.
    """
    return [text[start:end] for start, end in sentence_spans(text)]


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Where the sentences of a text stand: (start, end) pairs, white space outside."""
    spans: list[tuple[int, int]] = []
    for start, end, whole in _units(text):
        for left, right in [(start, end)] if whole else _cut(text, start, end):
            while left < right and text[left].isspace():
                left += 1
            while right > left and text[right - 1].isspace():
                right -= 1
            if left < right:
                spans.append((left, right))
    return spans


def _units(text: str) -> Iterator[tuple[int, int, bool]]:
    """Stretches that no sentence crosses, and whether one is whole: a line of code, a heading, a table row."""
    fence = ""
    start = position = 0
    for line in text.splitlines(keepends=True):
        begin, position = position, position + len(line)
        mark = _FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence):
                fence = ""
            else:
                yield begin, position, True
            start = position
        elif mark:
            yield start, begin, False
            fence, start = mark[1], position
        elif not line.strip() or _OPENS.match(line):
            yield start, begin, False
            start = begin
            if _WHOLE.match(line):
                yield begin, position, True
                start = position
    yield start, len(text), False


def _cut(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    marker = _MARKER.match(text, start, end)
    spans = [match.span() for match in _CODE_SPAN.finditer(text, start, end)]
    code = 0
    begin = start
    for match in _END.finditer(text, marker.end() if marker else start, end):
        while code < len(spans) and spans[code][1] <= match.start():
            code += 1
        inside = code < len(spans) and spans[code][0] <= match.start()
        if not inside and (match[0] in "。！？" or _is_end(text, match.start(), match.end(), match[0])):
            yield begin, match.end()
            begin = match.end()
    yield begin, end


def _is_end(text: str, mark: int, after: int, what: str) -> bool:
    lower = _STARTS_LOWER.match(text, after)
    if what[0] != ".":
        return not lower
    before = _LAST_WORD.search(text[max(0, mark - 40) : mark])
    word = before[0].lower().strip("'’-") if before else ""
    if word in _NEVER or _INITIALS.fullmatch(word.upper() if before and before[0].isupper() else word):
        return False
    following = text[after : after + 20].lstrip()
    if word in _BEFORE_NUMBER and following[:1].isdigit():
        return False
    if what.startswith("..") or len(word) < 4 or "." in word:
        return not lower
    return True
