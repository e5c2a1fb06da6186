"""State of the flight-delays product without its pipeline: an online store of random values, a random model, a release.

`python tests/bench/synthetic_state.py FOLDER [--trees N]` fills FOLDER; with `PLINTH_STATE=FOLDER` the product's
service serves from it. The store has Feast's layout and every view, the model every feature, so that a request does
the work that a real one does.
"""

import argparse
import http.client
import json
import os
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from flight_delays import feature_definitions, vector
from flight_delays.request import Flight
from plinth.core.digests import digest_bytes
from plinth.core.gates import Verdict
from plinth.core.releases import CodeRef, FeatureServiceRef, ModelRef, ReleaseManifest
from plinth.core.rollouts import Plan, Stage, State
from plinth.features.readplan import ReadPlan
from plinth.ledger.artifacts import ArtifactStore
from plinth.ledger.rollouts import Rollouts
from plinth.ledger.store import Ledger
from plinth.settings import Settings, find_home

PRODUCT = "flight-delays"
HOME = find_home(Path(__file__).parent)
SEED = 20130601
DEPARTURE = datetime(2013, 6, 1, 9, 15, tzinfo=UTC)
TAILNUMS = [f"N{number}UA" for number in range(100, 300)]


def read_plan():
    """The read plan of the product's feature service, as compiling it would give."""
    views = [
        {
            "name": name,
            "table": f"{feature_definitions.PROJECT}_{name}",
            "join_keys": list(view.keys),
            "ttl_seconds": int(view.ttl.total_seconds()),
            "features": [
                {"name": feature, "dtype": "int64" if feature in view.integers else "float32", "default": default}
                for feature, (_, default) in view.features.items()
            ],
        }
        for name, view in feature_definitions.VIEWS.items()
    ]
    return {
        "schema": 1, "feature_service": feature_definitions.SERVICE, "project": feature_definitions.PROJECT,
        "entity_key_version": 3, "store": {"type": "sqlite"}, "views": views,
    }  # fmt: skip


def flights(count, seed=SEED):
    """Random flights of the network."""
    dice = np.random.default_rng(seed)
    return [
        Flight(
            str(dice.choice(vector.CARRIERS)), int(dice.integers(1, 200)), str(dice.choice(vector.ORIGINS)),
            str(dice.choice(vector.DESTS)), str(dice.choice(TAILNUMS)), DEPARTURE,
        )
        for _ in range(count)
    ]  # fmt: skip


def as_json(flight):
    """A flight as POST /predict takes it."""
    return {
        "carrier": flight.carrier, "flight": flight.flight, "origin": flight.origin, "dest": flight.dest,
        "tailnum": flight.tailnum, "scheduled_departure": flight.scheduled_departure.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }  # fmt: skip


def join_keys(some_flights):
    """Join key to its values, as the read plan wants them."""
    return {
        "carrier": [flight.carrier for flight in some_flights],
        "origin": [flight.origin for flight in some_flights],
        "dest": [flight.dest for flight in some_flights],
        "line": [f"{flight.carrier}{flight.flight}-{flight.origin}" for flight in some_flights],
        "tailnum": [flight.tailnum for flight in some_flights],
    }


def _varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def write_online_store(path, some_flights, seed=SEED):
    """Feast's SQLite tables with fresh random rows for every entity of `some_flights`."""
    dice = np.random.default_rng(seed)
    plan = ReadPlan.from_dict(read_plan())
    stamp = int(DEPARTURE.timestamp()) - 3 * 3600
    path.parent.mkdir(parents=True, exist_ok=True)
    keys = join_keys(some_flights)
    with sqlite3.connect(path) as store:
        for view in plan.views:
            store.execute(
                f"CREATE TABLE {view.table} (entity_key BLOB, feature_name TEXT, value BLOB, value_text TEXT, "
                "vector_value BLOB, event_ts timestamp, created_ts timestamp, PRIMARY KEY(entity_key, feature_name))"
            )
            for key in sorted(set(view.entity_keys(keys))):
                for feature in view.features:
                    value = dice.normal(10, 8)
                    blob = b"\x35" + struct.pack("<f", value)
                    if feature.dtype == "int64":
                        blob = b"\x20" + _varint(stamp - int(dice.integers(0, 86_400)))
                    store.execute(
                        f"INSERT INTO {view.table} VALUES (?, ?, ?, NULL, NULL, ?, ?)",
                        (key, feature.name, blob, stamp - 600, stamp),
                    )
    store.close()


def make_model(trees, seed=SEED):
    """A LightGBM classifier of `trees` trees on random data, and the same as ONNX."""
    import lightgbm

    from plinth.models.onnx import convert

    dice = np.random.default_rng(seed)
    rows = dice.normal(10, 8, size=(20_000, len(vector.FEATURES))).astype(np.float32)
    odds = 0.05 * (rows[:, :8].sum(axis=1) - 80) + dice.normal(0, 1, len(rows))
    booster = lightgbm.train(
        {"objective": "binary", "num_leaves": 63, "verbose": -1, "num_threads": 1, "seed": seed, "deterministic": True},
        lightgbm.Dataset(rows, label=(odds > 0).astype(int)),
        num_boost_round=trees,
    )
    return booster, convert(booster, rows[:1000])


