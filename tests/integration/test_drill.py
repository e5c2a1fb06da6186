"""Drills on real processes: a service, a controller, a registry; a release that really misbehaves, and its end."""

import contextlib
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from bench import synthetic_state
from flight_delays.vector import FEATURES
from patience import PATIENCE
from plinth.core.rollouts import ENDED
from plinth.errors import Conflict, NotFound, RefusedByPolicy, Unavailable
from plinth.ledger.rollouts import Rollouts
from plinth.models import onnx
from plinth.models.port import Training
from plinth.rollouts import commands
from plinth.runtime import drill as drills
from plinth.settings import Settings
from plinth.wiring import Platform

PRODUCT = synthetic_state.PRODUCT
HOME = synthetic_state.HOME


def register(platform, model):
    """The model as version 1 of a real registry: a rollout ends only when the registry's alias is right."""
    path = platform.settings.state_dir / "model.onnx"
    path.write_bytes(model)
    rows = np.zeros((2, len(FEATURES)), dtype=np.float32)
    made = platform.registry.log_training(
        Training(
            product=PRODUCT, model=PRODUCT, model_file=path, feature_names=FEATURES, input_example=rows,
            output_example=onnx.score(path, rows), params={}, metrics={}, datasets=[], commit="0" * 40, dirty=True,
            pip_requirements=["onnxruntime"],
        )
    )  # fmt: skip
    assert made.version == "1"


@contextlib.contextmanager
def running(settings):
    """The product's service and a controller."""
    state = settings.state_dir
    service = synthetic_state.ServiceProcess(state, settings.service_ports[PRODUCT])
    env = {**os.environ, "PLINTH_STATE": str(state), "PLINTH_HOME": str(HOME), "PLINTH_TRACES": "false"}
    env["PLINTH_CONTROLLER_PORT"] = str(synthetic_state.free_port())
    env["PLINTH_SERVICE_PORTS"] = f'{{"{PRODUCT}": {settings.service_ports[PRODUCT]}}}'
    with (state / "controller.log").open("ab") as log:
        controller = subprocess.Popen(
            [sys.executable, "-P", "-m", "plinth.runtime.controller"], env=env, cwd=HOME, stdout=log, stderr=log
        )
    try:
        service.wait_ready()
        yield service
    finally:
        controller.terminate()
        service.stop()
        controller.wait(timeout=PATIENCE)


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    """A platform with a release that serves; its service and controller run."""
    state = tmp_path_factory.mktemp("state")
    settings = Settings(home=HOME, state=state, service_ports={PRODUCT: synthetic_state.free_port()}, traces=False)
    platform = Platform(settings)
    register(platform, synthetic_state.fill(state, trees=40))
    with running(settings) as service:
        platform.service = service
        yield platform
    platform.ledger.close()


@pytest.fixture
def product(platform):
    return platform.products.get(PRODUCT)


def serving(platform):
    return platform.ledger.current(PRODUCT)


def check(found, platform, before):
    """What every drill proves."""
    assert found["detected"], found
    assert found["rolled_back"], found
    assert 0 < found["seconds_to_recover"] < 60
    assert found["decision_to_last_bad_answer_seconds"] <= 2.0
    assert 0 < found["requests_harmed"] < found["requests_total"] / 2
    assert {"fault", "seconds_to_detect", "verdicts", "release", "commit", "machine"} <= set(found)
    now = serving(platform)
    assert (now.digest, now.generation) == (before.digest, before.generation + 2)
    assert platform.ledger.release(found["release"]).status == "drill"
    with pytest.raises(RefusedByPolicy, match="drill"):
        platform.ledger.promote(
            PRODUCT, found["release"], expected_generation=now.generation, actor="tester", reason="no"
        )
    code, answer, _ = platform.service.ask("POST", "/predict", {"flights": [flight()]})
    assert code == 200
    assert answer["release"] == before.digest


def flight():
    return synthetic_state.as_json(synthetic_state.flights(1)[0])


