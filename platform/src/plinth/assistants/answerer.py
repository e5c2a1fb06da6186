"""The service's way of one question: which release answers, what is kept of it, and never more at once than it can."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Collection, MutableSequence, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from plinth.assistants.answering import answer, retrieve
from plinth.assistants.loading import LoadedAssistant
from plinth.assistants.log import AnswerLog, AnswerRecord
from plinth.assistants.port import AnswerObserver
from plinth.assistants.questions import Question
from plinth.assistants.shadow import AnswerShadow
from plinth.assistants.tenants import Caller
from plinth.core.answers import Answer, Hit
from plinth.core.evidence import Arm
from plinth.core.routes import Route
from plinth.errors import PlinthError, Unavailable
from plinth.serving.releases import ReleaseHolder, Routing
from plinth.serving.requests import NO_SCORES, RequestLog, RequestRecord

Releases = ReleaseHolder[LoadedAssistant]
AnswerRouting = Routing[LoadedAssistant]

RUNNING = 32
"""Questions that are answered at once; more are refused, so that those that are in end in time."""


@dataclass(slots=True)
class Asked:
    """One question on its way.

    Attributes:
        question: What is asked.
        caller: Who asks.
        request_id: The request's id.
        traceparent: The caller's W3C trace context, or "".
        release: Digest of the release that answers, when it is known.
        marks: When each step ended.
        trace_id: Of its trace; "" where it is not to be traced.
    """

    question: Question
    caller: Caller
    request_id: str
    traceparent: str = ""
    release: str = ""
    marks: MutableSequence[tuple[str, int]] = field(default_factory=list)
    trace_id: str = ""


class Stale(Protocol):
    """Knows which sources are stale (`plinth.assistants.staleness.Staleness`)."""

    def stale(self, build: str, tenants: Collection[str]) -> tuple[str, ...]:
        """Names of the sources of a build beyond their objective, of those that these tenants read."""


class Answerer:
    """Answers questions for one product.

    Args:
        product: Its name.
        releases: What is applied now.
        log: Gets every answer.
        requests: Gets one record a request while a candidate is routed.
        shadow: Has questions answered by a candidate as well.
        observer: Is told the same.
        staleness: Knows which sources are stale.
        running: Questions that are answered at once.
    """

    def __init__(
        self,
        product: str,
        releases: Releases,
        log: AnswerLog,
        requests: RequestLog,
        shadow: AnswerShadow,
        observer: AnswerObserver,
        staleness: Stale,
        *,
        running: int = RUNNING,
    ) -> None:
        self.releases = releases
        self.log = log
        self.requests = requests
        self.observer = observer
        self.running = 0
        self.shed = 0
        self._product = product
        self._shadow = shadow
        self._staleness = staleness
        self._most = running
        self._pool = ThreadPoolExecutor((os.cpu_count() or 1) + 2, thread_name_prefix="plinth-answer")

    def close(self) -> None:
        """Take no more questions; those in threads end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def answer(self, asked: Asked) -> AsyncGenerator[str | Answer]:
        """As `answering.answer`, by the release that the route gives this question to.

        One reference to the routing is taken: whatever is promoted meanwhile, one release answers all of it.

        Raises:
            Unavailable: No release is loaded, too many questions are being answered, or the release cannot answer now.
            PlinthError: The release failed.
        """
        routing = self._routing()
        arm, release = _chosen(routing, asked.question.entity(asked.caller.tenant))
        asked.release = release.digest
        scope = asked.caller.scope(asked.question.since, asked.question.until)
        stale = self._staleness.stale(release.config.index.build, scope.tenants)
        self._enter()
        started = time.perf_counter()
        try:
            parts = answer(release, asked.question.text, scope, stale=stale, marks=asked.marks, pool=self._pool)
            async with aclosing(parts):
                async for part in parts:
                    if isinstance(part, Answer):
                        took = time.perf_counter() - started
                        # After this turn of the loop, in which the answer is sent.
                        asyncio.get_running_loop().call_soon(self._keep, asked, routing, arm, release, part, took)
                    yield part
        except PlinthError as error:
            # The question was read already: whatever does not fit now is not the caller's fault.
            failure = error if error.http_status >= 500 else PlinthError(error.what, where=error.where, hint=error.hint)
            self._failed(asked, routing, arm, release, started, failure)
            raise failure from (error if failure is not error else None)
        except Exception as error:
            self._failed(asked, routing, arm, release, started, error)
            raise
        finally:
            self.running -= 1

    async def search(self, asked: Asked) -> list[Hit]:
        """What is found for a question, by the release that serves. Nothing is generated, nothing is logged.

        Raises:
            Unavailable: As `answer`.
        """
        routing = self._routing()
        _, release = _chosen(routing, asked.question.entity(asked.caller.tenant))
        asked.release = release.digest
        scope = asked.caller.scope(asked.question.since, asked.question.until)

        def look() -> list[Hit]:
            looked = release.guard.question(asked.question.text)
            hits = retrieve(release, looked.text, scope, limit=asked.question.limit) if not looked.blocked else []
            return release.guard.sources(hits)[0]

        self._enter()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, look)
        finally:
            self.running -= 1

    def _routing(self) -> AnswerRouting:
        routing = self.releases.routing
        if routing is None:
            raise Unavailable(
                "no release is loaded",
                where=self._product,
                hint=self.releases.problem or "promote one with `plinth release promote`",
            )
        return routing

    def _enter(self) -> None:
        if self.running >= self._most:
            self.shed += 1
            raise Unavailable(
                f"{self.running} questions are being answered", where=self._product, hint="try again in a second"
            )
        self.running += 1

    def _keep(
        self, asked: Asked, routing: AnswerRouting, arm: Arm, release: LoadedAssistant, whole: Answer, seconds: float
    ) -> None:
        """One answer in the log, the metrics, the trace, and in the evidence of a rollout."""
        trace_id = self.observer.answered(
            request_id=asked.request_id, release=release.digest, arm=arm, config=release.config, answer=whole,
            marks=asked.marks, seconds=seconds, traceparent=asked.traceparent, trace_id=asked.trace_id,
        )  # fmt: skip
        self.log.append(
            AnswerRecord(
                asked.request_id, time.time(), release.digest, routing.route.generation, arm, asked.caller.tenant,
                asked.question.text, whole, release.config, asked.marks, seconds * 1e3, trace_id,
            )
        )  # fmt: skip
        if routing.candidate is None:
            return
        entity = asked.question.entity(asked.caller.tenant)
        record(
            self.requests, self.observer, routing.route, arm, release.digest, asked.request_id, entity, seconds, whole
        )
        if routing.route.shadow and arm == "serving":
            scope = asked.caller.scope(asked.question.since, asked.question.until)
            self._shadow.offer(routing, asked.request_id, entity, asked.question.text, scope)

    def _failed(
        self,
        asked: Asked,
        routing: AnswerRouting,
        arm: Arm,
        release: LoadedAssistant,
        started: float,
        error: Exception,
    ) -> None:
        code = error.http_status if isinstance(error, PlinthError) else 500
        seconds = time.perf_counter() - started
        self.observer.answered(
            request_id=asked.request_id, release=release.digest, arm=arm, config=release.config, answer=None,
            marks=asked.marks, seconds=seconds, traceparent=asked.traceparent, error=type(error).__name__,
            trace_id=asked.trace_id,
        )  # fmt: skip
        if routing.candidate is not None:
            entity = asked.question.entity(asked.caller.tenant)
            record(
                self.requests, self.observer, routing.route, arm, release.digest, asked.request_id, entity, seconds,
                None, code,
            )  # fmt: skip


