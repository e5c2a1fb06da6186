"""Every metric of the platform: name, type, labels, help. Nothing else names a metric.

docs/reference/metrics.md is checked against this module, and a test checks it against what a running service emits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LATENCY_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Seconds."""

STEP_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Seconds of an answer's steps: a model elsewhere takes some."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric, as Prometheus knows it. `room` is who emits it."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str
    room: Literal["serving", "assistants"] = "serving"


REQUESTS = Metric("plinth_requests_total", "counter", ("product", "path", "code", "release"), "HTTP requests answered.")
REQUEST_SECONDS = Metric(
    "plinth_request_seconds", "histogram", ("product", "path"), "Seconds from a request's headers to its answer."
)
PREDICTIONS = Metric("plinth_predictions_total", "counter", ("product", "release"), "Instances scored.")
DEFAULTED = Metric(
    "plinth_feature_rows_defaulted_total",
    "counter",
    ("product", "view"),
    "Feature rows served by their declared default: missing, stale or from the future.",
)
LOG_WRITTEN = Metric("plinth_inference_log_written_total", "counter", ("product",), "Predictions written to the log.")
LOG_DROPPED = Metric(
    "plinth_inference_log_dropped_total", "counter", ("product",), "Predictions the full log buffer dropped."
)
LOG_BUFFERED = Metric("plinth_inference_log_buffered", "gauge", ("product",), "Predictions waiting to be written.")
LOG_ERRORS = Metric(
    "plinth_inference_log_write_errors_total", "counter", ("product",), "Writes of the log that failed and are retried."
)
RELEASE_GENERATION = Metric(
    "plinth_release_generation", "gauge", ("product",), "Generation of the release that serves; 0 while none does."
)
RELEASE_INFO = Metric("plinth_release_info", "gauge", ("product", "release"), "1 for the release that serves.")
RELEASE_STALE = Metric(
    "plinth_release_stale", "gauge", ("product",), "1 while a wanted release, or the ledger, cannot be loaded."
)
RELEASE_FAILURES = Metric(
    "plinth_release_load_failures_total", "counter", ("product",), "Looks at the ledger or its artefacts that failed."
)
TRACES_EXPORTED = Metric("plinth_trace_spans_exported_total", "counter", ("product",), "Spans handed to the collector.")
TRACES_FAILED = Metric(
    "plinth_trace_spans_failed_total", "counter", ("product",), "Spans that could not be handed to the collector."
)
_ROLLOUT = ("product", "generation", "step", "arm", "release")

ROLLOUT_REQUESTS = Metric("plinth_rollout_requests_total", "counter", _ROLLOUT, "Requests an arm took part in.")
ROLLOUT_ERRORS = Metric(
    "plinth_rollout_errors_total", "counter", _ROLLOUT, "Those that failed because of the service (500 and above)."
)
ROLLOUT_SECONDS = Metric("plinth_rollout_seconds", "histogram", _ROLLOUT, "Service time of those, failed ones too.")
ROLLOUT_SCORES = Metric("plinth_rollout_scores", "histogram", _ROLLOUT, "Scores of an arm; those that are finite.")
ROLLOUT_ROWS = Metric("plinth_rollout_rows_total", "counter", _ROLLOUT, "Instances an arm scored.")
ROLLOUT_DEFAULTED = Metric(
    "plinth_rollout_defaulted_total", "counter", _ROLLOUT, "Instances that a feature view had no fresh value for."
)
ROUTE_STEP = Metric("plinth_route_step", "gauge", ("product",), "Step of the rollout that is applied; 0 without one.")
ROUTE_WEIGHT = Metric(
    "plinth_route_candidate_ratio", "gauge", ("product",), "Share of the entities that the candidate answers, 0 to 1."
)
SHADOW_DROPPED = Metric(
    "plinth_shadow_dropped_total", "counter", ("product",), "Requests that the full shadow queue dropped."
)

