"""What a request may cost: estimated and set aside before it runs, watched while it runs, settled when it ends.

Nothing here is billed: cost is tokens at the prices that the product's owner wrote down.
"""

from __future__ import annotations

import math
import threading
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from plinth.core.answers import Usage
from plinth.errors import RefusedByPolicy
from plinth.generation.port import Generator, Message, Piece, Request

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from plinth.core.assistants import Endpoint

_MESSAGE_TOKENS = 4  # what a chat format adds around a message


def token_weight(text: str) -> float:
    """Tokens of a text, without its tokenizer: a quarter of its characters (1.3 to 1.4 a word of English), and each
    character beyond ASCII as one (languages without spaces). The weights of pieces add up to that of the whole."""
    beyond = 0 if text.isascii() else sum(character > "\x7f" for character in text)
    return (len(text) - beyond) / 4 + beyond


def estimate_tokens(text: str) -> int:
    """Tokens of a text, estimated."""
    return math.ceil(token_weight(text))


def estimate_prompt(messages: Iterable[Message]) -> int:
    """Tokens of a prompt, estimated."""
    return sum(estimate_tokens(message.content) + _MESSAGE_TOKENS for message in messages)


def cost_of(endpoint: Endpoint, prompt_tokens: float, completion_tokens: float) -> float:
    """What so many tokens cost at an endpoint's prices, in the budget's currency."""
    return (prompt_tokens * endpoint.price_prompt + completion_tokens * endpoint.price_completion) / 1e6


class Budget:
    """An amount that calls share. What they may cost at most is set aside before they run, so calls at the same time
    never spend the same money twice. Thread-safe.

    Args:
        limit: What all calls together may cost, in the budget's currency.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._spent = 0.0
        self._reserved = 0.0

    @property
    def spent(self) -> float:
        """What the calls that ended have cost."""
        return self._spent

    def reserve(self, amount: float) -> None:
        """Set an amount aside.

        Raises:
            RefusedByPolicy: What is left is less.
        """
        with self._lock:
            left = self.limit - self._spent - self._reserved
            if amount > left:
                raise RefusedByPolicy(
                    f"the answer may cost {amount:.4g}, and {max(left, 0.0):.4g} of {self.limit:.4g} is left",
                    where="budget",
                    hint="ask less at once, lower max_tokens, or raise max_cost in product.yaml",
                )
            self._reserved += amount

    def settle(self, reserved: float, spent: float) -> None:
        """Give back what was set aside, and keep what it did cost."""
        with self._lock:
            self._reserved -= reserved
            self._spent += spent


class BudgetedGenerator:
    """A generator that never starts what may cost too much, and stops what does.

    Args:
        inner: What generates.
        endpoint: Its prices.
        max_cost: What one request may cost at most; None is no limit of its own.
        budget: What requests share; None where they share nothing.
    """

    def __init__(
        self, inner: Generator, endpoint: Endpoint, max_cost: float | None, budget: Budget | None = None
    ) -> None:
        self.name = inner.name
        self._inner = inner
        self._endpoint = endpoint
        self._max_cost = max_cost
        self._budget = budget

    async def stream(self, request: Request) -> AsyncIterator[Piece]:
        """As Generator.stream. Where the cap is reached, the text ends and the usage is an estimate.

        Raises:
            RefusedByPolicy: It may cost more than allowed: its prompt and `max_tokens`, at the endpoint's prices.
        """
        prompt = estimate_prompt(request.messages)
        most = cost_of(self._endpoint, prompt, request.max_tokens)
        one = Budget(math.inf if self._max_cost is None else self._max_cost)
        one.reserve(most)
        shared = self._budget or Budget(math.inf)
        shared.reserve(most)
        cap = 2 * most if self._max_cost is None else self._max_cost  # an estimate may be off, but not by that much
        spent = generated = 0.0
        try:
            async with aclosing(cast("AsyncGenerator[Piece]", self._inner.stream(request))) as pieces:
                async for piece in pieces:
                    generated += token_weight(piece.text)
                    spent = piece.usage.cost if piece.usage else cost_of(self._endpoint, prompt, generated)
                    if not piece.usage and spent > cap:  # it ignores max_tokens
                        yield Piece("", Usage(prompt, math.ceil(generated), spent, estimated=True), self.name)
                        return
                    yield piece
        finally:
            shared.settle(most, spent)


def named(piece: Piece, name: str) -> Piece:
    """The piece; where it is the last and says not who generated, with this name."""
    return replace(piece, model=name) if piece.usage and not piece.model else piece
