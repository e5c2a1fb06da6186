"""Phone numbers by the phonenumbers package: Google's tables of which numbers exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from types import ModuleType

from plinth.errors import MissingExtra


def is_number(text: str, region: str | None) -> bool:
    """Whether a text that looks like a phone number is one.

    Args:
        text: With its international prefix, or a national number of the region.
        region: Country, two letters; None for international numbers.

    Raises:
        MissingExtra: phonenumbers is not installed.
    """
    tool = _tool()
    text = re.sub(r"^00", "+", " ".join(text.split()))
    try:
        number = tool.parse(text, region)
    except tool.NumberParseException:
        return False
    # North America's written form says enough: its fictitious numbers (555-0100) are in no table.
    if number.country_code == 1:
        return bool(tool.is_possible_number(number))
    return bool(tool.is_valid_number(number))


def national(text: str, region: str) -> Iterator[tuple[int, int]]:
    """Where numbers of a country stand in a text."""
    for match in _tool().PhoneNumberMatcher(text, region):
        yield match.start, match.end


@lru_cache(maxsize=1)
def _tool() -> ModuleType:
    try:
        import phonenumbers
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or "phonenumbers", "privacy") from error
    return phonenumbers
