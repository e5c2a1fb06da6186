import asyncio
from contextlib import aclosing

import pytest
from hypothesis import given, seed
from hypothesis import strategies as st

from plinth.core.answers import Usage
from plinth.core.assistants import Endpoint
from plinth.errors import RefusedByPolicy, Unavailable
from plinth.generation.budget import (
    Budget,
    BudgetedGenerator,
    cost_of,
    estimate_prompt,
    estimate_tokens,
    named,
    token_weight,
)
from plinth.generation.port import Message, Piece, Request

PRICED = Endpoint(price_prompt=100.0, price_completion=1000.0)
REQUEST = Request((Message("user", "a question of some words"),), 100)
MOST = cost_of(PRICED, estimate_prompt(REQUEST.messages), REQUEST.max_tokens)


class Scripted:
    """Says so many words, a piece each, and counts those it was asked for."""

    name = "scripted"

    def __init__(self, words, usage=None, failure=None):
        self.words, self.usage, self.failure = words, usage, failure
        self.said = 0
        self.closed = False

    async def stream(self, request):
        try:
            for _ in range(self.words):
                self.said += 1
                yield Piece("word ")
                await asyncio.sleep(0)
            if self.failure:
                raise self.failure
            yield Piece("", self.usage or Usage(7, self.words, 0.05), self.name)
        finally:
            self.closed = True


def collect(generator, request=REQUEST):
    async def run():
        return [piece async for piece in generator.stream(request)]

    return asyncio.run(run())


@seed(20261123)
@given(st.lists(st.text()))
def test_the_weights_of_pieces_add_up_to_that_of_the_whole(pieces):
    assert sum(map(token_weight, pieces)) == pytest.approx(token_weight("".join(pieces)))


def test_estimates_are_near_what_tokenizers_count():
    english = "The controller moves a rollout on when its gates have seen enough evidence, and takes it back when not."
    assert 19 <= estimate_tokens(english) <= 30  # 20 words; today's tokenizers give 20 to 23
    assert estimate_tokens("控制器在证据足够时推进发布") == 13
    assert estimate_tokens("") == 0


@seed(20261123)
@given(st.integers(0, 10**6), st.integers(0, 10**6), st.floats(0, 1e3), st.floats(0, 1e3))
def test_cost_is_tokens_at_their_prices(prompt, completion, price_prompt, price_completion):
    endpoint = Endpoint(price_prompt=price_prompt, price_completion=price_completion)
    expected = prompt * price_prompt / 1e6 + completion * price_completion / 1e6
    assert cost_of(endpoint, prompt, completion) == pytest.approx(expected)


@seed(20261123)
@given(st.floats(0, 100), st.lists(st.tuples(st.floats(0, 10), st.floats(0, 1)), max_size=50))
def test_calls_that_cost_no_more_than_they_reserved_never_overspend(limit, calls):
    budget, open_calls = Budget(limit), []
    for amount, share in calls:
        try:
            budget.reserve(amount)
        except RefusedByPolicy:
            continue
        open_calls.append((amount, share * amount))
    for amount, spent in open_calls:
        budget.settle(amount, spent)
    assert budget.spent <= limit * (1 + 1e-9)


def test_a_settled_call_gives_back_what_it_did_not_spend():
    budget = Budget(1.0)
    budget.reserve(1.0)
    with pytest.raises(RefusedByPolicy):
        budget.reserve(0.1)
    budget.settle(1.0, 0.25)
    budget.reserve(0.75)
    with pytest.raises(RefusedByPolicy, match="0 of 1 is left"):
        budget.reserve(0.01)


def test_what_may_cost_too_much_is_refused_before_it_begins():
    inner = Scripted(3)
    with pytest.raises(RefusedByPolicy, match="may cost"):
        collect(BudgetedGenerator(inner, PRICED, MOST * 0.99))
    assert inner.said == 0
    assert len(collect(BudgetedGenerator(inner, PRICED, MOST))) == 4


def test_without_prices_nothing_is_refused():
    assert len(collect(BudgetedGenerator(Scripted(3), Endpoint(), 0.0))) == 4


def test_a_model_that_ignores_its_limit_is_stopped_at_the_cap():
    inner = Scripted(100_000)
    *_, last = collect(BudgetedGenerator(inner, PRICED, MOST * 1.5))
    assert last.usage.estimated
    assert last.usage.cost == pytest.approx(MOST * 1.5, rel=0.02)
    assert inner.closed
    assert inner.said < 200


def test_fifty_calls_at_once_never_spend_more_than_the_budget():
    budget = Budget(3.5 * MOST)
    cost = MOST * 0.9

    async def run():
        async def one():
            generator = BudgetedGenerator(Scripted(5, Usage(1, 1, cost)), PRICED, None, budget)
            return [piece async for piece in generator.stream(REQUEST)]

        return await asyncio.gather(*(one() for _ in range(50)), return_exceptions=True)

    ended = asyncio.run(run())
    refused = [each for each in ended if isinstance(each, RefusedByPolicy)]
    assert len(refused) == 47
    assert budget.spent == pytest.approx(3 * cost)
    assert budget.spent <= budget.limit


def test_a_call_that_fails_or_is_left_gives_its_reservation_back():
    budget = Budget(MOST)
    with pytest.raises(Unavailable):
        collect(BudgetedGenerator(Scripted(2, failure=Unavailable("gone")), PRICED, None, budget))
    spent = budget.spent
    assert 0 < spent < MOST / 2

    budget = Budget(MOST)

    async def leave():
        async with aclosing(BudgetedGenerator(Scripted(9), PRICED, None, budget).stream(REQUEST)) as pieces:
            await anext(pieces)

    asyncio.run(leave())
    assert 0 < budget.spent < MOST / 2
    budget.reserve(MOST - budget.spent)


def test_the_last_piece_says_who_generated():
    assert named(Piece("", Usage()), "small").model == "small"
    assert named(Piece("", Usage(), "other"), "small").model == "other"
    assert named(Piece("text"), "small").model == ""
