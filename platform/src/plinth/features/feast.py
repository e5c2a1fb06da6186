"""Feast as the feature store: DuckDB offline, SQLite online, both on files in the product's state.

Traps of Feast 0.67 that this file answers for: its offline stores keep no row order and may drop rows (rows are
numbered and put back), its SQLite store raises when two threads share it (one lock), its online timestamps depend on
the machine's time zone and on whether pandas has written SQL in the same process (`_register_timestamps`), and ibis
cannot take a TTL such as 36 hours, which mixes days and seconds.
"""

from __future__ import annotations

import contextlib
import io
import sqlite3
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import feast
import pandas as pd
import yaml
from feast.errors import FeastObjectNotFoundException
from feast.infra.online_stores.helpers import compute_table_id

from plinth.errors import Conflict, Corrupt, InvalidInput, NotFound, Unavailable
from plinth.features.advance import HourlyRows
from plinth.features.slices import write_slices

ENTITY_KEY_VERSION = 3
CHUNK_ROWS = 30_000
"""Entity rows of one join, consecutive in time: bounds the memory of Feast's join, which holds every candidate row."""

HOUR = timedelta(hours=1)
CATCH_UP = timedelta(days=1)
"""A longer way to catch up is left to Feast's materialization, which is made for ranges."""

DTYPES = {"Float32": "float32", "Float64": "float64", "Int64": "int64"}


