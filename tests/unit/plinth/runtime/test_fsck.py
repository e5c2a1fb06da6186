"""Every invariant beside the ledger's own is seen when it is broken, and what is safe to repair is repaired."""

import json
import os
import re
import sqlite3
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from ledgers import PLAN, PRODUCT, begin, move, project
from plinth.core.digests import digest_bytes
from plinth.core.findings import violations
from plinth.core.routes import Route
from plinth.errors import Conflict, NotFound, Unavailable
from plinth.ledger.leases import Candidate
from plinth.ledger.rollouts import Rollouts
from plinth.rollouts.projection import LEASE, align
from plinth.runtime import repair
from plinth.runtime.fsck import (
    INVARIANTS,
    check,
    check_artifacts,
    check_features,
    check_logs,
    check_registry,
    check_services,
)
from plinth.serving.memory_backend import MemoryBackend
from plinth.serving.port import Observation
from plinth.settings import Settings, find_home
from plinth.wiring import Platform

VIEW = {
    "name": "weather", "table": "p_weather", "join_keys": ["station"], "ttl_seconds": 3600,
    "features": [{"name": "wind", "dtype": "float32", "default": 0.0}],
}  # fmt: skip
READ_PLAN = {
    "schema": 1, "feature_service": "flight_delays_v1", "project": "p", "entity_key_version": 3,
    "store": {"type": "sqlite"}, "views": [VIEW],
}  # fmt: skip


class Registry:
    """Aliases and files in memory."""

    def __init__(self):
        self.aliases, self.files, self.documents, self.broken = {}, {}, {}, False

    def set_alias(self, model, version, alias):
        self.by_alias(model, alias)
        self.aliases[model, alias] = version

    def delete_alias(self, model, alias):
        self.aliases.pop((model, alias), None)

    def by_alias(self, model, alias):
        if self.broken:
            raise Unavailable("the registry is away")
        version = self.aliases.get((model, alias))
        return version and SimpleNamespace(version=version)

    def model_file(self, model, version):
        if version not in self.files:
            raise NotFound("no such version")
        return self.files[version]

    def document(self, run_id, name):
        if (run_id, name) not in self.documents:
            raise NotFound("no such document")
        return self.documents[run_id, name]


@pytest.fixture
def platform(tmp_path, make_manifest):
    """Two accepted releases, of which the first serves, with everything that belongs to them in every store."""
    platform = Platform.from_settings(Settings(home=tmp_path, state=tmp_path / "state", actor="ada"))
    platform.__dict__["registry"] = registry = Registry()
    platform.__dict__["backend"] = MemoryBackend()
    folder = tmp_path / "services" / PRODUCT
    folder.mkdir(parents=True)
    (folder / "product.yaml").write_text("name: is only listed here")
    (tmp_path / "state" / "mlflow").mkdir(parents=True)
    (tmp_path / "state" / "mlflow" / "mlflow.db").touch()
    plan = platform.artifacts.put_bytes(json.dumps(READ_PLAN).encode())
    made = []
    for number in (1, 2):
        model = b"model %d" % number
        artifacts = {"model.onnx": platform.artifacts.put_bytes(model), "read_plan.json": plan}
        manifest = make_manifest(number, artifacts=artifacts)
        service = manifest.feature_service.model_copy(update={"digest": plan})
        made.append(platform.ledger.register_release(manifest.model_copy(update={"feature_service": service}), "ada"))
        registry.files[str(number)] = tmp_path / f"model-{number}"
        registry.files[str(number)].write_bytes(model)
    platform.ledger.promote(PRODUCT, made[0], expected_generation=0, actor="ada", reason="first")
    settle(platform)
    online = platform.settings.product_dir(PRODUCT) / "online" / "online.db"
    online.parent.mkdir(parents=True)
    with sqlite3.connect(online) as connection:
        connection.execute("CREATE TABLE p_weather (entity_key BLOB)")
    connection.close()
    platform.releases = made
    yield platform
    platform.ledger.close()


def settle(platform):
    """Everything follows the ledger."""
    align(platform.ledger, platform.registry, PRODUCT, lambda: True)
    project(platform.ledger)
    platform.backend.routes[PRODUCT] = Rollouts(platform.ledger).route(PRODUCT)


