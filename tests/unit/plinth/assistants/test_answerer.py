"""Which release answers a question, what is kept of it as evidence, and the shadow that nobody reads."""

import threading
import time

import pytest

from answering import Lab, Saying
from indexes import corpus
from plinth.core.assistants import Retrieval
from plinth.core.routes import Route
from plinth.errors import Unavailable

TRUE = "Page 3 tells about subject3 and thing21 in words3"
QUESTION = "What does page 3 tell about subject3?"


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


@pytest.fixture
def running(lab):
    lab.serving = lab.promote(lab.config(saying=Saying(f"{TRUE} [1].")))
    running = lab.service()
    yield running
    running.service.stop()


@pytest.fixture
def roll_out(running):
    def roll_out(*pieces, weight=5000, shadow=False, **parts):
        digest = running.lab.roll_out(running.lab.config(saying=Saying(*pieces), **parts), weight, shadow=shadow)
        running.service.releases.poll()
        assert running.service.releases.routing.candidate.digest == digest, running.service.releases.problem
        return digest

    return roll_out


def ask(running, **fields):
    return running.call.post("/ask", {"question": QUESTION, **fields})


def kept(running):
    """The request log's records."""
    running.service.requests.flush()
    return running.requests.entries


def wait_for(condition):
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_without_a_candidate_there_is_no_evidence_to_keep(running):
    assert ask(running).status == 200
    assert kept(running) == []
    assert running.observer.arms == []


def test_a_user_keeps_to_a_release_and_the_share_is_the_routes(running, roll_out):
    candidate = roll_out(f"{TRUE} [1].", weight=3000, retrieval=Retrieval(limit=3))
    route = running.service.releases.routing.route
    by = {}
    for user in [f"user-{i}" for i in range(60)] * 2:
        release = ask(running, user=user).json["release"]
        assert by.setdefault(user, release) == release
    assert {candidate, running.lab.serving} == set(by.values())
    records = kept(running)
    assert len(records) == 120
    assert all(r.arm == ("candidate" if r.release == candidate else "serving") for r in records)
    ids = list({r.entity_ids[0] for r in records})
    assert dict(zip(ids, route.to_candidate(ids), strict=True)) == {
        r.entity_ids[0]: r.arm == "candidate" for r in records
    }


def test_the_session_counts_where_there_is_no_user_and_the_question_where_there_is_neither(running, roll_out):
    roll_out(f"{TRUE} [1].")
    for fields in (
        {"user": "a", "session": "1"},
        {"user": "a", "session": "2"},
        {"session": "a"},
        {"session": "a"},
        {},
        {},
    ):
        ask(running, **fields)
    ids = [record.entity_ids[0] for record in kept(running)]
    assert ids[0] == ids[1]
    assert ids[2] == ids[3]
    assert ids[4] == ids[5]
    assert len(set(ids)) == 3, "a session named like a user is another one"


def test_no_name_of_a_person_stands_in_the_request_log(running, roll_out):
    roll_out(f"{TRUE} [1].")
    ask(running, user="ada.byron@private-mail.net")
    (record,) = kept(running)
    assert "ada" not in str(record)


def test_an_answer_is_one_row_with_its_support_as_the_score(running, roll_out):
    roll_out(f"{TRUE} [1].", weight=10_000)
    ask(running)
    (record,) = kept(running)
    assert (record.arm, record.code, record.rows, record.defaulted, list(record.scores)) == (
        "candidate",
        200,
        1,
        0,
        [1.0],
    )
    assert record.seconds > 0
    (arm,) = running.observer.arms
    assert (arm["arm"], arm["failed"], arm["defaulted"]) == ("candidate", False, 0)


def test_a_guardrail_that_stepped_in_on_the_answer_counts_as_less_than_it_should_be(running, roll_out):
    roll_out(f"{TRUE} [1]. Bananas are yellow [1].", weight=10_000)
    ask(running)
    (record,) = kept(running)
    assert (record.code, record.defaulted) == (200, 1)


