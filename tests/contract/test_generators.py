"""One suite for generation's port, run against every generator."""

import asyncio
from contextlib import aclosing

import pytest

from openai_server import OpenAIServer, Reply
from plinth.core.assistants import Endpoint
from plinth.generation.budget import Budget, BudgetedGenerator
from plinth.generation.extractive import ExtractiveGenerator
from plinth.generation.openai import OpenAIGenerator
from plinth.generation.port import Message, Request
from plinth.generation.resilient import ResilientGenerator

PROMPT = """<source id="1">
<title>Ports</title>
The service listens on port 3002. It answers questions about documents.
</source>
<source id="2">
The service stops when the platform stops. Documents are read every ten minutes.
</source>
<question>Which port does the service listen on?</question>"""
REQUEST = Request((Message("system", "Answer from the sources."), Message("user", PROMPT)), 100)
KINDS = ["extractive", "openai", "resilient", "budgeted"]


@pytest.fixture(params=KINDS)
def generator(request):
    if request.param == "extractive":
        yield ExtractiveGenerator()
        return
    with OpenAIServer(Reply(("The port is ", "3002 [1].", " Yes"))) as server:
        endpoint = Endpoint(
            provider="openai", model="small", base_url=server.url, price_prompt=1.0, price_completion=2.0
        )
        made = OpenAIGenerator(endpoint, "key", 20.0, 1)
        if request.param == "resilient":
            yield ResilientGenerator(made, ExtractiveGenerator(), timeout=20.0)
        elif request.param == "budgeted":
            yield BudgetedGenerator(made, endpoint, 0.01, Budget(1.0))
        else:
            yield made


def collect(generator, request=REQUEST):
    async def run():
        return [piece async for piece in generator.stream(request)]

    return asyncio.run(run())


def test_the_text_comes_in_pieces_and_the_last_one_has_usage_and_the_models_name(generator):
    *pieces, last = collect(generator)
    assert "3002" in "".join(piece.text for piece in pieces)
    assert all(piece.text and piece.usage is None for piece in pieces)
    assert last.usage.prompt_tokens > 0
    assert last.usage.completion_tokens > 0
    assert last.usage.cost >= 0
    assert last.model == generator.name


def test_the_same_request_gives_the_same_answer(generator):
    assert collect(generator) == collect(generator)


def test_closing_the_iterator_ends_the_generation(generator):
    async def run():
        async with aclosing(generator.stream(REQUEST)) as pieces:
            first = await anext(pieces)
        with pytest.raises(StopAsyncIteration):
            await anext(pieces)
        return first

    assert asyncio.run(run()).text


def test_requests_at_the_same_time_do_not_mix(generator):
    async def run():
        async def one():
            return [piece.text async for piece in generator.stream(REQUEST)]

        return await asyncio.gather(*(one() for _ in range(8)))

    answers = asyncio.run(run())
    assert answers == [answers[0]] * 8


def test_a_generator_works_in_one_event_loop_after_another(generator):
    assert [len(collect(generator)) for _ in range(3)] == [len(collect(generator))] * 3
