"""Which characters may reach a chunk. Pure."""

from __future__ import annotations

import re

_CONTROLS = dict.fromkeys([*range(9), 11, 12, *range(14, 32), *range(127, 160)])
# Characters that no reader sees and that hide words from a detector or from a person: zero-width ones (those that join
# letters and emoji stay), soft hyphens, marks that turn the direction, Unicode's invisible "tag" letters.
_UNSEEN = dict.fromkeys(
    [
        0xAD, 0x200B, 0x200E, 0x200F, 0x2060, 0xFEFF,
        *range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0xE0000, 0xE0080),
    ]
)  # fmt: skip
_CLEAN = {**_CONTROLS, **_UNSEEN, **dict.fromkeys(range(0xD800, 0xE000), "\ufffd"), 0x2028: "\n", 0x2029: "\n"}


def clean(text: str) -> str:
    """The text without what must not reach a chunk: NUL and other controls, lone surrogates, what nobody can see."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text if text.isascii() and text.isprintable() else text.translate(_CLEAN)


def one_line(text: str) -> str:
    """The text with each run of white space as one space."""
    return re.sub(r"\s+", " ", text).strip()