def test_a_refusal_is_an_answer_with_a_score_of_nothing(running, roll_out):
    roll_out("Bananas are yellow [1].", weight=10_000)
    assert ask(running).json["refused"] == "unknown"
    (record,) = kept(running)
    assert (record.code, list(record.scores)) == (200, [0.0])


@pytest.mark.parametrize(("error", "code"), [(Unavailable("down"), 503), (RuntimeError("bug"), 500)])
def test_a_candidates_failure_is_the_candidates_alone(running, roll_out, error, code):
    candidate = roll_out(error, weight=10_000)
    assert ask(running).status == code
    (record,) = kept(running)
    assert (record.arm, record.release, record.code, len(record.scores)) == ("candidate", candidate, code, 0)
    assert running.observer.arms[0]["failed"] is True


def test_the_clients_fault_is_nobodys_evidence(running, roll_out):
    roll_out(f"{TRUE} [1].")
    assert running.call.post("/ask", {"question": ""}).status == 422
    assert kept(running) == []


def test_a_generator_that_refuses_the_prompt_is_the_releases_fault_not_the_callers(running, roll_out):
    from plinth.errors import InvalidInput

    roll_out(InvalidInput("too long"), weight=10_000)
    assert ask(running).status == 500
    assert kept(running)[0].code == 500


def test_an_answer_is_of_one_release_though_another_is_promoted_in_the_middle(running):
    lab = running.lab
    gate = threading.Event()

    class Switching(Saying):
        async def stream(self, request):
            lab.promote(lab.config(corpus(5), saying=Saying(f"{TRUE} [1].")))
            running.service.releases.poll()
            gate.set()
            async for piece in super().stream(request):
                yield piece

    first = lab.promote(lab.config(corpus(8), saying=Switching(f"{TRUE} [1].")))
    running.service.releases.poll()
    told = ask(running).json
    assert gate.is_set()
    assert running.service.releases.routing.serving.digest != first
    assert told["release"] == first
    running.service.log.flush()
    assert running.sink.entries[-1].release == first
    assert running.sink.entries[-1].config.index.build == lab.build(corpus(8)).build


def test_a_shadow_answers_everything_and_nobody_reads_it(running, roll_out):
    candidate = roll_out("Shadow words [1].", weight=0, shadow=True)
    told = ask(running).json
    assert told["release"] == running.lab.serving
    wait_for(lambda: len(kept(running)) == 2)
    by_arm = {record.arm: record for record in kept(running)}
    assert by_arm["shadow"].release == candidate
    assert by_arm["shadow"].request_id == by_arm["serving"].request_id == told["request_id"]
    running.service.log.flush()
    assert [entry.release for entry in running.sink.entries] == [running.lab.serving], (
        "only what was answered is logged"
    )


def test_a_shadow_that_fails_is_evidence_and_the_next_question_is_answered_again(running, roll_out):
    roll_out(RuntimeError("bug"), weight=0, shadow=True)
    for user in ("a", "b"):
        assert ask(running, user=user).status == 200
    wait_for(lambda: len(kept(running)) == 4)
    assert [record.code for record in kept(running) if record.arm == "shadow"] == [500, 500]
    assert [name for name, _ in running.observer.events].count("the shadow failed") == 1


def test_a_full_shadow_drops_and_counts_and_no_answer_waits(running, roll_out):
    running.service.shadow._capacity = 0
    roll_out(f"{TRUE} [1].", weight=0, shadow=True)
    assert ask(running).status == 200
    assert running.service.stats()["shadow_dropped"] == 1


def test_a_withdrawn_candidates_questions_are_left(running, roll_out):
    roll_out(f"{TRUE} [1].", weight=0, shadow=True)
    routing = running.service.releases.routing
    running.lab.source.wanted = Route(9, 0, running.lab.serving)
    running.service.releases.poll()
    running.service.shadow.offer(routing, "r", "e", QUESTION, None)
    ask(running)
    assert not [record for record in kept(running) if record.arm == "shadow"]
