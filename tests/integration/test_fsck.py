"""fsck against a real running service: what it says it serves, compared with the ledger and the stores."""

import signal
import sqlite3
import sys
import time
from pathlib import Path

import pytest

from ledgers import begin, move
from patience import PATIENCE
from plinth.core.findings import violations
from plinth.ledger.rollouts import Rollouts
from plinth.runtime.fsck import check_artifacts, check_features, check_ledger, check_logs, check_services
from plinth.settings import Settings
from plinth.wiring import Platform

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
import synthetic_state

PRODUCT = synthetic_state.PRODUCT


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A service that serves the first of two releases. The registry has no part in it."""
    state, port = tmp_path_factory.mktemp("fsck"), synthetic_state.free_port()
    settings = Settings(home=synthetic_state.HOME, state=state, service_ports={PRODUCT: port})
    synthetic_state.write_online_store(
        settings.product_dir(PRODUCT) / "online" / "online.db", synthetic_state.flights(5)
    )
    models = [synthetic_state.make_model(8, seed=seed)[1] for seed in (1, 2, 3)]
    synthetic_state.promote(settings, synthetic_state.register(settings, models[0]))
    platform = Platform.from_settings(settings)
    platform.others = [synthetic_state.register(settings, model, number=n) for n, model in enumerate(models[1:], 2)]
    platform.service = synthetic_state.ServiceProcess(state, port).wait_ready()
    yield platform
    platform.service.stop(signal.SIGKILL)
    platform.ledger.close()


def look(platform):
    folders = {PRODUCT: platform.settings.product_dir(PRODUCT)}
    return [
        *check_ledger(platform.ledger),
        *check_artifacts(platform.ledger, platform.artifacts),
        *check_features(platform.ledger, platform.artifacts, folders),
        *check_services(platform.backend, platform.ledger, [PRODUCT], settle=10.0),
        *check_logs(folders),
    ]


def wrong(platform):
    return {finding.invariant for finding in violations(look(platform))}


def test_a_service_that_serves_what_was_promoted_is_well(running):
    flights = [synthetic_state.as_json(flight) for flight in synthetic_state.flights(3)]
    assert running.service.ask("POST", "/predict", {"flights": flights})[0] == 200
    assert [finding for finding in look(running) if finding.level != "ok"] == []


def test_every_step_of_a_rollout_is_well_too(running):
    rollouts = Rollouts(running.ledger)
    rollout = begin(rollouts, running.others[0], product=PRODUCT)
    assert wrong(running) == set()
    for phase in ("full", "promoting", "done"):
        rollout = move(rollouts, rollout, phase)
        assert wrong(running) == set(), phase


def test_a_release_with_a_corrupt_file_is_named_by_the_store_and_by_the_service_that_refuses_it(running):
    digest = running.others[1]
    artifact = running.ledger.release(digest).manifest.artifacts["model.onnx"]
    path = running.artifacts.path(artifact)
    good = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(good[:-100])
    before = running.ledger.current(PRODUCT)
    synthetic_state.promote(running.settings, digest)
    folders = {PRODUCT: running.settings.product_dir(PRODUCT)}
    found = violations([
        *check_artifacts(running.ledger, running.artifacts),
        *check_services(running.backend, running.ledger, [PRODUCT], settle=2.0),
        *check_features(running.ledger, running.artifacts, folders),
    ])  # fmt: skip
    assert {finding.invariant for finding in found} == {"artifact.intact", "service.route"}
    said = next(finding.what for finding in found if finding.invariant == "service.route")
    assert f"generation {before.generation} " in said  # the last good release serves on
    assert "does not match its digest" in said
    path.write_bytes(good)
    until = time.monotonic() + PATIENCE  # it tries a refused release again after a pause
    while wrong(running):
        assert time.monotonic() < until


def test_a_table_that_is_gone_from_the_online_store_is_named(running):
    online = running.settings.product_dir(PRODUCT) / "online" / "online.db"
    with sqlite3.connect(online) as connection:
        (name,) = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' LIMIT 1").fetchone()
        connection.execute(f"ALTER TABLE {name} RENAME TO elsewhere")
    try:
        assert "features.tables" in wrong(running)
    finally:
        with sqlite3.connect(online) as connection:
            connection.execute(f"ALTER TABLE elsewhere RENAME TO {name}")


def test_a_service_that_hangs_is_a_warning_and_one_that_is_gone_a_note(running):
    running.service.process.send_signal(signal.SIGSTOP)
    try:
        found = check_services(running.backend, running.ledger, [PRODUCT])
        assert [(finding.level, "does not answer" in finding.what) for finding in found] == [("warning", True)]
    finally:
        running.service.process.send_signal(signal.SIGCONT)
    running.service.stop(signal.SIGKILL)
    found = check_services(running.backend, running.ledger, [PRODUCT])
    assert {finding.level for finding in found} == {"ok"}
    assert any(finding.what == "it does not run" for finding in found)
