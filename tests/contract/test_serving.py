"""The ports of serving: the adapters and the ones in memory keep the same promises."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from plinth.core.digests import digest_bytes
from plinth.core.rollouts import Plan, Stage, State
from plinth.core.routes import Route
from plinth.errors import Corrupt, NotFound, PlinthError, Unavailable
from plinth.features.readplan import ReadPlan
from plinth.ledger.artifacts import ArtifactStore
from plinth.ledger.rollouts import Rollouts
from plinth.ledger.store import Ledger
from plinth.serving.inference_log import Entry
from plinth.serving.ledger import LedgerReleases
from plinth.serving.memory import MemoryReader, MemoryReleases, MemorySink
from plinth.serving.pyarrow import ParquetRequests, ParquetSink
from plinth.serving.releases import read_artifact
from plinth.serving.requests import RequestRecord

FILES = {"model.onnx": b"\x08\x08model", "read_plan.json": b'{"views": []}'}


class FromLedger:
    """A ledger and an artefact store in a folder, promoted to as the pipeline does."""

    def __init__(self, folder, make_manifest):
        self.ledger = Ledger(f"sqlite:///{folder / 'ledger.db'}")
        self.ledger.releases("flight-delays")
        self.store = ArtifactStore(folder / "artifacts")
        self.make_manifest = make_manifest
        self.count = 0
        self.source = LedgerReleases(self.ledger, self.store, "flight-delays")

    def promote(self, files):
        self.count += 1
        shas = {name: self.store.put_bytes(data) for name, data in files.items()}
        digest = self.ledger.register_release(self.make_manifest(self.count, artifacts=shas), "test")
        serving = self.ledger.promote(
            "flight-delays", digest, expected_generation=self.count - 1, actor="test", reason="test"
        )
        return Route(serving.generation, 0, serving.digest)

    def roll_out(self, files, percents):
        self.count += 1
        shas = {name: self.store.put_bytes(data) for name, data in files.items()}
        digest = self.ledger.register_release(self.make_manifest(self.count, artifacts=shas), "test")
        stages = tuple(Stage(kind="canary", percent=percent, bake=0) for percent in percents)
        plan = Plan(strategy="canary", stages=stages, patience=60, approvals=0, own_approval=True, gates=())
        self.rollouts = Rollouts(self.ledger)
        self.rollout = self.rollouts.start(
            "flight-delays", digest, plan, policy="p", expected_generation=self.count - 1, actor="test", reason="test"
        )
        return digest

    def next_step(self):
        state = State("canary", self.rollout.state.stage + 1)
        self.rollout = self.rollouts.save(self.rollout, state, actor="test", reason="test")

    def end(self):
        self.count += 1
        self.rollouts.save(self.rollout, State("aborting", self.rollout.state.stage), actor="test", reason="test")

    def damage(self, name):
        path = self.store._target(digest_bytes(FILES[name]))
        path.chmod(0o644)
        path.write_bytes(b"damaged")


class InMemory:
    """The same over a dictionary."""

    def __init__(self, folder, make_manifest):
        self.source = MemoryReleases(folder)
        self.count = 0

    def promote(self, files):
        self.count += 1
        return self.source.promote(files, self.count)

    def roll_out(self, files, percents):
        self.count += 1
        self.weights = [percent * 100 for percent in percents]
        digest, serving = self.source.register(files), self.source.wanted.serving
        self.source.wanted = Route(self.count, 1, serving, digest, self.weights[0])
        return digest

    def next_step(self):
        route = self.source.wanted
        self.source.wanted = replace(route, step=route.step + 1, weight=self.weights[route.step])

    def end(self):
        self.count += 1
        self.source.wanted = Route(self.count, 0, self.source.wanted.serving)

    def damage(self, name):
        self.source.artifacts(self.source.wanted.serving)[name][0].write_bytes(b"damaged")


@pytest.fixture(params=[FromLedger, InMemory])
def releases(request, tmp_path, make_manifest):
    return request.param(tmp_path, make_manifest)


def test_nothing_is_wanted_before_the_first_promotion(releases):
    assert releases.source.current() is None


def test_the_promoted_release_is_wanted_with_its_generation(releases):
    first = releases.promote(FILES)
    assert releases.source.current() == first
    second = releases.promote({**FILES, "model.onnx": b"\x08\x08other"})
    assert releases.source.current() == second
    assert second.generation > first.generation


def test_a_rollouts_route_is_wanted_step_by_step_and_taken_back(releases):
    first = releases.promote(FILES)
    candidate = releases.roll_out({**FILES, "model.onnx": b"\x08\x08other"}, [1, 50])
    assert releases.source.current() == Route(first.generation + 1, 1, first.serving, candidate, 100)
    releases.next_step()
    assert releases.source.current() == Route(first.generation + 1, 2, first.serving, candidate, 5000)
    releases.end()
    assert releases.source.current() == Route(first.generation + 2, 0, first.serving)


def test_artefacts_come_with_a_path_and_a_digest_that_fits(releases):
    wanted = releases.promote(FILES)
    artifacts = releases.source.artifacts(wanted.serving)
    assert {name: read_artifact(artifacts, name) for name in artifacts} == FILES


def test_a_damaged_artefact_cannot_be_read(releases):
    wanted = releases.promote(FILES)
    releases.damage("model.onnx")
    with pytest.raises(Corrupt):
        read_artifact(releases.source.artifacts(wanted.serving), "model.onnx")


def test_an_unknown_release_is_not_found(releases):
    with pytest.raises(NotFound):
        releases.source.artifacts("e" * 64)


def entry(request_id, rows):
    return Entry(
        request_id, "d" * 64, [f"e{i}" for i in range(rows)], np.full(rows, 1_370_000_000),
        np.zeros((rows, 2), np.float32), np.full(rows, 0.5), [["missing:view"]] * rows, 1.0, 1.0,
    )  # fmt: skip


@pytest.fixture(params=["parquet", "memory"])
def sink(request, tmp_path):
    """A sink, and how many rows of a request it holds."""
    if request.param == "memory":
        memory = MemorySink()
        return memory, lambda name: sum(len(e.entity_ids) for e in memory.entries if e.request_id == name)

    def rows(name):
        tables = [pq.read_table(path, partitioning=None) for path in tmp_path.rglob("*.parquet")]
        return sum(table.column("request_id").to_pylist().count(name) for table in tables)

    return ParquetSink(tmp_path, ["a", "b"]), rows


def test_a_sink_keeps_every_row_of_every_write(sink):
    writer, rows = sink
    writer.write([entry("one", 3), entry("two", 1)])
    writer.write([entry("two", 4)])
    assert (rows("one"), rows("two"), rows("three")) == (3, 5, 0)


def record(request_id, scores, **changes):
    fields = {
        "request_id": request_id, "at": 1.5, "clock": 10.25, "generation": 7, "step": 2, "arm": "candidate",
        "release": "d" * 64, "code": 200, "seconds": 0.002, "rows": len(scores), "defaulted": 1,
        "entity_ids": [f"e{i}" for i in range(len(scores))], "scores": np.array(scores, dtype=np.float64),
    }  # fmt: skip
    return RequestRecord(**{**fields, **changes})


@pytest.fixture(params=["parquet", "memory"])
def request_sink(request, tmp_path):
    """A sink of the request log, and what it holds of a request."""
    if request.param == "memory":
        memory = MemorySink()
        return memory, lambda name: [r._asdict() for r in memory.entries if r.request_id == name]

    def rows(name):
        tables = [pq.read_table(path, partitioning=None) for path in tmp_path.rglob("*.parquet")]
        return [row for table in tables for row in table.to_pylist() if row["request_id"] == name]

    return ParquetRequests(tmp_path), rows


def test_a_request_sink_keeps_every_record_with_its_scores(request_sink):
    writer, rows = request_sink
    writer.write([record("one", [0.25, 0.5]), record("two", [], code=500, rows=3, generation=8, arm="serving")])
    writer.write([record("two", [0.75], arm="shadow")])
    (one,) = rows("one")
    assert (one["arm"], one["generation"], one["step"], one["code"], one["rows"]) == ("candidate", 7, 2, 200, 2)
    assert (one["clock"], one["seconds"], one["defaulted"], one["release"]) == (10.25, 0.002, 1, "d" * 64)
    assert (list(one["scores"]), list(one["entity_ids"])) == ([0.25, 0.5], ["e0", "e1"])
    found = {row["arm"]: (row["code"], row["rows"], len(row["scores"])) for row in rows("two")}
    assert found == {"serving": (500, 3, 0), "shadow": (200, 1, 1)}


PLAN = {
    "schema": 1, "feature_service": "s", "project": "p", "entity_key_version": 3, "store": {"type": "sqlite"},
    "views": [
        {
            "name": "history", "table": "p_history", "join_keys": ["id"], "ttl_seconds": 3600,
            "features": [{"name": name, "dtype": "float32", "default": 7.0} for name in ("a", "b")],
        }
    ],
}  # fmt: skip


def sqlite_reader(path):
    import sqlite3
    import struct

    plan = ReadPlan.from_dict(PLAN)
    (view,) = plan.views
    with sqlite3.connect(path) as store:
        store.execute(
            "CREATE TABLE p_history (entity_key BLOB, feature_name TEXT, value BLOB, event_ts timestamp, "
            "PRIMARY KEY(entity_key, feature_name))"
        )
        (key,) = view.entity_keys({"id": ["known"]})
        for name, value in (("a", 1.0), ("b", 2.0)):
            row = (key, name, b"\x35" + struct.pack("<f", value), 1_370_000_000)
            store.execute("INSERT INTO p_history VALUES (?, ?, ?, ?)", row)
    store.close()
    return plan.open(path)


@pytest.fixture(params=["sqlite", "memory"])
def reader(request, tmp_path):
    if request.param == "sqlite":
        return sqlite_reader(tmp_path / "online.db")
    return MemoryReader({"known": [1.0, 2.0]}, default=[7.0, 7.0])


def test_a_reader_gives_values_or_defaults_row_by_row(reader):
    block = reader.read({"id": ["known", "other", None, "known"]}, np.full(4, 1_370_000_100))
    assert block.values.tolist() == [[1, 2], [7, 7], [7, 7], [1, 2]]
    assert block.status.tolist() == [[0], [1], [1], [0]]


def test_a_store_that_is_away_is_unavailable_not_a_crash(tmp_path):
    missing = ReadPlan.from_dict(json.loads(json.dumps(PLAN))).open(tmp_path / "missing.db")
    with pytest.raises(Unavailable) as caught:
        missing.read({"id": ["known"]}, np.array([1_370_000_100]))
    assert isinstance(caught.value, PlinthError)
