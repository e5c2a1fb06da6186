"""Alerts of assistants: sources and index, guardrails, refusals."""

from __future__ import annotations

from plinth.core.products import Product
from plinth.telemetry import metrics
from plinth.telemetry.alerts.model import Alert, owned
from plinth.telemetry.alerts.models import log_alerts
from plinth.telemetry.expressions import increase, series, total

FEW = 20
"""Questions in half an hour below which no share of them is an alert."""


def alerts(product: Product) -> list[Alert]:
    """The alerts of an assistant."""
    return [
        *log_alerts(product, metrics.ANSWER_LOG_DROPPED, metrics.ANSWER_LOG_ERRORS, "AnswerLog"),
        *_sources(product),
        *_answers(product),
    ]


def _sources(product: Product) -> list[Alert]:
    name, labels = product.name, owned(product)
    return [
        Alert(
            "SourceStale", f"{series(metrics.SOURCE_STALE, product=name)} == 1", "5m", "ticket",
            f"{name}: {{{{ $labels.source }}}} is older than it may be",
            "A change is not searchable in time, or nobody looked. Answers are labelled stale. "
            f"`plinth index status {name}` says why, `plinth pipeline run {name} refresh` looks at once.",
            "assistants", labels,
        ),
    ]  # fmt: skip


def _answers(product: Product) -> list[Alert]:
    name, labels = product.name, owned(product)
    asked = total(increase(metrics.ANSWERED, "30m", product=name), "product")
    refused = total(increase(metrics.ANSWERED, "30m", product=name, outcome="!answered"), "product")
    hits = total(increase(metrics.GUARDRAIL_HITS, "30m", product=name, action="~block|drop"), "product", "rule")
    return [
        Alert(
            "GuardrailSurge", f"{hits} / on (product) group_left () {asked} > 0.25 and on (product) {asked} > {FEW}",
            "5m", "ticket",
            f"{name}: {{{{ $labels.rule }}}} stepped in on {{{{ $value | humanizePercentage }}}} of the questions",
            "An attack, a document that reads like one, or a rule that is too strict. `plinth trace` of one of the "
            "requests shows what it was about.",
            "assistants", labels,
        ),
        Alert(
            "RefusalSurge", f"{refused} / {asked} > 0.5 and {asked} > {FEW}", "10m", "ticket",
            f"{name}: {{{{ $value | humanizePercentage }}}} of the questions got no answer",
            "The documents do not say, a budget is used up, or a guardrail blocks: the dashboard tells the outcomes "
            "apart. "
            f"An index without its documents looks like this: `plinth index status {name}`.",
            "assistants", labels,
        ),
        Alert(
            "QuestionsShed", f"{increase(metrics.ANSWERS_SHED, '10m', product=name)} > 10", "0s", "ticket",
            f"{name}: {{{{ $value | humanize }}}} questions were turned away in 10 minutes",
            "More come than are answered at once; callers get 503 and Retry-After. A slow model does this too: see the "
            "steps' latency.",
            "assistants", labels,
        ),
    ]  # fmt: skip
