"""Rollouts in the ledger: what a move writes, who wins when several move, and what is kept of it."""

import pytest

from ledgers import PLAN, PRODUCT, VERDICT, begin, move
from plinth.core.findings import violations
from plinth.core.rollouts import State
from plinth.core.routes import Route
from plinth.errors import Conflict, NotFound, RefusedByPolicy
from plinth.ledger.invariants import check_ledger
from plinth.ledger.rollouts import Rollouts
from plinth.ledger.store import Ledger


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield ledger
    assert {finding.invariant for finding in violations(check_ledger(ledger))} == getattr(ledger, "breaks", set())
    ledger.close()


@pytest.fixture
def rollouts(ledger):
    return Rollouts(ledger)


@pytest.fixture
def digests(ledger, make_manifest):
    """Three accepted releases, of which the first serves."""
    made = [ledger.register_release(make_manifest(n), "ada") for n in (1, 2, 3)]
    ledger.promote(PRODUCT, made[0], expected_generation=0, actor="ada", reason="first")
    return made


def test_a_start_is_a_generation_that_serves_what_served_with_the_rollout_beside_it(ledger, rollouts, digests):
    rollout = begin(rollouts, digests[1])
    assert (rollout.generation, rollout.serving, rollout.candidate) == (2, digests[0], digests[1])
    assert (rollout.state, rollout.revision, rollout.active) == (State("canary"), 1, True)
    serving = ledger.current(PRODUCT)
    assert (serving.generation, serving.digest) == (2, digests[0])
    assert ledger.history(PRODUCT)[0].kind == "start"
    assert rollouts.active(PRODUCT) == rollouts.get(rollout.id) == rollout
    assert rollouts.unfinished() == rollouts.of(PRODUCT) == [rollout]
    assert [entry.action for entry in ledger.audit(limit=2)] == ["rollout.start", "rollout.plan"]


def test_the_route_follows_the_rollout(ledger, rollouts, digests):
    assert rollouts.route("another") is None
    assert rollouts.route(PRODUCT) == Route(1, 0, digests[0])
    rollout = begin(rollouts, digests[1])
    assert rollouts.route(PRODUCT) == Route(2, 1, digests[0], digests[1], 1000)
    rollout = move(rollouts, rollout, "full")
    assert rollouts.route(PRODUCT) == Route(2, 2, digests[0], digests[1], 10_000)
    move(rollouts, rollout, "promoting")
    assert rollouts.route(PRODUCT) == Route(3, 0, digests[1])


def test_a_rollout_that_waits_for_approvals_leaves_the_route_alone(rollouts, digests):
    rollout = begin(rollouts, digests[1], plan=PLAN.model_copy(update={"approvals": 1}))
    assert rollout.state == State("waiting")
    assert rollouts.route(PRODUCT) == Route(2, 0, digests[0])


def test_a_second_start_is_a_conflict_and_says_which_one_runs(ledger, rollouts, digests):
    begin(rollouts, digests[1])
    with pytest.raises(Conflict, match=f"running: {digests[1][:12]}, canary"):
        begin(rollouts, digests[2])
    assert ledger.current(PRODUCT).generation == 2


def test_a_start_from_a_stale_generation_is_a_conflict_and_writes_nothing(ledger, rollouts, digests):
    audited = len(ledger.audit())
    with pytest.raises(Conflict, match="no longer at generation 7"):
        rollouts.start(PRODUCT, digests[1], PLAN, policy="p", expected_generation=7, actor="ada", reason="")
    assert rollouts.of(PRODUCT) == []
    assert len(ledger.audit()) == audited


def test_what_serves_or_may_not_serve_is_not_rolled_out(ledger, rollouts, digests, make_manifest):
    with pytest.raises(RefusedByPolicy, match=r"serves release .* already"):
        begin(rollouts, digests[0])
    rejected = ledger.register_release(make_manifest(8, passed=False), "ada")
    with pytest.raises(RefusedByPolicy, match="rejected by its gates"):
        begin(rollouts, rejected)
    drill = ledger.register_release(make_manifest(9), "ada", drill=True)
    with pytest.raises(RefusedByPolicy, match="made to fail in a drill"):
        begin(rollouts, drill)
    with pytest.raises(RefusedByPolicy, match="not a drill's"):
        begin(rollouts, digests[1], plan=PLAN.model_copy(update={"drill": True}))


def test_a_product_that_serves_nothing_has_nothing_to_compare_with(ledger, rollouts, make_manifest):
    digest = ledger.register_release(make_manifest(1), "ada")
    with pytest.raises(NotFound, match="serves nothing yet"):
        rollouts.start(PRODUCT, digest, PLAN, policy="p", expected_generation=0, actor="ada", reason="")


