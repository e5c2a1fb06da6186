"""Garbage collection: what is kept, in which order things go, and that neither a kill nor a race loses anything."""

import multiprocessing
import os
import signal
import time

import pytest

from ledgers import PLAN, PRODUCT, begin, move
from plinth.core.findings import violations
from plinth.errors import InvalidInput, RefusedByPolicy
from plinth.ledger.artifacts import ArtifactStore
from plinth.ledger.retention import Retention
from plinth.ledger.rollouts import Rollouts
from plinth.ledger.store import Ledger
from plinth.runtime.fsck import check_artifacts, check_ledger
from plinth.runtime.retention import collect
from plinth.settings import Settings
from plinth.wiring.mlflow import mlflow_cache, mlflow_files

DAY = 86_400.0


class World:
    """A ledger and a store whose releases carry two artefacts each: a model of their own, and a plan they share."""

    def __init__(self, folder, make_manifest):
        self.folder, self._make = folder, make_manifest
        self.ledger = Ledger(f"sqlite:///{folder / 'ledger.db'}")
        self.store = ArtifactStore(folder / "artifacts")
        self.named = {}

    def release(self, number, **options):
        """A release whose files were stored a month ago. `passed` and `drill` as the ledger knows them."""
        drill = options.pop("drill", False)
        files = {"model.onnx": b"model %d" % number, "read_plan.json": b"shared"}
        artifacts = {name: self.store.put_bytes(data) for name, data in files.items()}
        digest = self.ledger.register_release(self._make(number, artifacts=artifacts, **options), "ada", drill=drill)
        self.named[number] = digest
        self.age(30)
        return digest

    def serve(self, digest, kind="promote"):
        current = self.ledger.current(PRODUCT)
        self.ledger.promote(
            PRODUCT, digest, expected_generation=current.generation if current else 0, actor="ada", reason="", kind=kind
        )

    def age(self, days):
        at = time.time() - days * DAY
        for path in self.store.root.glob("??/*"):
            os.utime(path, (at, at))

    def model(self, number):
        digest = self.ledger.release(self.named[number]).manifest.artifacts["model.onnx"]
        return self.store.root / digest[:2] / digest

    def collect(self, **options):
        # The releases were registered now, so the collection happens a month later.
        options = {"now": time.time() + 29 * DAY, "apply": True, "actor": "janitor", **options}
        return collect(self.ledger, self.store, {PRODUCT: self.folder / "state"}, **options)

    def status(self, number):
        return self.ledger.release(self.named[number]).status

    def well(self):
        return violations([*check_ledger(self.ledger), *check_artifacts(self.ledger, self.store)]) == []


@pytest.fixture
def world(tmp_path, make_manifest):
    world = World(tmp_path, make_manifest)
    yield world
    assert world.well()
    world.ledger.close()


@pytest.fixture
def ten(world):
    """Ten accepted releases, of which 1, 2, 3, 4 and 5 served, in this order."""
    digests = [world.release(number) for number in range(1, 11)]
    for digest in digests[:5]:
        world.serve(digest)
    return digests


def test_what_served_last_and_what_was_accepted_last_stays_and_the_rest_goes(world, ten):
    done = world.collect()
    assert {bundle.digest for bundle in done.retired} == {ten[n - 1] for n in (1, 2, 6, 7)}
    assert [number for number in range(1, 11) if world.model(number).exists()] == [3, 4, 5, 8, 9, 10]
    assert [world.status(number) for number in (1, 6)] == ["retired", "retired"]
    assert done.freed == 4 * len(b"model 1")
    assert world.ledger.release(ten[0]).manifest.metrics == {}  # the manifest stays
    assert world.collect().freed == 0


def test_a_dry_run_says_the_same_and_changes_nothing(world, ten):
    audited = len(world.ledger.audit())
    would = world.collect(apply=False)
    assert len(world.ledger.audit()) == audited
    assert all(world.model(number).exists() for number in range(1, 11))
    done = world.collect()
    assert (would.applied, done.applied) == (False, True)
    assert (would.retired, would.artifacts, would.others) == (done.retired, done.artifacts, done.others)


