"""`plinth eval`: how good an assistant's retrieval and answers are."""

from __future__ import annotations

from plinth.cli import evaluate_answers, evaluate_retrieval
from plinth.cli.command import Groups


def register(groups: Groups) -> None:
    """Declare the commands."""
    group = groups.group("eval", help="Evaluation: retrieval on collections, answers on golden questions.")
    evaluate_retrieval.add(group)
    evaluate_answers.add(group)
