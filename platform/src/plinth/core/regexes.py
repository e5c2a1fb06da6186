"""How long a regular expression can take at worst. Python's `re` backtracks, so a careless pattern can hang a service.

The estimate is the number of ways in which a pattern can be tried at one place of a text: repeats multiply, and a
repeat of something that can itself match in several ways is exponential.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable
from typing import Any

TEXT_LIMIT = 2000
"""Characters of a text that a pattern is shown at once; `windows` cuts longer ones."""

LIMIT = 20_000.0
"""Ways at one place that are still fine: some 0.5 s over TEXT_LIMIT characters in the very worst case."""

_OVERLAP = 200
_SPACES = ("[(IN, [(CATEGORY, CATEGORY_SPACE)])]", "[(LITERAL, 32)]")


def ways(pattern: str) -> float:
    """The most ways in which a pattern (that compiles) can be tried at one place of a text of TEXT_LIMIT characters."""
    return _sequence(importlib.import_module("re._parser").parse(pattern))


def windows(text: str) -> Iterable[str]:
    """The text in overlapping pieces of at most TEXT_LIMIT characters: what spans fewer than 200 is in one of them."""
    step = TEXT_LIMIT - _OVERLAP
    for start in range(0, max(len(text) - _OVERLAP, 1), step):
        yield text[start : start + TEXT_LIMIT]


def _sequence(items: Iterable[Any]) -> float:
    total = 1.0
    for operation, value in items:
        total = min(total * _item(str(operation), value), 1e300)
    return total


def _item(operation: str, value: Any) -> float:
    match operation:
        case "MAX_REPEAT" | "MIN_REPEAT":
            least, most, body = value
            if str(body) in _SPACES:
                return 2.0  # runs of white space are one space in the texts that patterns see
            most = min(int(most), TEXT_LIMIT)
            inner = _sequence(body)
            lengths = max(most - int(least) + 1, 1)
            if inner > 1 and most > 1:
                return math.exp(min(most * math.log(inner), 600.0))
            return float(lengths * inner)
        case "BRANCH":
            return float(sum(_sequence(branch) for branch in value[1]))
        case "SUBPATTERN":
            return _sequence(value[-1])
        case "ASSERT" | "ASSERT_NOT":
            return _sequence(value[1])
        case "ATOMIC_GROUP" | "POSSESSIVE_REPEAT":
            return 1.0  # never tried in another way
        case "GROUPREF_EXISTS":
            return sum(_sequence(branch) for branch in value[1:] if branch is not None)
        case _:
            return 1.0
