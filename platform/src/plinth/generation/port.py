"""Generation's port: messages in, text out, piece by piece."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal, Protocol

from plinth.core.answers import Usage


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Request:
    """What to generate from.

    Attributes:
        messages: The rendered prompt. Sources stand in it as `<source id="1">text</source>`, the question as
            `<question>text</question>`: what a generator knows, it knows from here.
        max_tokens: Tokens to generate at most.
    """

    messages: tuple[Message, ...]
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of the text; the last one has the usage, and the name of the model that generated."""

    text: str
    usage: Usage | None = None
    model: str = ""


class Generator(Protocol):
    """A model that generates."""

    name: str

    def stream(self, request: Request) -> AsyncIterator[Piece]:
        """The text, piece by piece, ending with a piece that has the usage.

        Closing the iterator ends the generation.

        Raises:
            Unavailable: The endpoint does not answer, answers too late, or is being left alone after failures.
            InvalidInput: The endpoint refuses the request.
        """
