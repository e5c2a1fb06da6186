"""One suite for the ledger, run on every database it can be kept in."""

import contextlib
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from faults.forking import fork_context
from plinth.core import failpoints
from plinth.core.findings import violations
from plinth.core.rollouts import Plan, RolloutVerdict, Stage, State
from plinth.core.routes import Route
from plinth.errors import Conflict, InvalidInput, NotFound, RefusedByPolicy, Unavailable
from plinth.ledger import database, schema
from plinth.ledger.audit import first_broken
from plinth.ledger.invariants import check_ledger
from plinth.ledger.leases import Candidate
from plinth.ledger.rollouts import Rollouts
from plinth.ledger.store import Ledger

PRODUCT = "flight-delays"
POLICY = "p" * 64


@pytest.fixture
def ledger(ledger_url):
    ledger = Ledger(ledger_url)
    yield ledger
    ledger.close()


@pytest.fixture
def rollouts(ledger):
    return Rollouts(ledger)


def plan(*, approvals=0):
    stages = (Stage(kind="canary", percent=10, bake=1), Stage(kind="full", percent=100, bake=1))
    return Plan(strategy="canary", stages=stages, patience=5, approvals=approvals, own_approval=False, gates=())


def serve(ledger, manifest, generation=0, **options):
    digest = ledger.register_release(manifest, "ada")
    return ledger.promote(
        manifest.product, digest, expected_generation=generation, actor="ada", reason="test", **options
    )


def start(ledger, digest, generation, actor="ada", **options):
    return Rollouts(ledger).start(
        PRODUCT, digest, plan(**options), policy=POLICY, expected_generation=generation, actor=actor, reason="test"
    )


@pytest.fixture
def running(ledger, make_manifest):
    """A rollout in its first stage: release 1 serves, release 2 is the candidate."""
    serve(ledger, make_manifest(1))
    return start(ledger, ledger.register_release(make_manifest(2), "ada"), 1)


def actions(ledger):
    assert ledger.broken_entry() is None
    return [entry.action for entry in ledger.audit()]


def at_once(count, attempt):
    """Run `attempt(number)` in so many threads at the same moment; what each returned or raised."""
    barrier = threading.Barrier(count)

    def run(number):
        barrier.wait()
        try:
            return attempt(number)
        except Conflict as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def test_a_registered_release_comes_back_as_it_was_and_registering_twice_is_one_effect(ledger, make_manifest):
    manifest = make_manifest()
    digest = ledger.register_release(manifest, "ada")
    assert ledger.register_release(manifest, "bob") == digest
    assert ledger.release(digest[:8]).manifest == manifest
    assert actions(ledger) == ["release.register"]


def test_promotions_count_generations_keep_history_and_leave_an_effect_to_do(ledger, make_manifest):
    first, second = serve(ledger, make_manifest(1)), serve(ledger, make_manifest(2), 1)
    assert ledger.current(PRODUCT) == second
    assert [entry.digest for entry in ledger.history(PRODUCT)] == [second.digest, first.digest]
    effects = ledger.pending_effects(PRODUCT)
    assert [effect.generation for effect in effects] == [1, 2]
    for effect in effects * 2:
        ledger.effect_done(effect, "ada")
    assert ledger.pending_effects(PRODUCT) == []
    assert actions(ledger).count("effect.registry-alias") == 2


@pytest.mark.parametrize("expected", [0, 1, 3])
def test_a_stale_generation_is_a_conflict_and_changes_nothing(ledger, make_manifest, expected):
    serve(ledger, make_manifest(1))
    current = serve(ledger, make_manifest(2), 1)
    audited = len(ledger.audit())
    with pytest.raises(Conflict):
        serve(ledger, make_manifest(1), expected)
    assert (ledger.current(PRODUCT), len(ledger.audit())) == (current, audited)
    assert len(ledger.history(PRODUCT)) == 2


