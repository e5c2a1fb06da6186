"""Assistants: where the time of an answer goes, what is found, what is cited, what is refused, what it costs."""

from __future__ import annotations

from plinth.telemetry import metrics
from plinth.telemetry.dashboards import units
from plinth.telemetry.dashboards.model import Board, Bound, Panel, Query, Row, Variable, stat
from plinth.telemetry.expressions import INTERVAL, average, increase, of_those, quantile, rate, series, total

WHICH = {"product": "~$product"}


def board() -> Board:
    """The dashboard."""
    return Board(
        "rag",
        "Plinth: assistants (RAG)",
        "What assistants answer, from what, how fast and at what cost.",
        (_answers(), _stages(), _retrieval(), _guardrails(), _freshness(), _index(), _cost()),
        (Variable("product", "Assistant", metrics.ANSWERED.name, "product"),),
        ("plinth", "rag"),
    )


def _answers() -> Row:
    asked = total(rate(metrics.ANSWERED, INTERVAL, **WHICH), "product")
    answered = total(rate(metrics.ANSWERED, INTERVAL, **WHICH, outcome="answered"), "product")
    return Row(
        "Answers",
        (
            Panel(
                "Outcomes",
                "answered; unknown: the documents do not say; blocked: a guardrail; budget; failed. Many unknown: "
                "look at the index.",
                units.PER_SECOND,
                (Query(total(rate(metrics.ANSWERED, INTERVAL, **WHICH), "outcome"), "{{outcome}}"),),
                stacked=True,
                runbook="assistants",
            ),
            Panel(
                "Share answered",
                "Of all questions. A fall after an index build is the build; after a release, its prompts or "
                "guardrails.",
                units.SHARE,
                (Query(of_those(answered, asked), "{{product}}"),),
                high=1.0,
                runbook="assistants",
            ),
            Panel(
                "Labelled stale",
                "Share of answers that say that their sources may be out of date.",
                units.SHARE,
                (
                    Query(
                        of_those(total(rate(metrics.ANSWERS_STALE, INTERVAL, **WHICH), "product"), asked), "{{product}}"
                    ),
                ),
                runbook="assistants",
            ),
        ),
    )


def _stages() -> Row:
    return Row(
        "Latency of each stage",
        (
            Panel(
                "p95 of each stage",
                "question, embeddings, retrieval, sources, first sentence, total. The stage that grows is the one "
                "to look at.",
                units.SECONDS,
                (Query(quantile(0.95, metrics.ANSWER_SECONDS, "step", **WHICH), "{{step}}", exemplars=True),),
                width=12,
                runbook="assistants",
            ),
            Panel(
                "Mean of each stage",
                "Where the time goes on average; first and total contain the others.",
                units.SECONDS,
                (Query(average(metrics.ANSWER_SECONDS, "step", **WHICH), "{{step}}"),),
                width=12,
            ),
            Panel(
                "Questions at work",
                "Questions being answered now.",
                units.COUNT,
                (Query(series(metrics.ANSWERS_RUNNING, **WHICH), "{{product}}"),),
                width=12,
                height=6,
            ),
            Panel(
                "Turned away",
                "Questions refused because too many were running; callers get 503 and Retry-After.",
                units.PER_SECOND,
                (Query(rate(metrics.ANSWERS_SHED, INTERVAL, **WHICH), "{{product}}"),),
                width=12,
                height=6,
                runbook="assistants",
            ),
        ),
    )


def _retrieval() -> Row:
    cited = total(rate(metrics.CITATIONS, INTERVAL, **WHICH), "product")
    answered = total(rate(metrics.ANSWERED, INTERVAL, **WHICH, outcome="answered"), "product")
    buckets = total(increase(metrics.RETRIEVAL_SCORE, INTERVAL, "_bucket", **WHICH), "le")
    return Row(
        "Retrieval",
        (
            Panel(
                "Similarity of the closest passage",
                "How near the best passage is to the question. A band that sinks means questions about something "
                "the documents do not hold, or another embedding model.",
                units.NUMBER,
                (Query(buckets, "{{le}}"),),
                kind="heatmap",
                width=12,
                low=None,
                runbook="assistants",
            ),
            Panel(
                "Median similarity",
                "The middle of the same.",
                units.NUMBER,
                (Query(quantile(0.5, metrics.RETRIEVAL_SCORE, "product", **WHICH), "{{product}}"),),
                width=6,
                high=1.0,
                runbook="assistants",
            ),
            Panel(
                "Citations an answer",
                "Passages an answer cites, on average. Near 0: answers without evidence.",
                units.NUMBER,
                (Query(f"{cited} / {answered}", "{{product}}"),),
                width=6,
                runbook="assistants",
            ),
        ),
    )


