"""The shadow scores what was answered, and nobody notices."""

import threading
import time

import numpy as np
import pytest

from plinth.core.routes import Route


def ask(running, ids, **headers):
    return running.call("POST", "/predict", {"rows": [{"id": name, "x": 0.0} for name in ids]}, headers or None)


def shadows(running, count, seconds=5):
    """The shadow's records, when there are as many."""
    deadline = time.monotonic() + seconds
    while True:
        running.service.requests.flush()
        found = [record for record in running.requests.entries if record.arm == "shadow"]
        if len(found) >= count or time.monotonic() > deadline:
            return found
        time.sleep(0.01)


def test_every_answer_is_the_serving_releases_and_the_candidates_scores_are_on_record(running, roll_out, bundle):
    route = roll_out(bundle(1.0), weight=0, shadow=True)
    answer = ask(running, ["a", "unknown"], **{"x-request-id": "seen"}).json
    assert answer["release"] == route.serving
    assert not any("release" in row for row in answer["predictions"])
    (record,) = shadows(running, 1)
    assert (record.request_id, record.generation, record.step, record.code) == ("seen", 2, 1, 200)
    assert (record.release, list(record.entity_ids)) == (route.candidate, ["a", "unknown"])
    assert record.scores.tolist() == pytest.approx([0.8807971, 0.7310586])  # sigmoid(1 + 1), sigmoid(1)
    assert (record.rows, record.defaulted) == (2, 1)
    assert {item["arm"] for item in running.observer.arms} == {"serving", "shadow"}
    running.service.log.flush()
    assert [entry.release for entry in running.sink.entries] == [route.serving], "the inference log has answers only"


def test_only_what_the_candidate_did_not_answer_is_shadowed(running, roll_out, bundle):
    route = roll_out(bundle(1.0), weight=5000, shadow=True)
    ids = [f"e{i}" for i in range(16)]
    rest = [name for name, ours in zip(ids, route.to_candidate(ids), strict=True) if not ours]
    assert ask(running, ids).status == 200
    (record,) = shadows(running, 1)
    assert list(record.entity_ids) == rest


@pytest.mark.parametrize("score", [lambda matrix: 1 / 0, lambda matrix: np.full(len(matrix), np.nan)])
def test_a_shadow_that_fails_is_recorded_and_said_once(running, roll_out, bundle, score):
    route = roll_out(bundle(1.0), weight=0, shadow=True)
    broken = type("Broken", (), {"score": staticmethod(score)})()
    object.__setattr__(running.service.releases.routing.candidate, "scorer", broken)
    for _ in range(3):
        assert ask(running, ["a"]).status == 200
    found = shadows(running, 3)
    assert [(record.code, record.rows, len(record.scores), len(record.entity_ids)) for record in found] == [
        (500, 1, 0, 0)
    ] * 3
    assert [item["failed"] for item in running.observer.arms if item["arm"] == "shadow"] == [True] * 3
    assert [name for name, _ in running.observer.events].count("the shadow failed") == 1
    assert {record.release for record in found} == {route.candidate}


def test_of_requests_that_are_scored_together_only_the_bad_one_fails(running, roll_out, bundle):
    roll_out(bundle(1.0), weight=0, shadow=True)
    runs = []

    def score(matrix):
        runs.append(len(matrix))
        return np.where(matrix[:, 2] > 100, np.nan, matrix[:, 2] / 8)

    scorer = type("Picky", (), {"score": staticmethod(score)})()
    object.__setattr__(running.service.releases.routing.candidate, "scorer", scorer)
    routing = running.service.releases.routing
    for i, x in enumerate([1, 1000, 2, 3]):
        body = '{"rows": [' + ", ".join([f'{{"id": "a", "x": {x}}}'] * (i + 1)) + "]}"
        running.service.shadow.offer(routing, str(i), running.service._product.parse(body.encode()))
    found = {record.request_id: (record.code, record.scores.tolist()) for record in shadows(running, 4)}
    assert found == {"0": (200, [0.125]), "1": (500, []), "2": (200, [0.25] * 3), "3": (200, [0.375] * 4)}
    assert runs == [10, 1, 2, 3, 4]


def test_a_shadow_that_hangs_is_ended_and_answers_do_not_wait(running, roll_out, bundle, make_hanging_model):
    roll_out(bundle(model=make_hanging_model(3)), weight=0, shadow=True)
    running.service.shadow._deadline._seconds = 0.2
    started = time.monotonic()
    assert all(ask(running, ["a"]).status == 200 for _ in range(10))
    assert time.monotonic() - started < 2
    assert [record.code for record in shadows(running, 10)] == [500] * 10


def test_what_does_not_fit_the_queue_is_dropped_and_counted(running, roll_out, bundle):
    roll_out(bundle(1.0), weight=0, shadow=True)
    shadow, going = running.service.shadow, threading.Event()
    held = running.service.releases.routing.candidate.scorer.score
    slow = type("Slow", (), {"score": lambda self, matrix: going.wait(10) and held(matrix), "stop": lambda self: None})
    object.__setattr__(running.service.releases.routing.candidate, "scorer", slow())
    shadow._capacity = 3
    assert ask(running, ["a"]).status == 200
    until = time.monotonic() + 5
    while shadow._queue.qsize() and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.1)  # it is being scored now
    for _ in range(19):
        assert ask(running, ["a"]).status == 200
    dropped = running.service.stats()["shadow_dropped"]
    going.set()
    assert dropped == 16, "one is scored, three wait"
    assert len(shadows(running, 20 - dropped)) == 20 - dropped


def test_a_candidate_that_was_withdrawn_is_not_asked_any_more(running, roll_out, bundle):
    route = roll_out(bundle(1.0), weight=0, shadow=True)
    routing = running.service.releases.routing
    instances = running.service._product.parse(b'{"rows": [{"id": "a", "x": 0}]}')
    running.source.wanted = Route(3, 0, route.serving)
    running.service.releases.poll()
    running.service.shadow.offer(routing, "late", instances)
    roll_out_again = Route(4, 1, route.serving, route.candidate, 0, True)
    running.source.wanted = roll_out_again
    time.sleep(0.1)
    running.service.releases.poll()
    ask(running, ["a"])
    assert [record.generation for record in shadows(running, 1)] == [4]


def test_a_locked_store_is_waited_for_and_is_no_evidence(running, roll_out, bundle, monkeypatch):
    roll_out(bundle(1.0), weight=0, shadow=True)
    routing = running.service.releases.routing
    instances = running.service._product.parse(b'{"rows": [{"id": "a", "x": 0}]}')
    running.reader.locked_reads = 2
    running.service.shadow.offer(routing, "waits", instances)
    (record,) = shadows(running, 1)
    assert (record.request_id, record.code) == ("waits", 200)
    running.reader.locked_reads = 10_000
    running.service.shadow.offer(routing, "lost", instances)
    deadline = time.monotonic() + 5
    while not running.service.shadow.dropped and time.monotonic() < deadline:
        time.sleep(0.02)
    running.reader.locked_reads = 0
    assert running.service.shadow.dropped == 1
    assert len(shadows(running, 2, seconds=0.1)) == 1
