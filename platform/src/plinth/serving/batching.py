"""Requests that arrive in the same turn of the event loop share one feature read and one model run a release.

Nothing waits to be batched: what has arrived runs in the next turn. One request at a time pays a few microseconds for
it, eight at a time share costs (numpy's and ONNX Runtime's fixed ones) that dominate single rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from plinth.errors import Unavailable
from plinth.serving.port import FloatMatrix, Instances

if TYPE_CHECKING:
    from plinth.serving.tabular import LoadedRelease

MAX_ROWS = 512
"""Rows of one shared run; what is beyond runs right after it."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Rows after the model: what was read, what the model saw, what it said, and when (ns since 1970).

    `seconds` is how long reading and scoring took, for all the rows that ran together.
    """

    status: NDArray[np.uint8]
    matrix: FloatMatrix
    scores: NDArray[np.float64]
    read_at: int
    scored_at: int
    seconds: float

    def rows(self, start: int, stop: int) -> Scored:
        """A part of it."""
        return Scored(
            self.status[start:stop], self.matrix[start:stop], self.scores[start:stop], self.read_at, self.scored_at,
            self.seconds,
        )  # fmt: skip


Run = Callable[["LoadedRelease", Instances], Scored]
Waiting = tuple[Instances, "asyncio.Future[Scored]"]


class Batcher:
    """Gathers instances and runs them together, each release's by themselves: one's trouble is not another's.

    Args:
        run: Scores instances with a release; called in the event loop's thread.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._waiting: dict[LoadedRelease, list[Waiting]] = {}

    def submit(self, release: LoadedRelease, instances: Instances) -> asyncio.Future[Scored]:
        """The result of these instances, soon. Raises when awaited whatever `run` raised for them."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Scored] = loop.create_future()
        waiting = self._waiting.get(release)
        if waiting is None:
            if not self._waiting:
                loop.call_soon(self._run_next)
            waiting = self._waiting[release] = []
        waiting.append((instances, future))
        return future

    def _run_next(self) -> None:
        release = next(iter(self._waiting))
        waiting = self._waiting.pop(release)
        batch: list[Waiting] = []
        rows = 0
        for item in waiting:
            rows += len(item[0].entity_ids)
            if batch and rows > MAX_ROWS:
                self._run_batch(release, batch)
                batch, rows = [], len(item[0].entity_ids)
            batch.append(item)
        self._run_batch(release, batch)
        if self._waiting:
            # Not at once: those who have their result now answer before another release's run.
            asyncio.get_running_loop().call_soon(self._run_next)

    def _run_batch(self, release: LoadedRelease, batch: list[Waiting]) -> None:
        try:
            instances = batch[0][0] if len(batch) == 1 else merge([instances for instances, _ in batch])
            scored = self._run(release, instances)
        except Exception as error:  # noqa: BLE001  (it belongs to the requests that wait, not to the event loop)
            if len(batch) > 1 and not isinstance(error, Unavailable):
                for item in batch:  # one request's trouble must not become its neighbours'
                    self._run_batch(release, [item])
                return
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        start = 0
        for instances, future in batch:
            stop = start + len(instances.entity_ids)
            if not future.done():
                future.set_result(scored if len(batch) == 1 else scored.rows(start, stop))
            start = stop


def merge(parts: Sequence[Instances]) -> Instances:
    """The instances of several requests as one."""
    return Instances(
        entity_ids=[name for part in parts for name in part.entity_ids],
        at=np.concatenate([part.at for part in parts]),
        keys={key: [value for part in parts for value in part.keys[key]] for key in parts[0].keys},
        rows=[row for part in parts for row in part.rows],
    )


def take(instances: Instances, index: Sequence[int]) -> Instances:
    """Some of the instances of a request."""
    return Instances(
        entity_ids=[instances.entity_ids[i] for i in index],
        at=instances.at[list(index)],
        keys={key: [values[i] for i in index] for key, values in instances.keys.items()},
        rows=[instances.rows[i] for i in index],
    )
