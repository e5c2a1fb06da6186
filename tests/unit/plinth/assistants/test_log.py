"""The answer log: every answer with what it was made of, without what must not be kept; and the way back from it."""

import json

import pytest

from answering import PRODUCT, Lab, Saying
from assistant_releases import manifest
from indexes import chunk, corpus
from plinth.assistants.log import FOLDER, answer_sink, redactor, steps
from plinth.assistants.trace import trace
from plinth.core.assistants import Guardrails
from plinth.errors import NotFound
from plinth.ledger.store import Ledger
from plinth.serving.pyarrow import find_rows

CARD, EMAIL, KEY = "4111 1111 1111 1111", "ada.byron@private-mail.net", "AKIA" + "Z7QW3RT5YU8IP2LK"
TRUE = "Page 3 tells about subject3 and thing21 in words3"


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


@pytest.fixture
def serve(lab):
    """A service whose answers go to files."""
    started = []

    def serve(config):
        lab.digest = lab.promote(config)
        running = lab.service()
        running.service.log._sink = answer_sink(lab.folder, redactor((lab.tools.secrets, lab.tools.personal_data)))
        started.append(running)
        return running

    yield serve
    for running in started:
        running.service.stop()


def logged(lab, request_id):
    (row,) = find_rows(lab.folder / FOLDER, "request_id", request_id)
    return row


def ask(running, question, request_id="r1", **headers):
    answer = running.call("POST", "/ask", {"question": question}, {"x-request-id": request_id, **headers})
    assert answer.status == 200, answer.text
    assert running.service.log.flush(), running.service.log.failing
    return answer.json


def test_an_answer_is_kept_with_what_it_was_made_of(lab, serve):
    running = serve(lab.config())
    told = ask(running, "What does page 3 tell about subject3?")
    row = logged(lab, "r1")
    assert (row["release"], row["generation"], row["arm"], row["tenant"]) == (told["release"], 1, "serving", "public")
    assert (row["answer"], row["refused"], row["support"]) == (told["answer"], "", 1.0)
    (citation,) = json.loads(row["citations"])
    assert (citation["number"], citation["document"], "quote" in citation) == (1, "docs/page-3.md", False)
    retrieved = json.loads(row["retrieved"])
    assert len(retrieved) == 4
    assert {"chunk", "document", "version", "score", "dense", "sparse"} <= set(retrieved[0])
    assert json.loads(row["prompts"]) == {"answer": "1", "source": "1"}
    assert (row["generator"], row["trace_id"], row["index_build"]) == (
        "extractive-1",
        "t" * 32,
        lab.build(corpus(8)).build,
    )
    assert set(json.loads(row["marks"])) == {"question", "embeddings", "retrieval", "sources", "first", "chat"}
    assert list((lab.folder / FOLDER).glob("date=20*-*-*/part-*.parquet"))


def test_personal_data_secrets_and_canaries_reach_no_file(lab, serve):
    secret = f"Page 3 subject3 says {EMAIL} and {CARD} and {KEY} of the-canary-string."
    chunks = [*corpus(2), chunk(3, secret)]
    policy = Guardrails(canaries=("the-canary-string",), redact_personal_data=False)
    running = serve(lab.config(chunks, saying=Saying(f"Page 3 subject3 says {EMAIL} [1]."), guardrails=policy))
    for number, question in enumerate(
        (f"Who is {EMAIL} with {CARD}?", f"Is {KEY} mine?", "Where is the-canary-string?")
    ):
        ask(running, question, f"r{number}")
    written = b"".join(path.read_bytes() for path in lab.folder.rglob("*.parquet"))
    rows = [str(logged(lab, f"r{number}")) for number in range(3)]
    for canary in (EMAIL, CARD, KEY, "the-canary-string"):
        assert canary not in "".join(rows), canary
        assert canary.encode() not in written, canary
    assert "[email]" in rows[0]
    assert canary not in str(running.observer.events) + str(running.observer.requests)


def test_a_text_that_cannot_be_looked_at_is_not_kept_and_holds_up_no_other(lab, serve):
    running = serve(lab.config())

    def fails(text):
        raise RuntimeError("a detector's bug")

    running.service.log._sink = answer_sink(lab.folder, fails)
    ask(running, "What does page 3 tell about subject3?")
    row = logged(lab, "r1")
    assert (row["question"], row["answer"]) == ("[could not be redacted]",) * 2
    assert row["release"] == lab.digest


