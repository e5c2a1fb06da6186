"""The HTTP face: routes, errors as JSON, limits, foreign senders."""

import asyncio
import json

import pytest

ROW = {"id": "a", "x": 1.0}


def predict(running, body, **headers):
    return running.call("POST", "/predict", body, headers or None)


def test_a_prediction_carries_probability_release_and_request_id(running):
    answer = predict(running, {"rows": [ROW, {"id": "b", "x": 0}]}, **{"x-request-id": "abc-1"})
    assert answer.status == 200
    assert answer.json["request_id"] == answer.headers["x-request-id"] == "abc-1"
    assert answer.json["release"] == running.source.wanted.serving
    assert [row["id"] for row in answer.json["predictions"]] == ["a", "b"]
    assert answer.json["predictions"][0]["probability"] == pytest.approx(0.8175745)  # sigmoid(1 + 0 + 0.5)
    assert answer.json["predictions"][0]["flags"] == answer.json["predictions"][0]["defaulted"] == []


def test_a_missing_feature_row_is_served_by_its_default_and_flagged(running):
    answer = predict(running, {"rows": [{"id": "unknown", "x": 0}]})
    assert answer.status == 200
    assert answer.json["predictions"][0] == {
        "id": "unknown", "probability": 0.5, "flags": ["missing:history"], "defaulted": ["history"],
    }  # fmt: skip
    assert running.observer.defaulted == {"history": 1}


@pytest.mark.parametrize("given", ["bad id", "x" * 65, "a\r\nb", "é", ""])
def test_an_ill_formed_request_id_is_replaced(running, given):
    answer = predict(running, {"rows": [ROW]}, **{"x-request-id": given})
    assert answer.json["request_id"] != given
    assert len(answer.json["request_id"]) == 32


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"rows": [{"id": "a", "x": NaN}]}', "rows[0].x"),
        (b'{"rows": [{"id": "a", "x": 1}, {"id": "a", "x": Infinity}]}', "rows[1].x"),
        (b'{"rows": [{"id": "a", "x": -Infinity}]}', "rows[0].x"),
        (b'{"rows": [{"id": "a", "x": "NaN"}]}', "rows[0].x"),
        (b'{"rows": [{"id": 7, "x": 1}]}', "rows[0].id"),
        (b'{"rows": {}}', "rows"),
        (b'{"rows": []}', "rows"),
        (b"[]", "rows"),
        (b"null", "rows"),
    ],
)
def test_a_value_that_does_not_fit_is_a_422_that_names_the_field(running, body, field):
    answer = predict(running, body)
    assert answer.status == 422
    assert answer.json["error"]["where"] == field
    assert set(answer.json["error"]) == {"kind", "what", "where", "next"}


def test_a_lone_surrogate_is_a_422_never_a_500(running):
    answer = predict(running, b'{"rows": [{"id": "\\ud800", "x": 1}]}')
    assert answer.status == 422


@pytest.mark.parametrize(
    "body", [b"", b"{", b"{'rows': 1}", b'{"rows": [}', b"\xff\xfe", '{"rows": 1}'.encode("utf-16")]
)
def test_broken_json_is_a_400(running, body):
    answer = predict(running, body)
    assert answer.status == 400
    assert answer.json["error"]["where"] == "body"


@pytest.mark.parametrize("depth", [40, 900])
@pytest.mark.parametrize("opened", [b"[", b'{"a":'])
def test_a_deeply_nested_body_is_a_400(running, depth, opened):
    closed = b"]" if opened == b"[" else b"}"
    running.call.app._max_body = 100_000
    answer = predict(running, b'{"rows":' + opened * depth + b"1" + closed * depth + b"}")
    assert answer.status == 400
    assert "nested" in answer.json["error"]["what"]


def test_nesting_far_beyond_the_parser_is_a_400(running):
    running.call.app._max_body = 1_000_000
    answer = predict(running, b'{"rows":' + b"[" * 400_000)
    assert answer.status == 400


