"""What promotions and rollouts survive: rows 1, 2, 4, 5, 19, 22, 23, 24 and 37 of the fault table, with real processes.

The world is that of `chaos.py`, with the fates left out; its docstring says what is real.
"""

import contextlib
import json
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from faults import chaos
from faults.forking import fork_context
from faults.proxy import FaultProxy
from patience import PATIENCE
from plinth.core.failpoints import NAMES
from plinth.core.rollout_policy import Compare
from plinth.core.rollouts import Plan, Stage
from plinth.ledger import schema
from plinth.ledger.leases import Candidate
from plinth.rollouts.approvals import policy_digest
from plinth.rollouts.projection import LEASE

PRODUCT = chaos.PRODUCT
FULL = int(os.environ.get("CHAOS_KILLS", "0")) >= 1000
"""`make faults`: as long as the table says."""
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


def wait_for(condition, seconds=PATIENCE, what="it"):
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, f"{what} did not happen within {seconds:.0f} s"
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """An empty MLflow database, made once."""
    path = tmp_path_factory.mktemp("registry") / "mlflow.db"
    process = fork_context(chaos.PRELOAD).Process(target=chaos.make_registry, args=(str(path),))
    process.start()
    process.join(PATIENCE)
    assert process.exitcode == 0
    return path


@contextlib.contextmanager
def inhabited(folder, registry, url=None, *, controllers=1, change=lambda world: None):
    """A world with a service and controllers, converged; no pipeline runs. Ended at the end."""
    world = chaos.World(folder, url, 0)
    world.beings = [being for being in world.beings if being.name in {"service", "controller-1"}]
    if controllers == 2:
        world.beings.append(chaos.Being(world, "controller-2", chaos.run_controller))
    change(world)
    try:
        world.set_up(registry)
        yield world
    finally:
        world.end()


@pytest.fixture(scope="module")
def world(tmp_path_factory, registry):
    """One world on SQLite for the faults that leave it whole."""
    with inhabited(tmp_path_factory.mktemp("world") / "state", registry) as world:
        yield world


def settle(world):
    world.converge()
    world.look()


def good_release(world):
    """A release that does not serve, and that the recorded evidence lets pass."""
    serving = world.ledger.current(PRODUCT).digest
    found = [r.digest for r in world.ledger.releases(PRODUCT) if r.digest != serving and r.digest[0] not in "01234"]
    if not found:
        process = world.start(chaos.run_pipeline, (time.time_ns() % 2**31, 1), "more")
        process.join(PATIENCE)
        assert process.exitcode == 0, world.log("more")
        return good_release(world)
    return found[0]


def start(world, plan=chaos.PLAN, digest=None):
    return world.rollouts.start(
        PRODUCT, digest or good_release(world), plan, policy=policy_digest(world.platform.products.get(PRODUCT).spec),
        expected_generation=world.ledger.current(PRODUCT).generation, actor="test", reason="test",
    )  # fmt: skip


SLOW = chaos.PLAN.model_copy(update={"stages": (Stage(kind="canary", percent=50, bake=3), chaos.PLAN.stages[1])})


def reborn(world, name, failpoint=""):
    being = world.being(name)
    being.process.kill()
    being.process.join()
    being.born(calm=True, failpoint=failpoint)
    return being


def killed(process):
    wait_for(lambda: process.exitcode is not None, what="the failpoint")
    assert process.exitcode == -signal.SIGKILL


def phase(world, rollout):
    return world.rollouts.get(rollout.id).state.phase


# Row 1 ----------------------------------------------------------------------------------------------------------------

CONTROLLER = chaos.FAILPOINTS["controller"]
SERVICE = chaos.FAILPOINTS["service"]
PIPELINE = chaos.FAILPOINTS["pipeline"]
PERSON = ("promote.begin", "promote.before-commit", "promote.after-commit", "rollout.start.before-commit")


ELSEWHERE = {
    "index.": "faults/test_index_faults.py", "log.": "contract/test_log_archive.py",
    "artifact.marked": "contract/test_artifacts.py", "ledger.migrate.": "contract/test_ledger.py",
    "backup.": "faults/test_backup_faults.py", "restore.": "faults/test_backup_faults.py",
}  # fmt: skip
"""Failpoints that are no part of a rollout: what their names begin with, and where they are armed."""