def stored(platform, number=0, name="model.onnx"):
    """The file of a release's artefact."""
    digest = platform.ledger.release(platform.releases[number]).manifest.artifacts[name]
    return platform.artifacts.root / digest[:2] / digest


def damage(path):
    path.chmod(0o644)
    path.write_bytes(b"something else")


def wrong(findings):
    return {finding.invariant for finding in violations(findings)}


def levels(findings, invariant):
    return [finding.level for finding in findings if finding.invariant == invariant]


# Everything -----------------------------------------------------------------------------------------------------


def test_a_platform_that_is_well_holds_every_invariant(platform):
    found = check(platform)
    assert [finding for finding in found if finding.level != "ok"] == []
    assert {finding.invariant for finding in found} == set(INVARIANTS)


def test_a_rollout_on_its_way_is_no_violation(platform):
    begin(Rollouts(platform.ledger), platform.releases[1])
    settle(platform)
    assert violations(check(platform)) == []
    assert platform.registry.aliases[PRODUCT, "candidate"] == "2"


def test_where_nothing_was_released_nothing_is_wrong_and_nothing_is_made(tmp_path):
    platform = Platform.from_settings(Settings(home=tmp_path, state=tmp_path / "state"))
    assert {finding.level for finding in check(platform)} == {"ok"}
    assert not (tmp_path / "state").exists()


def test_a_damaged_ledger_is_one_finding_and_nothing_else_is_looked_at(platform):
    platform.ledger.close()
    path = platform.settings.state_dir / "ledger.db"
    path.write_bytes(b"no database" * 500)
    for suffix in ("-wal", "-shm"):
        path.with_name(f"ledger.db{suffix}").unlink(missing_ok=True)
    (finding,) = check(platform)
    assert (finding.invariant, finding.level) == ("ledger.readable", "violation")
    assert "backup" in finding.next


def test_a_quick_check_sees_a_missing_file_and_hashes_none(platform):
    damage(stored(platform, 1))
    assert wrong(check(platform, thorough=False)) == set()
    assert wrong(check(platform)) == {"artifact.intact"}
    stored(platform, 1).unlink()
    assert wrong(check(platform, thorough=False)) == {"artifact.present"}


def test_progress_tells_what_is_looked_at(platform):
    told = []
    check(platform, on_progress=lambda what, done, total: told.append(what))
    assert list(dict.fromkeys(told)) == ["ledger", "artefacts", "model registry", "features", "services"]


# Artefacts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1], ids=["serving", "accepted"])
def test_a_missing_or_corrupt_file_of_a_release_that_may_serve_is_a_violation(platform, number):
    damage(stored(platform, number))
    (finding,) = violations(check_artifacts(platform.ledger, platform.artifacts))
    assert finding.invariant == "artifact.intact"
    assert platform.releases[number][:12] in finding.subject
    assert ("which serves" if number == 0 else "which may be promoted") in finding.what
    stored(platform, number).unlink()
    assert wrong(check_artifacts(platform.ledger, platform.artifacts)) == {"artifact.present"}


def test_a_file_that_several_releases_share_is_named_for_each(platform):
    stored(platform, name="read_plan.json").unlink()
    assert len(violations(check_artifacts(platform.ledger, platform.artifacts))) == 2


def test_a_candidates_file_is_looked_at_even_if_it_is_a_drills(platform, make_manifest):
    drill = platform.ledger.register_release(make_manifest(9), "ada", drill=True)  # its artefact was never stored
    assert violations(check_artifacts(platform.ledger, platform.artifacts)) == []
    rollouts = Rollouts(platform.ledger)
    begin(rollouts, drill, plan=PLAN.model_copy(update={"drill": True}))
    (finding,) = violations(check_artifacts(platform.ledger, platform.artifacts))
    assert "which is rolled out" in finding.what


def test_what_the_gates_rejected_needs_no_files(platform, make_manifest):
    platform.ledger.register_release(make_manifest(9, passed=False), "ada")
    assert violations(check_artifacts(platform.ledger, platform.artifacts)) == []


def test_files_that_no_release_needs_are_only_counted(platform):
    platform.artifacts.put_bytes(b"nobody's")
    found = check_artifacts(platform.ledger, platform.artifacts)
    assert violations(found) == []
    assert any(finding.what.startswith("1 more that no release needs") for finding in found)