def test_every_step_is_in_the_audit_log(world, ten):
    world.collect()
    actions = [entry.action for entry in world.ledger.audit(limit=5)]
    assert actions == ["release.retire"] * 4 + ["artifact.collect"]
    assert len(world.ledger.audit(limit=1)[0].payload["digests"]) == 4
    left = world.store.root / "aa" / ".writing-x"
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(b"half")
    world.age(30)
    world.collect()
    (entry,) = world.ledger.audit(limit=1)
    assert (entry.action, entry.payload) == ("files.collect", {"files": ["artifacts/aa/.writing-x"], "count": 1})


def test_nothing_young_goes(world, ten):
    assert world.collect(now=time.time() + 6 * DAY).freed == 0
    assert world.collect(now=time.time() - 900 * DAY).freed == 0  # the clock went back


def test_a_file_from_the_future_stays(world, ten):
    spare = world.store.put_bytes(b"nobody's")
    os.utime(world.store.path(spare), (time.time() + 900 * DAY,) * 2)
    assert spare not in world.collect().artifacts
    assert world.store.exists(spare)


def test_more_can_be_kept_but_not_fewer_than_three_and_not_without_grace(world, ten):
    assert len(world.collect(keep=5).retired) == 0
    with pytest.raises(InvalidInput, match="too few to roll back to"):
        world.collect(keep=2)
    with pytest.raises(InvalidInput, match="running pipeline"):
        world.collect(grace=3599)


def test_a_grace_longer_than_all_time_collects_nothing(world, ten):
    done = world.collect(grace=10**15)
    assert (done.retired, done.artifacts, done.others) == ((), {}, {})


def test_a_drills_file_in_the_request_logs_place_is_left_alone(world, ten):
    place = world.folder / "state" / "requests" / "generation=1"
    place.parent.mkdir(parents=True)
    place.touch()
    os.utime(place, (0, 0))
    assert world.collect().others == {}
    assert place.is_file()


def test_products_are_counted_each_for_itself(world, ten):
    others = [world.release(number, product="other") for number in (21, 22, 23)]
    kept = world.collect().kept
    assert set(others) <= set(kept)
    assert kept[others[0]] == "it is one of the 3 accepted last"


def test_a_shared_file_stays_while_one_release_needs_it(world, ten):
    done = world.collect()
    shared = world.ledger.release(ten[0]).manifest.artifacts["read_plan.json"]
    assert shared not in done.artifacts
    assert world.store.exists(shared)


def test_rejected_releases_and_drills_lose_their_files_and_keep_their_manifests(world, ten):
    rejected, drill = world.release(31, passed=False), world.release(32, drill=True)
    world.collect()
    assert not world.model(31).exists()
    assert not world.model(32).exists()
    assert world.ledger.release(rejected).status == "rejected"
    assert world.ledger.release(drill).status == "retired"
    with pytest.raises(RefusedByPolicy, match="were collected"):
        begin(Rollouts(world.ledger), drill, plan=PLAN.model_copy(update={"drill": True}))


def test_both_releases_of_a_rollout_that_has_not_ended_stay(world, ten):
    rollouts = Rollouts(world.ledger)
    rollout = begin(rollouts, ten[0])
    kept = world.collect().kept
    assert kept[ten[0]] == "a rollout that has not ended needs it"
    assert world.model(1).exists()
    rollout = move(rollouts, rollout, "aborting")
    assert ten[0] in world.collect().kept  # services may not have left it yet
    move(rollouts, rollout, "rolled-back")
    assert world.status(1) == "accepted"
    world.collect()
    assert world.status(1) == "retired"