def _guardrails() -> Row:
    hits = total(rate(metrics.GUARDRAIL_HITS, INTERVAL, **WHICH), "rule", "action")
    by_stage = total(rate(metrics.GUARDRAIL_HITS, INTERVAL, **WHICH), "stage")
    return Row(
        "Guardrails",
        (
            Panel(
                "Hits by rule",
                "Guardrails that stepped in. A jump of one rule is an attack, or a document that reads like one.",
                units.PER_SECOND,
                (Query(hits, "{{rule}} {{action}}"),),
                width=12,
                stacked=True,
                runbook="assistants",
            ),
            Panel(
                "Hits by stage",
                "question: what was asked; sources: what was found; answer: what was about to be said.",
                units.PER_SECOND,
                (Query(by_stage, "{{stage}}"),),
                width=12,
                runbook="assistants",
            ),
        ),
    )


def _freshness() -> Row:
    return Row(
        "Freshness of the sources",
        (
            Panel(
                "Age",
                "Seconds since what is searchable of a source was all there was. It is a saw: each refresh sets it "
                "back.",
                units.SECONDS,
                (Query(series(metrics.SOURCE_AGE, **WHICH), "{{product}} {{source}}"),),
                runbook="assistants",
            ),
            Panel(
                "Lag of the last change",
                "How long the last change took to become searchable.",
                units.SECONDS,
                (Query(series(metrics.SOURCE_LAG, **WHICH), "{{product}} {{source}}"),),
                runbook="assistants",
            ),
            Panel(
                "Beyond its objective",
                "1 while a source is; answers are labelled stale.",
                units.NUMBER,
                (Query(series(metrics.SOURCE_STALE, **WHICH), "{{product}} {{source}}"),),
                bounds=units.BAD_ABOVE_0,
                runbook="assistants",
            ),
        ),
    )


def _index() -> Row:
    return Row(
        "Index",
        (
            Panel(
                "Age of the build",
                "Seconds since the serving build was made.",
                units.SECONDS,
                (Query(series(metrics.INDEX_AGE, **WHICH), "{{product}}"),),
                runbook="assistants",
            ),
            Panel(
                "Chunks",
                "Chunks of the serving build. A sudden fall is a source that went away.",
                units.COUNT,
                (Query(series(metrics.INDEX_CHUNKS, **WHICH), "{{product}}"),),
                runbook="assistants",
            ),
            Panel(
                "Builds kept",
                "Index builds that are kept; retired ones are deleted after their grace.",
                units.COUNT,
                (Query(series(metrics.INDEX_BUILDS, **WHICH), "{{product}}"),),
            ),
        ),
    )


def _cost() -> Row:
    tokens = total(rate(metrics.ANSWER_TOKENS, INTERVAL, **WHICH), "model", "kind")
    cost = total(increase(metrics.ANSWER_COST, "1d", **WHICH), "product", "model")
    asked = total(increase(metrics.ANSWERED, "1d", **WHICH), "product")
    thousand = f"1000 * sum by (product) ({cost}) / {asked}"
    return Row(
        "Tokens and cost",
        (
            Panel(
                "Tokens",
                "Tokens read (prompt) and generated (completion) a second, by model.",
                units.TOKENS_PER_SECOND,
                (Query(tokens, "{{model}} {{kind}}"),),
                stacked=True,
                runbook="cost",
            ),
            Panel(
                "Cost of the last day",
                "By model, in the budget's currency.",
                units.NUMBER,
                (Query(cost, "{{product}} {{model}}"),),
                width=10,
                runbook="cost",
            ),
            stat(
                "Cost of 1,000 answers",
                "Mean of the last day, in the budget's currency.",
                units.NUMBER,
                thousand,
                legend="{{product}}",
                width=6,
                height=8,
                bounds=(Bound(1000, "yellow"),),
                runbook="cost",
            ),
        ),
    )