def test_a_promotion_swaps_what_serves_in_the_same_transaction(ledger, rollouts, digests):
    rollout = move(rollouts, begin(rollouts, digests[1]), "full", "promoting")
    serving = ledger.current(PRODUCT)
    assert (serving.generation, serving.digest) == (3, digests[1])
    assert (rollout.active, rollout.ended_at) == (False, None)
    assert rollouts.unfinished() == [rollouts.get(rollout.id)]
    assert [effect.generation for effect in ledger.pending_effects(PRODUCT)] == [1, 2, 3]
    ended = move(rollouts, rollout, "done")
    assert ended.ended_at is not None
    assert rollouts.unfinished() == []


def test_an_abort_is_a_generation_that_points_back(ledger, rollouts, digests):
    move(rollouts, begin(rollouts, digests[1]), "aborting", "rolled-back")
    newest = ledger.history(PRODUCT)[0]
    assert (newest.generation, newest.kind, newest.digest) == (3, "rollback", digests[0])


def test_of_two_who_read_the_same_revision_one_moves_it(ledger, rollouts, digests):
    read = begin(rollouts, digests[1])
    move(rollouts, read, "aborting")
    with pytest.raises(Conflict, match="changed by somebody else"):
        move(rollouts, read, "full")
    assert rollouts.get(read.id).state.phase == "aborting"


def test_a_move_that_fails_leaves_rollout_and_generation_as_they_were(ledger, rollouts, digests):
    """Somebody swapped what serves without the rollout's knowledge, which only a bug can do."""
    rollout = begin(rollouts, digests[1])
    with ledger.write() as connection:
        ledger.swap(connection, PRODUCT, digests[0], 2, actor="bug", reason="", kind="promote")
    with pytest.raises(Conflict, match="no longer at generation 2"):
        move(rollouts, rollout, "promoting")
    assert rollouts.get(rollout.id) == rollout
    ledger.breaks = {"rollout.generation"}  # the bug's doing, and fsck sees it


def test_time_that_passes_is_kept_and_not_audited(ledger, rollouts, digests):
    rollout = begin(rollouts, digests[1])
    audited = len(ledger.audit())
    later = rollouts.save(rollout, State("canary", 0, baked=12.5, waited=20.0), actor="controller", verdicts=[VERDICT])
    assert (later.state.baked, later.state.waited, later.revision) == (12.5, 20.0, 2)
    assert later.verdicts == (VERDICT,)
    assert rollouts.get(rollout.id) == later
    assert len(ledger.audit()) == audited
    assert rollouts.verdicts(rollout.id) == []


def test_the_verdicts_of_every_move_are_kept_with_their_evidence(ledger, rollouts, digests):
    rollout = move(rollouts, begin(rollouts, digests[1]), "full", "promoting")
    kept = rollouts.verdicts(rollout.id)
    assert [(item.revision, item.phase, item.stage) for item in kept] == [(2, "full", 1), (3, "promoting", 1)]
    assert all(item.verdict == VERDICT for item in kept)
    assert ledger.audit(limit=1)[0].payload["verdicts"] == {"errors": "pass"}


def test_a_rollback_overtakes_a_running_rollout_and_says_so_in_the_audit_log(ledger, rollouts, digests):
    rollout = begin(rollouts, digests[1])
    ledger.promote(PRODUCT, digests[0], expected_generation=2, actor="bob", reason="complaints", kind="rollback")
    overtaken = rollouts.get(rollout.id)
    assert (overtaken.state.phase, overtaken.active, overtaken.revision) == ("aborting", False, 2)
    assert overtaken.reason == "overtaken by a rollback: complaints"
    assert rollouts.route(PRODUCT) == Route(3, 0, digests[0])
    assert [entry.action for entry in ledger.audit(limit=2)] == ["release.rollback", "rollout.aborting"]
    with pytest.raises(Conflict):  # the controller, which has not seen it
        move(rollouts, rollout, "full")
    ended = move(rollouts, overtaken, "rolled-back")
    assert ended.ended_at is not None
    assert ledger.current(PRODUCT).generation == 3


def test_a_promotion_does_not_overtake_a_running_rollout(ledger, rollouts, digests):
    begin(rollouts, digests[1])
    with pytest.raises(Conflict, match="a rollout of flight-delays is running"):
        ledger.promote(PRODUCT, digests[2], expected_generation=2, actor="bob", reason="now")
    assert ledger.current(PRODUCT).generation == 2


def test_approving_twice_is_one_effect_and_binds_person_release_and_policy(ledger, rollouts, digests):
    first = rollouts.approve(PRODUCT, digests[1], "p1", actor="bob", reason="fine")
    assert rollouts.approve(PRODUCT, digests[1], "p1", actor="bob", reason="again") == first
    rollouts.approve(PRODUCT, digests[1], "p1", actor="eve", reason="fine")
    assert [approval.actor for approval in rollouts.approvals(PRODUCT, digests[1], "p1")] == ["bob", "eve"]
    assert rollouts.approvals(PRODUCT, digests[1], "p2") == []
    assert rollouts.approvals(PRODUCT, digests[2], "p1") == []
    assert [entry.action for entry in ledger.audit()].count("release.approve") == 2


def test_an_unknown_rollout_is_not_found(rollouts):
    with pytest.raises(NotFound, match="no rollout 7"):
        rollouts.get(7)
