"""Feast as the feature store: DuckDB offline; online SQLite or Valkey; its registry in a file or in PostgreSQL.

Traps of Feast 0.67 that this file answers for: its offline stores keep no row order and may drop rows (rows are
numbered and put back), it is not made for threads (one lock) nor for two processes that apply at once (the registry's
lock), its registry holds the absolute paths of whoever applied last (they are looked at before they are used), and ibis
cannot take a TTL such as 36 hours, which mixes days and seconds. Those of its online stores: feast_sqlite.py,
feast_redis.py.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import sqlalchemy as sa
from feast.errors import FeastObjectNotFoundException

from plinth.errors import Conflict, Corrupt, InvalidInput, NotFound, Unavailable
from plinth.features.advance import HourlyRows
from plinth.features.feast_registry import FileRegistry, Registry, unavailable
from plinth.features.feast_repository import Repository
from plinth.features.feast_sqlite import SqliteWriter
from plinth.features.online import FILE, THROUGH, Online, filled_through
from plinth.features.slices import write_slices
from plinth.features.writer import Writer

CHUNK_ROWS = 30_000
"""Entity rows of one join, consecutive in time: bounds the memory of Feast's join, which holds every candidate row."""

HOUR = timedelta(hours=1)
CATCH_UP = timedelta(days=1)
"""A longer way to catch up is left to Feast's materialization, which is made for ranges."""


