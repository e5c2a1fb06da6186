"""Endpoints that hang, fail, lie and stop in the middle."""

import asyncio
from contextlib import aclosing

import pytest

from openai_server import OpenAIServer, Reply
from plinth.core.assistants import Endpoint
from plinth.errors import InvalidInput, Unavailable
from plinth.generation.extractive import ExtractiveGenerator
from plinth.generation.openai import OpenAIGenerator
from plinth.generation.port import Message, Request
from plinth.generation.resilient import ResilientGenerator
from plinth.retrieval.openai import OpenAIEmbedder

CANARY = "canary-7c1f0e"
PROMPT = f'<source id="1">The port of the service is 3002 {CANARY}.</source><question>Which port is it?</question>'
REQUEST = Request((Message("user", PROMPT),), 50)


@pytest.fixture
def server():
    with OpenAIServer() as server:
        yield server


@pytest.fixture
def make(server):
    def generator(timeout=10.0, retries=0, **changes):
        endpoint = {"provider": "openai", "model": "small", "base_url": server.url, "api_key_env": "A_KEY", **changes}
        return OpenAIGenerator(Endpoint(**endpoint), "secret-key", timeout, retries)

    return generator


def collect(generator, request=REQUEST):
    async def run():
        return [piece async for piece in generator.stream(request)]

    return asyncio.run(run())


def texts_until_failure(generator, kind=Unavailable):
    async def run():
        said = []
        try:
            async for piece in generator.stream(REQUEST):
                said.append(piece.text)  # noqa: PERF401  (what was said before the failure is wanted)
        except kind as error:
            return said, error
        pytest.fail(f"nothing was raised after {said}")

    return asyncio.run(run())


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_what_is_for_a_model_on_this_machine_does_not_pass_a_proxy_of_the_environment(server, make, monkeypatch, host):
    with OpenAIServer() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        url = server.url.replace("127.0.0.1", host)
        collect(make(base_url=url))
        OpenAIEmbedder("small", url, "secret-key").embed_query("Which port is it?")
        assert not proxy.asked
    assert {asked.path for asked in server.asked} == {"/v1/chat/completions", "/v1/embeddings"}


def test_an_upstream_that_never_answers_meets_the_deadline(server, make):
    server.script(Reply(wait=60))
    said, error = texts_until_failure(make(timeout=0.3))
    assert said == []
    assert "0.3 s" in error.what


def test_an_upstream_that_falls_silent_in_the_middle_meets_the_deadline(server, make):
    server.script(Reply(("The port ", "is 3002"), hang=1))
    said, error = texts_until_failure(make(timeout=0.5))
    assert said == ["The port "]
    assert "0.5 s" in error.what


def test_an_upstream_that_is_never_silent_and_never_done_meets_the_deadline(server, make):
    server.script(Reply(("word ",) * 10_000, between=0.02))
    said, _ = texts_until_failure(make(timeout=0.5))
    assert 1 <= len(said) < 10_000


def test_a_stream_that_is_cut_is_no_answer(server, make):
    server.script(Reply(("The port ", "is 3002."), cut=1))
    said, error = texts_until_failure(make(retries=2))
    assert said == ["The port "]
    assert len(server.asked) == 1, "what has begun is not tried again"
    assert error.where == server.url


def test_a_stream_that_ends_in_good_order_but_too_early_is_no_answer(server, make):
    server.script(Reply(("The port ",), finish=None, usage=None, done=False))
    said, error = texts_until_failure(make())
    assert said == ["The port "]
    assert "in the middle" in error.what


def test_failures_are_tried_again_before_the_first_piece(server, make):
    again = {"Retry-After-Ms": "1"}
    server.script(Reply(status=500, headers=again), Reply(status=429, headers=again), Reply())
    assert collect(make(retries=2))[0].text == "Yes"
    assert len(server.asked) == 3


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_an_overloaded_or_broken_endpoint_is_unavailable(server, make, status):
    server.script(Reply(("no",), status=status))
    _, error = texts_until_failure(make())
    assert str(status) in error.what


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key_names_the_variable_and_never_the_key(server, make, status):
    server.script(Reply(("Incorrect API key provided: secret-key",), status=status))
    _, error = texts_until_failure(make())
    assert "A_KEY" in error.hint
    assert "secret-key" not in str(error)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_request_is_the_callers_and_its_text_stays_out_of_the_error(server, make, status):
    server.script(Reply((f"too long: {PROMPT}",), status=status))
    _, error = texts_until_failure(make(retries=3), InvalidInput)
    assert CANARY not in str(error)
    assert error.__cause__ is None
    assert len(server.asked) == 1


def test_a_model_that_the_endpoint_does_not_know_is_unavailable(server, make):
    server.script(Reply(("model not found",), status=404))
    _, error = texts_until_failure(make())
    assert "small" in error.what


def test_nobody_listening_is_unavailable(make):
    with OpenAIServer() as gone:
        url = gone.url
    said, error = texts_until_failure(make(base_url=url))
    assert said == []
    assert error.where == url