def test_a_killed_writers_file_is_a_warning_once_it_is_old(platform):
    path = stored(platform).with_name(".writing-abc")
    path.write_bytes(b"half")
    assert levels(check_artifacts(platform.ledger, platform.artifacts), "artifact.leftover") == ["ok"]
    os.utime(path, (time.time() - 61, time.time() - 61))
    assert levels(check_artifacts(platform.ledger, platform.artifacts), "artifact.leftover") == ["warning"]
    assert levels(check(platform, repair=True), "artifact.leftover") == ["repaired", "ok"]
    assert not path.exists()
    assert platform.ledger.audit(limit=1)[0].action == "fsck.leftovers"


def test_what_a_killed_collector_moved_aside_is_put_back(platform):
    path = stored(platform)
    path.rename(path.with_name(f".collecting-{path.name}"))
    found = check_artifacts(platform.ledger, platform.artifacts)
    assert wrong(found) == {"artifact.present"}
    assert levels(found, "artifact.leftover") == ["warning"]
    assert wrong(check(platform, repair=True)) == set()
    assert path.exists()


def test_a_corrupt_file_is_restored_from_the_registry_and_the_bad_one_kept_aside(platform):
    path = stored(platform)
    damage(path)
    found = check(platform, repair=True)
    assert violations(found) == []
    assert "repaired" in levels(found, "artifact.intact")
    assert digest_bytes(path.read_bytes()) == path.name
    assert path.with_name(f"{path.name}.corrupt").read_bytes() == b"something else"
    entry = platform.ledger.audit(limit=1)[0]
    assert (entry.actor, entry.action, entry.subject) == ("ada", "fsck.restore", platform.releases[0])
    assert check(platform, repair=True) == check(platform)  # nothing is left to repair


def test_a_missing_document_is_restored_from_its_training(platform):
    path = stored(platform, name="read_plan.json")
    content = path.read_bytes()
    path.unlink()
    platform.registry.documents["run2", "read_plan.json"] = content
    assert violations(check(platform, repair=True)) == []
    assert path.read_bytes() == content


def test_a_copy_with_another_content_restores_nothing(platform):
    damage(stored(platform))
    platform.registry.files["1"].write_bytes(b"not the same model")
    found = check(platform, repair=True)
    assert wrong(found) == {"artifact.intact"}
    assert "repaired" not in levels(found, "artifact.intact")
    assert stored(platform).read_bytes() == b"something else"


def test_a_release_that_is_retired_while_we_look_is_no_violation(platform):
    path = stored(platform, 1)
    path.unlink()
    seen = []

    def tell(what, done, total):
        if not seen:
            seen.append(what)
            with platform.ledger.write() as connection:
                connection.exec_driver_sql("UPDATE release SET status = 'retired' WHERE digest = ?",
                                           (platform.releases[1],))  # fmt: skip

    assert violations(check_artifacts(platform.ledger, platform.artifacts, on_progress=tell)) == []


# Registry -------------------------------------------------------------------------------------------------------


def aliases(platform):
    return check_registry(platform.ledger, lambda product: platform.registry, [PRODUCT])


def test_an_alias_that_somebody_moved_is_a_violation_and_is_put_back(platform):
    platform.registry.aliases[PRODUCT, "serving"] = "2"
    (finding,) = violations(aliases(platform))
    assert (finding.invariant, finding.subject) == ("registry.serving", PRODUCT)
    assert "on version 2, not on 1" in finding.what
    assert "repaired" in levels(check(platform, repair=True), "registry.serving")
    assert platform.registry.aliases[PRODUCT, "serving"] == "1"
    assert violations(aliases(platform)) == []
    assert platform.ledger.audit(limit=1)[0].action == "fsck.aliases"


def test_an_alias_that_is_gone_is_a_violation(platform):
    del platform.registry.aliases[PRODUCT, "serving"]
    assert wrong(aliases(platform)) == {"registry.serving"}


def test_a_change_that_waits_in_the_outbox_is_a_warning_and_is_carried_out(platform):
    platform.ledger.promote(PRODUCT, platform.releases[1], expected_generation=1, actor="ada", reason="better")
    platform.backend.routes[PRODUCT] = Rollouts(platform.ledger).route(PRODUCT)
    assert levels(aliases(platform), "registry.serving") == ["warning"]
    found = check(platform, repair=True)
    assert violations(found) == []
    assert platform.registry.aliases[PRODUCT, "serving"] == "2"
    assert platform.ledger.pending_effects(PRODUCT) == []