def test_a_rollback_goes_past_a_running_rollout_and_ends_it_but_a_promotion_does_not(ledger, rollouts, running):
    with pytest.raises(Conflict, match="rollout of flight-delays is running"):
        ledger.promote(PRODUCT, running.candidate, expected_generation=2, actor="ada", reason="")
    assert rollouts.active(PRODUCT) == running
    back = ledger.promote(PRODUCT, running.serving, expected_generation=2, actor="ada", reason="bad", kind="rollback")
    assert rollouts.active(PRODUCT) is None
    assert rollouts.route(PRODUCT) == Route(back.generation, 0, running.serving)
    assert [rollout.state.phase for rollout in rollouts.unfinished()] == ["aborting"]


def test_a_rollout_routes_moves_and_promotes(ledger, rollouts, running):
    assert rollouts.route(PRODUCT) == Route(2, 1, running.serving, running.candidate, 1000)
    verdict = RolloutVerdict(gate="errors", outcome="pass", reason="fewer", evidence={"points": 50})
    moved = rollouts.save(running, State("full", 1), actor="c", reason="grows", verdicts=[verdict])
    assert moved == rollouts.get(running.id)
    assert rollouts.route(PRODUCT) == Route(2, 2, running.serving, running.candidate, 10_000)
    with pytest.raises(Conflict, match="changed by somebody else"):
        rollouts.save(running, State("aborting"), actor="c", reason="stale")
    promoting = rollouts.save(moved, State("promoting", 1), actor="c", reason="every gate passed")
    assert (ledger.current(PRODUCT).digest, ledger.current(PRODUCT).generation) == (running.candidate, 3)
    assert rollouts.route(PRODUCT) == Route(3, 0, running.candidate)
    rollouts.save(promoting, State("done", 1), actor="c", reason="observed")
    assert rollouts.unfinished() == []
    assert [(item.revision, item.verdict.gate) for item in rollouts.verdicts(running.id)] == [
        (2, "errors"), (3, "errors"), (4, "errors"),
    ]  # fmt: skip
    assert actions(ledger)[-4:] == ["rollout.full", "release.promote", "rollout.promoting", "rollout.done"]


def test_time_that_passes_is_kept_and_fills_no_audit_log(ledger, rollouts, running):
    audited = len(ledger.audit())
    state = State("canary", 0, baked=0.1 + 0.2, waited=1 / 3)
    rollouts.save(running, state, actor="c")
    assert rollouts.get(running.id).state == state
    assert len(ledger.audit()) == audited


def test_a_rollout_that_a_rollback_overtook_cannot_promote(ledger, rollouts, running):
    ledger.promote(PRODUCT, running.serving, expected_generation=2, actor="ada", reason="", kind="rollback")
    with pytest.raises(Conflict):
        rollouts.save(running, State("promoting", 1), actor="c", reason="late")
    assert ledger.current(PRODUCT).digest == running.serving


def test_approving_twice_is_one_effect_and_another_manifest_has_none(ledger, rollouts, running):
    first = rollouts.approve(PRODUCT, running.candidate, POLICY, actor="bob", reason="seen")
    assert rollouts.approve(PRODUCT, running.candidate, POLICY, actor="bob", reason="again") == first
    assert rollouts.approvals(PRODUCT, running.candidate, POLICY) == [first]
    assert rollouts.approvals(PRODUCT, running.candidate, "q" * 64) == []
    assert actions(ledger).count("release.approve") == 1


def test_a_drill_s_release_is_never_promoted(ledger, make_manifest):
    serve(ledger, make_manifest(1))
    digest = ledger.register_release(make_manifest(2), "ada", drill=True)
    with pytest.raises(RefusedByPolicy, match="drill"):
        ledger.promote(PRODUCT, digest, expected_generation=1, actor="ada", reason="")


@pytest.mark.parametrize("field", ["actor", "reason"])
def test_a_text_that_is_no_unicode_is_bad_input_and_changes_nothing(ledger, make_manifest, field):
    """A command line's byte that is no UTF-8 arrives as half a surrogate."""
    digest = ledger.register_release(make_manifest(1), "ada")
    with pytest.raises(InvalidInput, match="cannot keep this text"):
        ledger.promote(PRODUCT, digest, expected_generation=0, **{"actor": "ada", "reason": "why", field: "\udcff"})
    assert ledger.current(PRODUCT) is None
    assert actions(ledger) == ["release.register"]


