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

SIMILARITY_BUCKETS = tuple(round(0.05 * i, 2) for i in range(1, 21))
"""Cosine similarities."""


def le(bound: float) -> str:
    """A bucket's upper bound as its label `le` has it: as a float, 0.1 or 1.0."""
    return repr(float(bound))


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric, as Prometheus knows it.

    Attributes:
        room: Who emits it.
        empty_in_health: Why it has no series while nothing is wrong, though the products were used; "": it has some.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str
    room: Literal["serving", "assistants", "controller"] = "serving"
    empty_in_health: str = ""


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
    empty_in_health="none while every row is found and fresh",
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
LINES_SHIPPED = Metric("plinth_log_lines_exported_total", "counter", ("product",), "Log lines handed to the collector.")
LINES_DROPPED = Metric(
    "plinth_log_lines_dropped_total", "counter", ("product",), "Log lines that could not be handed to the collector."
)
_ROLLOUT = ("product", "generation", "step", "arm", "release")
_NO_ROLLOUT = "none since the service started, until a candidate gets traffic"

ROLLOUT_REQUESTS = Metric(
    "plinth_rollout_requests_total", "counter", _ROLLOUT, "Requests an arm took part in.", empty_in_health=_NO_ROLLOUT
)
ROLLOUT_ERRORS = Metric(
    "plinth_rollout_errors_total",
    "counter",
    _ROLLOUT,
    "Those that failed because of the service (500 and above).",
    empty_in_health=_NO_ROLLOUT,
)
ROLLOUT_SECONDS = Metric(
    "plinth_rollout_seconds",
    "histogram",
    _ROLLOUT,
    "Service time of those, failed ones too.",
    empty_in_health=_NO_ROLLOUT,
)
ROLLOUT_SCORES = Metric(
    "plinth_rollout_scores",
    "histogram",
    _ROLLOUT,
    "Scores of an arm; those that are finite.",
    empty_in_health=_NO_ROLLOUT,
)
ROLLOUT_ROWS = Metric(
    "plinth_rollout_rows_total", "counter", _ROLLOUT, "Instances an arm scored.", empty_in_health=_NO_ROLLOUT
)
ROLLOUT_DEFAULTED = Metric(
    "plinth_rollout_defaulted_total",
    "counter",
    _ROLLOUT,
    "Instances that a feature view had no fresh value for.",
    empty_in_health=_NO_ROLLOUT,
)
ROUTE_STEP = Metric("plinth_route_step", "gauge", ("product",), "Step of the rollout that is applied; 0 without one.")
ROUTE_WEIGHT = Metric(
    "plinth_route_candidate_ratio", "gauge", ("product",), "Share of the entities that the candidate answers, 0 to 1."
)
SHADOW_DROPPED = Metric(
    "plinth_shadow_dropped_total", "counter", ("product",), "Requests that the full shadow queue dropped."
)

DENIED = Metric(
    "plinth_requests_denied_total",
    "counter",
    ("product", "reason"),
    "Requests refused before they were read, by why.",
    empty_in_health="none while nobody is refused",
)

ROLLOUT = (
    ROLLOUT_REQUESTS, ROLLOUT_ERRORS, ROLLOUT_SECONDS, ROLLOUT_SCORES, ROLLOUT_ROWS, ROLLOUT_DEFAULTED,
)  # fmt: skip
"""What rollouts are judged on when signals come from Prometheus. Only the newest rollout has series."""

SERVING = (
    REQUESTS, REQUEST_SECONDS, PREDICTIONS, DEFAULTED, LOG_WRITTEN, LOG_DROPPED, LOG_BUFFERED, LOG_ERRORS,
    RELEASE_GENERATION, RELEASE_INFO, RELEASE_STALE, RELEASE_FAILURES, TRACES_EXPORTED, TRACES_FAILED,
    LINES_SHIPPED, LINES_DROPPED, *ROLLOUT, ROUTE_STEP, ROUTE_WEIGHT, SHADOW_DROPPED, DENIED,
)  # fmt: skip
"""What the service of a product with a model emits."""


def _answers(
    name: str, kind: Literal["counter", "gauge", "histogram"], labels: tuple[str, ...], help: str, empty: str = ""
) -> Metric:
    return Metric(name, kind, ("product", *labels), help, "assistants", empty)


