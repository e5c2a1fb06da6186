"""Telemetry of an assistant's service: what a product's service reports, and each answer with its steps.

A span never carries the text of a question, a source or an answer: their ids, scores and counts only. Of what belongs
to a tenant it does not name the document either: traces are kept where a tenant's deletion does not reach.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plinth.core.answers import Answer, Hit
from plinth.core.assistants import AssistantConfig
from plinth.core.corpus import SHARED_TENANT
from plinth.telemetry import genai, metrics
from plinth.telemetry.histograms import Histogram
from plinth.telemetry.observer import ServiceObserver
from plinth.telemetry.prometheus import Metrics, Reading, release_readings
from plinth.telemetry.traces import Traces

_NS = 1e9


@dataclass(frozen=True, slots=True)
class Told:
    """One answer, as it is reported.

    Attributes:
        request_id: The request's id.
        release: Digest of the release that answered.
        arm: Which release of the route that is.
        config: What it is made of.
        answer: The whole answer; None when the release failed.
        marks: When each step ended, in ns since 1970: start, question, embeddings, retrieval, sources, first, chat.
        seconds: The whole of it.
        traceparent: The caller's W3C trace context, or "".
        error: The kind of error, when it failed.
        trace_id: Of its trace; "" where it is not to be traced.
    """

    request_id: str
    release: str
    arm: str
    config: AssistantConfig
    answer: Answer | None
    marks: Sequence[tuple[str, int]]
    seconds: float
    traceparent: str = ""
    error: str = ""
    trace_id: str = ""


class AnswerMetrics(Metrics):
    """The series of one assistant's service. Arguments as `Metrics`."""

    def __init__(
        self,
        product: str,
        scraped: Callable[[], Iterable[Reading]] = tuple,
        thresholds: Iterable[float] = (),
    ) -> None:
        thresholds = tuple(thresholds)
        super().__init__(product, scraped, thresholds)
        self._answered = self._counter(metrics.ANSWERED)
        self._hits = self._counter(metrics.GUARDRAIL_HITS)
        self._tokens = self._counter(metrics.ANSWER_TOKENS)
        self._cost = self._counter(metrics.ANSWER_COST)
        self._stale = self._counter(metrics.ANSWERS_STALE)
        self._cited = self._counter(metrics.CITATIONS)
        self._steps = Histogram(metrics.ANSWER_SECONDS, (*metrics.STEP_BUCKETS, *thresholds))
        self._similarity = Histogram(metrics.RETRIEVAL_SCORE, metrics.SIMILARITY_BUCKETS)
        self._histograms += [self._steps, self._similarity]
        for counter in (self._stale, self._cited):
            self._child(counter)  # 0 from the start, so that the first one is seen as a rise

    def answer(self, told: Told) -> None:
        """Count an answer. From any thread."""
        answer = told.answer
        outcome = "failed" if answer is None else answer.refused or "answered"
        self._child(self._answered, told.release, outcome).inc()
        for step, seconds in _seconds(told.marks):
            self._steps.observe(seconds, step)
        self._steps.observe(told.seconds, "total", trace_id=told.trace_id)
        if answer is None:
            return
        for hit in answer.hits:
            self._child(self._hits, hit.rule, hit.stage, hit.action).inc()
        usage, model = answer.usage, answer.generator
        if usage.prompt_tokens or usage.completion_tokens:
            self._child(self._tokens, model, "prompt").inc(usage.prompt_tokens)
            self._child(self._tokens, model, "completion").inc(usage.completion_tokens)
        if usage.cost:
            self._child(self._cost, model).inc(usage.cost)
        if answer.stale:
            self._child(self._stale).inc()
        if answer.citations:
            self._child(self._cited).inc(len(answer.citations))
        # Not the rank's own score: the fusion of both sides brings the best of any question close to 1.
        similar = [hit.dense for hit in answer.retrieved if hit.dense is not None]
        if similar:
            self._similarity.observe(max(0.0, float(max(similar))))


class AnswerObserver(ServiceObserver):
    """Reports answers beside requests. Nothing here raises into the request path."""

    def __init__(self, product: str, metrics: AnswerMetrics, traces: Traces) -> None:
        super().__init__(product, metrics, traces)
        self._answers = metrics

    def answered(self, **fields: Any) -> str:
        """An answer, or a failure to give one: counted, and traced when sampled. From any thread.

        Args:
            fields: Those of `Told`.

        Returns:
            The trace id; "" where it is not traced.
        """
        told = Told(**fields)
        self._answers.answer(told)
        if len(told.marks) < 2 or not told.trace_id:
            return ""
        try:
            spans = [mark for mark in told.marks if mark[0] != "first"]
            return self._traces.record(
                f"{genai.WORKFLOW} {self._product}", spans, _about(self._product, told),
                traceparent=told.traceparent, failed=told.answer is None, steps=_spans(told), trace_id=told.trace_id,
            )  # fmt: skip
        except Exception:  # noqa: BLE001  (a trace that cannot be made must not cost an answer)
            self._log.warning("a trace could not be made", exc_info=True)
            return ""

    def _trace(self, fields: Mapping[str, Any], marks: Sequence[tuple[str, int]]) -> None:
        """The trace of a request that was answered, or failed to be, is made in `answered`."""
        if len(marks) < 2:
            super()._trace(fields, ())