def test_an_alias_on_a_candidate_that_was_decided_is_a_violation(platform):
    rollouts = Rollouts(platform.ledger)
    rollout = begin(rollouts, platform.releases[1])
    settle(platform)
    move(rollouts, rollout, "aborting", "rolled-back")
    project(platform.ledger)
    assert wrong(aliases(platform)) == {"registry.candidate"}
    settle(platform)
    assert violations(aliases(platform)) == []


def test_a_registry_that_is_away_or_gone_is_a_violation_and_no_traceback(platform):
    platform.registry.broken = True
    assert wrong(check(platform)) == {"registry.readable"}
    assert wrong(check(platform, repair=True)) == {"registry.readable"}
    (platform.settings.state_dir / "mlflow" / "mlflow.db").unlink()
    (finding,) = violations(check(platform))
    assert "is gone" in finding.what


def test_a_repair_does_not_open_a_registry_that_is_gone(platform):
    """MLflow would make an empty one, and nobody would see any more that a backup is needed."""

    class Untouchable:
        def __getattr__(self, name):
            raise AssertionError(name)

    platform.registry = Untouchable()
    (platform.settings.state_dir / "mlflow" / "mlflow.db").unlink()
    stored(platform).unlink()
    assert wrong(check(platform, repair=True)) == {"registry.readable", "artifact.present"}


def test_a_controller_that_lives_is_left_to_its_work(platform, monkeypatch):
    """It shows that it lives while we wait for its lease."""
    monkeypatch.setattr(repair, "PATIENCE_SECONDS", 0.5)
    controller = Candidate(platform.ledger, LEASE, "controller/1")
    controller.hold()
    platform.registry.aliases[PRODUCT, "serving"] = "2"
    sleep = time.sleep
    monkeypatch.setattr(repair.time, "sleep", lambda seconds: (controller.hold(), sleep(seconds)))
    found = check(platform, repair=True)
    assert any("a controller runs" in finding.what for finding in found)
    assert platform.registry.aliases[PRODUCT, "serving"] == "2"
    assert controller.hold()


def test_a_controller_that_is_dead_is_replaced_for_the_repair(platform, monkeypatch):
    monkeypatch.setattr(repair, "PATIENCE_SECONDS", 0.3)
    Candidate(platform.ledger, LEASE, "controller/1").hold()
    platform.registry.aliases[PRODUCT, "serving"] = "2"
    assert violations(check(platform, repair=True)) == []
    assert Candidate(platform.ledger, LEASE, "controller/2").hold()  # given up again


def test_a_ledger_in_doubt_is_projected_nowhere(platform):
    platform.registry.aliases[PRODUCT, "serving"] = "2"
    with platform.ledger.write() as connection:
        connection.exec_driver_sql("UPDATE audit SET actor = 'eve' WHERE seq = 1")
    found = check(platform, repair=True)
    assert wrong(found) >= {"audit.chain", "registry.serving"}
    assert any("the ledger itself is in doubt" in finding.what for finding in found)
    assert platform.registry.aliases[PRODUCT, "serving"] == "2"


# Features -------------------------------------------------------------------------------------------------------


def features(platform):
    return check_features(platform.ledger, platform.artifacts, {PRODUCT: platform.settings.product_dir(PRODUCT)})


def test_a_read_plan_that_the_feature_service_does_not_name_is_a_violation(platform, make_manifest):
    artifacts = platform.ledger.release(platform.releases[0]).manifest.artifacts
    other = platform.ledger.register_release(make_manifest(9, artifacts=artifacts), "ada")  # names digest ffff...
    platform.ledger.promote(PRODUCT, other, expected_generation=1, actor="ada", reason="")
    assert wrong(features(platform)) == {"features.plan"}


def test_a_read_plan_that_cannot_be_used_is_a_violation(platform, make_manifest):
    plan = platform.artifacts.put_bytes(b'{"schema": 2}')
    manifest = make_manifest(9, artifacts={"read_plan.json": plan})
    service = manifest.feature_service.model_copy(update={"digest": plan})
    other = platform.ledger.register_release(manifest.model_copy(update={"feature_service": service}), "ada")
    platform.ledger.promote(PRODUCT, other, expected_generation=1, actor="ada", reason="")
    assert wrong(features(platform)) == {"features.plan"}


