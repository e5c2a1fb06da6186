"""The request log: one record a request and arm, the evidence that a rollout is judged by.

It holds what the gates count (status, service time, scores), so it is small, and is written while a candidate is
routed: without one there is nothing to judge. Shadow scores are here only, the inference log holds what was answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from plinth.core.evidence import Arm
from plinth.serving.buffer import BufferedLog

NO_SCORES: NDArray[np.float64] = np.empty(0)


class RequestRecord(NamedTuple):
    """What one arm did in one request. A tuple, because one is made on every request.

    Attributes:
        request_id: The request's id.
        at: Wall clock of the answer, seconds since 1970-01-01 UTC.
        clock: The same by `time.monotonic()`, which all processes of a host share and nobody sets.
        generation: Of the route it was answered under.
        step: Of the same.
        arm: Who scored.
        release: Its digest.
        code: HTTP status; of a shadow 200 or 500.
        seconds: Service time: reading features, scoring and (except for a shadow) making the answer, in the run that it
            shared; of a failure also the waiting.
        rows: Instances of the request that were this arm's, n.
        defaulted: Rows answered with less than they should be: some view had no fresh value for them; of an
            assistant's answer (one row), a guardrail stepped in on it or a source was stale.
        entity_ids: [n]; empty when it failed. Of an assistant, digests of who or what asked.
        scores: Probabilities, or the support of an answer, [n]; empty when it failed.
    """

    request_id: str
    at: float
    clock: float
    generation: int
    step: int
    arm: Arm
    release: str
    code: int
    seconds: float
    rows: int
    defaulted: int
    entity_ids: Sequence[str]
    scores: NDArray[np.float64]


class RequestLog(BufferedLog[RequestRecord]):
    """The request log's buffer and writer."""

    name = "request log"
