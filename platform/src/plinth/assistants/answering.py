"""One answer, without a transport: look at the question, find sources, generate, check every sentence that is shown.

What costs a core runs in threads; the event loop only waits. One release answers the whole of a question.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, MutableSequence, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

from plinth.assistants.loading import LoadedAssistant
from plinth.assistants.sentences import SentenceStream
from plinth.core.answers import UNKNOWN, Answer, Citation, GuardrailHit, Hit, Usage
from plinth.core.corpus import Scope
from plinth.errors import RefusedByPolicy
from plinth.generation.port import Message, Piece, Request
from plinth.generation.templates import SourceText
from plinth.guardrails.port import Guard, Sentence

if TYPE_CHECKING:
    from plinth.retrieval.port import Embedder, Vectors

BLOCKED = "I may not answer that."
"""What is said where a guardrail says no."""

BUDGET = "Answering that would cost more than a question may."
"""What is said where the limit of a request's cost is in the way."""

QUOTE = 300
"""Characters of a chunk that a citation shows."""

SEAM = 100
"""Characters behind them that are looked at too: what is forbidden may be cut in two."""

Marks = MutableSequence[tuple[str, int]]
"""When each step ended, in ns since 1970: start, question, embeddings, retrieval, sources, first, chat."""


@dataclass(slots=True)
class Found:
    """What is known before anything is generated. Without messages there is nothing to generate from.

    Attributes:
        retrieved: What was found, best first.
        sources: Those that the guardrails left; what [1] cites is the first of them.
        messages: The rendered prompt.
        hits: Guardrails that stepped in.
        blocked: Whether the question is not answered.
    """

    retrieved: tuple[Hit, ...] = ()
    sources: tuple[Hit, ...] = ()
    messages: tuple[Message, ...] = ()
    hits: tuple[GuardrailHit, ...] = ()
    blocked: bool = False


@dataclass(slots=True)
class _Said:
    """What was shown so far, and what it took."""

    parts: list[str] = field(default_factory=list)
    sentences: list[Sentence] = field(default_factory=list)
    hits: list[GuardrailHit] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    model: str = ""
    over_budget: bool = False


def find(assistant: LoadedAssistant, question: str, scope: Scope, marks: Marks | None = None) -> Found:
    """Everything before generating: guardrails, retrieval, the prompt. Takes a core for some milliseconds.

    Args:
        assistant: The release that answers.
        question: As it was asked.
        scope: What may be read for it.
        marks: Gets when each step ended.
    """
    marks = [] if marks is None else marks
    looked = assistant.guard.question(question)
    _mark(marks, "question")
    if looked.blocked:
        return Found(hits=looked.hits, blocked=True)
    retrieved = tuple(retrieve(assistant, looked.text, scope, marks=marks))
    kept, hits = assistant.guard.sources(retrieved)
    found = Found(retrieved, tuple(kept), (), (*looked.hits, *hits))
    if kept:
        found.messages = assistant.templates.messages(looked.text, _texts(assistant.guard, kept))
    _mark(marks, "sources")
    return found


def retrieve(
    assistant: LoadedAssistant, question: str, scope: Scope, *, limit: int | None = None, marks: Marks | None = None
) -> list[Hit]:
    """What the release finds for a question, best first, as its retrieval settings say. Guardrails look elsewhere."""
    from plinth.retrieval.search import retrieve as search

    marks = [] if marks is None else marks
    config = assistant.config.retrieval
    if limit is not None:
        config = config.model_copy(update={"limit": limit})
    embedder = cast("Embedder", _Marking(assistant.embedder, marks))
    hits = search(assistant.index, embedder, assistant.sparse, config, question, scope, assistant.reranker)
    _mark(marks, "retrieval")
    return hits


async def answer(
    assistant: LoadedAssistant,
    question: str,
    scope: Scope,
    *,
    stale: Sequence[str] = (),
    marks: Marks | None = None,
    pool: Executor | None = None,
) -> AsyncGenerator[str | Answer]:
    """The answer's text as it is checked, piece by piece, and last the whole of it.

    Args:
        assistant: The release that answers.
        question: As it was asked.
        scope: What may be read for it; made of who asks.
        stale: Sources whose documents may have changed longer ago than their objective allows.
        marks: Gets when each step ended.
        pool: Threads for what costs a core; default the event loop's own.

    Yields:
        Sentences with the white space before them, then the `Answer`: its text is the pieces, joined.

    Raises:
        Unavailable: The generator, its fallback, the embedding model or the vector store cannot be used now.
        InvalidInput: The generator refuses the request.
    """
    marks = [] if marks is None else marks
    marks.append(("start", time.time_ns()))
    found = await asyncio.get_running_loop().run_in_executor(pool, find, assistant, question, scope, marks)
    said = _Said(hits=list(found.hits))
    if found.messages:
        async with aclosing(_say(assistant, found, said, marks, pool)) as parts:
            async for part in parts:
                yield part
        _mark(marks, "chat")
    whole = await asyncio.get_running_loop().run_in_executor(pool, _whole, assistant, found, said, tuple(stale))
    if not said.parts:
        yield whole.text
    yield whole