ANSWERED = _answers(
    "plinth_answers_total", "counter", ("release", "outcome"), "Questions that were answered, or why they were not."
)
ANSWER_SECONDS = _answers(
    "plinth_answer_seconds", "histogram", ("step",), "Seconds of an answer's steps; total is the whole of it."
)
GUARDRAIL_HITS = _answers(
    "plinth_guardrail_hits_total",
    "counter",
    ("rule", "stage", "action"),
    "Guardrails that stepped in.",
    "none stepped in",
)
_NO_MODEL = "the extractive generator reads no tokens and costs nothing"
ANSWER_TOKENS = _answers(
    "plinth_answer_tokens_total", "counter", ("model", "kind"), "Tokens read and generated.", _NO_MODEL
)
ANSWER_COST = _answers(
    "plinth_answer_cost_total", "counter", ("model",), "Cost of answers, in the budget's currency.", _NO_MODEL
)
ANSWERS_STALE = _answers("plinth_answers_stale_total", "counter", (), "Answers that were labelled stale.")
ANSWERS_SHED = _answers("plinth_answers_shed_total", "counter", (), "Questions refused because too many were running.")
ANSWERS_RUNNING = _answers("plinth_answers_running", "gauge", (), "Questions that are being answered.")
SOURCE_AGE = _answers(
    "plinth_source_age_seconds", "gauge", ("source",), "Seconds since what is searchable of a source was all there was."
)
SOURCE_LAG = _answers(
    "plinth_source_lag_seconds",
    "gauge",
    ("source",),
    "How long the last change of a source took to become searchable.",
    "nothing changed since the sources were first read",
)
SOURCE_STALE = _answers(
    "plinth_source_stale", "gauge", ("source",), "1 while a source is beyond its freshness objective."
)
RETRIEVAL_SCORE = _answers(
    "plinth_retrieval_score", "histogram", (), "Similarity (cosine) of the closest passage found for a question."
)
CITATIONS = _answers("plinth_answer_citations_total", "counter", (), "Passages that answers cited.")
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
    RETRIEVAL_SCORE, CITATIONS, SOURCE_AGE, SOURCE_LAG, SOURCE_STALE, INDEX_AGE, INDEX_CHUNKS, ANSWER_LOG_WRITTEN,
    ANSWER_LOG_DROPPED, ANSWER_LOG_BUFFERED, ANSWER_LOG_ERRORS,
)  # fmt: skip
"""What an assistant's service emits beside the metrics of requests, releases, traces and rollouts."""


def _platform(
    name: str, kind: Literal["counter", "gauge", "histogram"], labels: tuple[str, ...], help: str, empty: str = ""
) -> Metric:
    return Metric(name, kind, labels, help, "controller", empty)