class FeastFeatures:
    """The feature store of one product.

    Args:
        folder: The product's state: `features/<view>.parquet` is read, `online/` is written.
        project: Feast's project name, an identifier.
        service: Name of the feature service that training and serving read.
        definitions: Builds the Feast objects over the folder of feature tables.
        writer: The online store; by default SQLite in the folder.
        registry: Feast's registry; by default a file in the folder.
    """

    def __init__(
        self,
        folder: Path,
        project: str,
        service: str,
        definitions: Callable[[Path], Sequence[Any]],
        writer: Writer | None = None,
        registry: Registry | None = None,
    ) -> None:
        self.tables = folder / "features"
        self.folder = folder / "online"
        self.project = project
        self.service = service
        self._writer = writer or SqliteWriter(self.folder / FILE)
        self._repository = Repository(
            self.folder, project, service, definitions, self._writer, registry or FileRegistry(self.folder)
        )
        self._lock = threading.RLock()
        self._rows: HourlyRows | None = None
        self._last_hour: datetime | None = None

    @property
    def online(self) -> Online:
        """The online store, to be read."""
        return self._writer.online

    def scratch(self, folder: Path) -> FeastFeatures:
        """The same features over the same tables with an online store and a registry of its own, files in `folder`."""
        other = FeastFeatures(folder, self.project, self.service, self._repository.definitions)
        other.tables = self.tables
        return other

    def apply(self) -> None:
        """Registers the definitions and creates the online tables.

        Raises:
            NotFound: The feature tables have not been built.
            Unavailable: The folder cannot be written, or a server does not answer.
        """
        with self._lock, self._translated(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)  # the file of a lock may stand in it
            with self._repository.registry.lock(self.project):
                self._apply()

    def _apply(self) -> None:
        self._rows = None
        self._repository.apply(self.tables)

    def historical(self, entities: pd.DataFrame) -> pd.DataFrame:
        """Feast's point-in-time join over chunks consecutive in time; see the port.

        Raises:
            InvalidInput: A join key or `event_timestamp` is missing.
            NotFound: The features have not been applied, or a feature table is missing.
        """
        with self._lock, self._translated(self.tables):
            plan = self.compile_plan()
            keys = sorted({key for view in plan["views"] for key in view["join_keys"]})
            lacking = [name for name in (*keys, "event_timestamp") if name not in entities.columns]
            if lacking:
                raise InvalidInput(f"the entity rows have no column {lacking}", hint=f"give {keys} and event_timestamp")
            columns = [f"{view['name']}__{feature['name']}" for view in plan["views"] for feature in view["features"]]
            rows = entities[keys].fillna("").astype(object)  # an empty key finds nothing, as None does online
            rows["event_timestamp"] = pd.to_datetime(entities["event_timestamp"], utc=True).astype(
                "datetime64[us, UTC]"
            )
            rows["row_number"] = range(len(rows))
            rows = rows.sort_values("event_timestamp", kind="stable")
            ttls = {view["name"]: view["ttl_seconds"] for view in plan["views"]}
            with tempfile.TemporaryDirectory(prefix="plinth-join-") as folder:
                parts = list(self._join_chunks(rows, columns, ttls, Path(folder)))
        if not parts:
            return pd.DataFrame(columns=columns, index=entities.index, dtype="float64")
        joined = pd.concat(parts).sort_index()
        if len(joined) != len(entities) or not joined.index.is_unique:
            raise Corrupt(
                f"the join gave {len(joined)} rows for {len(entities)}", hint="look for duplicate feature rows"
            )
        joined.index = entities.index
        return joined

    def _join_chunks(
        self, rows: pd.DataFrame, columns: list[str], ttls: dict[str, int], folder: Path
    ) -> Iterator[pd.DataFrame]:
        """Chunk after chunk, each joined by Feast against the stretch of the tables that it can need."""
        sliced = FeastFeatures(folder, self.project, self.service, self._repository.definitions)
        sliced.tables.mkdir()
        for start in range(0, len(rows), CHUNK_ROWS):
            chunk = rows.iloc[start : start + CHUNK_ROWS]
            times = chunk["event_timestamp"]
            write_slices(
                self.tables, sliced.tables, ttls, times.iloc[0].to_pydatetime(), times.iloc[-1].to_pydatetime()
            )
            if start == 0:
                sliced.apply()
            yield sliced._join(chunk, columns)

    def _join(self, rows: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
        store = self._repository.opened()
        service = store.get_feature_service(self.service)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # ibis calls deprecated methods of duckdb
            table = store.get_historical_features(rows, service, full_feature_names=True).to_arrow()
        frame: pd.DataFrame = table.select(["row_number", *columns]).to_pandas().set_index("row_number")
        return frame

    def materialize(self, start: datetime, end: datetime) -> None:
        """Feast's own materialization of the newest row of each entity in [start, end]."""
        with self._lock, self._translated(self.folder), self._repository.registry.lock(self.project):
            self._materialize(start.astimezone(UTC), end.astimezone(UTC))

    def _materialize(self, start: datetime, end: datetime) -> None:
        if not self._repository.points_at(self.tables):
            self._apply()
        store = self._repository.opened()
        quiet = io.StringIO()  # Feast prints its progress
        with (
            self._writer.filling(store, end),
            contextlib.redirect_stdout(quiet),
            contextlib.redirect_stderr(quiet),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore", DeprecationWarning)
            store.materialize(start, end)
        self._note(max(self._last_hour or end, end))

    def advance(self, hour: datetime) -> int:
        """Brings the online store to `hour`: the newest row of each entity since the last hour that is online.

        Usually that is one hour's rows, written in milliseconds; after more than a day it is Feast's materialization.
        An empty store gets the rows stamped exactly `hour`; one that was emptied behind our back, all that still count.

        Returns:
            Entity rows written; 0 after a materialization, which does not say.

        Raises:
            InvalidInput: `hour` is not a full hour with a time zone.
            Conflict: A later hour is online already: an older row would win over a newer one.
        """
        if hour.tzinfo is None or (hour.minute, hour.second, hour.microsecond) != (0, 0, 0):
            raise InvalidInput(f"{hour} is no full hour with a time zone", hint="truncate it to the hour")
        hour = hour.astimezone(UTC)
        with self._lock, self._translated(self.folder), self._repository.registry.lock(self.project):
            newest = self._newest()
            if newest is None and filled_through(self.folder.parent) is not None:
                self._materialize(hour - self._longest_ttl(), hour)
                return 0
            # The first time in a process, its last hour is written again: another process may have died in it.
            since = newest or hour
            after = since if self._last_hour else since - HOUR
            if hour < since:
                raise Conflict(
                    f"{hour:%Y-%m-%d %H:%M} is before {since:%Y-%m-%d %H:%M}, which is already online",
                    where=self.online.where,
                    hint="clear the online store to replay from an earlier hour",
                )
            if hour - after > CATCH_UP:
                self._materialize(after, hour)
                return 0
            written = self._write_rows(after, hour)
            self._note(hour)
        return written

    def restore(self) -> datetime | None:
        """Puts back online what an emptied store held: every row that counts at the last hour that was written.

        Returns:
            That hour; None when nothing was ever written.
        """
        with self._lock, self._translated(self.folder), self._repository.registry.lock(self.project):
            through = filled_through(self.folder.parent)
            if through is not None:
                self._apply()
                self._materialize(through - self._longest_ttl(), through)
        return through

    def _write_rows(self, after: datetime, until: datetime) -> int:
        store = self._repository.opened()
        if self._rows is None:
            self._rows = HourlyRows(self.tables, self._repository.views())
        rows = list(self._rows.between(after, until))
        self._writer.write(store, rows, until)
        return sum(len(data) for _, data in rows)

    def _newest(self) -> datetime | None:
        """The hour that is online. What nobody else writes is asked once."""
        if self._last_hour is not None and not self._writer.shared:
            return self._last_hour
        return self._writer.newest(self._repository.opened(), self._repository.views)

    def _note(self, hour: datetime) -> None:
        """Notes how far the store is filled, in the product's state: what is emptied cannot say it."""
        self._last_hour = hour.astimezone(UTC)
        aside = self.folder / f".{THROUGH}"
        aside.write_text(self._last_hour.isoformat(), encoding="ascii")
        os.replace(aside, self.folder / THROUGH)

    def _longest_ttl(self) -> timedelta:
        longest: timedelta = max(view.ttl for view in self._repository.views())
        return longest

    def clear_online(self) -> None:
        """Removes every online row."""
        with self._lock, self._translated(self.folder), self._repository.registry.lock(self.project):
            (self.folder / THROUGH).unlink(missing_ok=True)
            self._last_hour = None
            self._writer.clear(self._repository.opened(), self._repository.views())

    def get_online_features(self, rows: list[dict[str, str]]) -> dict[str, list[Any]]:
        """Feast's own online read, columns by `view__feature`: what the read plan is checked against."""
        with self._lock, self._translated(self.folder):
            store = self._repository.opened()
            service = store.get_feature_service(self.service)
            result: dict[str, list[Any]] = store.get_online_features(service, rows, full_feature_names=True).to_dict()
        return result

    def compile_plan(self) -> dict[str, Any]:
        """The feature service as a read plan (see readplan.py).

        Raises:
            NotFound: The features have not been applied.
            InvalidInput: A view has no TTL, or a feature a type that the read plan cannot read.
        """
        with self._lock, self._translated(self.folder):
            return self._repository.compile_plan()

    @contextlib.contextmanager
    def _translated(self, where: Path) -> Iterator[None]:
        try:
            yield
        except FeastObjectNotFoundException as error:
            raise NotFound(str(error), where=str(where), hint="apply the feature definitions") from error
        except (FileNotFoundError, duckdb.IOException) as error:
            raise NotFound(
                f"a feature table is missing: {error}", where=str(where), hint="build the features"
            ) from error
        except sa.exc.SQLAlchemyError as error:
            raise unavailable(error, self._repository.registry.where) from error
        except self._writer.errors as error:
            raise self._writer.unavailable(error) from error
        except OSError as error:
            raise Unavailable(
                f"the feature store cannot be used: {error}", where=str(where), hint="retry; free disk"
            ) from error