def test_an_oversized_body_is_a_413_by_its_declared_length(running):
    answer = running.call("POST", "/predict", b"", {"content-length": "2001"})
    assert answer.status == 413
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("length", ["-1", "1e9", "9" * 30, "x"])
def test_a_strange_content_length_is_a_413(running, length):
    assert running.call("POST", "/predict", b"", {"content-length": length}).status == 413


def test_an_oversized_body_without_a_length_is_read_no_further_than_the_limit(running):
    read = []

    def chunks():
        for i in range(1000):
            read.append(i)
            yield b"x" * 500

    class Counting(list):
        """Hands chunks out one by one and counts."""

        def __init__(self):
            self.source = chunks()

        def __bool__(self):
            return True

        def pop(self, _):
            return next(self.source)

        def __iter__(self):
            return iter(())

    async def ask():
        parts = Counting()
        sent = []

        async def receive():
            return {"type": "http.request", "body": parts.pop(0), "more_body": True}

        async def send(message):
            sent.append(message)

        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/predict", "raw_path": b"/predict", "headers": headers}
        await running.service.app(scope, receive, send)
        return sent[0]["status"]

    assert asyncio.run(ask()) == 413
    assert len(read) <= 5


def test_a_slow_body_is_a_408(running):
    answer = running.call("POST", "/predict", chunks=[b'{"rows":', 0.5, b"[]}"])
    assert answer.status == 408
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize(
    "media", ["application/x-pickle", "application/vnd.bentoml+pickle", "application/octet-stream", "text/plain", None]
)
def test_any_media_type_but_json_is_a_415(running, media):
    answer = predict(running, {"rows": [ROW]}, **{"content-type": media})
    assert answer.status == 415
    assert answer.json["error"]["where"] == "Content-Type"


def test_json_with_a_charset_is_accepted(running):
    assert predict(running, {"rows": [ROW]}, **{"content-type": "application/json; charset=utf-8"}).status == 200


def test_a_compressed_body_is_a_415(running):
    assert predict(running, {"rows": [ROW]}, **{"content-encoding": "gzip"}).status == 415


def test_an_unknown_path_is_a_404_in_json(running):
    answer = running.call("GET", "/nowhere")
    assert answer.status == 404
    assert answer.json["error"]["kind"] == "NotFound"


@pytest.mark.parametrize("path", ["//predict", "/predict/", "/%70redict", "/../predict", "/predict%2f"])
def test_doubled_or_encoded_paths_match_nothing(running, path):
    answer = running.call("POST", "/predict", {"rows": [ROW]}, raw_path=path.encode())
    assert answer.status == 404


def test_a_wrong_method_is_a_405_that_says_which_is_allowed(running):
    answer = running.call("GET", "/predict")
    assert answer.status == 405
    assert answer.headers["allow"] == "POST"
    assert running.call("DELETE", "/healthz").headers["allow"] == "GET"


def test_head_answers_without_a_body(running):
    answer = running.call("HEAD", "/healthz")
    assert (answer.status, answer.text) == (200, b"")


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:3001", "127.0.0.1.evil.example", "", "[::2]:80", None,
        "127.0.0.1:3001.evil.example", "localhost:3001@evil.example", "[::1].evil.example", "[::1",
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/healthz", "/predict", "/metrics", "/"])
def test_a_foreign_host_is_denied_on_every_route(running, host, path):
    assert running.call("GET", path, headers={"host": host}).status == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:3001", "127.0.0.1", "[::1]:3001"])
def test_the_loopbacks_names_are_allowed(running, host):
    assert running.call("GET", "/healthz", headers={"host": host}).status == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "", "http://127.0.0.1.evil.example", "evil", "http://127.0.0.1:x@evil"]
)
def test_a_foreign_origin_is_denied(running, origin):
    assert predict(running, {"rows": [ROW]}, origin=origin).status == 403


def test_the_services_own_origin_is_allowed(running):
    assert predict(running, {"rows": [ROW]}, origin="http://localhost:3001").status == 200