def test_a_retired_release_cannot_be_promoted_rolled_back_to_or_rolled_out(world, ten):
    world.collect()
    for kind in ("promote", "rollback"):
        with pytest.raises(RefusedByPolicy, match="were collected"):
            world.serve(ten[0], kind=kind)
    with pytest.raises(RefusedByPolicy, match="were collected"):
        begin(Rollouts(world.ledger), ten[0])


def test_a_retired_release_that_is_made_again_is_what_it_was(world, ten):
    world.collect()
    assert world.release(1) == ten[0]
    assert world.status(1) == "accepted"
    assert world.model(1).exists()
    world.serve(ten[0], kind="rollback")


def test_what_serves_is_never_retired(world, ten):
    retention = Retention(world.ledger, since="9999")
    with pytest.raises(RefusedByPolicy, match="it serves"):
        retention.retire(ten[4], "janitor")
    assert retention.retire(ten[0], "janitor")
    assert not retention.retire(ten[0], "janitor")
    world.ledger.register_release(world.ledger.release(ten[0]).manifest, "ada")


def test_a_rollback_that_comes_between_plan_and_retirement_wins(world, ten, monkeypatch):
    """The collector has decided on release 1; before it retires it, somebody rolls back to it."""
    due = Retention.due

    def overtaken(self):
        found = due(self)
        world.serve(ten[0], kind="rollback")
        monkeypatch.undo()
        return found

    monkeypatch.setattr(Retention, "due", overtaken)
    done = world.collect()
    assert ten[0] not in {bundle.digest for bundle in done.retired}
    assert world.model(1).exists()


def test_a_release_that_is_registered_between_plan_and_deletion_keeps_its_files(world, ten, make_manifest, monkeypatch):
    spare = world.store.put_bytes(b"left by a failed pipeline")
    world.age(30)
    decided = Retention.collect

    def overtaken(self, *arguments):
        world.ledger.register_release(make_manifest(41, artifacts={"model.onnx": spare}), "ada")
        monkeypatch.undo()
        return decided(self, *arguments)

    monkeypatch.setattr(Retention, "collect", overtaken)
    world.collect()
    assert world.store.exists(spare)


def test_an_artefact_that_is_stored_again_is_young_again(world, ten):
    """A pipeline stores what is there already, and has not registered its release yet."""
    spare = world.store.put_bytes(b"left by a failed pipeline")
    world.age(30)
    assert world.store.put_bytes(b"left by a failed pipeline") == spare
    assert world.store.collect(spare, time.time() - 7 * DAY) == 0
    assert world.store.exists(spare)


@pytest.mark.parametrize("moment", ["before it is moved aside", "after it was moved aside"])
def test_an_artefact_that_is_stored_again_at_this_very_moment_stays(world, monkeypatch, moment):
    spare = world.store.put_bytes(b"spare")
    world.age(30)
    path_type = type(world.store.root)
    rename = path_type.rename

    def meanwhile(self, target):
        if target.name.startswith(".collecting-"):
            monkeypatch.undo()
            if moment.startswith("before"):
                world.store.put_bytes(b"spare")
                return rename(self, target)
            moved = rename(self, target)
            world.store.put_bytes(b"spare")
            return moved
        return rename(self, target)

    monkeypatch.setattr(path_type, "rename", meanwhile)
    world.store.collect(spare, time.time() - 7 * DAY)
    assert world.store.path(spare)
    assert not list(world.store.leftovers())


def test_what_killed_processes_left_goes_after_the_grace(world, ten):
    half, bad = (world.model(1).with_name(name) for name in (".writing-x", f"{'a' * 64}.corrupt"))
    for path in (half, bad):
        path.write_bytes(b"12345")
    world.age(30)
    done = world.collect()
    assert done.others == {str(half): 5, str(bad): 5}
    assert not half.exists()
    assert not bad.exists()


