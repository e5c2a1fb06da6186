"""Structured logs: one JSON object a line, ids in, secrets out."""

import io
import json
import logging

import pytest

from plinth.telemetry import logs


@pytest.fixture
def lines():
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    stream = io.StringIO()
    handler = logs.configure("test-service", "INFO", stream)

    def read():
        handler.flush()
        return [json.loads(line) for line in stream.getvalue().splitlines()]

    yield read
    root.removeHandler(handler)
    handler.close()
    for old in before:
        root.addHandler(old)
    root.setLevel(level)


def test_a_line_says_when_who_what_and_what_the_call_adds(lines):
    logging.getLogger("plinth.x").info("release taken over", extra={"release": "abc", "generation": 3})
    (line,) = lines()
    assert line["at"].endswith("Z")
    assert {k: line[k] for k in ("level", "service", "event", "logger", "release", "generation")} == {
        "level": "INFO", "service": "test-service", "event": "release taken over", "logger": "plinth.x",
        "release": "abc", "generation": 3,
    }  # fmt: skip


def test_a_traceback_stays_on_one_line(lines):
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("plinth.x").exception("failed")
    (line,) = lines()
    assert "ValueError: broken" in line["error"]


def test_context_adds_the_run_id_to_every_line_inside(lines):
    with logs.context(run_id="run-1"):
        with logs.context(request_id="r-2"):
            logging.getLogger("a").info("both")
        logging.getLogger("a").info("one")
    logging.getLogger("a").info("none")
    both, one, none = lines()
    assert (both["run_id"], both["request_id"]) == ("run-1", "r-2")
    assert (one["run_id"], "request_id" in one) == ("run-1", False)
    assert "run_id" not in none


@pytest.mark.parametrize(
    "name", ["password", "api_key", "apiKey", "Authorization", "db_passwd", "access_token", "secret"]
)
def test_a_value_under_a_secrets_name_never_reaches_the_output(lines, name):
    logging.getLogger("a").warning("login", extra={name: "canary-string"})
    assert "canary-string" not in json.dumps(lines())


def test_a_password_inside_an_address_is_cut_out(lines):
    logging.getLogger("a").info("at postgresql://user:canary@host/db", extra={"url": "redis://u:canary@h:1/0"})
    logging.getLogger("a").info("at redis://:canary@127.0.0.1:16379/0")
    text = json.dumps(lines())
    assert "canary" not in text
    assert "user:[redacted]@host/db" in text


def test_an_error_is_written_at_once_with_what_came_before(lines):
    stream = io.StringIO()
    handler = logs.BufferedHandler(stream, interval=60)
    handler.setFormatter(logs.JsonFormatter("x"))
    handler.handle(logging.makeLogRecord({"msg": "first", "levelno": logging.INFO}))
    assert stream.getvalue() == ""
    handler.handle(logging.makeLogRecord({"msg": "second", "levelno": logging.ERROR}))
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["first", "second"]
    handler.close()


def test_a_closed_stream_stops_nobody(lines):
    stream = io.StringIO()
    handler = logs.BufferedHandler(stream, interval=60)
    stream.close()
    handler.handle(logging.makeLogRecord({"msg": "lost", "levelno": logging.ERROR}))
    handler.close()


def test_what_json_has_no_word_for_is_shown_as_text(lines):
    logging.getLogger("a").info("odd", extra={"path": object, "bytes": b"x"})
    assert lines()[0]["bytes"] == "b'x'"
