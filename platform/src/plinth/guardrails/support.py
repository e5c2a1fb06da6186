"""Whether the cited chunks carry a sentence: by words, numbers and everything that stands for itself. No model."""

from __future__ import annotations

import re
from dataclasses import dataclass

from plinth.guardrails.text import normal

CITATION = re.compile(r"\[(\d{1,3}(?: ?[,;] ?\d{1,3})*)\](?![(\w]|\.\w)")
"""[1], [2, 3]; not the start of a Markdown link, not an index such as `flights[0].carrier`."""

LINK = re.compile(
    r"(?:\b[a-z][a-z0-9+.-]{1,15}:)?//[\w\[][^\s<>()\"'`\]]{2,2000}|\bwww\.[^\s<>()\"'`\]]{2,2000}"
    r"|\b(?:javascript|data|mailto|vbscript):[^\s<>()\"'`\]]{1,2000}|[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+",
    re.IGNORECASE,
)
MARKUP = re.compile(
    r"!\[|<\s*/?\s*(?:img|a|script|iframe|object|embed|link|style|svg|video|audio|form|input|meta|base|body|html|picture"
    r"|source|image|math|details|button|textarea)\b(?=[\s/>])[^>]*>?|\bon\w{3,20}\s*=\s*[\"']|^\s*\[[^\]]{1,80}\]:\s*\S+"
    r"|\]\[[^\]]{1,80}\]\(|\]\(\s*<|\b(?:javascript|vbscript):\S|\bdata:[a-z]{1,20}/\S",
    re.IGNORECASE | re.MULTILINE,
)
_TARGET = re.compile(r"\]\(\s*([^)\s]{1,2000})")
_CODE = re.compile(r"(?<!`)`([^`\n]{1,400})`(?!`)")
_QUOTE = re.compile(r"\"([^\"\n]{2,400})\"|“([^”\n]{2,400})”|«([^»\n]{2,400})»")
_NUMBER = re.compile(r"(?<![\d.])\.\d+|\d+(?:[.,:]\d+)*")
_TECHNICAL = re.compile(r"(?<!\S)(?:\S*\w[./:@_=\\#]\w\S*|-{1,2}[a-z]\S*)")
_MARKER = re.compile(r"^\s*(?:[-*+•>|]\s+|#{1,6}\s+|\d{1,3}[.)]\s+)+")
_WORD = re.compile(r"[^\W\d_](?:[^\W_]|['’](?=[^\W_]))*")
_SPELLED = frozenset(["e.g", "i.e", "and/or", "either/or", "his/her", "a.m", "p.m", "etc", "c.f"])

# Function words of English: they say nothing about what a sentence is about.
_STOP_WORDS = """
a about after all also although am an and any are aren't as at be because been before being below between both but
by can can't could couldn't did didn't do does doesn't doing don't down during each either else ever every few for
from further had has have having he her here hers him his how however i if in into is isn't it its itself just let
may me might more most must my no nor not of off on once only onto or other our out over own per rather same shall
she should so some such than that that's the their them then there these they this those through thus to too under
until up upon us very via was we were what when where whether which while who whom whose why will with within
without won't would yes yet you your
"""

STOP_WORDS = frozenset(_STOP_WORDS.split())


@dataclass(frozen=True, slots=True)
class Support:
    """How well a text carries a sentence.

    Attributes:
        share: Share of the sentence's content words that stand in the text, 0 to 1; 0 of a sentence without any.
        numbers: Whether every number of the sentence stands in it.
        verbatim: Whether everything that stands for itself does: code, quotations, paths, names with punctuation.
    """

    share: float
    numbers: bool
    verbatim: bool


def cited(sentence: str) -> tuple[int, ...]:
    """The numbers that a sentence cites, each once, in order. Code is no citation."""
    found = CITATION.findall(_CODE.sub(" ", sentence))
    return tuple(dict.fromkeys(int(number) for group in found for number in re.split(r" ?[,;] ?", group)))


def without_citations(sentence: str) -> str:
    """A sentence without its citations; code stays as it is."""
    code: list[str] = []
    kept = _CODE.sub(lambda match: code.append(match[0]) or f"\x00{len(code) - 1}\x00", sentence)  # type: ignore[func-returns-value]
    kept = re.sub(rf" ?{CITATION.pattern}", "", kept)
    return re.sub(r"\x00(\d+)\x00", lambda match: code[int(match[1])], kept)


def support(sentence: str, source: str) -> Support:
    """How well a source carries a sentence whose citations were taken out. Both as people read them."""
    sentence, source = _MARKER.sub("", normal(sentence)), normal(source)
    words = content_words(sentence)
    known = set(content_words(source))
    numbers = {number for number in _numbers(sentence) if number not in _numbers(source)}
    flat = _flat(source)
    own = [match[1] for match in _CODE.finditer(sentence)]
    own += [part for match in _QUOTE.finditer(sentence) for part in match.groups() if part]
    own += [
        token
        for token in (match[0].strip("\"'“”‘’()[]{}<>*,;:!?.…|`") for match in _TECHNICAL.finditer(sentence))
        if token
    ]
    verbatim = all(_flat(part) in flat for part in own if part.casefold() not in _SPELLED)
    share = sum(word in known for word in words) / len(words) if words else 0.0
    return Support(share, not numbers, verbatim)


def links(text: str) -> set[str]:
    """Addresses in a text, in one spelling: URLs, e-mail addresses and the targets of Markdown links."""
    plain = normal(text)
    found = [match[0] for match in LINK.finditer(plain)] + _TARGET.findall(plain)
    return {link.rstrip(".,;:!?*_'\"").casefold() for link in found}


def content_words(text: str) -> list[str]:
    """The words that say what a text is about, stemmed, in order."""
    words = (word.replace("’", "'").casefold() for word in _WORD.findall(text))
    return [stem(word) for word in words if word not in STOP_WORDS and len(word) > 1]


def stem(word: str) -> str:
    """A word without the commonest endings of English: releases, released, releasing and release are one."""
    word = word.removesuffix("'s")
    for ending, least in (
        ("ingly", 4),
        ("edly", 4),
        ("ing", 4),
        ("ies", 2),
        ("ied", 2),
        ("ed", 3),
        ("es", 3),
        ("ly", 4),
        ("s", 3),
    ):
        if word.endswith(ending) and len(word) - len(ending) >= least and not word.endswith(("ss", "us", "is")):
            word = word[: -len(ending)] + ("y" if ending in ("ies", "ied") else "")
            break
    if len(word) > 4 and word[-1] == word[-2] and word[-1] not in "aeiouls":
        word = word[:-1]
    return word[:-1] if len(word) > 4 and word.endswith("e") else word


def _numbers(text: str) -> set[str]:
    found = set()
    for number in _NUMBER.findall(text):
        number = re.sub(r"(?<=\d),(?=\d{3}(?:\D|$))", "", number.rstrip(".,:"))
        found.add(f"0{number}" if number.startswith(".") else number)
    return found


def _flat(text: str) -> str:
    """For looking up what stands for itself: no back-ticks, emphasis or quotation marks, single spaces, one case."""
    return re.sub(r"\s+", " ", re.sub(r"[`*\"“”«»]", "", text)).strip().casefold()
