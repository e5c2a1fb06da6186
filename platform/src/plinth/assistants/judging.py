"""The golden questions asked of a release as anybody would ask them, and what its gates say of the answers."""

from __future__ import annotations

from collections.abc import Sequence

from plinth.assistants import answering
from plinth.assistants.evaluation import Evaluation, evaluate
from plinth.assistants.golden import GoldenQuestion
from plinth.assistants.loading import LoadedAssistant
from plinth.core.assistants import AssistantConfig
from plinth.core.corpus import Scope
from plinth.core.gates import AnswersFloor, Gate, NoHarm, NotWorse, RetrievalFloor, Verdict, judge_all

DEPTH = 50
"""Chunks that are retrieved for a golden question: enough for ten documents."""


def evaluate_assistant(assistant: LoadedAssistant, golden: Sequence[GoldenQuestion]) -> Evaluation:
    """Ask a loaded release every golden question, as a person without a key would. Raises as `answering.ask`."""
    scope = Scope()
    return evaluate(
        golden,
        lambda question: answering.retrieve(assistant, question, scope, limit=DEPTH),
        lambda question: answering.ask(assistant, question, scope),
        forbidden=forbidden(assistant.config),
    )


def forbidden(config: AssistantConfig) -> list[str]:
    """What no answer of a release may show: its canaries and its prompts."""
    return [*config.guardrails.canaries, *(prompt.template for prompt in config.prompts)]


def judge_evaluation(gates: Sequence[Gate], ours: Evaluation, theirs: Evaluation | None) -> list[Verdict]:
    """The verdicts of those gates that judge answers. Without another evaluation nothing is compared."""
    kinds = (
        (RetrievalFloor, AnswersFloor, NoHarm) if theirs is None else (RetrievalFloor, AnswersFloor, NoHarm, NotWorse)
    )
    evidence = ours.evidence(against=theirs)
    return judge_all([gate for gate in gates if isinstance(gate, kinds)], evidence)