def test_a_websocket_is_denied(running):
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(running.service.app({"type": "websocket"}, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_without_a_release_predictions_are_503_and_say_what_to_do(running):
    running.service.releases.routing = None
    answer = predict(running, {"rows": [ROW]})
    assert answer.status == 503
    assert answer.headers["retry-after"] == "1"


def test_an_unexpected_error_is_a_500_without_its_details_and_logged(running):
    running.reader.read = lambda keys, at: 1 / 0
    answer = predict(running, {"rows": [ROW]})
    assert answer.status == 500
    assert "division" not in answer.text.decode()
    assert [name for name, _ in running.observer.events][-2:] == ["release taken over", "unexpected error"]
    del running.reader.read
    assert predict(running, {"rows": [ROW]}).status == 200


def test_a_locked_store_is_tried_again_without_blocking_other_requests(running):
    running.reader.locked_reads = 3

    async def both():
        slow = asyncio.create_task(running.call.send("POST", "/predict", {"rows": [ROW]}))
        await asyncio.sleep(0)
        health = await running.call.send("GET", "/healthz")
        assert not slow.done()
        return health, await slow

    health, answer = asyncio.run(both())
    assert (health.status, answer.status) == (200, 200)


def test_a_store_that_stays_locked_is_a_503_within_two_seconds(running):
    running.reader.locked_reads = 10_000
    answer = predict(running, {"rows": [ROW]})
    assert answer.status == 503
    assert answer.headers["retry-after"] == "1"
    assert "locked" in answer.json["error"]["what"]
    cost = []
    for _ in range(10):
        left = running.reader.locked_reads
        assert predict(running, {"rows": [ROW]}).status == 503
        cost.append(left - running.reader.locked_reads)
    assert cost[-1] == 1, cost  # whoever comes later is not made to wait for it again


def test_a_request_has_a_deadline_of_its_own_while_others_are_answered(running, monkeypatch):
    # What one release cannot read another may: its answers begin the common patience anew, again and again.
    monkeypatch.setattr("plinth.serving.predictor.Patience.lasts", lambda self, delay: True)
    running.reader.locked_reads = 10_000
    assert predict(running, {"rows": [ROW]}).status == 503


def test_every_request_is_reported_with_its_id_and_steps(running):
    predict(running, {"rows": [ROW]}, **{"x-request-id": "abc", "traceparent": f"00-{'1' * 32}-{'2' * 16}-01"})
    told = running.observer.requests[-1]
    assert (told["path"], told["code"], told["rows"], told["request_id"]) == ("/predict", 200, 1, "abc")
    assert [name for name, _ in told["marks"]] == ["start", "parse", "features", "score", "answer"]
    assert told["traceparent"].startswith("00-1111")


@pytest.mark.parametrize("given", ["", "00-1-2-01", "00-" + "g" * 32 + "-" + "2" * 16 + "-01", "x" * 1000])
def test_an_ill_formed_traceparent_is_ignored(running, given):
    predict(running, {"rows": [ROW]}, traceparent=given)
    assert running.observer.requests[-1]["traceparent"] == ""


def test_the_flush_endpoint_writes_the_inference_log(running):
    predict(running, {"rows": [ROW]}, **{"x-request-id": "flushed"})
    answer = running.call("POST", "/inference-log/flush")
    assert answer.status == 200
    assert answer.json["written"] == 1
    assert running.sink.entries[0].request_id == "flushed"


def test_a_log_that_cannot_be_written_is_a_503_at_flush_and_a_warning_at_readyz(running):
    running.sink.full = True
    predict(running, {"rows": [ROW]})
    assert running.call("POST", "/inference-log/flush").status == 503
    ready = running.call("GET", "/readyz")
    assert ready.status == 200
    assert "No space left" in ready.json["warnings"][0]


def test_random_bytes_never_make_a_500(running):
    import random

    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    good = json.dumps({"rows": [ROW]}).encode()
    for _ in range(500):
        body = bytearray(good)
        for _ in range(dice.randint(1, 6)):
            body[dice.randrange(len(body))] = dice.randrange(256)
        answer = predict(running, bytes(body))
        assert answer.status in {200, 400, 422}, body
