"""The HTTP face of an assistant: `POST /ask`, `POST /search`, and OpenAI's `POST /v1/chat/completions`.

Who asks, and so what may be read, follows from the tenant's key in `X-Plinth-Key` and from nothing else of a request.
Where services ask for no token, `Authorization: Bearer KEY` may carry the key, as OpenAI's clients do.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import orjson

from plinth.assistants import chat
from plinth.assistants.answerer import Answerer, Asked
from plinth.assistants.questions import Question, read_ask, read_search
from plinth.assistants.tenants import HEADER, Caller, Door
from plinth.core.answers import Answer, Hit
from plinth.errors import PlinthError
from plinth.serving.asgi import Application, Handler, Request, Response, Streaming, error_headers
from plinth.serving.body import RequestRefused
from plinth.serving.health import Health

Render = Callable[[str | Answer], bytes]


class AnswerApp(Application):
    """The ASGI application of one assistant's service.

    Args:
        answerer: Answers questions.
        door: Tells who asks.
        health: Answers /healthz and /readyz.
        pages: Path to body and content type of what never changes.
        model: What OpenAI's clients call it.
        created: When it was first made, seconds since 1970, for OpenAI's clients.
        options: Passed on to Application (`max_body`, `body_timeout`, `allowed_hosts`, `access`).
    """

    def __init__(
        self,
        answerer: Answerer,
        door: Door,
        health: Health,
        pages: dict[str, tuple[bytes, str]],
        *,
        model: str,
        created: int,
        **options: Any,
    ) -> None:
        self._answerer = answerer
        self._door = door
        self._model = model
        self._created = created
        routes: dict[str, dict[str, Handler]] = {
            "/ask": {"POST": self._ask},
            "/search": {"POST": self._search},
            "/v1/chat/completions": {"POST": self._chat},
            "/v1/models": {"GET": self._models},
            "/answers-log/flush": {"POST": self.flush},
        }
        logs = (answerer.log, answerer.requests)
        super().__init__(routes, answerer.observer, health, logs, pages, **options)

    def error(self, error: PlinthError, request: Request) -> Response:
        """An error as the answer; in OpenAI's shape where its clients ask."""
        if request.path.startswith("/v1/"):
            return Response(orjson.dumps(chat.error_body(error)), error.http_status, headers=error_headers(error))
        return super().error(error, request)

    async def _ask(self, request: Request) -> Response | Streaming:
        caller = self._caller(request)
        question = read_ask(await self.body(request))
        asked = self._asked(request, question, caller)
        if question.stream:

            def render(part: str | Answer) -> bytes:
                if isinstance(part, Answer):
                    return chat.event(told(asked, part), "answer")
                return chat.event({"text": part}, "sentence")

            def failed(error: PlinthError) -> bytes:
                return chat.event({"error": error.as_dict(), "request_id": asked.request_id}, "error")

            return await self._streaming(request, asked, render, failed)
        whole = await self._whole(request, asked)
        return Response(orjson.dumps(told(asked, whole), option=orjson.OPT_SERIALIZE_NUMPY))

    async def _search(self, request: Request) -> Response:
        caller = self._caller(request)
        asked = self._asked(request, read_search(await self.body(request)), caller)
        hits = await self.while_there(request, self._answerer.search(asked))
        request.release = asked.release
        found = {"request_id": request.request_id, "release": asked.release, "hits": [_hit(hit) for hit in hits]}
        return Response(orjson.dumps(found, option=orjson.OPT_SERIALIZE_NUMPY))

    async def _chat(self, request: Request) -> Response | Streaming:
        caller = self._caller(request)
        question, include_usage = chat.read_chat(await self.body(request))
        asked = self._asked(request, question, caller)
        if not question.stream:
            whole = await self._whole(request, asked)
            return Response(chat.completion(request.request_id, self._model, whole, told(asked, whole)))
        chunks = chat.Chunks(request.request_id, self._model, include_usage=include_usage)

        def render(part: str | Answer) -> bytes:
            return chunks.end(part, told(asked, part)) if isinstance(part, Answer) else chunks.text(part)

        return await self._streaming(request, asked, render, chunks.error, chunks.start())

    async def _models(self, request: Request) -> Response:
        self._caller(request)
        return Response(chat.models(self._model, self._created))

    def _caller(self, request: Request) -> Caller:
        """Who asks.

        Raises:
            RequestRefused: 401, the key is nobody's.
        """
        given = request.headers.get(HEADER.lower().encode())
        scheme, _, key = b"bearer", b"", given
        if given is None and not request.caller:  # else that header has the token
            given = request.headers.get(b"authorization", b"")
            scheme, _, key = given.strip().partition(b" ")
        if given and scheme.lower() != b"bearer":
            caller = None
        else:
            caller = self._door.caller((key or b"").decode("latin-1").strip())
        if caller is None:
            self._observer.event(
                "unknown key", logging.WARNING, request_id=request.request_id, path=request.path, code=401
            )
            self._observer.denied("unknown-key")
            raise RequestRefused(401, "nobody's key", where=HEADER, hint=f"`{HEADER}: KEY`, or none at all")
        return caller

    def _asked(self, request: Request, question: Question, caller: Caller) -> Asked:
        return Asked(
            question, caller, request.request_id, request.traceparent, marks=request.marks, trace_id=request.trace_id
        )

    async def _whole(self, request: Request, asked: Asked) -> Answer:
        """The whole answer; nothing is generated for a client that went away."""

        async def last() -> Answer:
            whole: Answer | None = None
            async for part in self._answerer.answer(asked):
                whole = part if isinstance(part, Answer) else whole
            assert whole is not None  # noqa: S101  (it is what an answer ends with)
            return whole

        try:
            return await self.while_there(request, last())
        finally:
            request.release = asked.release

    async def _streaming(
        self,
        request: Request,
        asked: Asked,
        render: Render,
        failed: Callable[[PlinthError], bytes],
        head: bytes = b"",
    ) -> Streaming:
        """The answer as it comes. What goes wrong before the first sentence still has a status of its own."""
        parts = self._answerer.answer(asked)
        try:
            first = await self.while_there(request, anext(parts))
        except BaseException:
            await parts.aclose()
            raise
        finally:
            request.release = asked.release
        return Streaming(self._rest(request, parts, first, render, failed, head))

    async def _rest(
        self,
        request: Request,
        parts: AsyncGenerator[str | Answer],
        first: str | Answer,
        render: Render,
        failed: Callable[[PlinthError], bytes],
        head: bytes,
    ) -> AsyncIterator[bytes]:
        try:
            yield head + render(first)
            async for part in parts:
                yield render(part)
        except PlinthError as error:
            yield failed(error)
        except Exception as error:  # noqa: BLE001  (the status is sent: the client learns of it in the stream)
            yield failed(self.unexpected(error, request))
        finally:
            await parts.aclose()


