"""The controller as a process, over a real service under traffic, the ledger on disk and MLflow's own database."""

import itertools
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from patience import PATIENCE
from plinth.core.rollout_policy import Compare, Contract
from plinth.core.rollouts import Plan, Stage
from plinth.models.faulty import make_faulty
from plinth.rollouts.approvals import policy_digest
from plinth.rollouts.projection import LEASE
from plinth.runtime.traffic import Traffic
from plinth.settings import Settings
from plinth.wiring import Platform

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
import synthetic_state

PRODUCT = synthetic_state.PRODUCT
RATE = 100.0
GATES = (
    Compare(kind="compare", metric="errors", tolerance=0.001, effect=0.1),
    Compare(kind="compare", metric="scores", tolerance=0.05, effect=0.3),
    Contract(kind="contract"),
)


class Controllers:
    """Controller processes of one state folder."""

    def __init__(self, state, env):
        self.log, self.env, self._processes = state / "controller.log", env, []

    def start(self, address_space=None):
        def limit():
            if address_space is not None:
                resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))

        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "plinth.runtime.controller"],
                env=self.env, stdout=log, stderr=log, cwd=synthetic_state.HOME, preexec_fn=limit,
            )  # fmt: skip
        self._processes.append(process)
        return process

    def stop_all(self):
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait(PATIENCE)


class World:
    def __init__(self, state, port):
        synthetic_state.fill(state, trees=20)
        settings = Settings(home=synthetic_state.HOME, state=state, service_ports={PRODUCT: port})
        self.platform = Platform.from_settings(settings)
        self.ledger, self.rollouts = self.platform.ledger, self.platform.rollouts
        self.product = self.platform.products.get(PRODUCT).spec
        self.good = self.ledger.current(PRODUCT).digest
        self._names = itertools.count(2)
        self.service = synthetic_state.ServiceProcess(state, port, PLINTH_TRACES="false")
        env = {name: text for name, text in os.environ.items() if not name.startswith(("PLINTH_", "MLFLOW_"))}
        self.controllers = Controllers(
            state,
            {**env, "PLINTH_STATE": str(state), "PLINTH_HOME": str(synthetic_state.HOME),
             "PLINTH_SERVICE_PORTS": f'{{"{PRODUCT}": {port}}}', "PLINTH_MLFLOW_PORT": "1",
             "PLINTH_CONTROLLER_PORT": str(synthetic_state.free_port())},
        )  # fmt: skip
        self._register_version("1")

    def _register_version(self, version):
        client = self.platform.registry._client
        if version == "1":
            client.create_registered_model(PRODUCT)
        assert str(client.create_model_version(PRODUCT, "file:///nowhere").version) == version

    def release(self, fault=None):
        """A release beside the good one: the same bytes, or with a fault. A drill's is in no registry."""
        number = next(self._names)
        artifacts = self.ledger.release(self.good).manifest.artifacts
        bundle = {name: self.platform.artifacts.path(sha).read_bytes() for name, sha in artifacts.items()}
        if fault:
            bundle = make_faulty(fault, bundle, share=0.3)
        manifest = self.ledger.release(self.good).manifest
        model = manifest.model.model_copy(update={"version": str(number)})
        stored = {name: self.platform.artifacts.put_bytes(data) for name, data in bundle.items()}
        self._register_version(str(number))
        made = manifest.model_copy(update={"model": model, "artifacts": stored, "pipeline_run": f"run{number}"})
        return self.ledger.register_release(made, "test")

    def roll_out(self, digest):
        stages = (Stage(kind="canary", percent=50, bake=2), Stage(kind="full", percent=100, bake=2))
        plan = Plan(strategy="canary", stages=stages, patience=60, approvals=0, own_approval=True, gates=GATES)
        return self.rollouts.start(
            PRODUCT, digest, plan, policy=policy_digest(self.product), actor="test", reason="test",
            expected_generation=self.ledger.current(PRODUCT).generation,
        )  # fmt: skip

    def traffic(self):
        bodies = [{"flights": [synthetic_state.as_json(flight)]} for flight in synthetic_state.flights(2000)]
        return Traffic(f"http://127.0.0.1:{self.service.port}", bodies, RATE)

    def wait(self, rollout, *phases, seconds=PATIENCE):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            now = self.rollouts.get(rollout.id)
            if now.state.phase in phases:
                return now
            time.sleep(0.1)
        raise AssertionError(f"{now}\n{self.controllers.log.read_text()[-4000:]}")

    def alias(self, name):
        found = self.platform.registry.by_alias(PRODUCT, name)
        return found and found.version


