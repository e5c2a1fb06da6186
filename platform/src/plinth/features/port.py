"""The features port: what pipelines, the demo and the service need of a feature store."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from plinth.features.online import Online

if TYPE_CHECKING:
    import pandas as pd


class FeatureStore(Protocol):
    """A feature store of one product: point-in-time joins offline, the latest values online."""

    def apply(self) -> None:
        """Registers the product's entities, views and services, and creates the online tables."""
        ...

    def historical(self, entities: pd.DataFrame) -> pd.DataFrame:
        """The point-in-time join: one row for each entity row, in the same order.

        Args:
            entities: One column for each join key, and `event_timestamp` (UTC).

        Returns:
            Columns `view__feature` in the order of the feature service, NaN where no row was known or it was older
            than the view's TTL; the index of `entities`.
        """
        ...

    def materialize(self, start: datetime, end: datetime) -> None:
        """Copies the newest row of each entity in [start, end] from the feature tables to the online store."""
        ...

    def advance(self, hour: datetime) -> int:
        """Brings the online store to `hour` from the last hour it holds; returns how many entity rows were written."""
        ...

    def clear_online(self) -> None:
        """Empties the online store, so that a replay starts from nothing."""
        ...

    def scratch(self, folder: Path) -> FeatureStore:
        """The same features over the same tables with an online store of its own in `folder`."""
        ...

    def restore(self) -> datetime | None:
        """Puts back online what an emptied store held; returns the hour it holds then, None if nothing ever was."""
        ...

    @property
    def online(self) -> Online:
        """The online store, to be read."""
        ...

    def compile_plan(self) -> dict[str, Any]:
        """The feature service as a read plan (see readplan.py)."""
        ...
