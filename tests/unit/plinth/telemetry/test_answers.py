"""What is reported of an answer: metrics with the names of one module, spans with the conventions' names, no text."""

import json
import re
from dataclasses import replace

from answering import PROMPTS, index_of
from indexes import CountingEmbedder, chunk
from plinth.core.answers import Answer, Citation, GuardrailHit, Hit, Usage
from plinth.core.assistants import AssistantConfig, Chunking, Embedding, Endpoint, Generator, Guardrails, Retrieval
from plinth.telemetry import genai, metrics
from plinth.telemetry.answers import AnswerMetrics, AnswerObserver, answer_readings
from plinth.telemetry.traces import Traces

SECRET = "heron-text"
CHUNK = chunk(1, f"A source with {SECRET} in it.")
EMBEDDER = CountingEmbedder()
CONFIG = AssistantConfig(
    chunking=Chunking(), embedding=Embedding(), embedding_digest=EMBEDDER.digest, retrieval=Retrieval(limit=4),
    generator=Generator(primary=Endpoint(provider="openai", model="small", base_url="http://127.0.0.1:1/v1")),
    guardrails=Guardrails(), prompts=PROMPTS, index=index_of([CHUNK], EMBEDDER),
)  # fmt: skip
ANSWER = Answer(
    text=f"An answer with {SECRET} [1].", citations=(Citation(1, CHUNK, SECRET),), stale=("docs",), support=0.9,
    hits=(GuardrailHit("support:words", "answer", "drop", "why"),), retrieved=(Hit(CHUNK, 0.75, 0.5, 2.0),),
    usage=Usage(11, 7, 0.02), generator="small-2",
)  # fmt: skip
MS = 1_000_000
MARKS = [
    ("start", 0), ("question", 1 * MS), ("embeddings", 3 * MS), ("retrieval", 8 * MS), ("sources", 9 * MS),
    ("first", 29 * MS), ("chat", 50 * MS),
]  # fmt: skip
STATS = {
    "written": 5, "dropped": 1, "buffered": 2, "write_errors": 3, "release": "d" * 64, "generation": 4, "stale": True,
    "release_failures": 6, "step": 2, "weight": 500, "shadow_dropped": 9, "running": 3, "shed": 8, "chunks": 100,
    "index_age": 60.5, "sources": {"docs": (5.0, 2.5, True), "wiki": (6.0, None, False)},
}  # fmt: skip


class Exporter:
    def __init__(self):
        self.spans, self.exported, self.failed = [], 0, 0

    def export(self, spans):
        from opentelemetry.sdk.trace.export import SpanExportResult

        self.spans += spans
        return SpanExportResult.SUCCESS

    def shutdown(self):
        pass

    def force_flush(self, timeout_millis=0):
        return True


def observed(answer=ANSWER, marks=MARKS, exporter=None, product="p", **fields):
    told = AnswerMetrics(product, lambda: answer_readings(STATS, 7, 8))
    observer = AnswerObserver(product, told, Traces(product, exporter))
    trace_id = observer.answered(
        request_id="r1", release="d" * 64, arm="serving", config=CONFIG, answer=answer, marks=marks, seconds=0.05,
        **{"trace_id": "e" * 32, **fields},
    )  # fmt: skip
    return observer.render()[0].decode(), trace_id, observer


def spans_of(**fields):
    exporter = Exporter()
    _, trace_id, observer = observed(exporter=exporter, **fields)
    observer._traces.flush()
    observer._traces.close()
    return {span.name: span for span in exporter.spans}, trace_id


def test_every_declared_metric_of_assistants_is_emitted():
    text, _, _ = observed()
    emitted = set(re.findall(r"^# TYPE (plinth_\w+) (\w+)", text, re.MULTILINE))
    assert {(metric.name, metric.kind) for metric in metrics.ASSISTANTS} <= emitted
    names = {metric.name for metric in metrics.ALL}
    assert {name for name, _ in emitted} <= names
    assert "plinth_inference_log_written_total" not in {name for name, _ in emitted}


def test_answers_are_counted_by_outcome_rule_token_and_cost():
    # A name of its own: where BentoML was imported before, counts of one name are kept over all tests of the process.
    text, _, _ = observed(product="counted")
    for line in (
        f'plinth_answers_total{{outcome="answered",product="counted",release="{"d" * 64}"}} 1.0',
        'plinth_guardrail_hits_total{action="drop",product="counted",rule="support:words",stage="answer"} 1.0',
        'plinth_answer_tokens_total{kind="prompt",model="small-2",product="counted"} 11.0',
        'plinth_answer_tokens_total{kind="completion",model="small-2",product="counted"} 7.0',
        'plinth_answer_cost_total{model="small-2",product="counted"} 0.02',
        'plinth_answers_stale_total{product="counted"} 1.0',
        'plinth_answer_seconds_sum{product="counted",step="retrieval"} 0.005',
        'plinth_answer_seconds_sum{product="counted",step="first"} 0.029',
        'plinth_answer_seconds_sum{product="counted",step="total"} 0.05',
        'plinth_source_stale{product="counted",source="docs"} 1.0',
        'plinth_source_lag_seconds{product="counted",source="docs"} 2.5',
        'plinth_index_chunks{product="counted"} 100.0',
        'plinth_answers_shed_total{product="counted"} 8.0',
    ):
        assert line in text, line
    assert 'plinth_source_lag_seconds{product="counted",source="wiki"}' not in text