def record(
    requests: RequestLog,
    observer: AnswerObserver,
    route: Route,
    arm: Arm,
    release: str,
    request_id: str,
    entity: str,
    seconds: float,
    whole: Answer | None,
    code: int = 200,
) -> None:
    """One record of a rollout's evidence. An answer's score is its support; it counts as defaulted where it says less
    than it should: a guardrail stepped in on it, or a source is stale."""
    scores = np.array([whole.support]) if whole is not None else NO_SCORES
    defaulted = int(whole is not None and less_than_it_should(whole))
    entities: Sequence[str] = (entity,) if whole is not None else ()
    requests.append(
        RequestRecord(
            request_id, time.time(), time.monotonic(), route.generation, route.step, arm, release, code, seconds, 1,
            defaulted, entities, scores,
        )
    )  # fmt: skip
    observer.arm(
        route=route, arm=arm, release=release, failed=code >= 500, seconds=seconds, scores=scores, defaulted=defaulted
    )


def less_than_it_should(whole: Answer) -> bool:
    """Whether an answer was made smaller on its way out, or is known to be behind its sources."""
    return bool(whole.stale) or any(hit.stage == "answer" and hit.action != "note" for hit in whole.hits)


def _chosen(routing: AnswerRouting, entity: str) -> tuple[Arm, LoadedAssistant]:
    candidate = routing.candidate
    if candidate is not None and routing.route.weight and routing.route.to_candidate([entity])[0]:
        return "candidate", candidate
    return "serving", routing.serving
