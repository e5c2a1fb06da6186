"""What the extractive generator quotes: sentences, list items, table rows and lines of code of the prompt's sources."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from plinth.core.sentences import sentence_spans
from plinth.errors import InvalidInput
from plinth.generation.port import Message
from plinth.generation.words import terms

_SOURCE = re.compile(r'<source id="(\d+)">(.*?)</source>', re.DOTALL)
_TITLE = re.compile(r"\s*<title>(.*?)</title>", re.DOTALL)
_QUESTION = re.compile(r"<question>(.*?)</question>", re.DOTALL)
_FENCED = re.compile(r"^[ \t]*(```|~~~).*?(?:^[ \t]*\1|\Z)", re.DOTALL | re.MULTILINE)
_MARKER = re.compile(r"^\s*(?:[-*+•]\s+|\d{1,3}[.)]\s+|#{1,6}\s+|>\s+)+")
_NO_COMMAND = re.compile(
    r"\s*(?:#|//|(?:>>> )?(?:import |from \S+ import )|\[[\w.\" -]+\]\s*$|[\])}>]+\s*$|\.\.\.|usage:|[\w ]+:\s*$"
    r"|-h, --help)"
)
_PROSE = re.compile(r"[A-Z][\w'-]*(?: [\w,;:()'`-]+){3,}.*\.$")
_SHELL = re.compile(r"^\s*(?:\$|>>>|%)\s+")
_ADDRESS = re.compile(r"\S*(?:://|\bwww\.|\.(?:com|dev|io|net|org)\b)\S*")
_REFERS = re.compile(r"(?:It|This|That|These|They|Those)\b")
_ENTITY = {"&lt;": "<", "&gt;": ">", "&amp;": "&"}
_FOLLOWERS = 3
_LONGEST = 500
_IN_CONTEXT = 300


@dataclass(frozen=True, slots=True)
class SourcePart:
    """A source of a prompt: its number there, its rank from 0, its title with headings, its text."""

    number: int
    rank: int
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Passage:
    """Something that can be quoted as one.

    Attributes:
        source: Number of its source in the prompt.
        rank: Rank of the source, from 0.
        position: Where it stands in the source.
        text: As it is quoted.
        code: Whether it is a line of code, or leads in to some.
        title: Of the source.
        terms: Its content words.
        context: Content words of the title, and of the line that leads in to it.
    """

    source: int
    rank: int
    position: int
    text: str
    code: bool
    title: str
    terms: frozenset[str]
    context: frozenset[str]

    @property
    def in_context(self) -> str:
        """The text below its innermost heading, shortened: what a sentence is about often stands there only."""
        heading = self.title.rpartition(" > ")[2]
        return (f"{heading}: {self.text}" if heading else self.text)[:_IN_CONTEXT]

    def quoted(self) -> str:
        """The text with its citation before the full stop, so that both stay together wherever sentences are cut."""
        return f"{self.text.rstrip(' .:;')} [{self.source}]."


@dataclass(frozen=True, slots=True)
class _Line:
    """A sentence as it stands in a source."""

    raw: str
    kind: str  # text, item, row or code
    text: str


def read_prompt(messages: Iterable[Message]) -> tuple[str, list[SourcePart]]:
    """The question and the sources of a prompt.

    Raises:
        InvalidInput: It holds no question.
    """
    text = "\n".join(message.content for message in messages if message.role == "user")
    questions = _QUESTION.findall(text)
    if not questions:
        raise InvalidInput("the prompt holds no <question>", where="extractive-1", hint="check the template `answer`")
    sources = []
    for rank, (number, content) in enumerate(_SOURCE.findall(text)):
        title = _TITLE.match(content)
        body = content[title.end() :] if title else content
        sources.append(SourcePart(int(number), rank, _plain(title[1]).strip() if title else "", _plain(body)))
    return _plain(questions[-1]).strip(), sources


def passages(source: SourcePart) -> Iterator[Passage]:
    """What of a source can be quoted, in order."""
    lines = [line for line in _lines(source.text) if line.text]
    title = frozenset(terms(source.title))
    lead: frozenset[str] = frozenset()
    asked = False
    for position, line in enumerate(lines):
        if line.kind == "text" and not asked:
            before = lines[position - 1].text if position and _REFERS.match(line.text) else ""
            lead = frozenset(terms(before))
        asked = line.kind != "code" and line.raw.endswith("?")
        if asked:  # what follows answers
            lead = frozenset(terms(line.text))
            continue
        if line.kind == "code" and _NO_COMMAND.match(line.raw):
            continue
        text, code = f"`{line.text}`" if line.kind == "code" else line.text, line.kind == "code"
        if _leads_in(line, lines[position + 1 : position + 2]):
            text, code = _with_followers(line, lines[position + 1 :])
            lead = frozenset(terms(line.text))
        if words := frozenset(terms(_ADDRESS.sub(" ", text))):
            context = (title | lead) - words
            yield Passage(source.number, source.rank, position, text, code, source.title, words, context)


def _leads_in(line: _Line, following: list[_Line]) -> bool:
    """Whether what follows a line belongs to it."""
    if not following or line.kind in ("code", "row"):
        return False
    return line.text.endswith(":") or (following[0].kind == "code" and line.text[-1] not in ".!)")


def _lines(text: str) -> Iterator[_Line]:
    fenced = [match.span() for match in _FENCED.finditer(text)]
    heads: list[str] = []
    for start, end in sentence_spans(text):
        raw = text[start:end]
        is_code = any(left <= start < right for left, right in fenced)
        if not raw.startswith("|") or is_code:
            heads = []
        if is_code:
            shown = _SHELL.sub("", raw).strip()
            yield _Line(raw, "text" if _PROSE.fullmatch(shown) else "code", shown)
        elif raw.startswith("|"):
            cells = [cell.strip() for cell in raw.strip("|").split("|")]
            if not heads:
                heads = cells
            elif not set(raw) <= set("|-: "):
                yield _Line(raw, "row", _row(heads, cells))
        elif not raw.startswith("#"):
            item = bool(re.match(r"\s*(?:[-*+•]|\d{1,3}[.)])\s", raw))
            yield _Line(raw, "item" if item else "text", " ".join(_MARKER.sub("", raw).split()))


def _row(heads: list[str], cells: list[str]) -> str:
    """A row that says by itself what its cells are."""
    pairs = zip(heads, cells, strict=False) if len(heads) == len(cells) else (("", cell) for cell in cells)
    return "; ".join(f"{head}: {cell}" if head else cell for head, cell in pairs if cell)


def _with_followers(line: _Line, after: list[_Line]) -> tuple[str, bool]:
    """A line that leads in, with the code or the first items that follow; and whether that is code."""
    kind = after[0].kind
    if kind not in ("code", "item"):
        return line.text, False
    text, followers = line.text, 0
    for each in after:
        if each.kind != kind or followers == _FOLLOWERS:
            break
        if kind == "code" and _NO_COMMAND.match(each.raw):
            continue
        shown = f"`{each.text}`" if kind == "code" else each.text.rstrip(" .;")
        if len(text) + len(shown) > _LONGEST:
            break
        text += ("; " if followers else " ") + shown
        followers += 1
    return text, kind == "code"


def _plain(text: str) -> str:
    """The guardrails' `as_data`, undone."""
    return re.sub(r"&(?:lt|gt|amp);", lambda match: _ENTITY[match[0]], text)