def test_a_name_that_is_too_long_is_never_a_damaged_database(ledger):
    """SQLite keeps what PostgreSQL refuses."""
    with contextlib.suppress(InvalidInput):
        ledger.append_audit("a" * 1000, "product.note", PRODUCT, {})
    assert len(actions(ledger)) == (1 if ledger.engine.dialect.name == "sqlite" else 0)


def test_what_is_not_there_is_not_found(ledger, rollouts, make_manifest):
    with pytest.raises(NotFound):
        rollouts.get(7)
    with pytest.raises(NotFound):
        ledger.release("0" * 64)
    with pytest.raises(NotFound, match="serves nothing yet"):
        start(ledger, ledger.register_release(make_manifest(1), "ada"), 0)


def test_of_twenty_promotions_at_once_one_wins_and_the_audit_chain_stays_one(ledger, make_manifest):
    serve(ledger, make_manifest(0))
    digests = [ledger.register_release(make_manifest(n), "ada") for n in range(1, 21)]
    outcomes = at_once(
        20, lambda n: ledger.promote(PRODUCT, digests[n], expected_generation=1, actor=f"a{n}", reason="race")
    )
    lost = [outcome for outcome in outcomes if isinstance(outcome, Conflict)]
    assert len(lost) == 19
    assert all("no longer at generation 1" in error.what for error in lost)
    assert actions(ledger).count("release.promote") == 2


def test_of_ten_first_promotions_at_once_one_wins(ledger, make_manifest):
    digests = [ledger.register_release(make_manifest(n), "ada") for n in range(10)]
    outcomes = at_once(
        10, lambda n: ledger.promote(PRODUCT, digests[n], expected_generation=0, actor=f"a{n}", reason="race")
    )
    assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 9
    assert len(ledger.history(PRODUCT)) == 1


def test_moves_and_rollbacks_at_once_neither_mix_nor_deadlock(ledger, rollouts, make_manifest):
    serve(ledger, make_manifest(1))
    candidate = ledger.register_release(make_manifest(2), "ada")
    for _ in range(10):
        now = ledger.current(PRODUCT)
        running = start(ledger, candidate, now.generation)
        moves = [
            lambda r=running: rollouts.save(r, State("promoting", 1), actor="c", reason="race"),
            lambda r=running: rollouts.save(r, State("paused", 0, resumes="canary"), actor="p", reason="race"),
            lambda r=running: ledger.promote(
                PRODUCT, r.serving, expected_generation=r.generation, actor="o", reason="race", kind="rollback"
            ),
            lambda r=running: rollouts.save(r, State("aborting", 0), actor="x", reason="race"),
        ]
        at_once(4, lambda n, moves=moves: moves[n]())
        left = rollouts.get(running.id)
        serving = ledger.current(PRODUCT)
        if left.active:  # only the pause won
            rollouts.save(left, State("aborting", 0), actor="x", reason="clean up")
        else:
            assert serving.generation == running.generation + 1
            expected = running.candidate if left.state.phase == "promoting" else running.serving
            assert serving.digest == expected
        if ledger.current(PRODUCT).digest == candidate:
            back = ledger.current(PRODUCT).generation
            ledger.promote(PRODUCT, running.serving, expected_generation=back, actor="o", reason="", kind="rollback")
    assert ledger.broken_entry() is None


def test_two_active_rollouts_of_a_product_are_impossible_whoever_writes(ledger, running):
    values = {column.name: getattr(running, column.name, None) for column in schema.rollout.columns}
    values |= {
        "id": 99, "generation": 77, "plan": "{}", "phase": "canary", "stage": 0, "baked": 0, "waited": 0,
        "resumes": None, "active": True, "verdicts": "[]",
    }  # fmt: skip
    with pytest.raises(Conflict), ledger.write() as connection:
        connection.execute(schema.rollout.insert().values(**values))