def answer_readings(stats: Mapping[str, Any], exported: int = 0, failed: int = 0) -> list[Reading]:
    """What an assistant's service counts itself, as readings.

    Args:
        stats: As `release_readings`; `written`, `dropped`, `buffered`, `write_errors` of the answer log; `running`,
            `shed`; `chunks` and `index_age` (None where it is not known) of the build that serves; `sources`: name to
            (age, lag or None, whether it is stale).
        exported: Spans handed to the collector.
        failed: Spans that could not be.
    """
    readings = [
        (metrics.ANSWER_LOG_WRITTEN, (), stats["written"]),
        (metrics.ANSWER_LOG_DROPPED, (), stats["dropped"]),
        (metrics.ANSWER_LOG_BUFFERED, (), stats["buffered"]),
        (metrics.ANSWER_LOG_ERRORS, (), stats["write_errors"]),
        (metrics.ANSWERS_RUNNING, (), stats["running"]),
        (metrics.ANSWERS_SHED, (), stats["shed"]),
        (metrics.INDEX_CHUNKS, (), stats["chunks"]),
        *release_readings(stats, exported, failed),
    ]
    if stats["index_age"] is not None:
        readings.append((metrics.INDEX_AGE, (), stats["index_age"]))
    for name, (age, lag, stale) in stats["sources"].items():
        readings += [(metrics.SOURCE_AGE, (name,), age), (metrics.SOURCE_STALE, (name,), float(stale))]
        if lag is not None:
            readings.append((metrics.SOURCE_LAG, (name,), lag))
    return readings


def _seconds(marks: Sequence[tuple[str, int]]) -> list[tuple[str, float]]:
    """Each step's own seconds; those of `first` are from the start."""
    found, before = [], marks[0][1] if marks else 0
    for step, ended in marks[1:]:
        if step == "first":
            found.append((step, (ended - marks[0][1]) / _NS))
            continue
        found.append((step, (ended - before) / _NS))
        before = ended
    return found


def _about(product: str, told: Told) -> dict[str, Any]:
    """Attributes of the root span."""
    config, answer = told.config, told.answer
    attributes: dict[str, Any] = {
        genai.OPERATION: genai.WORKFLOW,
        genai.AGENT_NAME: product,
        genai.PRODUCT: product,
        genai.REQUEST_ID: told.request_id,
        genai.RELEASE: told.release,
        genai.ARM: told.arm,
        genai.INDEX_BUILD: config.index.build,
        genai.PROMPT_VERSIONS: [f"{prompt.name}@{prompt.version}" for prompt in config.prompts],
    }
    if answer is None:
        return {**attributes, genai.ERROR_TYPE: told.error or "_OTHER"}
    return {
        **attributes,
        genai.REFUSED: answer.refused,
        genai.SUPPORT: answer.support,
        genai.STALE: list(answer.stale),
        genai.GUARDRAIL_HITS: [f"{hit.stage}/{hit.rule}/{hit.action}" for hit in answer.hits],
        genai.COST: answer.usage.cost,
    }


def _spans(told: Told) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """The steps' spans, by the conventions' names."""
    config, answer = told.config, told.answer
    endpoint, build = config.generator.primary, config.index.build
    chat: dict[str, Any] = {
        genai.OPERATION: genai.CHAT,
        genai.PROVIDER: endpoint.provider,
        genai.REQUEST_MODEL: endpoint.model,
        genai.REQUEST_MAX_TOKENS: config.generator.max_tokens,
        genai.REQUEST_TEMPERATURE: endpoint.temperature,
    }
    retrieval: dict[str, Any] = {
        genai.OPERATION: genai.RETRIEVAL,
        genai.DATA_SOURCE: build,
        genai.TOP_K: config.retrieval.limit,
    }
    if answer is not None:
        first = dict(told.marks)
        if "first" in first and "sources" in first:
            chat[genai.FIRST_CHUNK] = (first["first"] - first["sources"]) / _NS
        if answer.generator:
            chat[genai.RESPONSE_MODEL] = answer.generator
        chat[genai.INPUT_TOKENS] = answer.usage.prompt_tokens
        chat[genai.OUTPUT_TOKENS] = answer.usage.completion_tokens
        found = [_retrieved(hit) for hit in answer.retrieved]
        retrieval[genai.DOCUMENTS] = json.dumps(found, default=float)
    embeddings = {
        genai.OPERATION: genai.EMBEDDINGS,
        genai.PROVIDER: config.embedding.provider,
        genai.REQUEST_MODEL: config.embedding.model,
        genai.DIMENSIONS: config.index.dimension,
    }
    return {
        "question": ("guardrails question", {}),
        "embeddings": (f"{genai.EMBEDDINGS} {config.embedding.model}", embeddings),
        "retrieval": (f"{genai.RETRIEVAL} {build}", retrieval),
        "sources": ("guardrails sources", {}),
        "chat": (f"{genai.CHAT} {endpoint.model}", chat),
    }


def _retrieved(hit: Hit) -> dict[str, Any]:
    chunk = hit.chunk
    named = {"document": chunk.document, "version": chunk.version} if chunk.tenant == SHARED_TENANT else {}
    return {"id": chunk.id, "score": hit.score, **named}