def register(settings, model, number=1, plan=None, *, drill=False):
    """Store the bundle and register it. Returns its digest."""
    store = ArtifactStore(settings.state_dir / "artifacts" / "sha256")
    plan = json.dumps(plan or read_plan()).encode()
    manifest = ReleaseManifest(
        product=PRODUCT,
        model=ModelRef(name=PRODUCT, version=str(number), run_id="synthetic", format="onnx"),
        feature_service=FeatureServiceRef(name=feature_definitions.SERVICE, digest=digest_bytes(plan)),
        contracts=(),
        data=(),
        code=CodeRef(commit="0" * 40, dirty=True),
        artifacts={"model.onnx": store.put_bytes(model), "read_plan.json": store.put_bytes(plan)},
        verdicts=(Verdict(gate="synthetic", passed=True, observed=None, bound=None, reason="made for a test"),),
        created_at="2013-06-01T00:00:00+00:00",
        pipeline_run=f"synthetic{number}",
    )
    ledger = Ledger(settings.database_url)
    digest = ledger.register_release(manifest, "synthetic", drill=drill)
    ledger.close()
    return digest


def promote(settings, digest, *, kind="promote"):
    """Make the product serve a release."""
    ledger = Ledger(settings.database_url)
    serving = ledger.current(PRODUCT)
    generation = serving.generation if serving else 0
    ledger.promote(PRODUCT, digest, expected_generation=generation, actor="synthetic", reason="test", kind=kind)
    ledger.close()


def release(settings, model, number=1):
    """Store the bundle, register it and promote it. Returns its digest."""
    digest = register(settings, model, number)
    promote(settings, digest)
    return digest


def start_rollout(settings, digest, *percents):
    """Begin a rollout whose stages are canaries of these percents; 0 is a shadow, 100 full. Returns it."""
    kinds = {0: "shadow", 100: "full"}
    stages = tuple(Stage(kind=kinds.get(percent, "canary"), percent=percent, bake=0) for percent in percents)
    plan = Plan(strategy="canary", stages=stages, patience=600, approvals=0, own_approval=True, gates=())
    ledger = Ledger(settings.database_url)
    generation = ledger.current(PRODUCT).generation
    started = Rollouts(ledger).start(
        PRODUCT, digest, plan, policy="synthetic", expected_generation=generation, actor="synthetic", reason="test"
    )
    ledger.close()
    return started


def move_rollout(settings, rollout, state):
    """Write a rollout's next state. Returns the rollout."""
    ledger = Ledger(settings.database_url)
    moved = Rollouts(ledger).save(rollout, state, actor="synthetic", reason="test")
    ledger.close()
    return moved


def next_stage(settings, rollout):
    """Move a rollout to its next stage, whatever the gates would say. Returns it."""
    stage = rollout.state.stage + 1
    return move_rollout(settings, rollout, State(rollout.plan.stages[stage].kind, stage))


def fill(folder, trees=300, count=400):
    """Everything under `folder`. Returns the model's bytes."""
    settings = Settings(state=folder)
    write_online_store(settings.product_dir(PRODUCT) / "online" / "online.db", flights(count))
    booster, model = make_model(trees)
    (folder / "model.txt").write_text(booster.model_to_string())
    (folder / "model.onnx").write_bytes(model)
    release(settings, model)
    return model


def free_port():
    """A port nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class ServiceProcess:
    """The product's service as a process of its own: started, asked, stopped."""

    def __init__(self, state, port, *, command=None, **environment):
        self.state, self.port = state, port
        self.log = state / "service.log"
        command = command or [sys.executable, "-m", "flight_delays.service", "--port", str(port)]
        given = {"PLINTH_STATE": str(state), "PLINTH_HOME": str(HOME), "PLINTH_TRACES": "false", **environment}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, env={**os.environ, **given}, stderr=log, stdout=log, cwd=HOME)

    def ask(self, method, path, body=None, headers=None, timeout=120):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            data = json.dumps(body).encode() if isinstance(body, dict | list) else body
            connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            text = answer.read()
            is_json = answer.headers.get("Content-Type", "").startswith("application/json")
            return answer.status, json.loads(text) if is_json else text.decode(), answer.headers
        finally:
            connection.close()

    def wait_ready(self, seconds=240):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            try:
                if self.ask("GET", "/readyz")[0] == 200:
                    return self
            except OSError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"not ready: {self.log.read_text()[-2000:]}")

    def stop(self, sig=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(sig)
        return self.process.wait(timeout=120)

    def lines(self):
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trees", type=int, default=300)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    fill(args.folder, args.trees)
    return 0


if __name__ == "__main__":
    sys.exit(main())