class FeastFeatures:
    """The feature store of one product.

    Args:
        folder: The product's state: `features/<view>.parquet` is read, `online/` is written.
        project: Feast's project name, an identifier.
        service: Name of the feature service that training and serving read.
        definitions: Builds the Feast objects over the folder of feature tables.
    """

    def __init__(self, folder: Path, project: str, service: str, definitions: Callable[[Path], Sequence[Any]]) -> None:
        self.tables = folder / "features"
        self.online = folder / "online"
        self.project = project
        self.service = service
        self._definitions = definitions
        self._lock = threading.RLock()
        self._store: feast.FeatureStore | None = None
        self._rows: HourlyRows | None = None
        self._last_hour: datetime | None = None

    @property
    def database(self) -> Path:
        """The SQLite file of the online store."""
        return self.online / "online.db"

    def scratch(self, folder: Path) -> FeastFeatures:
        """The same features over the same tables with an online store of its own in `folder`."""
        other = FeastFeatures(folder, self.project, self.service, self._definitions)
        other.tables = self.tables
        return other

    def apply(self) -> None:
        """Writes feature_store.yaml, registers the definitions and creates the online tables.

        Raises:
            NotFound: The feature tables have not been built.
            Unavailable: The folder cannot be written.
        """
        with self._lock, _translated(self.online):
            self.online.mkdir(parents=True, exist_ok=True)
            (self.online / "feature_store.yaml").write_text(yaml.safe_dump(self._config()), encoding="utf-8")
            with contextlib.closing(sqlite3.connect(self.database)) as connection:
                connection.execute("PRAGMA journal_mode = WAL")  # readers never wait for the hourly write
            self._close()
            store = feast.FeatureStore(repo_path=str(self.online))
            store.apply(list(self._definitions(self.tables)))
            self._store = store

    def historical(self, entities: pd.DataFrame) -> pd.DataFrame:
        """Feast's point-in-time join over chunks consecutive in time; see the port.

        Raises:
            InvalidInput: A join key or `event_timestamp` is missing.
            NotFound: The features have not been applied, or a feature table is missing.
        """
        with self._lock, _translated(self.tables):
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
        sliced = FeastFeatures(folder, self.project, self.service, self._definitions)
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
        store = self._opened()
        service = store.get_feature_service(self.service)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # ibis calls deprecated methods of duckdb
            table = store.get_historical_features(rows, service, full_feature_names=True).to_arrow()
        frame: pd.DataFrame = table.select(["row_number", *columns]).to_pandas().set_index("row_number")
        return frame

    def materialize(self, start: datetime, end: datetime) -> None:
        """Feast's own materialization of the newest row of each entity in [start, end]."""
        quiet = io.StringIO()  # Feast prints its progress
        with (
            self._lock,
            _translated(self.online),
            contextlib.redirect_stdout(quiet),
            contextlib.redirect_stderr(quiet),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore", DeprecationWarning)
            self._writable()
            self._opened().materialize(start.astimezone(UTC), end.astimezone(UTC))
            self._last_hour = max(self._last_hour or end, end).astimezone(UTC)

    def advance(self, hour: datetime) -> int:
        """Brings the online store to `hour`: the newest row of each entity since the last hour that is online.

        Usually that is one hour's rows, written in milliseconds through Feast's own online store; after more than a day
        it is Feast's materialization. An empty store gets the rows stamped exactly `hour`.

        Returns:
            Entity rows written; 0 after a materialization, which does not say.

        Raises:
            InvalidInput: `hour` is not a full hour with a time zone.
            Conflict: A later hour is online already: an older row would win over a newer one.
        """
        if hour.tzinfo is None or (hour.minute, hour.second, hour.microsecond) != (0, 0, 0):
            raise InvalidInput(f"{hour} is no full hour with a time zone", hint="truncate it to the hour")
        hour = hour.astimezone(UTC)
        with self._lock, _translated(self.online):
            # The first time in a process, its last hour is written again: another process may have died in it.
            since = self._last_hour or self._newest_online() or hour
            after = since if self._last_hour else since - HOUR
            if hour < since:
                raise Conflict(
                    f"{hour:%Y-%m-%d %H:%M} is before {since:%Y-%m-%d %H:%M}, which is already online",
                    where=str(self.database),
                    hint="clear the online store to replay from an earlier hour",
                )
            if hour - after > CATCH_UP:
                self.materialize(after, hour)
                return 0
            written = self._write_rows(after, hour)
            self._last_hour = hour
        return written

    def _write_rows(self, after: datetime, until: datetime) -> int:
        self._writable()
        store = self._opened()
        if self._rows is None:
            self._rows = HourlyRows(self.tables, self._views())
        written = 0
        for view, data in self._rows.between(after, until):
            store.provider.online_store.online_write_batch(store.config, view, data, None)
            written += len(data)
        return written

    def _newest_online(self) -> datetime | None:
        connection = self._writable()
        tables = [compute_table_id(self.project, view) for view in self._views()]
        newest = [connection.execute(f'SELECT max(event_ts) FROM "{table}"').fetchone()[0] for table in tables]
        return max((datetime.fromtimestamp(at, UTC) for at in newest if at is not None), default=None)

    def clear_online(self) -> None:
        """Empties every online table."""
        with self._lock, _translated(self.online):
            connection = self._writable()
            with connection:
                for view in self._views():
                    connection.execute(f'DELETE FROM "{compute_table_id(self.project, view)}"')
            self._last_hour = None

    def get_online_features(self, rows: list[dict[str, str]]) -> dict[str, list[Any]]:
        """Feast's own online read, columns by `view__feature`: what the read plan is checked against."""
        with self._lock, _translated(self.online):
            store = self._opened()
            service = store.get_feature_service(self.service)
            result: dict[str, list[Any]] = store.get_online_features(service, rows, full_feature_names=True).to_dict()
        return result

    def compile_plan(self) -> dict[str, Any]:
        """The feature service as a read plan (see readplan.py).

        Raises:
            NotFound: The features have not been applied.
            InvalidInput: A view has no TTL, or a feature a type that the read plan cannot read.
        """
        with self._lock, _translated(self.online):
            views = [self._plan_view(view) for view in self._views()]
        return {
            "schema": 1,
            "feature_service": self.service,
            "project": self.project,
            "entity_key_version": ENTITY_KEY_VERSION,
            "store": {"type": "sqlite"},
            "views": views,
        }

    def _plan_view(self, view: Any) -> dict[str, Any]:
        features = []
        for field in view.features:
            if str(field.dtype) not in DTYPES:
                raise InvalidInput(
                    f"feature {field.name} is {field.dtype}", where=view.name, hint=f"one of {', '.join(DTYPES)}"
                )
            default = float(field.tags.get("default", 0.0))
            features.append({"name": field.name, "dtype": DTYPES[str(field.dtype)], "default": default})
        if not view.ttl:
            raise InvalidInput("a feature view has no TTL", where=view.name, hint="set ttl=timedelta(...)")
        return {
            "name": view.name,
            "table": compute_table_id(self.project, view),
            "join_keys": sorted(view.join_keys),
            "ttl_seconds": int(view.ttl.total_seconds()),
            "features": features,
        }

    def _views(self) -> list[Any]:
        store = self._opened()
        return [
            store.get_feature_view(p.name) for p in store.get_feature_service(self.service).feature_view_projections
        ]

    def _writable(self) -> sqlite3.Connection:
        """Feast's own connection, set not to wait for the disk on each view: the store can be built anew."""
        store = self._opened()
        connection: sqlite3.Connection = store.provider.online_store._get_conn(store.config)  # type: ignore[attr-defined]
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA busy_timeout = 5000")
        return connection

    def _opened(self) -> feast.FeatureStore:
        if self._store is None:
            if not (self.online / "feature_store.yaml").is_file():
                raise NotFound(
                    "the features have not been applied", where=str(self.online), hint="run the features step"
                )
            self._store = feast.FeatureStore(repo_path=str(self.online))
        self._store.provider.online_store  # noqa: B018 - imports Feast's adapters first, so that ours come after them
        _register_timestamps()
        return self._store

    def _close(self) -> None:
        self._store = self._rows = None

    def _config(self) -> dict[str, Any]:
        return {
            "project": self.project,
            "provider": "local",
            "registry": {"path": "registry.db"},
            "offline_store": {"type": "duckdb"},
            "online_store": {"type": "sqlite", "path": "online.db"},
            "entity_key_serialization_version": ENTITY_KEY_VERSION,
        }


def _register_timestamps() -> None:
    """Makes the online store's timestamps true UTC seconds, whatever the machine's zone.

    Feast turns times into naive UTC and then takes their local `timestamp()`, which is off by the machine's offset;
    and `DataFrame.to_sql` replaces its adapter by one that writes text. So ours is registered before each use.
    """
    sqlite3.register_adapter(datetime, lambda at: int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()))
    sqlite3.register_converter("timestamp", lambda raw: datetime.fromtimestamp(int(raw), UTC))


@contextlib.contextmanager
def _translated(where: Path) -> Iterator[None]:
    try:
        yield
    except FeastObjectNotFoundException as error:
        raise NotFound(str(error), where=str(where), hint="apply the feature definitions") from error
    except (FileNotFoundError, duckdb.IOException) as error:
        raise NotFound(f"a feature table is missing: {error}", where=str(where), hint="build the features") from error
    except (sqlite3.OperationalError, OSError) as error:
        raise Unavailable(
            f"the feature store cannot be used: {error}", where=str(where), hint="retry; free disk"
        ) from error