def test_row_1_covers_every_failpoint():
    here = [name for name in NAMES if not name.startswith(tuple(ELSEWHERE))]
    assert sorted(CONTROLLER + SERVICE + PIPELINE + PERSON) == sorted(here)
    for start_, file in ELSEWHERE.items():
        assert any(name.startswith(start_) for name in NAMES), start_
        assert start_ in (Path(__file__).parents[1] / file).read_text(), file


@pytest.mark.parametrize("name", CONTROLLER)
def test_row_1_a_controller_that_dies_in_the_middle_of_a_rollout(world, name):
    being = reborn(world, "controller-1", name)
    rollout = start(world)
    killed(being.process)
    assert world.ask() in {rollout.serving, rollout.candidate}, "the service goes on without a controller"
    being.born(calm=True)
    settle(world)
    assert phase(world, rollout) == "done"
    assert world.ask() == rollout.candidate


@pytest.mark.parametrize("name", SERVICE)
def test_row_1_a_service_that_dies_while_it_loads_a_release(world, name):
    being = reborn(world, "service", name)
    killed(being.process)
    rollout = start(world)
    being.born(calm=True)
    settle(world)
    assert phase(world, rollout) == "done"


@pytest.mark.parametrize("name", PIPELINE)
def test_row_1_a_pipeline_that_dies_registers_nothing_half(world, name):
    before = len(world.ledger.releases(PRODUCT))
    seed = time.time_ns() % 2**31
    print(f"seed {seed}")
    killed(world.start(chaos.run_pipeline, (seed, 1), "pipeline", name))
    assert len(world.ledger.releases(PRODUCT)) == before
    settle(world)
    again = world.start(chaos.run_pipeline, (seed, 1), "pipeline")
    again.join(PATIENCE)
    assert again.exitcode == 0, world.log("pipeline")
    assert len(world.ledger.releases(PRODUCT)) == before + 1
    settle(world)


@pytest.mark.parametrize("name", PERSON)
def test_row_1_a_command_that_dies_is_done_or_not_done(world, name):
    before = world.ledger.current(PRODUCT)
    assert world.command("start" if name.startswith("rollout") else "promote", failpoint=name) is None
    after = world.ledger.current(PRODUCT)
    assert after.generation == before.generation + (name == "promote.after-commit")
    assert after.digest == before.digest or name == "promote.after-commit"
    settle(world)


# Row 2 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_row_2_what_a_leader_writes_after_it_was_taken_for_dead_is_refused(tmp_path, registry, request, database):
    marker = tmp_path / "stop"

    def stalls(world):
        world.being("controller-1").arguments = (str(marker),)

    with contextlib.ExitStack() as stack:
        url = stack.enter_context(request.getfixturevalue("postgres").database()) if database == "postgresql" else None
        world = stack.enter_context(inhabited(tmp_path / "state", registry, url, change=stalls))
        stale = world.being("controller-1")
        second = chaos.Being(world, "controller-2", chaos.run_controller)
        world.beings.append(second)
        second.born(calm=True)
        rollout = start(world, SLOW)
        # Not while it writes to a store: on SQLite a stopped writer holds everybody up, and nobody can take over.
        wait_for(lambda: not world.ledger.pending_effects(PRODUCT), what="the projection")
        marker.touch()
        wait_for(lambda: psutil.Process(stale.process.pid).status() == psutil.STATUS_STOPPED, what="the stop")
        # It has read the rollout and judged it, and would write now: promote a stage, under a lease that it had.
        wait_for(lambda: phase(world, rollout) == "done", what="the other's take-over")
        revision, audited = world.rollouts.get(rollout.id).revision, len(world.ledger.audit())
        os.kill(stale.process.pid, signal.SIGCONT)
        wait_for(lambda: '"overtaken"' in world.log("controller-1"), what="the refusal")
        refused = [json.loads(line) for line in world.log("controller-1").splitlines() if '"overtaken"' in line]
        assert "lease" in refused[-1]["reason"]
        assert (world.rollouts.get(rollout.id).revision, len(world.ledger.audit())) == (revision, audited)
        assert stale.process.exitcode is None
        settle(world)