def test_request_logs_of_generations_long_over_go(world, ten):
    rollouts = Rollouts(world.ledger)
    begin(rollouts, ten[9])  # generation 6 runs
    requests = world.folder / "state" / "requests"
    for generation in (4, 5, 6):
        path = requests / f"generation={generation}" / "part-1.parquet"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"12345678")
        os.utime(path, (time.time() - 30 * DAY,) * 2)
    young = requests / "generation=5" / "part-2.parquet"
    young.write_bytes(b"1")
    os.utime(young, (time.time() + 29 * DAY,) * 2)
    (requests / "generation=x").mkdir()
    done = world.collect()
    assert done.others == {str(requests / "generation=4"): 8}
    assert sorted(path.name for path in requests.iterdir()) == ["generation=5", "generation=6", "generation=x"]


@pytest.mark.parametrize("at", ["first retirement", "last retirement", "moved aside", "half of the files"])
def test_a_kill_at_any_point_leaves_everything_whole_and_the_next_run_ends_it(world, ten, at):
    """A real process and a real SIGKILL."""
    world.ledger.close()
    child = multiprocessing.get_context("fork").Process(target=collect_until, args=(world, at))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert world.well()
    world.collect()
    assert world.well()
    assert [number for number in range(1, 11) if world.model(number).exists()] == [3, 4, 5, 8, 9, 10]
    assert not list(world.store.leftovers())


def test_fetched_model_files_that_no_kept_release_needs_go(world, ten):
    cache = world.folder / "cache" / "models"
    fetched = {number: cache / world.model(number).name for number in (1, 4, 5, 10)}
    half, young, foreign = cache / ".download-x", cache / ("a" * 64), cache / "notes"
    for folder in (*fetched.values(), half, young, foreign):
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(b"fetched")
        at = time.time() + (29 if folder == young else 0) * DAY
        for path in (folder / "model.onnx", folder):
            os.utime(path, (at, at))
    link = cache / ("b" * 64)
    link.symlink_to(foreign)
    due = {str(fetched[1]): 7, str(half): 7}
    would = world.collect(apply=False, cache=cache)
    assert would.others == due
    assert len(list(cache.iterdir())) == 8
    # A reader goes on reading; and what serves (5), served before (4) or may (10) is not fetched anew.
    with (fetched[1] / "model.onnx").open("rb") as file:
        done = world.collect(cache=cache)
        assert file.read() == b"fetched"
    assert done.others == due
    assert set(cache.iterdir()) == {fetched[4], fetched[5], fetched[10], young, foreign, link}
    assert (foreign / "model.onnx").exists()
    (entry,) = world.ledger.audit(limit=1)
    assert set(entry.payload["files"]) == {f"cache/models/{path.name}" for path in (fetched[1], half)}
    assert world.collect(cache=cache).others == {}


def test_the_files_of_the_registry_itself_are_no_cache(tmp_path):
    settings = Settings(home=tmp_path)
    assert mlflow_cache(settings) is None
    assert mlflow_files(settings) == settings.state_dir / "mlflow" / "artifacts"
    settings = Settings(home=tmp_path, mlflow_server="http://127.0.0.1:5001")
    assert mlflow_cache(settings) == mlflow_files(settings) == settings.state_dir / "cache" / "models"


def collect_until(world, at):
    """Runs in a process of its own, and kills it."""
    limit = {"first retirement": 1, "last retirement": 4, "moved aside": 1, "half of the files": 2}[at]
    count = 0

    def counted(function, when):
        def call(*arguments):
            nonlocal count
            result = function(*arguments)
            if when(*arguments):
                count += 1
                if count == limit:
                    os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    path_type = type(world.store.root)
    if "retirement" in at:
        Retention.retire = counted(Retention.retire, lambda *_: True)
    elif at == "moved aside":
        path_type.rename = counted(path_type.rename, lambda _, target: target.name.startswith(".collecting-"))
    else:
        ArtifactStore.collect = counted(ArtifactStore.collect, lambda *_: True)
    world.collect()
