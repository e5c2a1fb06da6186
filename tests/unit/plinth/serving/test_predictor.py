"""Who answers: a request is split by entity, and what a candidate does wrong stays with its share."""

import asyncio
import json
import time

import numpy as np
import pytest

from plinth.core.routes import FULL, Route

ROW = {"id": "a", "x": 1.0}
IDS = [f"e{i}" for i in range(12)]


def body(ids, x=0.0):
    return {"rows": [{"id": name, "x": x} for name in ids]}


def predict(running, ids, x=0.0, **headers):
    return running.call("POST", "/predict", body(ids, x), headers or None)


def sides(route, ids=IDS):
    """Ids of the serving release and of the candidate."""
    chosen = route.to_candidate(ids)
    return ([i for i, c in zip(ids, chosen, strict=True) if not c], [i for i, c in zip(ids, chosen, strict=True) if c])


def records(running):
    running.service.requests.flush()
    return running.requests.entries


def test_without_a_rollout_nothing_is_written_down_for_its_gates(running):
    predict(running, IDS)
    assert records(running) == []
    assert running.observer.arms == []


def test_in_a_rollout_one_record_a_request_says_who_answered(running, roll_out, bundle):
    route = roll_out(bundle(1.0), 0)
    predict(running, IDS[:3], **{"x-request-id": "one"})
    (record,) = records(running)
    assert (record.request_id, record.generation, record.step, record.arm, record.code) == ("one", 2, 1, "serving", 200)
    assert (record.release, record.rows, list(record.entity_ids)) == (route.serving, 3, IDS[:3])
    assert record.defaulted == 3
    assert record.scores.tolist() == pytest.approx([0.5] * 3)
    assert 0 < record.seconds < 1
    assert abs(record.clock - time.monotonic()) < 10


def test_an_entity_is_answered_by_the_release_that_the_route_says(running, roll_out, bundle):
    route = roll_out(bundle(1.0))
    serving, candidate = sides(route)
    for name in IDS:
        answer = predict(running, [name]).json
        ours = name in candidate
        assert answer["release"] == (route.candidate if ours else route.serving)
        assert answer["predictions"][0]["probability"] == pytest.approx(0.7310586 if ours else 0.5)
        assert "release" not in answer["predictions"][0]
    assert serving
    assert candidate


def test_a_mixed_answer_keeps_the_order_and_names_the_candidate_where_it_answered(running, roll_out, bundle):
    route = roll_out(bundle(1.0))
    _, candidate = sides(route)
    answer = predict(running, IDS, **{"x-request-id": "mixed"}).json
    assert answer["release"] == route.serving
    assert [row["id"] for row in answer["predictions"]] == IDS
    for row in answer["predictions"]:
        ours = row["id"] in candidate
        assert row.get("release") == (route.candidate if ours else None)
        assert row["probability"] == pytest.approx(0.7310586 if ours else 0.5)
    running.service.log.flush()
    entries = {entry.release: entry for entry in running.sink.entries}
    assert list(entries[route.candidate].entity_ids) == candidate
    assert {entry.request_id for entry in entries.values()} == {"mixed"}
    by_arm = {record.arm: record for record in records(running)}
    assert list(by_arm["candidate"].entity_ids) == candidate
    assert by_arm["candidate"].rows + by_arm["serving"].rows == len(IDS)
    assert {(record.generation, record.step, record.code) for record in by_arm.values()} == {(2, 1, 200)}


def test_a_rows_flags_are_its_own_although_the_candidate_reads_other_views(running, roll_out, bundle):
    views = [{"name": name, "join_keys": ["id"]} for name in ("first", "second")]
    route = roll_out(bundle(1.0, plan={"views": views}))
    candidate = running.service.releases.routing.candidate

    class TwoViews:
        def read(self, keys, at):
            n = len(keys["id"])
            return type("Block", (), {"values": np.zeros((n, 2)), "status": np.tile([0, 2], (n, 1)).astype(np.uint8)})

    candidate._local.reader = TwoViews()  # of this thread, in which the client runs
    for row in predict(running, IDS).json["predictions"]:
        ours = row["id"] in sides(route)[1]
        assert row["flags"] == (["stale:second"] if ours else ["missing:history"])
        assert row["defaulted"] == (["second"] if ours else ["history"])


@pytest.mark.parametrize(("weight", "arm"), [(0, "serving"), (FULL, "candidate")])
def test_nothing_and_everything_are_weights_too(running, roll_out, bundle, weight, arm):
    route = roll_out(bundle(1.0), weight)
    assert predict(running, IDS).json["release"] == getattr(route, arm)
    assert [(record.arm, record.rows) for record in records(running)] == [(arm, len(IDS))]


def test_the_observer_hears_of_each_arm_while_a_candidate_is_routed(running, roll_out, bundle):
    route = roll_out(bundle(1.0))
    predict(running, IDS)
    told = {item["arm"]: item for item in running.observer.arms}
    assert set(told) == {"serving", "candidate"}
    assert told["candidate"]["route"] == route
    assert told["candidate"]["release"] == route.candidate
    assert told["candidate"]["failed"] is False
    assert told["candidate"]["defaulted"] == len(told["candidate"]["scores"]) == len(sides(route)[1])
    assert told["candidate"]["seconds"] > 0


