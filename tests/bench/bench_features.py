"""Target 3 of the performance design: a feature read of 5 views x 50 features from SQLite.

Peer: Feast's `get_online_features` on the same store. Ours: the compiled read plan. Floor: the same rows fetched with
prepared SQL and nothing done to them (a raw get). Rounds are interleaved in one process, values asserted equal, and A
against A is measured first: what lies inside that noise is no result.
"""

from __future__ import annotations

import json
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

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

    def __init__(self, folder: Path, batch: int) -> None:
        from feast import FeatureStore

        from plinth.features.feast import FeastFeatures
        from plinth.features.readplan import ReadPlan

        write_tables(folder / "features")
        self.store = FeastFeatures(folder, "wide", "wide_v1", definitions)
        self.store.apply()
        self.store.materialize(END - timedelta(days=1), END)
        self.plan = ReadPlan.from_dict(self.store.compile_plan())
        self.reader = self.plan.open(self.store.database)
        self.raw = sqlite3.connect(f"file:{self.store.database}?mode=ro", uri=True)
        # The peer at its best: the store and the service object are held, nothing is resolved by name in a call.
        self.peer = FeatureStore(repo_path=str(self.store.online))
        self.service = self.peer.get_feature_service("wide_v1")
        self.names = [f"k{i * 7 % ENTITIES}" for i in range(batch)]
        self.rows = [{"key": name} for name in self.names]
        self.at = np.full(batch, int(END.timestamp()))
        self.entity_keys = self.plan.views[0].entity_keys({"key": self.names})
        marks = ",".join("?" * batch)
        self.sql = [
            f'SELECT entity_key, feature_name, value, event_ts FROM "{view.table}" WHERE entity_key IN ({marks})'
            for view in self.plan.views
        ]

    def sides(self) -> dict[str, Callable[[], Any]]:
        return {
            "feast": self.ask_peer,
            "plan": lambda: self.reader.read({"key": self.names}, self.at),
            "plan, rows just written": self.ask_anew,
            "raw": lambda: [self.raw.execute(sql, self.entity_keys).fetchall() for sql in self.sql],
        }

    def ask_anew(self) -> Any:
        """What is read in the hour's first call: nothing is remembered."""
        self.reader._local.version = None
        return self.reader.read({"key": self.names}, self.at)

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
        assert sum(len(rows) for rows in self.sides()["raw"]()) == len(set(self.names)) * VIEWS * FEATURES


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


def contest(batch: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        game = Contest(Path(folder), batch)
        game.check_equal()
        sides = game.sides()
        for name, call in sides.items():
            measure(call, max(READS[name] // 10, 2))
        samples: dict[str, list[tuple[float, float]]] = {name: [] for name in (*sides, "plan again")}
        for _ in range(ROUNDS):
            for name in ("plan", "feast", "raw", "plan, rows just written", "plan again"):
                key = name.removesuffix(" again")
                samples[name].append(measure(sides[key], READS[key]))
        game.check_equal()
    return {name: summary(values) for name, values in samples.items()}


def run() -> list[dict[str, Any]]:
    """Lines for the page of `make bench`, CPU time a call. The target is held to rows that nothing remembers."""
    lines = []
    for batch in (1, 16):
        found = contest(batch)
        cpu = {name: values["cpu_us"] for name, values in found.items()}
        noise = cpu["plan again"] / cpu["plan"]
        scope = f"feature read, 5 views x 50 features, {batch} row{'s' * (batch > 1)}"
        for name, note in (
            ("plan, rows just written", "rows of an hour's first read"),
            ("plan", f"rows remembered until the store changes; A/A {noise:.2f}x"),
        ):
            line = {
                "target": 3,
                "unit": "us CPU",
                "peer": cpu["feast"],
                "ours": cpu[name],
                "floor": cpu["raw"],
                "note": note,
            }
            speed, guard = cpu["feast"] / cpu[name], cpu[name] / cpu["raw"]
            lines += [
                {**line, "measure": f"{scope}, against Feast", "ratio": speed, "bound": ">= 5x", "reached": speed >= 5},
                {
                    **line,
                    "measure": f"{scope}, against a raw get",
                    "ratio": guard,
                    "bound": "<= 2x",
                    "reached": guard <= 2,
                },
            ]
    return lines


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
