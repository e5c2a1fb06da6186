"""Target 3 of the performance design: a feature read of 5 views x 50 features, from SQLite and from Valkey.

Peer: Feast's `get_online_features` on the same store. Ours: the compiled read plan. Floor: the same rows fetched with
prepared SQL, or with one pipeline of HMGET by redis-py, and nothing done to them (a raw get). Rounds are interleaved in
one process, values asserted equal, and A against A is measured first: what lies inside that noise is no result.
"""

from __future__ import annotations

import json
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from plinth.features.readplan import ReadPlan

VIEWS, FEATURES, ENTITIES = 5, 50, 200
ROUNDS = 9
READS = {"plan, rows just written": 100, "plan": 200, "raw": 200, "feast": 20}
END = datetime(2013, 3, 1, tzinfo=UTC)


def definitions(features: Path) -> list[Any]:
    from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
    from feast.types import Float32, String

    entity = Entity(name="key", join_keys=["key"], value_type=ValueType.STRING)
    views = [
        FeatureView(
            name=f"view_{number}",
            entities=[entity],
            ttl=timedelta(days=1),
            schema=[Field(name="key", dtype=String), *(Field(name=f"f{i}", dtype=Float32) for i in range(FEATURES))],
            source=FileSource(
                name=f"view_{number}", path=str(features / f"view_{number}.parquet"), timestamp_field="event_timestamp"
            ),
        )
        for number in range(VIEWS)
    ]
    return [entity, *views, FeatureService(name="wide_v1", features=views)]


def write_tables(folder: Path) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(VIEWS):
        columns = {f"f{i}": rng.normal(size=ENTITIES).astype(np.float32) for i in range(FEATURES)}
        times = pa.array([END - timedelta(hours=1)] * ENTITIES, pa.timestamp("us", tz="UTC"))
        table = pa.table({"event_timestamp": times, "key": [f"k{i}" for i in range(ENTITIES)], **columns})
        pq.write_table(table, folder / f"view_{number}.parquet")


class Contest:
    """The three sides over one store, each reading `batch` entities a call."""

    def __init__(self, folder: Path, batch: int, valkey: str = "") -> None:
        from plinth.features.feast import FeastFeatures

        write_tables(folder / "features")
        writer = None
        if valkey:
            from plinth.features.feast_redis import RedisWriter

            writer = RedisWriter(valkey, "wide")
        self.store = FeastFeatures(folder, "wide", "wide_v1", definitions, writer)
        self.store.apply()
        self.store.materialize(END - timedelta(days=1), END)
        self.plan = ReadPlan.from_dict(self.store.compile_plan())
        self.reader = self.store.online.open(self.plan)
        # The peer at its best: the store and the service object are held, nothing is resolved by name in a call.
        self.peer = self.store._repository.opened()
        self.service = self.peer.get_feature_service("wide_v1")
        self.names = [f"k{i * 7 % ENTITIES}" for i in range(batch)]
        self.rows = [{"key": name} for name in self.names]
        self.at = np.full(batch, int(END.timestamp()))
        self.entity_keys = self.plan.views[0].entity_keys({"key": self.names})

    def sides(self) -> dict[str, Callable[[], Any]]:
        return {"feast": self.ask_peer, "plan": self.ask, "raw": self.ask_raw}

    def ask(self) -> Any:
        return self.reader.read({"key": self.names}, self.at)

    def ask_raw(self) -> list[Any]:
        """What was stored, as bytes; one item for each value."""
        raise NotImplementedError

    def ask_peer(self) -> dict[str, list[Any]]:
        answer = self.peer.get_online_features(self.service, self.rows, full_feature_names=True)
        result: dict[str, list[Any]] = answer.to_dict()
        return result

    def check_equal(self) -> None:
        theirs = self.ask_peer()
        ours = self.reader.read({"key": self.names}, self.at)
        expected = np.array([theirs[name] for name in self.plan.columns]).T
        assert ours.values.tobytes() == expected.astype(np.float64).tobytes()
        assert not ours.status.any()
        assert len(self.ask_raw()) == len(set(self.names)) * VIEWS * FEATURES


class SqliteContest(Contest):
    """Over SQLite, where rows are remembered until the store changes."""

    def __init__(self, folder: Path, batch: int) -> None:
        super().__init__(folder, batch)
        self.raw = sqlite3.connect(f"file:{self.store.online.path}?mode=ro", uri=True)
        marks = ",".join("?" * batch)
        self.sql = [
            f'SELECT entity_key, feature_name, value, event_ts FROM "{view.table}" WHERE entity_key IN ({marks})'
            for view in self.plan.views
        ]

    def sides(self) -> dict[str, Callable[[], Any]]:
        return {**super().sides(), "plan, rows just written": self.ask_anew}

    def ask_anew(self) -> Any:
        """What is read in the hour's first call: nothing is remembered."""
        self.reader._local.version = None
        return self.ask()

    def ask_raw(self) -> list[Any]:
        return [row for sql in self.sql for row in self.raw.execute(sql, self.entity_keys)]


