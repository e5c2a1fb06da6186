"""One prediction, without a transport: parse, read features, assemble, score, answer, log.

No registry client, no DataFrame and no orchestrator here (PERFORMANCE design, "what kills glue code").
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import MutableSequence, Sequence
from dataclasses import dataclass

import numpy as np
import orjson
from numpy.typing import NDArray

from plinth.errors import PlinthError, Unavailable
from plinth.serving.batching import Batcher, Scored
from plinth.serving.inference_log import Entry, InferenceLog
from plinth.serving.port import Instances, Observer, ServedProduct
from plinth.serving.releases import LoadedRelease, ReleaseHolder

REASONS = {1: "missing", 2: "stale", 3: "future"}
"""Why a view's values are its declared defaults, by the reader's status code."""

RETRY_SECONDS = 1.5
"""How long a locked online store is tried again before the caller gets a 503."""

RETRY_DELAY = 0.02
"""Seconds before the second try; doubled each time, to at most 0.2."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one request. `body` is JSON."""

    body: bytes
    rows: int
    release: str


class Predictor:
    """Answers prediction requests for one product."""

    def __init__(self, product: ServedProduct, releases: ReleaseHolder, log: InferenceLog, observer: Observer) -> None:
        self.product = product
        self.releases = releases
        self.log = log
        self.observer = observer
        self._batcher = Batcher(self._score)

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
            Unavailable: No release is loaded, or the online store stayed locked.
        """
        marks = [] if marks is None else marks
        started = time.time_ns()
        marks.append(("start", started))
        instances = self.product.parse(body)
        marks.append(("parse", time.time_ns()))
        scored = await self._scored(instances)
        marks += [("features", scored.read_at), ("score", scored.scored_at)]
        release = scored.release
        defaulted, flags = self._flags(release, scored.status)
        answer = self._answer(request_id, release, instances, scored.scores, defaulted, flags)
        now = time.time_ns()
        marks.append(("answer", now))
        self.log.append(
            Entry(
                request_id, release.digest, instances.entity_ids, instances.at, scored.matrix, scored.scores, flags,
                (now - started) / 1e6, now / 1e9,
            )
        )  # fmt: skip
        return answer

    def _score(self, instances: Instances) -> Scored:
        """Reads inline: it takes microseconds, a hop to a thread takes longer."""
        release = self.releases.current
        if release is None:
            raise Unavailable(
                "no release is loaded",
                where=self.product.name,
                hint=self.releases.problem or "promote one with `plinth release promote`",
            )
        block = release.reader().read(instances.keys, instances.at)
        read_at = time.time_ns()
        matrix = self.product.assemble(instances, block.values)
        scores = release.scorer.score(matrix)
        if not np.isfinite(scores).all():
            raise PlinthError("the model answered with something that is no number", where=release.digest)
        return Scored(release, block.status, matrix, scores, read_at, time.time_ns())

    async def _scored(self, instances: Instances) -> Scored:
        """Waits, without blocking the event loop, while the online store is locked."""
        delay, deadline = RETRY_DELAY, time.monotonic() + RETRY_SECONDS
        while True:
            try:
                return await self._batcher.submit(instances)
            except Unavailable:
                if self.releases.current is None or time.monotonic() + delay > deadline:
                    raise
            await asyncio.sleep(delay)
            delay = min(delay * 2, 0.2)

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

    def _answer(
        self,
        request_id: str,
        release: LoadedRelease,
        instances: Instances,
        scores: NDArray[np.float64],
        defaulted: Sequence[list[str]],
        flags: Sequence[list[str]],
    ) -> Answer:
        entity = self.product.entity
        predictions = [
            {entity: name, "probability": score, "flags": why, "defaulted": views}
            for name, score, why, views in zip(instances.entity_ids, scores.tolist(), flags, defaulted, strict=True)
        ]
        body = orjson.dumps({"request_id": request_id, "release": release.digest, "predictions": predictions})
        return Answer(body, len(predictions), release.digest)