def test_a_lease_has_one_holder_passes_on_and_fences_the_one_before(ledger, rollouts, running):
    clock = iter(range(0, 1000, 2)).__next__
    one = Candidate(ledger, "controller", "one", patience=3, clock=clock)
    two = Candidate(ledger, "controller", "two", patience=3, clock=clock)
    lease = one.hold()
    assert lease is not None
    assert two.hold() is None
    assert one.hold() == lease
    assert two.hold() is None  # a sign of life begins the wait anew
    assert two.hold() is None
    taken = two.hold()
    assert taken is not None
    assert taken.token > lease.token
    with pytest.raises(Conflict, match="lease"):
        rollouts.save(running, State("aborting"), actor="one", reason="stale leader", lease=lease)
    assert "rollout.aborting" not in actions(ledger)
    assert one.hold() is None
    rollouts.save(running, State("paused", 0, resumes="canary"), actor="two", reason="leads", lease=taken)
    two.release()
    assert one.hold() is not None


def test_of_ten_that_want_the_lease_at_once_one_gets_it(ledger):
    candidates = [Candidate(ledger, "controller", f"c{n}") for n in range(10)]
    held = at_once(10, lambda n: candidates[n].hold())
    assert sum(lease is not None for lease in held) == 1


def test_events_come_back_in_the_order_of_their_time(ledger):
    ledger.record_event(PRODUCT, "k", {"n": 2}, at="2013-07-01T00:00:00+00:00")
    ledger.record_event(PRODUCT, "k", {"n": 1, "text": "\u00e9\u2713"}, at="2013-06-01T00:00:00+00:00")
    assert [event.payload["n"] for event in ledger.events(PRODUCT, "k")] == [1, 2]
    assert ledger.events(PRODUCT, "k")[0].payload["text"] == "\u00e9\u2713"


def test_the_audit_chain_is_judged_on_one_state_while_others_write(ledger):
    stop, found = threading.Event(), []

    def write():
        while not stop.is_set():
            ledger.append_audit("ada", "product.note", PRODUCT, {})

    writer = threading.Thread(target=write)
    writer.start()
    try:
        found = [ledger.broken_entry() for _ in range(50)]
    finally:
        stop.set()
        writer.join()
    assert found == [None] * 50
    assert first_broken(ledger.audit()) is None


@pytest.mark.parametrize(
    ("tamper", "broken"),
    [
        ("UPDATE audit SET actor = 'eve' WHERE seq = 2", 2), ("DELETE FROM audit WHERE seq = 2", 3),
        ("DELETE FROM audit WHERE seq = 4", 4), ("DELETE FROM audit_head", 5),
    ],
)  # fmt: skip
def test_an_edited_or_truncated_audit_log_names_the_first_broken_entry(ledger, tamper, broken):
    for _ in range(4):
        ledger.append_audit("ada", "product.note", PRODUCT, {})
    with ledger.engine.begin() as connection:
        connection.execute(sa.text(tamper))
    assert ledger.broken_entry() == broken


def test_an_empty_database_is_unavailable_to_who_may_not_create(ledger_url, tmp_path):
    if ledger_url.startswith("sqlite"):
        (tmp_path / "ledger").mkdir()
    reader = Ledger(ledger_url, create=False)
    with pytest.raises(Unavailable, match="cannot be used"):
        reader.current(PRODUCT)
    reader.close()


def test_a_held_lock_is_unavailable_after_a_bounded_wait_and_readers_do_not_wait(ledger, monkeypatch):
    ledger.append_audit("ada", "product.note", PRODUCT, {})
    monkeypatch.setattr(database, "BUSY_SECONDS", 1.0)
    impatient = Ledger(ledger.engine.url.render_as_string(hide_password=False))
    with ledger.write():
        started = time.monotonic()
        assert impatient.current(PRODUCT) is None
        assert time.monotonic() - started < 1
        with pytest.raises(Unavailable, match="lock") as info:
            impatient.append_audit("bob", "product.note", PRODUCT, {})
        assert time.monotonic() - started < 4
    assert "another process has held the database" in info.value.hint
    impatient.append_audit("bob", "product.note", PRODUCT, {})
    impatient.close()


def _first_use(url, barrier, answers):
    ledger = Ledger(url)
    barrier.wait(30)
    try:
        ledger.append_audit("ada", "product.note", PRODUCT, {})
        answers.put("ok")
    except Exception as error:
        answers.put(repr(error))
        raise