ROLLOUT = (
    ROLLOUT_REQUESTS, ROLLOUT_ERRORS, ROLLOUT_SECONDS, ROLLOUT_SCORES, ROLLOUT_ROWS, ROLLOUT_DEFAULTED,
)  # fmt: skip
"""What rollouts are judged on when signals come from Prometheus. Only the newest rollout has series."""

SERVING = (
    REQUESTS, REQUEST_SECONDS, PREDICTIONS, DEFAULTED, LOG_WRITTEN, LOG_DROPPED, LOG_BUFFERED, LOG_ERRORS,
    RELEASE_GENERATION, RELEASE_INFO, RELEASE_STALE, RELEASE_FAILURES, TRACES_EXPORTED, TRACES_FAILED,
    *ROLLOUT, ROUTE_STEP, ROUTE_WEIGHT, SHADOW_DROPPED,
)  # fmt: skip
"""What the service of a product with a model emits."""


def _answers(name: str, kind: Literal["counter", "gauge", "histogram"], labels: tuple[str, ...], help: str) -> Metric:
    return Metric(name, kind, ("product", *labels), help, "assistants")


ANSWERED = _answers(
    "plinth_answers_total", "counter", ("release", "outcome"), "Questions that were answered, or why they were not."
)
ANSWER_SECONDS = _answers(
    "plinth_answer_seconds", "histogram", ("step",), "Seconds of an answer's steps; total is the whole of it."
)
GUARDRAIL_HITS = _answers(
    "plinth_guardrail_hits_total", "counter", ("rule", "stage", "action"), "Guardrails that stepped in."
)
ANSWER_TOKENS = _answers("plinth_answer_tokens_total", "counter", ("model", "kind"), "Tokens read and generated.")
ANSWER_COST = _answers("plinth_answer_cost_total", "counter", ("model",), "Cost of answers, in the budget's currency.")
ANSWERS_STALE = _answers("plinth_answers_stale_total", "counter", (), "Answers that were labelled stale.")
ANSWERS_SHED = _answers("plinth_answers_shed_total", "counter", (), "Questions refused because too many were running.")
ANSWERS_RUNNING = _answers("plinth_answers_running", "gauge", (), "Questions that are being answered.")
SOURCE_AGE = _answers(
    "plinth_source_age_seconds", "gauge", ("source",), "Seconds since what is searchable of a source was all there was."
)
SOURCE_LAG = _answers(
    "plinth_source_lag_seconds", "gauge", ("source",), "How long the last change of a source took to become searchable."
)
SOURCE_STALE = _answers(
    "plinth_source_stale", "gauge", ("source",), "1 while a source is beyond its freshness objective."
)
INDEX_AGE = _answers("plinth_index_age_seconds", "gauge", (), "Seconds since the serving index build was made.")
INDEX_CHUNKS = _answers("plinth_index_chunks", "gauge", (), "Chunks of the serving index build.")
ANSWER_LOG_WRITTEN = _answers("plinth_answer_log_written_total", "counter", (), "Answers written to the log.")
ANSWER_LOG_DROPPED = _answers("plinth_answer_log_dropped_total", "counter", (), "Answers the full log buffer dropped.")
ANSWER_LOG_BUFFERED = _answers("plinth_answer_log_buffered", "gauge", (), "Answers waiting to be written.")
ANSWER_LOG_ERRORS = _answers(
    "plinth_answer_log_write_errors_total", "counter", (), "Writes of the answer log that failed and are retried."
)

ASSISTANTS = (
    ANSWERED, ANSWER_SECONDS, GUARDRAIL_HITS, ANSWER_TOKENS, ANSWER_COST, ANSWERS_STALE, ANSWERS_SHED, ANSWERS_RUNNING,
    SOURCE_AGE, SOURCE_LAG, SOURCE_STALE, INDEX_AGE, INDEX_CHUNKS, ANSWER_LOG_WRITTEN, ANSWER_LOG_DROPPED,
    ANSWER_LOG_BUFFERED, ANSWER_LOG_ERRORS,
)  # fmt: skip
"""What an assistant's service emits beside the metrics of requests, releases, traces and rollouts."""

ALL = (*SERVING, *ASSISTANTS)
