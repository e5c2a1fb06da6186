"""The port of a rollout's signals: what each release did, counted, wherever the counts are kept.

Adapters: `duckdb.py` (the request log of the embedded profile) and `promql.py` (a Prometheus server). One contract
suite runs on both (tests/contract/test_signals.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from plinth.core.evidence import Arm, Cell, Outcomes


class SignalSource(Protocol):
    """Where a rollout's evidence is read from.

    Raises (every method):
        Unavailable: The source cannot be read now. Nothing counted yet is an empty answer and no error.
    """

    def cells(self, product: str, generation: int, *, window: float | None = None) -> tuple[Cell, ...]:
        """What each arm did in each step of one generation.

        Args:
            product: The product's name.
            generation: The rollout's generation.
            window: Only the last so many seconds; None is all of it.
        """
        ...

    def outcomes(self, product: str, generation: int) -> Mapping[Arm, Outcomes] | None:
        """Predictions of this generation whose outcome is known, by arm; None where the source knows no labels."""
        ...