@pytest.fixture(scope="module")
def world(tmp_path_factory, free_port):
    world = World(tmp_path_factory.mktemp("controller") / "state", free_port())
    try:
        world.service.wait_ready()
        yield world
    finally:
        world.controllers.stop_all()
        world.service.stop(signal.SIGKILL)
        world.ledger.close()


def test_the_same_model_again_is_promoted_though_its_controller_is_killed_half_way(world):
    first = world.controllers.start()
    standby = world.controllers.start()
    digest = world.release()
    with world.traffic() as traffic:
        rollout = world.roll_out(digest)
        world.wait(rollout, "canary")
        until = time.monotonic() + PATIENCE
        while world.rollouts.get(rollout.id).revision == 1:  # until somebody counts its time
            assert time.monotonic() < until, world.controllers.log.read_text()
            time.sleep(0.05)
        leads = _holder(world)
        killed = first if f"/{first.pid}/" in leads else standby
        killed.kill()
        ended = world.wait(rollout, "done", "rolled-back", "paused")
    assert ended.state.phase == "done", ended.reason
    assert world.ledger.current(PRODUCT).digest == digest
    assert world.service.ask("GET", "/readyz")[1]["route"]["serving"] == digest
    assert _holder(world) != leads
    assert all(answer.code == 200 for answer in traffic.answers())
    assert world.alias("serving") == world.ledger.release(digest).manifest.model.version
    assert world.alias("candidate") is None
    assert world.ledger.pending_effects(PRODUCT) == []
    assert world.ledger.broken_entry() is None


def test_a_release_whose_scores_are_not_numbers_is_rolled_back_and_harms_nobody_after_that(world):
    serves = world.ledger.current(PRODUCT).digest
    digest = world.release(fault="errors")
    with world.traffic() as traffic:
        rollout = world.roll_out(digest)
        world.wait(rollout, "aborting", "rolled-back")
        decided = time.time()
        ended = world.wait(rollout, "rolled-back")
        time.sleep(1)
    assert "compare-errors" in ended.reason
    assert world.ledger.current(PRODUCT).digest == serves
    bad = [answer for answer in traffic.answers() if answer.bad(digest)]
    assert bad, "the candidate was never asked: nothing was proven"
    assert max(answer.at for answer in bad) < decided + 2
    assert world.ledger.pending_effects(PRODUCT) == []


@pytest.fixture
def alone(world, tmp_path):
    """Controllers of a state folder of their own, in which nothing happens yet."""
    (tmp_path / "run").mkdir()
    controllers = Controllers(tmp_path, {**world.controllers.env, "PLINTH_STATE": str(tmp_path)})
    yield controllers
    controllers.stop_all()


def wait_ready(controllers, process):
    ready, until = controllers.log.parent / "run" / "controller.ready", time.monotonic() + PATIENCE
    while not ready.exists() or ready.read_text() != str(process.pid):
        assert time.monotonic() < until, controllers.log.read_text()
        time.sleep(0.05)


def test_a_controller_without_work_is_small_and_ends_at_once_when_asked_to(alone):
    process = alone.start()
    wait_ready(alone, process)
    assert psutil.Process(process.pid).memory_info().rss < 110 * 2**20
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 0
    assert '"event": "leads"' in alone.log.read_text()


def test_out_of_memory_ends_it_and_after_a_restart_the_effect_is_done_once(alone, tmp_path):
    """Row 37. The limit lets it idle; what an effect on MLflow needs does not fit."""
    process = alone.start()
    wait_ready(alone, process)
    status = Path(f"/proc/{process.pid}/status").read_text()
    peak = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmPeak"))
    process.terminate()
    assert process.wait(PATIENCE) == 0

    platform = Platform.from_settings(Settings(home=synthetic_state.HOME, state=tmp_path))
    client = platform.registry._client
    client.create_registered_model(PRODUCT)
    client.create_model_version(PRODUCT, "file:///nowhere")
    synthetic_state.release(platform.settings, b"a model")
    assert alone.start(address_space=peak + 2**24).wait(PATIENCE) == 1
    assert len(platform.ledger.pending_effects(PRODUCT)) == 1
    alone.start()
    until = time.monotonic() + PATIENCE
    while platform.ledger.pending_effects(PRODUCT):
        assert time.monotonic() < until, alone.log.read_text()
        time.sleep(0.1)
    assert platform.registry.by_alias(PRODUCT, "serving").version == "1"
    assert [entry.action for entry in platform.ledger.audit()].count("effect.registry-alias") == 1
    assert platform.ledger.broken_entry() is None
    platform.ledger.close()


def _holder(world):
    """Who holds the lease: host, process id and something random."""
    with world.ledger.read() as connection:
        return connection.exec_driver_sql("SELECT holder FROM lease WHERE name = ?", (LEASE,)).scalar_one()
