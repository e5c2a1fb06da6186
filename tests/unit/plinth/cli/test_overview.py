"""`plinth --help` is a page of its own for speed; it says what the command tree says."""

from __future__ import annotations

import argparse

from plinth.cli.main import build_parser
from plinth.cli.overview import COMMANDS, help_text


def declared() -> dict[str, str]:
    """First words of the whole tree, with their help."""
    (action,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return {choice.dest: choice.help or "" for choice in action._choices_actions}


def test_the_page_names_every_command_with_its_help() -> None:
    assert {word: text for word, (_, text) in COMMANDS.items()} == declared()


def test_the_page_is_what_the_tree_would_print(monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert help_text(80) == build_parser().format_help()


def test_each_word_is_declared_by_the_module_it_is_said_to_be_in() -> None:
    for word in COMMANDS:
        parser = build_parser(word)
        (action,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        assert word in action.choices
