"""The stretch of the feature tables that a join of some hours can need.

Feast's join pairs every entity row with every feature row of its key and only then looks at the time: over a year of
hourly rows that is thousands of candidates a row. Given the rows from one TTL before the first entity row to the last
one, the answer is the same and the candidates are few.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq


def write_slices(tables: Path, target: Path, ttls: Mapping[str, int], first: datetime, last: datetime) -> None:
    """Write `target/<view>.parquet` with the rows stamped in [first - TTL, last].

    Args:
        tables: Folder of the whole tables, each sorted by `event_timestamp`.
        target: Folder of the slices; what is there is overwritten.
        ttls: Seconds a row stays valid, by view.
        first: Time of the first entity row, UTC.
        last: Time of the last.

    Raises:
        FileNotFoundError: A table is missing.
    """
    for view, ttl in ttls.items():
        window = [
            ("event_timestamp", ">=", first - timedelta(seconds=ttl)),
            ("event_timestamp", "<=", last),
        ]
        pq.write_table(pq.read_table(tables / f"{view}.parquet", filters=window), target / f"{view}.parquet")