def test_a_full_disk_stops_no_answer_and_loses_none(lab, serve, monkeypatch):
    running = serve(lab.config())
    import pyarrow.parquet as pq

    def refuse(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", refuse)
    answer = running.call("POST", "/ask", {"question": "What is page 3?"}, {"x-request-id": "r1"})
    assert answer.status == 200
    assert running.call("POST", "/answers-log/flush").status == 503
    assert "answer log cannot be written" in running.call("GET", "/readyz").json["warnings"][0]
    monkeypatch.undo()
    assert running.call("POST", "/answers-log/flush").json["written"] == 1
    assert logged(lab, "r1")


def test_steps_are_milliseconds_and_the_first_sentence_is_counted_from_the_start():
    marks = [("start", 0), ("question", 1_000_000), ("sources", 4_000_000), ("first", 6_000_000), ("chat", 9_000_000)]
    assert steps(marks) == {"question": 1.0, "sources": 3.0, "first": 6.0, "chat": 5.0}
    assert steps([]) == {}


# The way back ----------------------------------------------------------------------------------------------------


@pytest.fixture
def ledger(tmp_path):
    made = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    made.releases(PRODUCT)
    return made


def test_a_trace_walks_from_the_answer_to_whoever_promoted_it(lab, serve, ledger):
    config = lab.config()
    running = serve(config)
    made = manifest(made=config)
    twice = made.model_copy(update={"verdicts": made.verdicts * 2})  # gates of one kind are still two
    digest = ledger.register_release(twice, "maker")
    ledger.promote(PRODUCT, digest, expected_generation=0, actor="boss", reason="it is better")
    lab.source.wanted = type(lab.source.wanted)(1, 0, lab.digest)
    told = ask(running, "What does page 3 tell about subject3?")
    path = next((lab.folder / FOLDER).rglob("*.parquet"))
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(path, partitioning=None)  # as a service of that ledger's release would have logged it
    place = table.column_names.index("release")
    pq.write_table(table.set_column(place, "release", pa.array([digest])), path)

    found = trace("r1", {PRODUCT: lab.folder}, ledger)
    assert found["answer"] == told["answer"]
    release = found["release"]
    assert (release["digest"], release["made_by"], release["decision"]["actor"]) == (digest, "maker", "boss")
    assert release["decision"]["reason"] == "it is better"
    assert release["gates"] == [{"gate": "retrieval", "passed": True}] * 2
    assert found["index"]["build"] == config.index.build
    assert [hit["cited_as"] for hit in found["retrieved"]].count(1) == 1
    (cited,) = [document for document in found["documents"] if document["cited"]]
    assert cited["document"] == "docs/page-3.md"
    assert cited["version"] == told["citations"][0]["version"]
    assert {prompt["name"] for prompt in found["prompts"]} == {"answer", "source"}
    assert all(len(prompt["sha256"]) == 64 for prompt in found["prompts"])
    assert found["guardrails"]["policy"] == config.guardrails.digest
    assert found["cost"]["prompt_tokens"] > 0
    json.dumps(found)


def test_an_answer_of_another_ledger_is_still_told(lab, serve, ledger):
    ask(serve(lab.config()), "What does page 3 tell about subject3?")
    found = trace("r1", {PRODUCT: lab.folder}, ledger)
    assert found["release"]["known"] is False
    assert found["documents"]


def test_an_id_that_no_answer_has_is_not_found(lab, serve, ledger):
    ask(serve(lab.config()), "What does page 3 tell about subject3?")
    with pytest.raises(NotFound):
        trace("other", {PRODUCT: lab.folder}, ledger)


def test_a_damaged_file_of_the_log_hides_no_other(lab, serve, ledger):
    ask(serve(lab.config()), "What does page 3 tell about subject3?")
    folder = next((lab.folder / FOLDER).glob("date=*"))
    (folder / "part-99999999999999999999-1-1.parquet").write_bytes(b"damaged")
    assert trace("r1", {PRODUCT: lab.folder}, ledger)["request_id"] == "r1"
