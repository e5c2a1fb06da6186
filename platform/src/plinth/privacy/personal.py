"""Personal data in texts, found by its form and proven by its checksum where it has one. No model, no download.

Found: e-mail addresses, phone numbers, payment cards (Luhn), IBANs (ISO 13616), US social security numbers. Not found:
names, postal addresses, dates of birth; those need a language model (docs/adr/0011-ingestion.md says why not).
Addresses that documentation uses as examples (RFC 2606: example.com, .example, .test, ...) are nobody's and stay, as do
IP addresses.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

from plinth.core.privacy import Finding

_AT = re.compile(r"@|[ ]?[\[(][ ]?(?:at|@)[ ]?[\])][ ]?", re.IGNORECASE)
_LOCAL = re.compile(r"(?<![\w.+%-])\w[\w.+%'-]{0,63}\Z")
_DOMAIN = re.compile(
    r"(?:\w(?:[\w-]{0,61}\w)?(?:\.|[ ]?[\[(][ ]?(?:dot|\.)[ ]?[\])][ ]?)){1,6}[^\W\d_]{2,24}(?![\w@])", re.IGNORECASE
)
_DOT = re.compile(r" ?[\[(] ?(?:dot|\.) ?[\])] ?", re.IGNORECASE)
_EXAMPLE = re.compile(r"(?:\A|\.)(?:example\.(?:com|net|org)|example|test|invalid|localhost|local)\Z", re.IGNORECASE)
_IBAN = re.compile(r"(?<![A-Z0-9])[A-Z]{2}\d{2}(?:[ \n-]?[A-Z0-9]){11,30}(?![A-Z0-9])", re.IGNORECASE)
_CARD = re.compile(r"(?<![\w.+-])(?<!\d[ -])[2-6]\d{3}(?:[ \n-]?\d){8,15}(?![ -]?\d)(?![\w])")
# First digits and lengths that issuers use (ISO/IEC 7812): one in ten numbers passes Luhn by chance.
_ISSUER = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]|2[2-7])\d{14}|3[47]\d{13}|3(?:0[0-5]|[68]\d)\d{11}|35\d{14}"
    r"|6(?:011|5\d\d|4[4-9]\d)\d{12}|62\d{14,17}"
)
_SSN = re.compile(r"(?<![\w.+-])(?!000|666|9\d\d)\d{3}([ \n-])(?!00)\d{2}\1(?!0000)\d{4}(?![\w-]|\.\d)")
_INTERNATIONAL = re.compile(
    r"(?<![\w+.=/-])(?:\+|00(?=[1-9]\d{0,2}[ ./-]))[1-9](?:[ \n().\u2044/-]{0,3}\d){6,14}(?![\w])"
)
_NORTH_AMERICAN = re.compile(
    r"(?<![\w.+=/-])(?<!\d )(?:1[ .-])?(?:\([2-9]\d{2}\)[ \n.-]?|[2-9]\d{2}[ .\n-])[2-9]\d{2}[ .\n-]\d{4}(?![\w-]|\.\d)"
)
_UNSEEN = frozenset("\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff")
# Every number that is looked for has eight digits close together; only around such places is it looked for.
_DIGITS = re.compile(r"\d(?:\D{0,3}\d){7,}")
_MARGIN = 24


class PersonalData:
    """Finds personal data. Thread-safe, keeps nothing.

    Args:
        region: Country (ISO 3166, two letters) whose national phone numbers are found as well. Without one, those with
            an international prefix and those written the North American way are.
    """

    def __init__(self, region: str | None = None) -> None:
        self._region = region

    def find(self, text: str) -> list[Finding]:
        """What stands in the text; see the port. Kinds: email, iban, card, ssn, phone."""
        plain, where = _plain(text)
        found: list[Finding] = []
        taken: list[tuple[int, int]] = []
        for kind, start, end in self._candidates(plain):
            if all(end <= left or start >= right for left, right in taken):
                taken.append((start, end))
                begin, last = (start, end - 1) if where is None else (where[start], where[end - 1])
                found.append(Finding(kind, begin, last + 1))
        return sorted(found, key=lambda finding: finding.start)

    def _candidates(self, text: str) -> Iterator[tuple[str, int, int]]:
        yield from _emails(text)
        end = 0
        for match in _DIGITS.finditer(text):
            start, end = max(match.start() - _MARGIN, 0), match.end() + _MARGIN
            for kind, left, right in _numbers(text[start:end]):
                yield kind, start + left, start + right
        if self._region and end:
            from plinth.privacy import phonenumbers

            for left, right in phonenumbers.national(text, self._region):
                yield "phone", left, right


def _emails(text: str) -> Iterator[tuple[str, int, int]]:
    for at in _AT.finditer(text):
        local = _LOCAL.search(text[max(0, at.start() - 66) : at.start()])
        domain = _DOMAIN.match(text, at.end())
        if local is None or domain is None:
            continue
        start = at.start() - len(local[0])
        # git@github.com:owner/name is a machine's account, and so is scheme://user:password@host: Secrets minds those.
        machine = local[0].lower() == "git" or "://" in re.split(r"\s", text[max(0, start - 200) : start])[-1]
        if not machine and not _EXAMPLE.search(_DOT.sub(".", domain[0])):
            yield "email", start, domain.end()


def _numbers(text: str) -> Iterator[tuple[str, int, int]]:
    from plinth.privacy import phonenumbers, stdnum

    for match in _IBAN.finditer(text):
        if end := stdnum.iban_end(match[0]):
            yield "iban", match.start(), match.start() + end
    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match[0])
        if _ISSUER.fullmatch(digits) and stdnum.is_luhn(digits):
            yield "card", *match.span()
    for match in _SSN.finditer(text):
        yield "ssn", *match.span()
    for match in _INTERNATIONAL.finditer(text):
        if phonenumbers.is_number(match[0], None):
            yield "phone", *match.span()
    for match in _NORTH_AMERICAN.finditer(text):
        if phonenumbers.is_number(match[0], "US"):
            yield "phone", *match.span()


def _plain(text: str) -> tuple[str, list[int] | None]:
    """The text in plain characters (full-width digits, odd dashes and spaces, letters that nobody sees), and for each
    of them where it stood; None if that is where it stands."""
    if text.isascii():
        return text, None
    if _UNSEEN.isdisjoint(text):
        return "".join(map(_plain_char, text)), None
    kept = [index for index, char in enumerate(text) if char not in _UNSEEN]
    return "".join(_plain_char(text[index]) for index in kept), kept


@lru_cache(maxsize=4096)
def _plain_char(char: str) -> str:
    if char.isascii():
        return char
    kind = unicodedata.category(char)
    if kind == "Pd" or char == "\u2212":
        return "-"
    if kind == "Zs":
        return " "
    if kind == "Nd":
        return str(unicodedata.digit(char))
    folded = unicodedata.normalize("NFKC", char)
    return folded if len(folded) == 1 else char