def test_a_table_that_is_missing_or_a_store_that_is_damaged_is_a_violation_and_no_store_is_none(platform):
    online = platform.settings.product_dir(PRODUCT) / "online" / "online.db"
    with sqlite3.connect(online) as connection:
        connection.execute("DROP TABLE p_weather")
    connection.close()
    (finding,) = violations(features(platform))
    assert (finding.invariant, "p_weather" in finding.what) == ("features.tables", True)
    online.write_bytes(b"no database" * 500)
    (finding,) = violations(features(platform))
    assert "cannot be read" in finding.what
    online.unlink()
    assert violations(features(platform)) == []


# Services -------------------------------------------------------------------------------------------------------


class Service:
    """Says one thing after the other, and then the last one for good."""

    def __init__(self, *observations):
        self.left = list(observations)

    def observe(self, product):
        return [self.left.pop(0) if len(self.left) > 1 else self.left[0]]


def services(platform, *observations, settle=0.3):
    return check_services(Service(*observations), platform.ledger, [PRODUCT], settle=settle)


def says(route, loaded=None, problem=""):
    return Observation("http://here", route, route.releases if loaded is None and route else loaded or (), problem)


def test_a_service_that_routes_as_the_ledger_says_is_well(platform):
    assert levels(services(platform, says(Route(1, 0, platform.releases[0]))), "service.route") == ["ok"]


def test_a_service_that_is_just_behind_is_looked_at_again(platform):
    old, new = says(Route(0, 0, platform.releases[1])), says(Route(1, 0, platform.releases[0]))
    assert violations(services(platform, old, new, settle=2.0)) == []


@pytest.mark.parametrize(
    ("generation", "step", "number"), [(0, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1)],
    ids=["older", "newer than the ledger", "another step", "another release"],
)  # fmt: skip
def test_a_service_that_stays_elsewhere_is_a_violation(platform, generation, step, number):
    route = Route(generation, step, platform.releases[number])
    (finding,) = violations(services(platform, says(route, problem="cannot load it")))
    assert f"generation {generation} step {step}" in finding.what
    assert "cannot load it" in finding.what


def test_a_service_that_serves_nothing_or_has_not_loaded_its_release_is_a_violation(platform):
    (finding,) = violations(services(platform, says(None, problem="no release is loaded")))
    assert "it applies nothing" in finding.what
    (finding,) = violations(services(platform, says(Route(1, 0, platform.releases[0]), loaded=("x" * 64,))))
    assert "has not loaded" in finding.what


def test_a_service_that_does_not_run_is_a_note_and_one_that_hangs_a_warning(platform):
    away = services(platform, says(None, problem="does not answer: [Errno 111] Connection refused"))
    assert {finding.level for finding in away} == {"ok"}
    assert any("does not run" in finding.what for finding in away)
    assert levels(services(platform, says(None, problem="does not answer: timed out")), "service.route") == ["warning"]


# Logs -----------------------------------------------------------------------------------------------------------


def test_a_log_file_that_does_not_open_is_a_warning(platform):
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = platform.settings.product_dir(PRODUCT)
    good, cut = folder / "requests" / "generation=1" / "part-1.parquet", folder / "inference" / "date=x" / "p.parquet"
    for path in (good, cut):
        path.parent.mkdir(parents=True)
        pq.write_table(pa.table({"a": [1, 2, 3]}), path)
    assert levels(check_logs({PRODUCT: folder}), "log.readable") == ["ok"]
    cut.write_bytes(cut.read_bytes()[:-10])
    (finding,) = check_logs({PRODUCT: folder})
    assert (finding.level, finding.subject) == ("warning", str(cut))


def test_a_conflict_while_repairing_is_a_finding(platform, monkeypatch):
    platform.registry.aliases[PRODUCT, "serving"] = "2"

    def lose(*_):
        raise Conflict("the lease was taken by another process")

    monkeypatch.setattr(repair, "align", lose)
    found = check(platform, repair=True)
    assert any("no repair: the lease was taken" in finding.what for finding in found)


def test_the_page_names_every_invariant_as_the_code_does():
    page = (find_home(Path(__file__).parent) / "docs" / "how-to" / "check-and-repair.md").read_text()
    assert dict(re.findall(r"^\| `([a-z.]+)` \| (.*) \|$", page, re.MULTILINE)) == INVARIANTS