def test_row_2_an_alias_that_a_stale_leader_moves_all_the_same_is_mended(tmp_path, registry):
    with inhabited(tmp_path / "state", registry) as world:
        stale = reborn(world, "controller-1", "alias.before-write:stop")
        rollout = start(world)
        wait_for(lambda: psutil.Process(stale.process.pid).status() == psutil.STATUS_STOPPED, what="the stop")
        second = chaos.Being(world, "controller-2", chaos.run_controller)
        world.beings.append(second)
        second.born(calm=True)
        wait_for(lambda: phase(world, rollout) == "done", what="the other's take-over")
        assert world.command("rollback")["digest"] == rollout.serving
        old = world.ledger.release(rollout.serving).manifest.model.version
        wait_for(lambda: not world.ledger.pending_effects(PRODUCT), what="the roll-back of the alias")
        assert world.aliases()["serving"] == old
        os.kill(stale.process.pid, signal.SIGCONT)  # and it writes what it was about to
        mended = wait_for(
            lambda: [entry for entry in world.ledger.audit() if entry.action == "alias.mended"], what="the mending"
        )
        # Whichever of the two it was about to write, when it was stopped.
        bad = world.ledger.release(rollout.candidate).manifest.model.version
        assert mended[0].payload["changed"][0] in {
            f"serving to version {old}, from {bad}", f"candidate taken from version {bad}",
        }  # fmt: skip
        assert world.aliases()["serving"] == old
        assert world.aliases().get("candidate") != bad
        settle(world)


# Row 4 ----------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(folder):
    """A file system of 6 MiB there."""
    folder.mkdir()
    if sys.platform != "linux" or os.getuid() != 0:
        pytest.skip("a file system of its own needs Linux and root")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path):
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 4096)


def test_row_4_a_ledger_whose_disk_is_full_says_so_and_heals_by_itself(tmp_path, registry):
    disk = tmp_path / "disk"
    with small_disk(disk), inhabited(tmp_path / "state", registry, f"sqlite:///{disk / 'ledger.db'}") as world:
        before = world.ledger.current(PRODUCT)
        fill(disk / "filler")
        for _ in range(3):
            told = world.command("start")
            assert told["outcome"] == "unknown"
            assert "free disk space" in told["why"]
            assert world.ask() == before.digest
        assert world.ledger.current(PRODUCT) == before
        wait_for(lambda: "the ledger cannot be used" in world.log("controller-1"), what="the controller's complaint")
        assert world.being("controller-1").process.exitcode is None
        (disk / "filler").unlink()
        rollout = start(world)
        settle(world)
        assert phase(world, rollout) == "done"


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process are set with prlimit(2)")
def test_row_4_a_controller_that_may_write_no_more_lives_and_heals_by_itself(world):
    pid = world.being("controller-1").process.pid
    old = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, old[1]))
    try:
        rollout = start(world)
        until = time.monotonic() + 3
        while time.monotonic() < until:
            assert world.ask() == rollout.serving, "nobody moves the rollout's second half"
            time.sleep(0.1)
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, old)
    assert world.being("controller-1").process.pid == pid
    settle(world)
    assert phase(world, rollout) == "done"


# Row 5 ----------------------------------------------------------------------------------------------------------------


