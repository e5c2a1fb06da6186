"""Numbers with checksums by python-stdnum."""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType

from plinth.errors import MissingExtra

_SHORTEST_IBAN = 15


def is_luhn(digits: str) -> bool:
    """Whether the last digit is right by Luhn's formula (ISO/IEC 7812-1).

    Raises:
        MissingExtra: python-stdnum is not installed.
    """
    return bool(_tools()[0].is_valid(digits))


def iban_end(text: str) -> int:
    """How many characters of a text that may go on behind it are an IBAN (ISO 13616); 0 for none."""
    end = len(text)
    while end >= _SHORTEST_IBAN:
        if text[end - 1].isalnum() and _tools()[1].is_valid(text[:end].replace("\n", " ").upper()):
            return end
        end -= 1
    return 0


@lru_cache(maxsize=1)
def _tools() -> tuple[ModuleType, ModuleType]:
    try:
        from stdnum import iban, luhn
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or "stdnum", "privacy") from error
    return luhn, iban