class ValkeyContest(Contest):
    """Over Valkey, where nothing is remembered."""

    def __init__(self, folder: Path, batch: int, valkey: str) -> None:
        import redis

        from plinth.features.redis import feature_field

        super().__init__(folder, batch, valkey)
        self.client = redis.Redis.from_url(valkey)
        self.keys = [key + b"wide" for key in self.entity_keys]
        self.fields = [
            feature_field(view.name, feature.name) for view in self.plan.views for feature in view.features
        ] + [f"_ts:{view.name}" for view in self.plan.views]

    def ask_raw(self) -> list[Any]:
        with self.client.pipeline(transaction=False) as pipe:
            for key in self.keys:
                pipe.hmget(key, self.fields)
            return [value for row in pipe.execute() for value in row[: VIEWS * FEATURES]]


def measure(call: Callable[[], Any], reads: int) -> tuple[float, float]:
    """CPU and wall microseconds a call."""
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(reads):
        call()
    return (time.process_time() - cpu) / reads * 1e6, (time.perf_counter() - wall) / reads * 1e6


def summary(samples: list[tuple[float, float]]) -> dict[str, float]:
    cpu, wall = zip(*samples, strict=True)
    low, _, high = statistics.quantiles(cpu, n=4)
    return {
        "cpu_us": round(statistics.median(cpu), 1),
        "cpu_us_q1": round(low, 1),
        "cpu_us_q3": round(high, 1),
        "wall_us": round(statistics.median(wall), 1),
    }


def contest(game: Contest) -> dict[str, Any]:
    game.check_equal()
    sides = game.sides()
    for name, call in sides.items():
        measure(call, max(READS[name] // 10, 2))
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in (*sides, "plan again")}
    for _ in range(ROUNDS):
        for name in (*sides, "plan again"):
            key = name.removesuffix(" again")
            samples[name].append(measure(sides[key], READS[key]))
    game.check_equal()
    return {name: summary(values) for name, values in samples.items()}


def lines_of(found: dict[str, Any], scope: str, notes: dict[str, str]) -> list[dict[str, Any]]:
    """Two lines for each of our sides: against the peer, against the floor."""
    cpu = {name: values["cpu_us"] for name, values in found.items()}
    wall = {name: values["wall_us"] for name, values in found.items()}
    noise = cpu["plan again"] / cpu["plan"]
    lines = []
    for name, note in notes.items():
        line = {
            "target": 3,
            "unit": "us CPU",
            "peer": cpu["feast"],
            "ours": cpu[name],
            "floor": cpu["raw"],
            "note": f"{note}; wall {wall['feast']:,.0f}, {wall[name]:,.0f}, {wall['raw']:,.0f} us; A/A {noise:.2f}x",
        }
        speed, guard = cpu["feast"] / cpu[name], cpu[name] / cpu["raw"]
        lines += [
            {**line, "measure": f"{scope}, against Feast", "ratio": speed, "bound": ">= 5x", "reached": speed >= 5},
            {**line, "measure": f"{scope}, against a raw get", "ratio": guard, "bound": "<= 2x", "reached": guard <= 2},
        ]
    return lines


def run() -> list[dict[str, Any]]:
    """Lines for the page of `make bench`, CPU time a call. The target is held to rows that nothing remembers."""
    sys.path.insert(0, str(Path(__file__).parent.parent))
    import servers

    lines = []
    with ExitStack() as stack:
        why = servers.reason("valkey")
        if why:
            print(f"no rows of Valkey: {why}", flush=True)
        valkey = "" if why else stack.enter_context(servers.valkey())
        for batch in (1, 16):
            scope = f"feature read, 5 views x 50 features, {batch} row{'s' * (batch > 1)}"
            with tempfile.TemporaryDirectory() as folder:
                notes = {
                    "plan, rows just written": "rows of an hour's first read",
                    "plan": "rows remembered until the store changes",
                }
                lines += lines_of(contest(SqliteContest(Path(folder), batch)), f"{scope}, SQLite", notes)
            if valkey:
                with tempfile.TemporaryDirectory() as folder:
                    game = ValkeyContest(Path(folder), batch, valkey)
                    lines += lines_of(contest(game), f"{scope}, Valkey", {"plan": "nothing remembered"})
    return lines


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