def test_row_5_a_ledger_that_somebody_locks_is_a_clear_error_after_a_bounded_wait_and_loses_nothing(world):
    told = world.command("pause") or {}
    assert told["outcome"] == "refused"  # acknowledged before: nothing runs
    rollout = start(world)
    holder = sqlite3.connect(world.settings.state_dir / "ledger.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    until = time.monotonic() + (30 if FULL else 10)
    try:
        began = time.monotonic()
        done = subprocess.run(
            [Path(sys.executable).parent / "plinth", "rollout", "abort", PRODUCT],
            env={**os.environ, **world.environment}, capture_output=True, text=True, timeout=PATIENCE,
        )  # fmt: skip
        assert done.returncode == 1
        assert "locked" in done.stderr
        assert "another process has held the database for over 5 s" in done.stderr
        assert 5 <= time.monotonic() - began < 25
        while time.monotonic() < until:
            status, _ = world.request("GET", "/readyz")
            assert status == 200
            assert world.ask() in {rollout.serving, rollout.candidate}
            time.sleep(0.05)
    finally:
        holder.execute("ROLLBACK")
        holder.close()
    assert world.being("controller-1").process.exitcode is None
    settle(world)
    assert phase(world, rollout) == "done"


# Row 19 ---------------------------------------------------------------------------------------------------------------

IMPATIENT = Plan(
    strategy="canary",
    stages=(Stage(kind="canary", percent=50, bake=0.5), Stage(kind="full", percent=100, bake=0.5)),
    patience=2.0,
    approvals=0,
    own_approval=True,
    gates=(Compare(kind="compare", metric="errors", tolerance=0.001, effect=0.02),),
)


def real_evidence(world):
    world.being("controller-1").arguments = ("real",)


def test_row_19_a_canary_without_metrics_is_rolled_back_and_never_promoted(tmp_path, registry):
    with inhabited(tmp_path / "state", registry, change=real_evidence) as world:
        rollout = start(world, IMPATIENT)
        wait_for(lambda: phase(world, rollout) == "rolled-back", what="the roll-back")
        assert "no metrics" in world.rollouts.get(rollout.id).reason
        assert "rollout.promoting" not in {entry.action for entry in world.ledger.audit()}
        settle(world)
        assert world.ask() == rollout.serving


# Row 22 ---------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def black_hole():
    """A port that accepts and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        held = []

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    held.append(listener.accept()[0])

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for connection in held:
                connection.close()


def test_row_22_a_prometheus_that_hangs_stops_neither_the_service_nor_the_controller(tmp_path, registry):
    with black_hole() as port:

        def asks_it(world):
            real_evidence(world)
            world.being("controller-1").arguments = ("real", False)  # with the lease's real times
            world.overrides["controller-1"] = {
                "PLINTH_SIGNALS": "prometheus", "PLINTH_PROMETHEUS_URL": f"http://127.0.0.1:{port}",
            }  # fmt: skip

        with inhabited(tmp_path / "state", registry, change=asks_it) as world:
            rollout = start(world, IMPATIENT)
            until = time.monotonic() + PATIENCE
            while phase(world, rollout) != "rolled-back":
                assert time.monotonic() < until, world.log("controller-1")
                assert world.ask() in {rollout.serving, rollout.candidate}
                time.sleep(0.05)
            assert "rollout.promoting" not in {entry.action for entry in world.ledger.audit()}
            with world.ledger.read() as connection:
                token = connection.execute(sa.select(schema.lease.c.token)).scalar_one()
            assert token == 1, "it never lost the lease"
            settle(world)


@pytest.fixture
def broken_line(postgres):
    """A database, and a proxy before it."""
    name = postgres.create()
    with FaultProxy(postgres.port) as proxy:
        yield postgres.url(name), postgres.url(name, proxy.port), proxy
    postgres.drop(name)


def test_row_22_a_database_that_hangs_is_an_error_in_bounded_time_and_the_service_serves_on(
    tmp_path, registry, broken_line
):
    direct, through, proxy = broken_line

    def hangs(world):
        for name in ("controller-1", "service", "operator"):
            world.overrides[name] = {"PLINTH_LEDGER_URL": through}

    with inhabited(tmp_path / "state", registry, direct, change=hangs) as world:
        serving = world.ledger.current(PRODUCT).digest
        proxy.fault = "silent"
        began = time.monotonic()
        told = world.command("start")
        assert told["outcome"] == "unknown"
        assert time.monotonic() - began < 30
        assert "cannot be used" in told["why"]
        wait_for(lambda: "cannot be used" in world.log("controller-1"), what="the controller's complaint")
        for _ in range(20):
            assert world.ask() == serving
        proxy.fault = ""
        world.operators.clear()
        settle(world)
        rollout = start(world)
        settle(world)
        assert phase(world, rollout) == "done"


# Row 23 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["silent", "cut"])
def test_row_23_a_service_parted_from_the_ledger_serves_the_last_good_release_and_follows_when_it_heals(
    tmp_path, registry, broken_line, fault
):
    direct, through, proxy = broken_line

    def parted(world):
        world.overrides["service"] = {"PLINTH_LEDGER_URL": through}

    with inhabited(tmp_path / "state", registry, direct, change=parted) as world:
        old = world.ledger.current(PRODUCT)
        rollout = start(world)
        settle(world)
        assert world.ask() == rollout.candidate
        proxy.fault = fault
        time.sleep(1)  # whatever it had asked before is answered
        back = world.command("rollback")
        assert (back["outcome"], back["digest"]) == ("done", old.digest)
        until = time.monotonic() + (20 if FULL else 4)
        while time.monotonic() < until:
            assert world.ask() == rollout.candidate, "the last one it knows of"
            time.sleep(0.1)
        proxy.fault = ""
        wait_for(lambda: world.ask() == old.digest, what="the roll-back")
        settle(world)


# Row 24 ---------------------------------------------------------------------------------------------------------------


# What it imports later, it imports now: libfaketime looks at every file's time, which makes that slow.
ALONE = """
import mlflow.store.tracking.sqlalchemy_store
from faults import chaos
chaos.{name}(*{arguments!r})
"""


@contextlib.contextmanager
def with_clock(world, clock):
    """The world's processes started anew under libfaketime, which reads the clock's offset from the file `clock`.

    Setting a wall clock does not move the monotonic one, so here it does not either.
    """
    environment = {
        **os.environ, **world.environment, "PYTHONPATH": str(Path(__file__).parents[1]), "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_CACHE_DURATION": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }  # fmt: skip
    processes = []
    for being in world.beings:
        being.process.kill()
        being.process.join()
        log = str(world.folder / "logs" / f"{being.name}.log")
        script = ALONE.format(name=being.target.__name__, arguments=[{}, log, *being.arguments])
        processes.append(subprocess.Popen([sys.executable, "-c", script], env=environment))
    world.beings = []
    try:
        yield
        assert all(process.poll() is None for process in processes)
    finally:
        for process in processes:
            process.kill()
            process.wait(PATIENCE)


@pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed (apt-get install faketime)")
def test_row_24_a_clock_that_jumps_moves_neither_leases_nor_bakes(tmp_path, registry):
    clock = tmp_path / "clock"
    clock.write_text("+0")
    plan = chaos.PLAN.model_copy(update={"stages": (Stage(kind="full", percent=100, bake=3),)})
    with inhabited(tmp_path / "state", registry) as world, with_clock(world, clock):
        wait_for(lambda: world.log("controller-1").count('"leads"') >= 2, what="the take-over")
        wait_for(world.ask, what="the service's start")
        # Somebody else wants the lease all the time, by a clock that does not jump.
        rival = Candidate(world.ledger, LEASE, "rival", patience=4)
        for jump in ("+2h", "-2h"):
            began = time.monotonic()
            rollout = start(world, plan)

            def passes(condition):
                assert rival.hold() is None, "nobody loses the lease"
                return condition()

            wait_for(
                lambda r=rollout: passes(lambda: world.rollouts.get(r.id).state.baked > 0.5), what="the bake's begin"
            )
            clock.write_text(jump)
            wait_for(lambda r=rollout: passes(lambda: phase(world, r) == "done"), what="the rollout's end")
            assert 3 <= time.monotonic() - began < 25, "a bake is as long as it is"
            at = {entry.action: datetime.fromisoformat(entry.at) for entry in world.ledger.audit()}
            moved = at["rollout.done"] - datetime.now(UTC)
            assert abs(moved) > timedelta(hours=1), "the clock did jump"
            settle(world)


# Row 37 ---------------------------------------------------------------------------------------------------------------


def effects(world):
    return Counter(
        (entry.action, entry.payload["generation"])
        for entry in world.ledger.audit()
        if entry.action.startswith("effect.")
    )


def no_more_memory(pid, spare=1 << 20):
    """As the kernel does where memory is limited: the next allocation that is not small fails."""
    old = resource.prlimit(pid, resource.RLIMIT_AS)
    resource.prlimit(pid, resource.RLIMIT_AS, (psutil.Process(pid).memory_info().vms + spare, old[1]))


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process are set with prlimit(2)")
def test_row_37_a_controller_out_of_memory_is_started_again_and_does_nothing_twice(world):
    being = reborn(world, "controller-1")
    no_more_memory(being.process.pid, spare=0)
    rollout = start(world)
    # It may die of it, or fail and try again; then the kernel's killer comes, whose way is SIGKILL.
    with contextlib.suppress(AssertionError):
        wait_for(lambda: being.process.exitcode is not None, seconds=3)
    assert world.ask() in {rollout.serving, rollout.candidate}
    reborn(world, "controller-1")
    settle(world)
    assert phase(world, rollout) == "done"
    assert set(effects(world).values()) == {1}
    moves = Counter(entry.action for entry in world.ledger.audit() if entry.payload.get("rollout") == rollout.id)
    assert set(moves.values()) == {1}, moves


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process are set with prlimit(2)")
def test_row_37_a_pipeline_out_of_memory_registers_once_when_it_is_run_again(world):
    before = len(world.ledger.releases(PRODUCT))
    process = world.start(chaos.run_starving_pipeline, (37,), "starving")
    process.join(PATIENCE)
    assert process.exitcode not in {0, None}
    assert "MemoryError" in world.log("starving")
    assert len(world.ledger.releases(PRODUCT)) == before
    for _ in range(2):
        again = world.start(chaos.run_pipeline, (37, 1), "pipeline")
        again.join(PATIENCE)
        assert again.exitcode == 0, world.log("pipeline")
    # Each run is a training and a release of its own; the one that died left none, and no artefact half.
    assert len(world.ledger.releases(PRODUCT)) == before + 2
    settle(world)