def together(running, bodies):
    """Several requests in one turn of the event loop."""

    async def ask():
        return await asyncio.gather(*(running.call.send("POST", "/predict", item) for item in bodies))

    return asyncio.run(ask())


class Failing:
    """A scorer that raises, or that answers NaN for rows with a large x."""

    features = 3

    def __init__(self, raises):
        self.raises = raises

    def score(self, matrix):
        if self.raises:
            raise RuntimeError("out of order")
        return np.where(matrix[:, 2] > 100, np.nan, 0.25)


@pytest.mark.parametrize("raises", [True, False], ids=["raises", "no number"])
def test_a_candidates_error_fails_only_requests_that_it_had_a_share_in(running, roll_out, bundle, raises):
    route = roll_out(bundle(1.0))
    object.__setattr__(running.service.releases.routing.candidate, "scorer", Failing(raises))
    serving, candidate = sides(route)
    mixed = [serving[0], candidate[0]]
    bodies = [body([serving[0]]), body([candidate[0]], x=1000), body(mixed, x=1000), body([candidate[1]])]
    one, two, three, other = together(running, bodies)
    assert one.status == 200
    assert (two.status, three.status) == (500, 500)
    assert other.status == (500 if raises else 200), "a neighbour with good scores is answered"
    found = sorted((record.arm, record.code) for record in records(running))
    assert found == sorted([("candidate", 500), ("candidate", 500), ("candidate", other.status), ("serving", 200)])
    failed = [record for record in running.requests.entries if record.code == 500]
    assert all(len(record.entity_ids) == len(record.scores) == 0 < record.rows for record in failed)
    assert {record.release for record in failed} == {route.candidate}
    assert [item["arm"] for item in running.observer.arms if item["failed"]] == ["candidate"] * len(failed)
    running.service.log.flush()
    assert len(running.sink.entries) == sum(answer.status == 200 for answer in (one, two, three, other))


def test_a_candidate_that_hangs_is_ended_and_the_serving_release_answers_on(
    running, roll_out, bundle, make_hanging_model
):
    route = roll_out(bundle(model=make_hanging_model(3)))
    running.service._predictor._deadline._seconds = 0.2
    serving, candidate = sides(route)
    started = time.monotonic()
    answers = together(running, [body([name], x=5.0) for name in IDS])
    assert time.monotonic() - started < 2, "one deadline for all that waited, not one each"
    for name, answer in zip(IDS, answers, strict=True):
        assert answer.status == (200 if name in serving else 500)
    assert predict(running, candidate[:1]).status == 500
    running.source.wanted = Route(3, 0, route.serving)
    running.service.releases.poll()
    assert all(predict(running, [name], x=5.0).status == 200 for name in IDS)


def test_what_the_client_sent_wrong_is_no_evidence(running, roll_out, bundle):
    roll_out(bundle(1.0))
    assert running.call("POST", "/predict", b'{"rows": [{"id": 7}]}').status == 422
    assert records(running) == []


def test_a_locked_store_is_written_down_for_whom_it_kept_from_answering(running, roll_out, bundle):
    route = roll_out(bundle(1.0))
    running.reader.locked_reads = 10_000
    assert predict(running, IDS).status == 503
    found = {(record.arm, record.release, record.code) for record in records(running)}
    assert found == {("serving", route.serving, 503), ("candidate", route.candidate, 503)}
    running.reader.locked_reads = 0


def test_a_full_request_log_keeps_its_rows_and_takes_none_of_the_inference_logs(running, roll_out, bundle):
    roll_out(bundle(1.0), 0)
    running.requests.full = True
    predict(running, IDS[:2])
    flushed = running.call("POST", "/inference-log/flush")
    assert flushed.status == 503
    assert "request log" in flushed.json["error"]["what"]
    assert "request log" in running.call("GET", "/readyz").json["warnings"][0]
    predict(running, IDS[:2])
    running.requests.full = False
    flushed = running.call("POST", "/inference-log/flush")
    assert flushed.status == 200
    assert (flushed.json["written"], flushed.json["requests"]["written"]) == (4, 4)
    assert (len(running.sink.entries), len(running.requests.entries)) == (2, 2)


def test_readyz_tells_the_route_and_what_is_loaded(running, roll_out, bundle):
    route = roll_out(bundle(1.0), 2500, step=2, shadow=False)
    ready = running.call("GET", "/readyz").json
    assert ready["route"] == {
        "generation": 2, "step": 2, "serving": route.serving, "candidate": route.candidate, "weight": 2500,
        "shadow": False,
    }  # fmt: skip
    assert ready["loaded"] == [route.serving, route.candidate]
    assert (ready["release"], ready["generation"], ready["warnings"]) == (route.serving, 2, [])
    running.service.releases.routing = None
    ready = running.call("GET", "/readyz").json
    assert (ready["route"], ready["loaded"]) == (None, [])
    json.dumps(ready)


def test_the_scrape_sees_step_and_weight(running, roll_out, bundle):
    assert (running.service.stats()["step"], running.service.stats()["weight"]) == (0, 0)
    roll_out(bundle(1.0), 2500, step=2)
    stats = running.service.stats()
    assert (stats["generation"], stats["step"], stats["weight"], stats["shadow_dropped"]) == (2, 2, 2500, 0)