def test_what_is_no_json_is_unavailable(server, make):
    server.script(Reply(extra=("data: <html>proxy</html>\n\n",)))
    _, error = texts_until_failure(make())
    assert "OpenAI-compatible" in error.what


def test_an_error_in_the_middle_of_a_stream_is_unavailable(server, make):
    server.script(Reply(extra=('data: {"error": {"message": "out of memory", "code": "oom"}}\n\n',)))
    _, error = texts_until_failure(make())
    assert "(oom)" in error.what


def test_a_redirect_is_not_followed(server, make):
    with OpenAIServer() as other:
        server.script(Reply(status=307, headers={"Location": f"{other.url}/chat/completions"}))
        texts_until_failure(make())
        assert other.asked == []


def test_small_differences_of_servers_do_no_harm(server, make):
    comment = ": keep-alive\n\n"
    without_choices = (
        'data: {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": []}\n\n'
    )
    server.script(Reply(("Yes", "", "."), extra=(comment, without_choices), done=False, usage=None, finish="length"))
    *pieces, last = collect(make())
    assert [piece.text for piece in pieces] == ["Yes", "."]
    assert last.usage.estimated
    assert last.usage.completion_tokens > 0


def test_a_model_that_ignores_max_tokens_is_stopped(server, make):
    server.script(Reply(("x" * 100,) * 1000))
    pieces = collect(make())
    assert len(pieces) < 20
    assert pieces[-1].usage.estimated


def test_whoever_leaves_closes_the_connection(server, make):
    server.script(Reply(("word ",) * 2000, between=0.005))
    generator = make()

    async def leave():
        async with aclosing(generator.stream(REQUEST)) as pieces:
            await anext(pieces)
        for _ in range(500):
            if server.left:
                return
            await asyncio.sleep(0.01)

    asyncio.run(leave())
    assert server.left == 1


def test_a_cancelled_request_closes_the_connection(server, make):
    server.script(Reply(("word ",) * 2000, between=0.005))
    generator = make()

    async def run():
        async def read():
            async for _ in generator.stream(REQUEST):
                begun.set()

        begun = asyncio.Event()
        task = asyncio.create_task(read())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for _ in range(500):
            if server.left:
                return
            await asyncio.sleep(0.01)

    asyncio.run(run())
    assert server.left == 1


def test_the_fallback_answers_where_the_primary_fails_before_its_first_word(server, make):
    server.script(Reply(status=500))
    *pieces, last = collect(ResilientGenerator(make(), ExtractiveGenerator(), timeout=5.0))
    assert "3002" in pieces[0].text
    assert last.model == "extractive-1"


def test_the_fallback_answers_for_an_upstream_that_hangs(server, make):
    server.script(Reply(wait=60))
    *_, last = collect(ResilientGenerator(make(timeout=30), ExtractiveGenerator(), timeout=1.0))
    assert last.model == "extractive-1"


def test_an_answer_is_never_two_models_words(server, make):
    server.script(Reply(("The port ", "is 3002."), cut=1))
    said, _ = texts_until_failure(ResilientGenerator(make(), ExtractiveGenerator(), timeout=5.0))
    assert said == ["The port "]


def test_the_deadline_holds_over_primary_and_fallback_together(server, make):
    server.script(Reply(wait=60))
    _, error = texts_until_failure(ResilientGenerator(make(timeout=60), make(timeout=60), timeout=0.6))
    assert "has not begun to answer in time" in error.what
    assert len(server.asked) == 2


def test_the_breaker_leaves_a_failing_endpoint_alone_and_tries_it_again(server, make):
    now = [0.0]
    generator = ResilientGenerator(
        make(), ExtractiveGenerator(), timeout=5.0, failures=3, cool_down=30.0, clock=lambda: now[0]
    )
    server.script(Reply(status=500))
    for _ in range(6):
        assert collect(generator)[-1].model == "extractive-1"
    assert len(server.asked) == 3
    assert generator.breaker.state == "open"
    now[0] = 31.0
    assert collect(generator)[-1].model == "extractive-1"  # one tries, and fails
    assert len(server.asked) == 4
    collect(generator)
    assert len(server.asked) == 4
    now[0] = 62.0
    server.script(Reply())
    assert collect(generator)[-1].model == "small"
    assert generator.breaker.state == "closed"


def test_without_a_fallback_an_open_breaker_answers_at_once(server, make):
    generator = ResilientGenerator(make(), timeout=5.0, failures=1)
    server.script(Reply(status=500))
    texts_until_failure(generator)
    _, error = texts_until_failure(generator)
    assert "left alone" in error.what
    assert len(server.asked) == 1


def test_a_refused_request_neither_opens_the_breaker_nor_goes_to_the_fallback(server, make):
    generator = ResilientGenerator(make(), ExtractiveGenerator(), timeout=5.0, failures=1)
    server.script(Reply(status=400))
    for _ in range(3):
        texts_until_failure(generator, InvalidInput)
    assert generator.breaker.state == "closed"
    assert len(server.asked) == 3