BUILD_INFO = _platform("plinth_build_info", "gauge", ("version",), "1 for the version of the controller.")
LEDGER_UP = _platform("plinth_ledger_up", "gauge", (), "1 while the ledger can be read.")
CONTROLLER_LEADS = _platform("plinth_controller_leads", "gauge", (), "1 while this controller holds the lease.")
CONTROLLER_TICKS = _platform(
    "plinth_controller_ticks_total", "counter", ("result",), "Looks at the rollouts, by result."
)
CONTROLLER_TICK_SECONDS = _platform("plinth_controller_tick_seconds", "histogram", (), "Seconds that a look took.")
PRODUCT_INFO = _platform("plinth_product_info", "gauge", ("product", "team", "tier", "kind"), "1 for each product.")
OBJECTIVE = _platform(
    "plinth_service_level_objective_ratio", "gauge", ("product", "level", "indicator"), "What a service level promises."
)
BUDGET_MONTHLY = _platform(
    "plinth_budget_monthly", "gauge", ("product", "currency"), "What a product may cost a month."
)
BUDGET_CORE_HOUR = _platform("plinth_budget_core_hour", "gauge", ("product",), "What an hour of a core costs.")
RELEASES = _platform("plinth_releases", "gauge", ("product",), "Releases in the ledger that are not retired.")
ROLLOUT_PHASE = _platform(
    "plinth_rollout_phase",
    "gauge",
    ("product", "phase"),
    "1 for the phase of the rollout in progress; none without one.",
    "no rollout is in progress",
)
ROLLOUTS_ENDED = _platform(
    "plinth_rollouts_ended_total", "counter", ("product", "outcome"), "Rollouts by how they ended."
)
APPROVALS_WAITING = _platform("plinth_approvals_waiting", "gauge", ("product",), "Rollouts that wait for an approval.")
PROJECTIONS_PENDING = _platform(
    "plinth_projections_pending", "gauge", ("product",), "Decisions that the tools' aliases do not show yet."
)
AUDIT_ENTRIES = _platform("plinth_audit_entries_total", "counter", (), "Entries of the audit log.")
EVENTS = _platform("plinth_events_total", "counter", ("product", "event"), "Events in the ledger, such as drift.")
DRIFT_PSI = _platform("plinth_drift_psi", "gauge", ("product", "feature"), "Population stability index, last report.")
DRIFT_SCORE = _platform("plinth_drift_scores_psi", "gauge", ("product",), "The index of the scores, last report.")
CALIBRATION_GAP = _platform(
    "plinth_calibration_gap", "gauge", ("product",), "Mean prediction less outcome, last report."
)
QUALITY = _platform("plinth_quality", "gauge", ("product", "metric"), "Quality against late labels, last report.")
REPORT_TIME = _platform(
    "plinth_drift_report_timestamp_seconds", "gauge", ("product",), "When the last drift report was made, Unix time."
)
EVALUATION = _platform(
    "plinth_evaluation", "gauge", ("product", "metric"), "Metrics of the evaluation of the release that serves."
)
PIPELINE_RUNS = _platform(
    "plinth_pipeline_runs_total", "counter", ("product", "pipeline", "state"), "Runs by the state they ended in."
)
PIPELINE_RUNNING = _platform("plinth_pipeline_running", "gauge", ("product", "pipeline"), "Runs at work.")
PIPELINE_QUEUED = _platform("plinth_pipeline_queued", "gauge", ("product", "pipeline"), "Runs that are due and wait.")
PIPELINE_RETRIES = _platform("plinth_pipeline_retries_total", "counter", ("product", "pipeline"), "Tasks tried again.")
PIPELINE_SECONDS = _platform(
    "plinth_pipeline_last_run_seconds", "gauge", ("product", "pipeline"), "How long the last ended run took."
)
PIPELINE_TIME = _platform(
    "plinth_pipeline_last_success_timestamp_seconds", "gauge", ("product", "pipeline"), "When one last did, Unix time."
)
CONTRACT_VIOLATIONS = _platform(
    "plinth_contract_violations",
    "gauge",
    ("product", "contract"),
    "Violations of batches in quarantine that no later delivery settled.",
)
INDEX_BUILDS = _platform("plinth_index_builds", "gauge", ("product",), "Index builds that are kept.")
LOG_HOURS_WAITING = _platform(
    "plinth_log_hours_waiting",
    "gauge",
    ("product",),
    "Closed hours of the logs that are due for the archive; none without a bucket.",
)
PREFECT_UP = _platform("plinth_prefect_up", "gauge", (), "1 while the Prefect server answers the controller.")

PLATFORM = (
    BUILD_INFO, LEDGER_UP, CONTROLLER_LEADS, CONTROLLER_TICKS, CONTROLLER_TICK_SECONDS, PRODUCT_INFO, OBJECTIVE,
    BUDGET_MONTHLY, BUDGET_CORE_HOUR, RELEASES, ROLLOUT_PHASE, ROLLOUTS_ENDED, APPROVALS_WAITING, PROJECTIONS_PENDING,
    AUDIT_ENTRIES, EVENTS, DRIFT_PSI, DRIFT_SCORE, CALIBRATION_GAP, QUALITY, REPORT_TIME, EVALUATION, PIPELINE_RUNS,
    PIPELINE_RUNNING, PIPELINE_QUEUED, PIPELINE_RETRIES, PIPELINE_SECONDS, PIPELINE_TIME, CONTRACT_VIOLATIONS,
    INDEX_BUILDS, LOG_HOURS_WAITING, PREFECT_UP,
)  # fmt: skip
"""What the controller's own page of metrics shows: of the ledger, the reports, and the pipelines."""

ALL = (*SERVING, *ASSISTANTS, *PLATFORM)
