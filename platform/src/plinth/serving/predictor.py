"""One prediction, without a transport: parse, route, read features, assemble, score, answer, log.

No registry client, no DataFrame and no orchestrator here (PERFORMANCE design, "what kills glue code").
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import MutableSequence, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from plinth.core.evidence import Arm
from plinth.errors import PlinthError, Unavailable
from plinth.serving.batching import Batcher, Scored, take
from plinth.serving.deadline import Deadline
from plinth.serving.inference_log import Entry, InferenceLog
from plinth.serving.patience import Patience
from plinth.serving.port import Instances, Observer, ServedProduct
from plinth.serving.requests import NO_SCORES, RequestLog, RequestRecord
from plinth.serving.shadow import Shadow
from plinth.serving.tabular import LoadedRelease, Releases, TabularRouting, check_finite

REASONS = {1: "missing", 2: "stale", 3: "future"}
"""Why a view's values are its declared defaults, by the reader's status code."""

RETRY_SECONDS = 1.5
"""How long an online store that is locked or away is tried again before callers get a 503."""

RETRY_DELAY = 0.02
"""Seconds before the second try; doubled each time, to at most 0.2."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one request. `body` is JSON; `release` is the one that the answer names."""

    body: bytes
    rows: int
    release: str


@dataclass(slots=True)
class Share:
    """The part of a request that one arm answers. `index`: where its instances stand; None when it has them all."""

    arm: Arm
    release: LoadedRelease
    instances: Instances
    index: list[int] | None = None
    scored: Scored | None = None
    error: Exception | None = None