def told(asked: Asked, whole: Answer) -> dict[str, Any]:
    """An answer as JSON. Of the guardrails only the rules: what they look for is nobody's business."""
    value: dict[str, Any] = {
        "request_id": asked.request_id,
        "release": asked.release,
        "answer": whole.text,
        "citations": [citation.as_dict() for citation in whole.citations],
        "refused": whole.refused,
        "stale": list(whole.stale),
        "support": float(whole.support),
        "usage": {**chat.usage(whole), "cost": whole.usage.cost, "model": whole.generator},
        "hits": sorted({hit.rule for hit in whole.hits}),
    }
    if asked.question.debug:
        value["retrieved"] = [{k: v for k, v in _hit(hit).items() if k != "text"} for hit in whole.retrieved]
    return value


def _hit(hit: Hit) -> dict[str, Any]:
    """What was found, as JSON. It is in the caller's scope: the store found nothing else."""
    chunk = hit.chunk
    return {
        "chunk": chunk.id, "document": chunk.document, "version": chunk.version, "title": chunk.title,
        "headings": list(chunk.headings), "text": chunk.text, "score": float(hit.score),
        "dense": None if hit.dense is None else float(hit.dense),
        "sparse": None if hit.sparse is None else float(hit.sparse),
    }  # fmt: skip