def ask(assistant: LoadedAssistant, question: str, scope: Scope, *, stale: Sequence[str] = ()) -> Answer:
    """The whole answer at once, also where an event loop runs, as in a notebook. Raises as `answer`."""

    async def last() -> Answer:
        whole: Answer | None = None
        async for part in answer(assistant, question, scope, stale=stale):
            whole = part if isinstance(part, Answer) else whole
        assert whole is not None  # noqa: S101  (it is what `answer` ends with)
        return whole

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(last())
    with ThreadPoolExecutor(1, "plinth-ask") as pool:  # a thread has a loop of its own
        return pool.submit(asyncio.run, last()).result()


async def _say(
    assistant: LoadedAssistant, found: Found, said: _Said, marks: Marks, pool: Executor | None
) -> AsyncGenerator[str]:
    """What may be shown of what the generator says."""
    loop = asyncio.get_running_loop()
    cut = SentenceStream()

    async def shown(pairs: Sequence[tuple[str, str]]) -> AsyncIterator[str]:
        for space, text in pairs:
            sentence, hits = await loop.run_in_executor(pool, assistant.guard.sentence, text, found.sources)
            said.hits += hits
            if sentence is None or sentence.text == UNKNOWN:
                continue
            if not said.parts:
                _mark(marks, "first")
            said.sentences.append(sentence)
            said.parts.append((space if said.parts else "") + sentence.text)
            yield said.parts[-1]

    request = Request(found.messages, assistant.config.generator.max_tokens)
    try:
        async with aclosing(cast("Any", assistant.generator.stream(request))) as pieces:
            async for piece in cast("AsyncIterator[Piece]", pieces):
                if piece.usage is not None:
                    said.usage, said.model = piece.usage, piece.model
                async for part in shown(cut.feed(_readable(piece.text))):
                    yield part
    except RefusedByPolicy as error:
        said.over_budget = True
        said.hits.append(GuardrailHit("budget", "answer", "block", error.what))
    async for part in shown(cut.rest()):
        yield part


def _whole(assistant: LoadedAssistant, found: Found, said: _Said, stale: tuple[str, ...]) -> Answer:
    refused: Literal["", "unknown", "blocked", "budget"] = ""
    text = "".join(said.parts)
    if not said.parts:
        refused = _why(found, said)
        text = {"blocked": BLOCKED, "budget": BUDGET}.get(refused, UNKNOWN)
    cited = dict.fromkeys(number for sentence in said.sentences for number in sentence.cites)
    return Answer(
        text=text,
        citations=tuple(_citation(assistant.guard, number, found.sources[number - 1]) for number in sorted(cited)),
        refused=refused,
        stale=stale,
        support=sum(s.support for s in said.sentences) / len(said.sentences) if said.sentences else 0.0,
        hits=tuple(said.hits),
        retrieved=found.retrieved,
        usage=said.usage,
        generator=said.model,
    )


def _why(found: Found, said: _Said) -> Literal["unknown", "blocked", "budget"]:
    """Why nothing is shown. Sentences that only lacked support leave the question unanswered; others were forbidden."""
    if found.blocked:
        return "blocked"
    if said.over_budget:
        return "budget"
    forbidden = (
        hit.stage == "answer" and not hit.rule.startswith(("support", "citation", "length")) for hit in said.hits
    )
    return "blocked" if any(forbidden) else "unknown"


def _citation(guard: Guard, number: int, hit: Hit) -> Citation:
    """A citation with the beginning of its chunk, unless that holds what no sentence may."""
    quote = hit.chunk.text[:QUOTE]
    return Citation(number, hit.chunk, "" if guard.forbidden(hit.chunk.text[: QUOTE + SEAM]) else quote)


def _texts(guard: Guard, kept: Sequence[Hit]) -> list[SourceText]:
    return [
        SourceText(
            number,
            guard.as_data(hit.chunk.title),
            tuple(guard.as_data(heading) for heading in hit.chunk.headings),
            guard.as_data(hit.chunk.text),
        )
        for number, hit in enumerate(kept, start=1)
    ]


def _readable(text: str) -> str:
    """What a model said, without what no answer and no file can carry: NUL and lone surrogates."""
    return text.encode("utf-8", "replace").decode().replace("\x00", "")


def _mark(marks: Marks, step: str) -> None:
    marks.append((step, time.time_ns()))


class _Marking:
    """An embedder that notes when the question was embedded."""

    def __init__(self, embedder: Embedder, marks: Marks) -> None:
        self._embedder = embedder
        self._marks = marks

    def embed_query(self, text: str) -> Vectors:
        vector = self._embedder.embed_query(text)
        _mark(self._marks, "embeddings")
        return vector

    def __getattr__(self, name: str) -> Any:
        return getattr(self._embedder, name)