def _four_at_once(ledger_url):
    """Four processes use a ledger that has to be migrated first."""
    context = fork_context()
    barrier, answers = context.Barrier(4), context.Queue()
    workers = [context.Process(target=_first_use, args=(ledger_url, barrier, answers)) for _ in range(4)]
    for worker in workers:
        worker.start()
    assert [answers.get(timeout=60) for _ in workers] == ["ok"] * 4
    for worker in workers:
        worker.join(30)


def test_four_processes_that_use_a_new_ledger_at_once_migrate_it_once(ledger_url):
    _four_at_once(ledger_url)
    ledger = Ledger(ledger_url)
    assert len(actions(ledger)) == 4
    with ledger.read() as connection:
        assert connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalars().all() == [database.HEAD]
    ledger.close()


def _first_schema(url):
    """A ledger of the first revision, with two releases of which one serves."""
    engine = database.make_engine(url)
    if engine.dialect.name == "sqlite":
        Path(engine.url.database).parent.mkdir(exist_ok=True)
    config = Config()
    config.set_main_option("script_location", str(Path(database.__file__).parent / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    engine.dispose()


def _dies_migrating(url, started):
    failpoints.arm("ledger.migrate.before-commit:kill")
    started.set()
    Ledger(url).append_audit("eve", "product.note", PRODUCT, {})


def test_a_process_that_dies_in_the_middle_of_an_upgrade_leaves_the_old_ledger_whole_for_the_next(
    ledger_url, make_manifest
):
    _first_schema(ledger_url)
    old = Ledger(ledger_url, create=False)
    old.register_release(make_manifest(1), "ada")
    old.close()
    context = fork_context()
    started = context.Event()
    victim = context.Process(target=_dies_migrating, args=(ledger_url, started))
    victim.start()
    victim.join(60)
    assert started.is_set()
    assert victim.exitcode == -signal.SIGKILL
    old = Ledger(ledger_url, create=False)
    with old.read() as connection:
        assert connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar() == "0001"
    old.close()
    _four_at_once(ledger_url)
    ledger = Ledger(ledger_url)
    assert actions(ledger) == ["release.register", *["product.note"] * 4]
    assert len(ledger.releases(PRODUCT)) == 1
    assert ledger.broken_entry() is None
    ledger.close()


def test_a_ledger_of_a_newer_plinth_is_left_alone(ledger_url):
    ledger = Ledger(ledger_url)
    ledger.append_audit("ada", "product.note", PRODUCT, {})
    with ledger.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    ledger.close()
    with pytest.raises(Conflict, match="newer than this plinth"):
        Ledger(ledger_url).append_audit("ada", "product.note", PRODUCT, {})
    reader = Ledger(ledger_url, create=False)  # a service goes on reading while another machine upgrades
    assert len(actions(reader)) == 1
    reader.close()


def test_a_ledger_of_the_first_schema_keeps_its_rows_and_can_do_what_is_new(ledger_url, make_manifest):
    _first_schema(ledger_url)
    old = Ledger(ledger_url, create=False)
    first, second = (old.register_release(make_manifest(number), "ada") for number in (1, 2))
    with old.write() as connection:
        old.swap(connection, PRODUCT, first, 0, actor="ada", reason="first", kind="promote")
    with pytest.raises(Unavailable):
        Rollouts(old).active(PRODUCT)
    old.close()
    ledger = Ledger(ledger_url)
    assert start(ledger, second, 1).generation == 2
    assert ledger.release(ledger.register_release(make_manifest(3), "ada", drill=True)).status == "drill"
    assert [entry.kind for entry in ledger.history(PRODUCT)] == ["start", "promote"]
    assert violations(check_ledger(ledger)) == []
    with pytest.raises(sa.exc.IntegrityError), ledger.engine.begin() as connection:
        connection.execute(schema.release.update().values(status="whatever"))
    with pytest.raises(sa.exc.IntegrityError), ledger.engine.begin() as connection:
        connection.execute(schema.release.delete())
    ledger.close()