def test_a_failure_and_a_refusal_are_outcomes_of_their_own():
    text, _, _ = observed(answer=None, error="Unavailable")
    assert 'outcome="failed"' in text
    text, _, _ = observed(answer=Answer("no", refused="blocked"), marks=MARKS[:2])
    assert 'outcome="blocked"' in text


def test_a_trace_has_a_span_a_step_with_the_conventions_names():
    spans, trace_id = spans_of()
    build = CONFIG.index.build
    root = spans["invoke_workflow p"]
    assert set(spans) == {
        "invoke_workflow p", "guardrails question", f"embeddings {CONFIG.embedding.model}", f"retrieval {build}",
        "guardrails sources", "chat small",
    }  # fmt: skip
    assert format(root.context.trace_id, "032x") == trace_id
    assert all(span.parent.span_id == root.context.span_id for span in spans.values() if span is not root)
    chat = spans["chat small"]
    assert (chat.start_time, chat.end_time) == (9 * MS, 50 * MS)
    assert chat.attributes[genai.OPERATION] == "chat"
    assert (chat.attributes[genai.REQUEST_MODEL], chat.attributes[genai.RESPONSE_MODEL]) == ("small", "small-2")
    assert (chat.attributes[genai.INPUT_TOKENS], chat.attributes[genai.OUTPUT_TOKENS]) == (11, 7)
    assert chat.attributes[genai.FIRST_CHUNK] == 0.02
    retrieval = spans[f"retrieval {build}"]
    assert (retrieval.attributes[genai.DATA_SOURCE], retrieval.attributes[genai.TOP_K]) == (build, 4)
    (found,) = json.loads(retrieval.attributes[genai.DOCUMENTS])
    assert (found["id"], found["score"], found["version"]) == (CHUNK.id, 0.75, CHUNK.version)
    assert root.attributes[genai.PROMPT_VERSIONS] == ("answer@1", "source@1")
    assert root.attributes[genai.GUARDRAIL_HITS] == ("answer/support:words/drop",)
    assert root.attributes[genai.RELEASE] == "d" * 64


def test_no_span_and_no_metric_carries_a_text():
    spans, _ = spans_of()
    text, _, _ = observed()
    assert SECRET not in text + "".join(span.to_json() for span in spans.values())


def test_no_span_names_a_document_of_a_tenant():
    own = chunk(2, "Theirs.", tenant="acme", document="acme/heron-layoffs.md")
    spans, _ = spans_of(answer=replace(ANSWER, retrieved=(Hit(CHUNK, 0.75, 0.5, 2.0), Hit(own, 0.5, 0.5, 1.0))))
    found = json.loads(spans[f"retrieval {CONFIG.index.build}"].attributes[genai.DOCUMENTS])
    assert [one["id"] for one in found] == [CHUNK.id, own.id]
    assert "heron-layoffs" not in "".join(span.to_json() for span in spans.values())


def test_a_failed_answer_is_an_error_in_its_trace():
    spans, _ = spans_of(answer=None, error="Unavailable")
    root = spans["invoke_workflow p"]
    assert not root.status.is_ok
    assert root.attributes[genai.ERROR_TYPE] == "Unavailable"


def test_an_answer_that_was_not_sampled_is_not_traced():
    spans, trace_id = spans_of(trace_id="")
    assert (spans, trace_id) == ({}, "")


def test_the_whole_answers_latency_names_its_trace():
    observer = observed(product="linked")[2]
    text = observer.render("application/openmetrics-text")[0].decode()
    assert f'le="0.05",product="linked",step="total"}} 1.0 # {{trace_id="{"e" * 32}"}} 0.05 ' in text


def test_the_closest_passage_and_the_citations_are_counted():
    text, _, _ = observed(product="cited")
    assert 'plinth_retrieval_score_sum{product="cited"} 0.5' in text
    assert 'plinth_answer_citations_total{product="cited"} 1.0' in text


def test_a_traced_question_that_found_no_release_has_a_trace_of_its_request(monkeypatch):
    exporter = Exporter()
    observer = AnswerObserver("p", AnswerMetrics("p"), Traces("p", exporter))
    request = {
        "path": "/ask", "code": 503, "seconds": 0.1, "rows": 0, "request_id": "r", "release": "", "traceparent": "",
        "trace_id": "e" * 32,
    }  # fmt: skip
    observer.request(**request, marks=[])
    observer.request(**request, marks=MARKS)  # that one's trace is made where it was answered
    observer._traces.flush()
    observer._traces.close()
    assert [(span.name, format(span.context.trace_id, "032x")) for span in exporter.spans] == [("ask p", "e" * 32)]


def test_a_callers_trace_goes_on():
    parent = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    assert spans_of(traceparent=parent, trace_id="a" * 32)[1] == "a" * 32


def test_names_of_the_conventions_stand_in_one_module():
    from pathlib import Path

    source = Path(metrics.__file__).parents[1]
    named = [path for path in source.rglob("*.py") if '"gen_ai.' in path.read_text(encoding="utf-8")]
    assert [path.name for path in named] == ["genai.py"]
