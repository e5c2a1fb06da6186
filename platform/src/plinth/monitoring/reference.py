"""The drift reference of a release: histograms of its training data and of its scores on data it had not seen.

It is `reference.json` of the serving bundle, pinned by digest in the release manifest.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plinth.core.digests import canonical_json
from plinth.errors import InvalidInput, NotFound
from plinth.monitoring.grid import Matrix
from plinth.monitoring.histogram import Histogram, Histograms, fit, score_histogram

FILE = "reference.json"
SCHEMA = 1


@dataclass(frozen=True)
class Reference:
    """Histograms of the features, in the model's column order, and of the score (None when it was not kept)."""

    features: Histograms
    score: Histogram | None = None

    @classmethod
    def build(cls, matrix: Matrix, names: Sequence[str], scores: NDArray[Any] | None = None) -> Reference:
        """The reference of what the model was trained on.

        Args:
            matrix: The model's inputs, float32 [n, k].
            names: Feature names [k].
            scores: Probabilities [m] on held-out rows. Scores on training rows are too confident to compare with.

        Raises:
            InvalidInput: No rows, or not one name a column.
        """
        return cls(fit(matrix, names), None if scores is None else score_histogram(np.asarray(scores)))

    def to_json(self) -> bytes:
        """Canonical JSON: the same reference gives the same bytes."""
        score = self.score.as_dict() if self.score else None
        return canonical_json({"schema": SCHEMA, "features": self.features.as_dict(), "score": score})

    @classmethod
    def from_json(cls, data: bytes) -> Reference:
        """The reference from its JSON.

        Raises:
            InvalidInput: It is no JSON, not this schema, or something is missing from it.
        """
        try:
            value = json.loads(data)
            if value["schema"] != SCHEMA:
                raise InvalidInput(f"drift reference of schema {value['schema']!r}, not {SCHEMA}", hint="retrain")
            score = Histogram.from_dict(value["score"]) if value["score"] else None
            return cls(Histograms.from_dict(value["features"]), score)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidInput(
                f"the drift reference cannot be read: {error!r}", where=FILE, hint="train and release again"
            ) from error

    @classmethod
    def load(cls, path: Path) -> Reference:
        """The reference of a file.

        Raises:
            NotFound: There is no such file.
            InvalidInput: As `from_json`.
        """
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise NotFound("there is no drift reference", where=str(path), hint="train and release again") from None
        return cls.from_json(data)
