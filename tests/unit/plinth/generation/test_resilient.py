import asyncio
from contextlib import aclosing

import pytest
from hypothesis import given, seed
from hypothesis import strategies as st

from plinth.core.answers import Usage
from plinth.errors import InvalidInput, RefusedByPolicy, Unavailable
from plinth.generation.port import Message, Piece, Request
from plinth.generation.resilient import Breaker, ResilientGenerator

REQUEST = Request((Message("user", "q"),), 10)


class Scripted:
    """Says the texts; an exception among them is raised, "hang" never comes back."""

    def __init__(self, name, *texts):
        self.name, self.texts = name, texts
        self.asked = self.closed = 0

    async def stream(self, request):
        self.asked += 1
        try:
            for text in self.texts:
                if isinstance(text, Exception):
                    raise text
                if text == "hang":
                    await asyncio.Event().wait()
                yield Piece(text)
            yield Piece("", Usage(1, 1))
        finally:
            self.closed += 1


def collect(generator):
    async def run():
        return [piece async for piece in generator.stream(REQUEST)]

    return asyncio.run(run())


def test_the_primary_answers_and_is_named():
    fallback = Scripted("second", "b")
    pieces = collect(ResilientGenerator(Scripted("first", "a"), fallback, timeout=5))
    assert [piece.text for piece in pieces] == ["a", ""]
    assert pieces[-1].model == "first"
    assert fallback.asked == 0


def test_the_fallback_is_named_where_it_answered():
    primary = Scripted("first", Unavailable("down"))
    pieces = collect(ResilientGenerator(primary, Scripted("second", "b"), timeout=5))
    assert [piece.text for piece in pieces] == ["b", ""]
    assert pieces[-1].model == "second"
    assert primary.closed == 1


def test_where_both_fail_the_first_failure_is_the_cause():
    generator = ResilientGenerator(
        Scripted("first", Unavailable("one")), Scripted("second", Unavailable("two")), timeout=5
    )
    with pytest.raises(Unavailable, match="two") as caught:
        collect(generator)
    assert "one" in str(caught.value.__cause__)


@pytest.mark.parametrize("failure", [InvalidInput("too long"), RefusedByPolicy("too dear")])
def test_a_refusal_is_passed_on_and_counts_as_an_answer(failure):
    fallback = Scripted("second", "b")
    generator = ResilientGenerator(Scripted("first", failure), fallback, timeout=5, failures=1)
    for _ in range(2):
        with pytest.raises(type(failure)):
            collect(generator)
    assert generator.breaker.state == "closed"
    assert fallback.asked == 0


def test_who_leaves_neither_opens_nor_closes_the_breaker():
    primary = Scripted("first", "a", "b")
    generator = ResilientGenerator(primary, timeout=5, failures=1)

    async def leave():
        async with aclosing(generator.stream(REQUEST)) as pieces:
            await anext(pieces)

    asyncio.run(leave())
    assert generator.breaker.state == "closed"
    assert primary.closed == 1


def test_whoever_hangs_is_closed_at_the_deadline():
    primary = Scripted("first", "a", "hang")
    with pytest.raises(Unavailable, match="did not end its answer in time"):
        collect(ResilientGenerator(primary, timeout=0.05))
    assert primary.closed == 1


def test_one_call_tries_a_cooled_down_breaker():
    now = [0.0]
    breaker = Breaker(2, 10.0, lambda: now[0])
    for _ in range(2):
        assert breaker.allows()
        breaker.ended(succeeded=False)
    assert breaker.state == "open"
    assert not breaker.allows()
    now[0] = 10.0
    assert breaker.state == "half-open"
    assert breaker.allows()
    assert not breaker.allows(), "one at a time"
    breaker.ended(succeeded=None)
    assert breaker.allows(), "who left did not find out"
    breaker.ended(succeeded=True)
    assert breaker.state == "closed"


@seed(20261123)
@given(st.lists(st.sampled_from([True, False]), max_size=60), st.integers(1, 5))
def test_it_is_open_exactly_after_so_many_failures_in_a_row(outcomes, limit):
    breaker = Breaker(limit, 1e9, lambda: 0.0)
    row = 0
    for outcome in outcomes:
        assert breaker.allows() == (row < limit)
        if row >= limit:
            break
        breaker.ended(succeeded=outcome)
        row = 0 if outcome else row + 1