class Predictor:
    """Answers prediction requests for one product."""

    def __init__(
        self,
        product: ServedProduct,
        releases: Releases,
        log: InferenceLog,
        requests: RequestLog,
        shadow: Shadow,
        observer: Observer,
    ) -> None:
        self.product = product
        self.releases = releases
        self.log = log
        self.requests = requests
        self.shadow = shadow
        self.observer = observer
        self._deadline = Deadline()
        self._batcher = Batcher(self._score)
        self._patience = Patience(RETRY_SECONDS)

    async def predict(
        self, body: bytes, request_id: str, marks: MutableSequence[tuple[str, int]] | None = None
    ) -> Answer:
        """The predictions for the instances in `body`.

        Args:
            body: The request's JSON.
            request_id: Goes into the answer, the log lines, the trace and the inference log.
            marks: Gets when each step ended, for the trace: ("start", ns), ("parse", ns), ... in ns since 1970.

        Raises:
            InvalidInput: The body does not fit; `where` names the field.
            Unavailable: No release is loaded, or the online store stayed away.
        """
        marks = [] if marks is None else marks
        started = time.time_ns()
        marks.append(("start", started))
        instances = self.product.parse(body)
        marks.append(("parse", time.time_ns()))
        routing, shares = await self._scored(instances, request_id)
        answering = time.perf_counter()
        answer, flags = self._answer(request_id, routing, shares, marks)
        took = time.perf_counter() - answering
        now = time.time_ns()
        marks.append(("answer", now))
        # Scheduled calls come after this turn of the loop, in which the answer is sent.
        asyncio.get_running_loop().call_soon(
            self._log, request_id, routing, shares, flags, (now - started) / 1e6, now / 1e9, took
        )
        return answer

    def close(self) -> None:
        """Stop what watches the candidate's runs."""
        self._deadline.close()

    # Routing and scoring ----------------------------------------------------------------------------------------

    async def _scored(self, instances: Instances, request_id: str) -> tuple[TabularRouting, list[Share]]:
        """Every share, scored. Waits, without blocking the event loop, while the online store is away.

        Raises:
            Exception: What a share met. It is in the request log then, under that share's arm only.
        """
        started = time.perf_counter()
        delay = RETRY_DELAY
        while True:
            routing = self._routing()
            shares = _shares(routing, instances)
            futures = [self._batcher.submit(share.release, share.instances) for share in shares]
            error: Exception | None = None
            for share, future in zip(shares, futures, strict=True):
                try:
                    share.scored = await future
                except Exception as failure:  # noqa: BLE001  (raised below, when it is known whose it is)
                    share.error = failure
                    error = error or failure
            if error is None:
                self._patience.answered()
                return routing, shares
            late = time.perf_counter() + delay > started + RETRY_SECONDS
            if late or not isinstance(error, Unavailable) or not self._patience.lasts(delay):
                self._log_failure(request_id, routing, shares, time.perf_counter() - started)
                raise error
            await asyncio.sleep(delay)
            delay = min(delay * 2, 0.2)

    def _routing(self) -> TabularRouting:
        routing = self.releases.routing
        if routing is None:
            raise Unavailable(
                "no release is loaded",
                where=self.product.name,
                hint=self.releases.problem or "promote one with `plinth release promote`",
            )
        return routing

    def _score(self, release: LoadedRelease, instances: Instances) -> Scored:
        """Reads inline: it takes microseconds, a hop to a thread takes longer."""
        started = time.perf_counter()
        block = release.reader().read(instances.keys, instances.at)
        read_at = time.time_ns()
        matrix = self.product.assemble(instances, block.values)
        routing = self.releases.routing
        if routing is not None and release is routing.serving:
            scores = release.scorer.score(matrix)
        else:
            scores = self._deadline.score(release.scorer, matrix)
        check_finite(scores, release)
        return Scored(block.status, matrix, scores, read_at, time.time_ns(), time.perf_counter() - started)

    # Answering --------------------------------------------------------------------------------------------------

    def _answer(
        self, request_id: str, routing: TabularRouting, shares: list[Share], marks: MutableSequence[tuple[str, int]]
    ) -> tuple[Answer, list[list[list[str]]]]:
        """The answer, and of each share the flags of its rows."""
        predictions: list[dict[str, Any]] = []
        flags: list[list[list[str]]] = []
        for share in shares:
            scored = share.scored
            assert scored is not None  # noqa: S101  (a share without scores has raised)
            defaulted, why = self._flags(share.release, scored.status)
            flags.append(why)
            predictions += self._predictions(share.instances, scored.scores, why, defaulted)
        scored = shares[-1].scored
        assert scored is not None  # noqa: S101
        marks += [("features", scored.read_at), ("score", scored.scored_at)]
        release = shares[0].release.digest
        if len(shares) > 1:
            predictions = _in_order(predictions, shares)
            release = routing.serving.digest
        body = orjson.dumps({"request_id": request_id, "release": release, "predictions": predictions})
        return Answer(body, len(predictions), release), flags

    def _predictions(
        self,
        instances: Instances,
        scores: NDArray[np.float64],
        flags: Sequence[list[str]],
        defaulted: Sequence[list[str]],
    ) -> list[dict[str, Any]]:
        entity = self.product.entity
        return [
            {entity: name, "probability": score, "flags": why, "defaulted": views}
            for name, score, why, views in zip(instances.entity_ids, scores.tolist(), flags, defaulted, strict=True)
        ]

    def _flags(self, release: LoadedRelease, status: NDArray[np.uint8]) -> tuple[list[list[str]], list[list[str]]]:
        """Per row: the views served by their defaults, and the same with the reason (`missing:aircraft_last_leg`)."""
        if not status.any():
            empty: list[list[str]] = [[] for _ in range(len(status))]
            return empty, empty
        defaulted: list[list[str]] = []
        flags: list[list[str]] = []
        counts: dict[str, int] = {}
        for row in status.tolist():
            bad = [(view, code) for view, code in zip(release.views, row, strict=True) if code]
            defaulted.append([view for view, _ in bad])
            flags.append([f"{REASONS.get(code, 'bad')}:{view}" for view, code in bad])
            for view, _ in bad:
                counts[view] = counts.get(view, 0) + 1
        self.observer.predicted(release=release.digest, defaulted=counts)
        return defaulted, flags

    # Logging ----------------------------------------------------------------------------------------------------

    def _log(
        self,
        request_id: str,
        routing: TabularRouting,
        shares: list[Share],
        flags: list[list[list[str]]],
        latency_ms: float,
        answered: float,
        answering: float,
    ) -> None:
        """One entry of the inference log and one record of the request log for each share; the rest to the shadow."""
        for share, why in zip(shares, flags, strict=True):
            instances, scored, digest = share.instances, share.scored, share.release.digest
            assert scored is not None  # noqa: S101
            self.log.append(
                Entry(
                    request_id, digest, instances.entity_ids, instances.at, scored.matrix, scored.scores, why,
                    latency_ms, answered,
                )
            )  # fmt: skip
            defaulted = sum(1 for row in why if row)
            self._record(request_id, routing, share, 200, answered, scored.seconds + answering, defaulted)
            if routing.route.shadow and share.arm == "serving":
                self.shadow.offer(routing, request_id, instances)

    def _log_failure(self, request_id: str, routing: TabularRouting, shares: list[Share], seconds: float) -> None:
        answered = time.time()
        for share in shares:
            if share.error is None:
                continue
            code = share.error.http_status if isinstance(share.error, PlinthError) else 500
            if code >= 500:  # less is the client's fault
                self._record(request_id, routing, share, code, answered, seconds, 0)

    def _record(
        self,
        request_id: str,
        routing: TabularRouting,
        share: Share,
        code: int,
        answered: float,
        seconds: float,
        defaulted: int,
    ) -> None:
        """One record of a rollout's evidence; while nothing is rolled out there is nothing to judge, so none is."""
        if routing.candidate is None:
            return
        route, entities = routing.route, share.instances.entity_ids
        scores = share.scored.scores if share.scored is not None else NO_SCORES
        self.requests.append(
            RequestRecord(
                request_id, answered, time.monotonic(), route.generation, route.step, share.arm, share.release.digest,
                code, seconds, len(entities), defaulted, entities if code < 500 else (), scores,
            )
        )  # fmt: skip
        self.observer.arm(
            route=route, arm=share.arm, release=share.release.digest, failed=code >= 500, seconds=seconds,
            scores=scores, defaulted=defaulted,
        )  # fmt: skip


def _shares(routing: TabularRouting, instances: Instances) -> list[Share]:
    """Who answers which instances. Without a candidate that answers, one share and nothing to decide."""
    candidate = routing.candidate
    if candidate is None or not routing.route.weight:
        return [Share("serving", routing.serving, instances)]
    sides = routing.route.to_candidate(instances.entity_ids)
    ours = [i for i, side in enumerate(sides) if side]
    if not ours:
        return [Share("serving", routing.serving, instances)]
    if len(ours) == len(sides):
        return [Share("candidate", candidate, instances)]
    rest = [i for i, side in enumerate(sides) if not side]
    return [
        Share("serving", routing.serving, take(instances, rest), rest),
        Share("candidate", candidate, take(instances, ours), ours),
    ]


def _in_order(predictions: list[dict[str, Any]], shares: list[Share]) -> list[dict[str, Any]]:
    """The shares' predictions as the request had them, the candidate's with its digest."""
    ordered: list[dict[str, Any]] = [{}] * len(predictions)
    given = iter(predictions)
    for share in shares:
        for i in share.index or ():
            ordered[i] = next(given)
            if share.arm == "candidate":
                ordered[i]["release"] = share.release.digest
    return ordered
