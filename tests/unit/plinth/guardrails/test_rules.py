"""The table of rules and the page that documents it."""

import re
from pathlib import Path

from plinth.guardrails.rules import RULES

PAGE = Path(__file__).parents[4] / "docs" / "explanation" / "guardrails.md"


def test_the_page_has_exactly_the_rules_of_the_table():
    assert set(re.findall(r"^\| `([a-z:-]+)` \| (?:question|sources|answer)", PAGE.read_text(), re.MULTILINE)) == set(
        RULES
    )


def test_every_rule_says_something():
    assert all(meaning.endswith(".") for meaning in RULES.values())
