"""The answer log: every answer with what it was made of, for people, traces and evaluation.

`<state>/products/<product>/answers/date=YYYY-MM-DD/part-<time>-<pid>-<n>.parquet`, by the date of the answer. Personal
data, secrets and the policy's canaries are taken out of question and answer before anything is written, by the log's
writer: no answer waits for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from plinth.core.answers import Answer
from plinth.core.assistants import AssistantConfig
from plinth.core.evidence import Arm
from plinth.core.privacy import Detector, redact
from plinth.serving.buffer import BufferedLog
from plinth.serving.pyarrow import Kind, ParquetRows

FOLDER = "answers"

COLUMNS: dict[str, Kind] = {
    "request_id": "text", "at": "time", "release": "text", "generation": "count", "arm": "text", "tenant": "text",
    "question": "text", "answer": "text", "refused": "text", "support": "number", "citations": "text",
    "retrieved": "text", "prompts": "text", "generator": "text", "hits": "text", "prompt_tokens": "count",
    "completion_tokens": "count", "cost": "number", "stale": "text", "marks": "text", "latency_ms": "number",
    "trace_id": "text", "index_build": "text",
}  # fmt: skip
"""`citations` to `hits`, `stale` and `marks` are JSON; `marks` has each step's milliseconds."""

Redact = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class AnswerRecord:
    """One answer.

    Attributes:
        request_id: The request's id.
        at: Wall clock of the answer, seconds since 1970-01-01 UTC.
        release: Digest of the release that answered.
        generation: Of the route it was answered under.
        arm: Which release of the route that is.
        tenant: Whose key asked.
        question: As it was asked.
        answer: The whole answer.
        config: What the release is made of.
        marks: When each step ended, in ns since 1970.
        latency_ms: From the first step to the answer.
        trace_id: Of the OpenTelemetry trace; "" where the request was not sampled.
    """

    request_id: str
    at: float
    release: str
    generation: int
    arm: Arm
    tenant: str
    question: str
    answer: Answer
    config: AssistantConfig
    marks: Sequence[tuple[str, int]]
    latency_ms: float
    trace_id: str = ""

    @property
    def rows(self) -> int:
        """One."""
        return 1


class AnswerLog(BufferedLog[AnswerRecord]):
    """The answer log's buffer and writer. An answer takes some kilobytes: the buffer is small."""

    name = "answer log"

    def __init__(self, sink: Any, *, capacity: int = 5_000, **options: Any) -> None:
        super().__init__(sink, capacity=capacity, **options)


def answer_sink(folder: Path, redact_text: Redact) -> ParquetRows[AnswerRecord]:
    """Where answers are written to.

    Args:
        folder: The product's state folder.
        redact_text: Takes out of a text what must not be kept.
    """
    return ParquetRows(folder / FOLDER, COLUMNS, lambda record: as_row(record, redact_text))


def redactor(detectors: Iterable[Detector]) -> Redact:
    """Takes personal data and secrets out of a text."""
    kinds = tuple(detectors)

    def clean(text: str) -> str:
        for detector in kinds:
            text = redact(text, detector.find(text)).text
        return text

    return clean


def as_row(record: AnswerRecord, redact_text: Redact) -> tuple[str, Mapping[str, Any]]:
    """An answer's partition, and its values by column."""
    answer, config = record.answer, record.config

    def clean(text: str) -> str:
        try:
            for canary in config.guardrails.canaries:
                text = text.replace(canary, "[canary]")
            return redact_text(text).encode("utf-8", "replace").decode()
        except Exception:  # noqa: BLE001  (one text that cannot be looked at holds up no others, and is not kept)
            return "[could not be redacted]"

    return f"date={time.strftime('%Y-%m-%d', time.gmtime(record.at))}", {
        "request_id": record.request_id,
        "at": record.at,
        "release": record.release,
        "generation": record.generation,
        "arm": record.arm,
        "tenant": record.tenant,
        "question": clean(record.question),
        "answer": clean(answer.text),
        "refused": answer.refused,
        "support": answer.support,
        "citations": _json([{k: v for k, v in c.as_dict().items() if k != "quote"} for c in answer.citations]),
        "retrieved": _json(
            [
                {
                    "chunk": hit.chunk.id, "document": hit.chunk.document, "version": hit.chunk.version,
                    "source": hit.chunk.source, "score": hit.score, "dense": hit.dense, "sparse": hit.sparse,
                }
                for hit in answer.retrieved
            ]
        ),
        "prompts": _json({prompt.name: prompt.version for prompt in config.prompts}),
        "generator": answer.generator,
        "hits": _json([hit.as_dict() for hit in answer.hits]),
        "prompt_tokens": answer.usage.prompt_tokens,
        "completion_tokens": answer.usage.completion_tokens,
        "cost": answer.usage.cost,
        "stale": _json(list(answer.stale)),
        "marks": _json(steps(record.marks)),
        "latency_ms": record.latency_ms,
        "trace_id": record.trace_id,
        "index_build": config.index.build,
    }  # fmt: skip


def steps(marks: Sequence[tuple[str, int]]) -> dict[str, float]:
    """Milliseconds of each step; `first` is counted from the start: when the first sentence was there."""
    if not marks:
        return {}
    start = before = marks[0][1]
    took = {}
    for step, ended in marks[1:]:
        if step == "first":
            took[step] = round((ended - start) / 1e6, 3)
            continue
        took[step] = round((ended - before) / 1e6, 3)
        before = ended
    return took


def _json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY).decode()
