"""One spelling of a text: what is hidden, stretched or encoded in it is brought out before anything is compared."""

from __future__ import annotations

import base64
import binascii
import html
import re
import unicodedata
from collections.abc import Iterator

_ANGLES = str.maketrans(dict.fromkeys("‹〈⟨〈˂ᐸ❮❰⟪《＜﹤≺⪡", "<") | dict.fromkeys("›〉⟩〉˃ᐳ❯❱⟫》＞﹥≻⪢", ">"))
# Cyrillic and Greek letters that look like Latin ones (from Unicode's confusables, those of one letter).
_CONFUSABLES = str.maketrans(
    "аАВсСеЕоОрРхХуУкКмМтТНіІјЈѕЅԁԛԝһӏɡɑοΟρΡαΑεΕιΙκΚνΝτΤυΥΒΖΗΜΧϲ",
    "aABcCeEoOpPxXyYkKmMtTHiIjJsSdqwhlgaoOpPaAeEiIkKvNtTuYBZHMXc",
)
_LEET = str.maketrans("013457@$", "oieastas")
_UNSEEN = re.compile(r"[\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180e\u2800\u3164\ufe00-\ufe0f\uffa0\ufff9-\ufffc]")
_TAGS = re.compile("[\U000e0020-\U000e007e]+")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{20,4000}={0,2}")
_PERCENT = re.compile(r"(?:%[0-9A-Fa-f]{2}){2,}")
_SPACED = re.compile(r"(?<![^\W_])(?:[^\W_][ .\-_*]{1,2}){4,200}[^\W_](?![^\W_])")
_MIXED = re.compile(r"\b(?=\w*[a-z])(?=[\w@$]*[013457@$])[\w@$]{3,30}")
_WRAP = re.compile(
    r"(?<!\n)\n(?!\n|[-*+>#|`~]|\d{1,3}[.)] |(?:system|assistant|developer|human|user)\b)", re.IGNORECASE
)
_ENTITIES = {"&lt;": "<", "&gt;": ">", "&amp;": "&"}


def normal(text: str) -> str:
    """The text in NFKC, one kind of angle brackets, without characters that nobody sees; a paragraph is one line.

    Spaces are single. Where a list item, heading, table row, quote or the name of a role begins, a line stays a line.
    """
    plain = re.sub(r"[^\S\n]+", " ", visible(text))
    return _WRAP.sub(" ", re.sub(r" ?\n ?", "\n", plain)) if "\n" in plain else plain


def visible(text: str) -> str:
    """The text in NFKC and with one kind of angle brackets, without control, format and other unseen characters."""
    if text.isascii():
        return "".join(c for c in text if c >= " " or c in "\n\t") if _has_control(text) else text
    kept = (c for c in _UNSEEN.sub("", text) if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co"))
    return unicodedata.normalize("NFKC", "".join(kept)).translate(_ANGLES)


def _has_control(text: str) -> bool:
    return re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text) is not None


def readings(text: str) -> Iterator[str]:
    """The ways in which a text might be meant to be read: as it is, and decoded where it seems to be encoded.

    Letters that look alike, characters set apart, digits for letters, HTML entities, percent signs, base64 (once) and
    Unicode's tag characters. All in `normal` form.
    """
    plain = normal(text)
    yield plain
    other = visible(text).translate(_CONFUSABLES)
    other = html.unescape(other) if "&" in other else other
    other = _PERCENT.sub(lambda match: bytes.fromhex(match[0].replace("%", "")).decode("utf-8", "replace"), other)
    other = _SPACED.sub(lambda match: re.sub(r"[ .\-_*]{1,2}", _joint, match[0]), other)
    other = _MIXED.sub(lambda match: match[0].translate(_LEET), other)
    if (other := normal(other)) != plain:
        known = set(plain.split("\n"))
        yield "\n".join(line for line in other.split("\n") if line not in known)
    if hidden := "".join(chr(ord(c) - 0xE0000) for run in _TAGS.findall(text) for c in run):
        yield normal(hidden)
    for match in _BASE64.finditer(plain):
        if decoded := _from_base64(match[0]):
            yield normal(decoded)


def _joint(match: re.Match[str]) -> str:
    """Two separators stand between words, one between the letters of a word."""
    return " " if len(match[0]) == 2 else ""


def _from_base64(text: str) -> str:
    text = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        decoded = base64.b64decode(text + "=" * (-len(text) % 4)).decode("utf-8")
    except (binascii.Error, ValueError):
        return ""
    return decoded if sum(c.isalpha() or c in " \n" for c in decoded) > 0.7 * len(decoded) else ""


def as_data(text: str) -> str:
    """The text with `&`, `<` and `>` as entities, angle brackets of other scripts included: it can form no tag."""
    return html.escape(visible(text), quote=False)


def from_data(text: str) -> str:
    """What `as_data` was made of (in NFKC, without unseen characters)."""
    return re.sub(r"&(?:lt|gt|amp);", lambda match: _ENTITIES[match[0]], text)


def squashed(text: str) -> str:
    """Letters and digits only, in one case: what stays of a string however it is decorated."""
    return "".join(c for c in visible(text).casefold() if c.isalnum())