def test_a_release_that_fails_is_found_and_rolled_back(platform, product):
    before, said = serving(platform), []
    found = drills.drill(platform, product, "errors", on_progress=said.append)
    check(found, platform, before)
    assert found["requests_failed"] > 0
    assert any(verdict["outcome"] == "fail" for verdict in found["verdicts"])
    assert any("canary 25%" in line for line in said)


def test_a_release_whose_metrics_are_missing_is_rolled_back_and_its_log_heals(platform, product):
    before = serving(platform)
    found = drills.drill(platform, product, "missing-metrics", bake="2s")
    check(found, platform, before)
    assert found["requests_failed"] == 0
    assert found["reason"].startswith("no metrics")
    folder = platform.settings.product_dir(PRODUCT) / "requests" / f"generation={before.generation + 1}"
    deadline = time.monotonic() + PATIENCE
    while not (folder.is_dir() and list(folder.glob("part-*.parquet"))) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert list(folder.glob("part-*.parquet")), "what was buffered is written once the place is free"
    assert not platform.service.ask("GET", "/readyz")[1]["warnings"]


def test_a_drill_in_the_shadow_harms_nobody(platform, product):
    before = serving(platform)
    found = drills.drill(platform, product, "bad-model", strategy="shadow")
    assert found["detected"], found
    assert found["rolled_back"]
    assert found["requests_harmed"] == 0
    assert serving(platform).digest == before.digest


def test_a_drill_that_is_interrupted_leaves_no_rollout_and_no_file_behind(platform, product):
    before = serving(platform)

    def interrupt(line):
        if line.startswith("canary"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drills.drill(platform, product, "missing-metrics", on_progress=interrupt)
    place = platform.settings.product_dir(PRODUCT) / "requests" / f"generation={before.generation + 1}"
    assert not place.is_file()
    rollouts = Rollouts(platform.ledger)
    newest = rollouts.of(PRODUCT)[0]
    deadline = time.monotonic() + PATIENCE
    while rollouts.get(newest.id).state.phase not in ENDED and time.monotonic() < deadline:
        time.sleep(0.1)
    assert rollouts.get(newest.id).state.phase == "rolled-back"
    assert serving(platform).digest == before.digest


def test_a_drill_refuses_to_start_beside_a_running_rollout(platform, product):
    good = platform.ledger.release(serving(platform).digest).manifest
    other = platform.ledger.register_release(good.model_copy(update={"pipeline_run": "another"}), "tester")
    commands.start(platform.ledger, product.spec, other, actor="tester", reason="a real one")
    try:
        with pytest.raises(Conflict, match="a rollout of flight-delays is running"):
            drills.drill(platform, product, "errors")
    finally:
        commands.abort(platform.ledger, PRODUCT, actor="tester")
    rollouts = Rollouts(platform.ledger)
    deadline = time.monotonic() + PATIENCE
    while rollouts.unfinished() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not rollouts.unfinished()


def test_without_a_service_or_a_controller_a_drill_says_what_is_missing(tmp_path):
    settings = Settings(home=HOME, state=tmp_path, service_ports={PRODUCT: synthetic_state.free_port()})
    platform = Platform(settings)
    product = platform.products.get(PRODUCT)
    with pytest.raises(NotFound, match="serves nothing yet"):
        drills.drill(platform, product, "errors")
    synthetic_state.write_online_store(
        settings.product_dir(PRODUCT) / "online" / "online.db", synthetic_state.flights(20)
    )
    synthetic_state.release(settings, synthetic_state.make_model(2)[1])
    with pytest.raises(Unavailable, match="the service of flight-delays does not answer"):
        drills.drill(platform, product, "errors")
    service = synthetic_state.ServiceProcess(tmp_path, settings.service_ports[PRODUCT]).wait_ready()
    try:
        with pytest.raises(Unavailable, match="no controller is at work"):
            drills.drill(platform, product, "errors")
    finally:
        service.stop()
    assert serving(platform).generation == 1
    platform.ledger.close()
