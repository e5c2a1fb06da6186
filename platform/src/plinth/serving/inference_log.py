"""The inference log: every prediction with what the model saw, for people, labels and drift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plinth.serving.buffer import BufferedLog
from plinth.serving.port import FloatMatrix


@dataclass(frozen=True, slots=True)
class Entry:
    """The predictions of one request by one release: n rows.

    Attributes:
        request_id: The request's id, the same for all rows.
        release: Digest of the release that answered.
        entity_ids: [n].
        at: Event time (when the prediction is for), seconds since 1970-01-01 UTC, [n].
        features: What the model saw, float32 [n, k].
        scores: Probabilities, [n].
        flags: The flags of each row, [n].
        latency_ms: From the first byte of the body to the answer.
        answered: Wall clock of the answer, seconds since 1970-01-01 UTC.
    """

    request_id: str
    release: str
    entity_ids: Sequence[str]
    at: NDArray[np.int64]
    features: FloatMatrix
    scores: NDArray[np.float64]
    flags: Sequence[Sequence[str]]
    latency_ms: float
    answered: float

    @property
    def rows(self) -> int:
        """Its predictions."""
        return len(self.entity_ids)


class InferenceLog(BufferedLog[Entry]):
    """The inference log's buffer and writer."""

    name = "inference log"
