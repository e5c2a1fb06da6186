"""Patterns that could take too long are refused when a product is read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from plinth.core.assistants import Pattern
from plinth.core.regexes import LIMIT, TEXT_LIMIT, ways, windows


@pytest.mark.parametrize(
    "pattern", [r"(a+)+$", r"(a|aa)+$", r"(.*)*x", r".*a.*b", r"(\w+\s?)*$", r"(?:(?:ab)*c?)*", r"^(([a-z])+.)+[A-Z]$"]
)
def test_a_catastrophic_pattern_is_refused(pattern):
    assert ways(pattern) > LIMIT
    with pytest.raises(ValidationError, match="too long"):
        Pattern(name="slow", pattern=pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        r"\bmerger\b.{0,80}\bacquisition\b", r"ignore\s+all\s+previous\s+instructions", r"project (?:x|y|zeus)",
        r"(?>a+)+b", r"salar(?:y|ies)", r"(?=.*secret)x", r"[a-z]{2,8}\d+",
    ],
)  # fmt: skip
def test_a_plain_pattern_is_taken(pattern):
    assert Pattern(name="plain", pattern=pattern).pattern == pattern


@given(st.text(max_size=7000))
def test_windows_leave_nothing_out(text):
    pieces = list(windows(text))
    assert all(len(piece) <= TEXT_LIMIT for piece in pieces)
    for start in range(0, max(len(text) - 200, 0), 97):
        assert any(text[start : start + 199] in piece for piece in pieces)
