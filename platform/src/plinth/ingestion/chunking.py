"""Cuts documents into chunks along their structure. Pure: the same document gives the same chunks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from plinth.core.assistants import Chunking
from plinth.core.corpus import Block, Chunk, Document
from plinth.core.sentences import sentence_spans
from plinth.ingestion.port import Count

LINEWISE = frozenset({"code", "table"})
"""Kinds of blocks that are cut between lines and never inside a sentence's sense."""

# What a tokenizer counts as one token may be long: an unknown "word" of any length is one. Text beyond this many
# characters a token is counted by its characters instead, so that a chunk's size stays bounded.
_CHARS_A_TOKEN = 16
_LONGEST_WORD = 200
_WORD = re.compile(rf"\S{{1,{_LONGEST_WORD}}}")
_SEPARATOR = "\n\n"
_FENCE = "```"


@dataclass(frozen=True, slots=True)
class _Span:
    start: int
    end: int
    tokens: int


def chunk_document(document: Document, chunking: Chunking, count: Count) -> list[Chunk]:
    """The chunks of a document, in reading order.

    Blocks below one heading share chunks as far as `max_tokens` allows; a chunk never crosses a heading. A longer block
    is cut at sentences, then words, and repeats up to `overlap` tokens of the piece before; code and tables are cut
    between lines (a table's head is repeated). Every character of the blocks that is not white space is in a chunk.

    Args:
        document: The parsed document.
        chunking: Sizes, in tokens; they hold for `Chunk.indexed_text`, title and headings included.
        count: Tokens of a text. A text in two parts has at most one token more than the parts.
    """
    cutter = _Cutter(chunking, count)
    chunks: list[Chunk] = []
    for headings, group in groupby(document.blocks, key=lambda block: block.headings):
        title, path = cutter.context(document.title, headings)
        room = chunking.max_tokens - cutter.cost("\n".join([" > ".join([title, *path])])) - 1
        for text in cutter.pack(list(group), room):
            chunks.append(
                Chunk(
                    document=document.id, version=document.digest, source=document.source, title=title, headings=path,
                    text=text, position=len(chunks), tenant=document.tenant, labels=document.labels,
                    modified=document.modified,
                )
            )  # fmt: skip
    return chunks


class _Cutter:
    def __init__(self, chunking: Chunking, count: Count) -> None:
        self._chunking = chunking
        self._count = count

    def cost(self, text: str) -> int:
        return max(self._count(text), len(text) // _CHARS_A_TOKEN)

    def context(self, title: str, headings: Sequence[str]) -> tuple[str, tuple[str, ...]]:
        """The title and headings that a chunk carries: shortened where they would take half of it."""
        most = self._chunking.max_tokens // 2
        path = list(headings)
        while path and self.cost(" > ".join([title, *path])) > most:
            if len(path) == 1:
                path[0] = self._shortened(path[0], most // 2)
                title = self._shortened(title, most // 2 - 1)
                break
            del path[0]
        return (title if path else self._shortened(title, most)), tuple(path)

    def _shortened(self, text: str, most: int) -> str:
        if self.cost(text) <= most:
            return text
        words = self._words(text, 0, len(text))
        kept = next(self._runs(words, most - 1, 0))
        return text[: kept[-1].end] if kept[-1].tokens < most else ""

    def pack(self, blocks: Sequence[Block], room: int) -> Iterator[str]:
        """Texts of the blocks below one heading, each within the room."""
        held: list[str] = []
        used = 0
        for block in blocks:
            text = _rendered(block.text, block)
            tokens = self.cost(text)
            if held and used + tokens + 1 > room:
                yield _SEPARATOR.join(held)
                held, used = [], 0
            if tokens <= room:
                held.append(text)
                used += tokens + 1
            else:
                *whole, rest = self._split(block, room)
                yield from whole
                held, used = [rest], self.cost(rest) + 1
        if held:
            yield _SEPARATOR.join(held)

    def _split(self, block: Block, room: int) -> list[str]:
        text = block.text
        head, overlap = "", self._chunking.overlap
        if block.kind in LINEWISE:
            overlap = 0
            room -= self.cost(_rendered("", block)) + 1
            if block.kind == "table":
                head = _table_head(text)
                head = head if self.cost(head) * 3 <= room else ""
                room -= self.cost(head) + 1 if head else 0
            spans = [match.span() for match in re.finditer(r"[^\n]*\S[^\n]*", text)]
        else:
            spans = sentence_spans(text)
        units = list(self._units(text, spans, room, linewise=block.kind in LINEWISE))
        pieces = [text[run[0].start : run[-1].end] for run in self._runs(units, room, overlap)]
        return [_rendered(head + piece if number and head else piece, block) for number, piece in enumerate(pieces)]

    def _units(self, text: str, spans: Sequence[tuple[int, int]], room: int, *, linewise: bool) -> Iterator[_Span]:
        """The spans with their costs; those that would not fit alone in smaller ones."""
        end = 0
        for start, stop in spans:
            # What lies between (indentation, a code fence) belongs to the line it stands before.
            start, end = (end if linewise or text[end:start].strip() else start), stop
            start += len(text[start:stop]) - len(text[start:stop].lstrip("\n"))
            tokens = self.cost(text[start:stop]) + 1
            if tokens <= room:
                yield _Span(start, stop, tokens)
            else:
                yield from self._words(text, start, stop)
        if text[end:].strip():  # a fence that closes
            yield _Span(end, len(text), self.cost(text[end:]) + 1)

    def _words(self, text: str, start: int, stop: int) -> list[_Span]:
        return [
            _Span(*match.span(), max(self._count(match[0]), len(match[0]) // 8) + 1)
            for match in _WORD.finditer(text, start, stop)
        ]

    @staticmethod
    def _runs(units: Sequence[_Span], room: int, overlap: int) -> Iterator[list[_Span]]:
        """Neighbouring units in runs that fit, each repeating units of the one before, up to the overlap."""
        run: list[_Span] = []
        used = 0
        for unit in units:
            if run and used + unit.tokens > room:
                yield run
                spare, kept = min(overlap, room - unit.tokens), 0
                tail: list[_Span] = []
                for earlier in reversed(run[1:]):
                    if kept + earlier.tokens > spare:
                        break
                    tail.insert(0, earlier)
                    kept += earlier.tokens
                run, used = tail, kept
            run.append(unit)
            used += unit.tokens
        if run:
            yield run


def _rendered(text: str, block: Block) -> str:
    """A block's text as it stands in a chunk: code between fences, so that its lines are known as code."""
    return f"{_FENCE}\n{text}\n{_FENCE}" if block.kind == "code" else text


def _table_head(text: str) -> str:
    """The head of a Markdown table with its rule, or "" where there is none."""
    lines = text.split("\n", 2)
    return "\n".join(lines[:2]) + "\n" if len(lines) > 2 and set(lines[1]) <= set("|-: ") else ""
