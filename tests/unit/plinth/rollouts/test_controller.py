"""The controller over a real ledger (SQLite), with a clock of its own and services that follow the ledger at once."""

from collections import defaultdict
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from plinth.core.evidence import Cell, Evidence
from plinth.core.manifests import parse_product
from plinth.core.rollout_policy import Contract
from plinth.core.rollouts import Command, Plan, RolloutVerdict, Stage, advance
from plinth.core.routes import Route
from plinth.errors import Conflict, InvalidInput, NotFound, Unavailable
from plinth.ledger.leases import Candidate
from plinth.ledger.rollouts import Rollouts
from plinth.ledger.store import Ledger
from plinth.rollouts import release
from plinth.rollouts.approvals import policy_digest
from plinth.rollouts.controller import Controller
from plinth.rollouts.projection import LEASE, Projector
from plinth.serving.memory_backend import MemoryBackend
from plinth.serving.port import Observation

PRODUCT = "flight-delays"
MANIFEST = Path(__file__).parents[4] / "services" / PRODUCT / "product.yaml"


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Registry:
    """Aliases in memory, `aliases` those of the product; `away` is a registry that cannot be reached."""

    def __init__(self):
        self.models, self.away, self.writes = defaultdict(dict), False, 0
        self.aliases = self.models[PRODUCT]

    def by_alias(self, model, alias):
        if self.away:
            raise Unavailable("the registry is away")
        version = self.models[model].get(alias)
        return version and SimpleNamespace(version=version)

    def set_alias(self, model, version, alias):
        self.writes += 1
        self.models[model][alias] = version

    def delete_alias(self, model, alias):
        self.writes += 1
        self.models[model].pop(alias, None)


class Services:
    """One copy of each product's service, which follows the ledger at once unless it is told not to."""

    def __init__(self, ledger):
        self.rollouts, self.frozen, self.down, self.applied = Rollouts(ledger), {}, set(), []
        self.starts = 1

    def apply(self, product, route):
        self.applied.append(route)

    def observe(self, product):
        if product in self.down:
            return [Observation(product, None, problem="does not answer")]
        route = self.frozen.get(product) or self.rollouts.route(product)
        return [Observation(product, route, instance=f"process {self.starts}")]


class World:
    def __init__(self, folder, make_manifest):
        self.ledger = Ledger(f"sqlite:///{folder / 'ledger.db'}")
        self.rollouts = Rollouts(self.ledger)
        self.clock, self.registry, self.services = Clock(), Registry(), Services(self.ledger)
        self.product = parse_product(MANIFEST.read_text(), str(MANIFEST))
        self.make_manifest = make_manifest
        cells = tuple(Cell(step, "candidate", "b", requests=60) for step in (1, 2, 3))
        self.outcome, self.evidence, self.broken = "pass", Evidence(cells=cells), {}
        self.built = 0
        self.digests = [self.ledger.register_release(make_manifest(n), "ada") for n in (1, 2, 3)]
        self.ledger.promote(PRODUCT, self.digests[0], expected_generation=0, actor="ada", reason="first")
        self.controller = self.make_controller("one")

    def make_controller(self, name, **options):
        return Controller(
            self.ledger,
            Candidate(self.ledger, LEASE, name, clock=self.clock),
            backend=self.services,
            evidence=lambda rollout: self.evidence,
            judge=self.judge,
            product=self.manifest,
            products=lambda: [PRODUCT],
            projector=Projector(
                self.ledger, self.build_registry, actor="controller", clock=self.clock, glance=options.get("glance")
            ),
            actor="controller",
            clock=self.clock,
        )

    def build_registry(self, product):
        self.built += 1
        return self.registry

    def manifest(self, name):
        if name in self.broken:
            raise self.broken[name]
        return self.product

    def judge(self, plan, state, evidence, product):
        outcome = "inconclusive" if evidence.problem else self.outcome
        return [RolloutVerdict(gate="errors", outcome=outcome, reason=evidence.problem or "as told")]

    def start(self, number=2, product=PRODUCT, **changes):
        drill = changes.get("drill", False)
        canary = [Stage(kind="canary", percent=percent, bake=3) for percent in (10, 50)]
        plan = Plan(
            strategy="canary", stages=(*canary, *([] if drill else [Stage(kind="full", percent=100, bake=3)])),
            patience=10, approvals=0, own_approval=True, gates=(Contract(kind="contract"),),
        )  # fmt: skip
        serving = self.ledger.current(product)
        return self.rollouts.start(
            product, self.digests[number - 1], plan.model_copy(update=changes), policy=policy_digest(self.product),
            expected_generation=serving.generation, actor="ada", reason="better",
        )  # fmt: skip

    def step(self, seconds=1.0, controller=None):
        self.clock.now += seconds
        controller = controller or self.controller
        leads = controller.tick()
        controller.project()
        return leads

    def run(self, until, seconds=1.0, most=100):
        """Ticks until the newest rollout is in that phase; the phases and stages it went through."""
        seen = []
        for _ in range(most):
            state = self.newest.state
            if not seen or seen[-1] != (state.phase, state.stage):
                seen.append((state.phase, state.stage))
            if state.phase == until:
                return seen
            self.step(seconds)
        raise AssertionError(f"not {until} after {most} ticks: {self.newest}")

    def wish(self, wish):
        rollout = self.newest
        self.rollouts.save(rollout, advance(rollout.plan, rollout.state, Command(wish)).state, actor="ada")

    @property
    def newest(self):
        return self.rollouts.of(PRODUCT)[0]

    @property
    def serves(self):
        return self.ledger.current(PRODUCT).digest

    def actions(self, actor="controller"):
        return [entry.action for entry in self.ledger.audit() if entry.actor == actor]


@pytest.fixture
def world(tmp_path, make_manifest):
    world = World(tmp_path, make_manifest)
    yield world
    world.ledger.close()


def test_a_good_release_goes_through_every_step_and_serves(world):
    world.start()
    seen = world.run("done")
    assert seen == [("canary", 0), ("canary", 1), ("full", 2), ("promoting", 2), ("done", 2)]
    assert world.serves == world.digests[1]
    assert world.registry.aliases == {"serving": "2"}
    assert world.ledger.pending_effects(PRODUCT) == []
    assert world.actions().count("effect.registry-alias") == 3  # the first promotion, the start, the promotion
    assert world.ledger.broken_entry() is None


def test_each_stage_is_watched_for_its_bake_by_the_monotonic_clock(world):
    world.start()
    begun = world.clock.now
    world.run("done", seconds=0.5)
    assert 9 <= world.clock.now - begun < 12


def test_while_it_runs_the_candidates_alias_is_on_it_and_afterwards_on_nothing(world):
    world.start()
    world.step()
    assert world.registry.aliases == {"serving": "1", "candidate": "2"}
    world.outcome = "fail"
    world.run("rolled-back")
    assert world.registry.aliases == {"serving": "1"}


def test_an_alias_that_a_training_put_elsewhere_is_left_alone(world):
    world.start()
    world.run("done")
    world.registry.aliases["candidate"] = "3"
    world.start(1)
    world.step()
    assert world.registry.aliases["candidate"] == "1"
    world.registry.aliases["candidate"] = "3"
    world.outcome = "fail"
    world.run("rolled-back")
    world.step(31)
    assert world.registry.aliases == {"serving": "2", "candidate": "3"}


def test_a_service_that_keeps_being_started_again_rolls_back_although_its_counts_look_well(world):
    world.start()
    world.step()
    for _ in range(2):
        world.services.starts += 1
        world.step(0.5)
    assert world.newest.state.phase == "canary", "a restart or two happen"
    world.services.starts += 1
    world.run("rolled-back", seconds=0.5)
    assert world.newest.reason == "restarts: the service was started again 3 times while the rollout ran"
    assert world.serves == world.digests[0]


def test_a_failed_gate_rolls_back_with_its_reason(world):
    world.start()
    world.step()
    world.outcome = "fail"
    world.step()
    assert world.newest.state.phase == "aborting"
    assert world.newest.reason.startswith("errors: as told")
    world.step()
    assert world.newest.state.phase == "rolled-back"
    assert world.serves == world.digests[0]
    assert "rollout.aborting" in world.actions()
    assert world.rollouts.verdicts(world.newest.id)[-1].verdict.outcome == "fail"


@pytest.mark.parametrize("number", [0, 1], ids=["rolled back", "promoted"])
def test_a_backend_that_reads_no_ledger_is_told_how_it_ends(world, number):
    backend = world.controller._backend = MemoryBackend()
    world.start()
    world.step(2)
    world.outcome = "pass" if number else "fail"
    world.run("done" if number else "rolled-back")
    assert backend.routes[PRODUCT] == Route(3, 0, world.digests[number])


def test_missing_metrics_roll_back_when_patience_ends(world):
    world.evidence = Evidence(problem="the request log cannot be read")
    world.start()
    begun = world.clock.now
    world.run("rolled-back")
    assert "missing evidence never promotes" in world.newest.reason
    assert world.clock.now - begun >= 13


def test_metrics_that_stop_after_the_canary_steps_never_promote(world):
    world.evidence = Evidence(cells=world.evidence.cells[:2])  # none of the last stage; the gates still pass
    world.start()
    seen = world.run("rolled-back")
    assert seen == [("canary", 0), ("canary", 1), ("full", 2), ("aborting", 2), ("rolled-back", 2)]
    assert world.serves == world.digests[0]


def test_evidence_that_raises_is_missing_evidence(world):
    def broken(rollout):
        raise RuntimeError("a bug in a source")

    world.start()
    world.controller._evidence = broken
    assert world.run("rolled-back") == [("canary", 0), ("aborting", 0), ("rolled-back", 0)]


def test_with_points_but_no_proof_it_pauses_and_stays_paused(world):
    world.outcome = "inconclusive"
    world.evidence = Evidence(cells=(Cell(1, "serving", "a", requests=900), Cell(1, "candidate", "b", requests=100)))
    world.start()
    world.run("paused")
    for _ in range(100):
        world.step()
    assert world.newest.state.phase == "paused"
    assert "inconclusive: errors" in world.newest.reason


def test_a_paused_canary_that_harms_is_rolled_back(world):
    world.start()
    world.step()
    world.wish("pause")
    world.step()
    assert world.newest.state.phase == "paused"
    world.outcome = "fail"
    world.run("rolled-back")


def test_a_paused_rollout_counts_no_time_and_goes_on_where_it_was(world):
    world.start()
    world.step()
    world.step()
    world.wish("pause")
    baked = world.newest.state.baked
    for _ in range(20):
        world.step()
    assert world.newest.state.baked == baked
    world.wish("resume")
    world.run("done")


def test_a_service_that_does_not_take_the_route_over_bakes_nothing_and_rolls_back(world):
    world.services.frozen[PRODUCT] = world.rollouts.route(PRODUCT)
    world.start()
    for _ in range(12):
        world.step()
    assert world.newest.state.baked == 0
    world.step(3)
    world.step(3)
    assert world.newest.state.phase == "aborting"
    assert "did not take the route over" in world.newest.reason


def test_a_rollback_ends_only_when_the_services_are_seen_to_follow(world):
    world.start()
    world.step()
    world.services.frozen[PRODUCT] = world.rollouts.route(PRODUCT)
    world.outcome = "fail"
    for _ in range(20):
        world.step()
    assert world.newest.state.phase == "aborting"
    assert world.newest.reason == "errors: as told (waiting: flight-delays: it still routes as before)"
    world.services.frozen.clear()
    world.services.down.add(PRODUCT)
    world.step()
    assert world.newest.reason == "errors: as told (waiting: no service answers: does not answer)"
    world.services.down.clear()
    world.step()
    assert world.newest.state.phase == "rolled-back"


def test_an_aborted_rollout_is_tried_at_every_tick_however_often_it_failed(world):
    world.start()
    world.step()
    world.wish("abort")
    healthy, asked = world.services.observe, []

    def broken(product):
        asked.append(world.clock.now)
        raise OSError("no network")

    world.services.observe = broken
    for _ in range(8):
        world.step()
    assert len(asked) == 8
    world.services.observe = healthy
    world.step()
    assert world.newest.state.phase == "rolled-back"


def test_another_rollout_that_fails_is_tried_less_and_less_often_until_a_person_acts(world):
    world.start()
    asked = []

    def broken(product):
        asked.append(world.clock.now)
        raise OSError("no network")

    world.services.observe = broken
    for _ in range(100):
        world.step()
    waits = [after - before for before, after in pairwise(asked)]
    assert waits == [1, 2, 4, 8, 16, 30, 30]
    world.wish("abort")
    del asked[:]
    world.step()
    assert len(asked) == 1


def test_a_wish_to_abort_ends_it(world):
    world.start()
    world.step()
    world.wish("abort")
    assert world.run("rolled-back") == [("aborting", 0), ("rolled-back", 0)]
    assert world.rollouts.route(PRODUCT).candidate is None


def test_a_drill_never_reaches_all_traffic_nor_an_alias(world):
    world.digests[1] = world.ledger.register_release(world.make_manifest(22), "ada", drill=True)
    world.start(drill=True)
    world.step()
    assert world.registry.aliases == {"serving": "1"}
    seen = world.run("rolled-back")
    assert {phase for phase, _ in seen} == {"canary", "aborting", "rolled-back"}
    assert world.newest.reason == "the drill's fault was not detected"
    assert world.registry.aliases == {"serving": "1"}


def test_a_rollback_by_hand_overtakes_and_the_rollout_ends(world):
    world.start()
    world.run("done")
    world.start(3)
    world.step()
    release.rollback(world.ledger, world.registry, PRODUCT, world.digests[0], actor="ada", reason="no")
    assert world.run("rolled-back") == [("aborting", 0), ("rolled-back", 0)]
    assert world.serves == world.digests[0]
    assert world.registry.aliases == {"serving": "1"}


def test_a_decided_rollout_that_a_later_generation_overtook_is_ended(world):
    world.registry.away = True  # the alias cannot be set, so it cannot end
    world.start()
    world.run("promoting")
    for _ in range(5):
        world.step()
    assert world.newest.state.phase == "promoting"
    assert "the registry's alias is not set yet" in world.newest.reason
    second = world.start(3)
    world.step()
    first = world.rollouts.of(PRODUCT)[1]
    assert first.state.phase == "done"
    assert first.reason == f"every gate passed; overtaken by generation {second.generation}"


def test_a_release_that_was_retired_meanwhile_is_rolled_back_instead_of_promoted(world):
    world.start()
    world.run("full")
    with world.ledger.write() as connection:
        connection.exec_driver_sql("UPDATE release SET status = 'retired' WHERE digest = ?", (world.digests[1],))
    world.run("rolled-back")
    assert "were collected" in world.newest.reason
    assert world.serves == world.digests[0]


# Approvals ------------------------------------------------------------------------------------------------------


def approve(world, actor):
    policy = policy_digest(world.product)
    world.rollouts.approve(PRODUCT, world.digests[1], policy, actor=actor, reason="seen")


def test_no_traffic_moves_before_enough_people_approved(world):
    world.start(approvals=2)
    approve(world, "bob")
    for _ in range(20):
        world.step()
    assert world.newest.state.phase == "waiting"
    assert world.newest.reason == "1 of 2 approvals"
    assert world.rollouts.route(PRODUCT).candidate is None
    approve(world, "cem")
    world.step()
    assert world.newest.state.phase == "canary"
    assert world.newest.reason == "approved by bob, cem"


def test_waiting_writes_only_what_is_new(world):
    world.start(approvals=1)
    for _ in range(20):
        world.step()
    assert world.newest.revision == 2


def test_nobody_approves_their_own_change_where_the_policy_says_so(world):
    world.start(approvals=1, own_approval=False)
    approve(world, "ada")  # who made the release and started the rollout
    world.step()
    assert world.newest.reason == "0 of 1 approvals"
    approve(world, "bob")
    world.step()
    assert world.newest.state.phase == "canary"


def test_a_changed_manifest_voids_approvals(world):
    world.start(approvals=1)
    world.product = world.product.model_copy(update={"title": "Another title"})
    approve(world, "bob")  # under the new manifest: not what the rollout was started with
    for _ in range(3):
        world.step()
    assert world.newest.state.phase == "waiting"
    assert "manifest changed" in world.newest.reason


# One bad product ------------------------------------------------------------------------------------------------


def test_what_fails_on_one_product_stops_no_other(world):
    other = "taxi-fares"
    digests = [world.ledger.register_release(world.make_manifest(n, product=other), "ada") for n in (1, 2)]
    world.ledger.promote(other, digests[0], expected_generation=0, actor="ada", reason="first")
    world.start()
    plan = world.newest.plan
    world.rollouts.start(other, digests[1], plan, policy="p" * 64, expected_generation=1, actor="ada", reason="x")
    world.broken[PRODUCT] = InvalidInput("the manifest does not fit")
    world.services.down.add(PRODUCT)
    for _ in range(40):
        world.step()
    assert world.rollouts.of(other)[0].state.phase == "done"
    assert world.registry.models[other] == {"serving": "2"}
    assert world.newest.state.phase == "aborting"


# The lease ------------------------------------------------------------------------------------------------------


def test_of_two_controllers_one_acts_and_the_other_takes_over_after_five_seconds_of_silence(world):
    other = world.make_controller("two")
    world.start()
    assert world.step()
    for _ in range(10):
        assert world.step(0.5)
        assert not world.step(0.5, other)
    died_at = world.clock.now
    while not world.step(0.5, other):
        assert world.clock.now < died_at + 7
    assert world.clock.now - died_at >= 4
    while world.newest.state.phase != "done":
        world.step(1, other)
    assert world.ledger.broken_entry() is None


def test_a_controller_that_stops_gives_the_lease_up_at_once(world):
    other = world.make_controller("two")
    world.step()
    assert not world.step(0, other)
    world.controller.step_down()
    assert world.step(0, other)


def test_a_stale_leader_that_wakes_in_the_middle_of_its_tick_writes_nothing(world):
    """Row 2: it read, was stopped for ten seconds, and goes on as if nothing had been."""
    other = world.make_controller("two")
    world.start()
    world.step()
    world.step(0, other)
    world.outcome = "fail"

    def stopped(rollout):
        world.controller._evidence = lambda rollout: world.evidence
        world.outcome = "pass"
        world.clock.now += 10
        assert world.step(0, other)
        world.outcome = "fail"  # what the stale one saw
        return world.evidence

    world.controller._evidence = stopped
    before = world.newest
    world.controller.tick()
    assert world.newest.state.phase == "canary"
    assert world.newest.revision == before.revision  # it was the lease that stopped it, and nobody's write
    assert not world.controller.leads()
    assert not world.controller.tick()


def test_a_stale_leader_does_not_touch_the_registry(world):
    other = world.make_controller("two")
    world.step()
    world.step(0, other)
    world.registry.writes = 0
    world.clock.now += 10
    world.step(0, other)
    world.registry.aliases["serving"] = "9"
    world.clock.now += 31
    world.controller.project()  # it has not noticed yet that it was replaced
    assert world.registry.writes == 0


def test_a_takeover_counts_no_time_that_nobody_watched(world):
    other = world.make_controller("two")
    world.start()
    world.step()
    world.step(0, other)
    baked = world.newest.state.baked
    world.clock.now += 3600
    world.step(0, other)
    world.clock.now += 3600
    world.step(0, other)
    assert world.newest.state.baked <= baked + 3
    assert world.newest.state.phase == "canary"


def test_wall_clocks_that_jump_change_nothing(world, monkeypatch):
    """Row 24: the same rollout, with the wall clock two hours on and back between ticks."""
    import datetime as real

    offsets = iter([0, 7200, -7200, 0, 7200] * 40)

    class Jumping(real.datetime):
        @classmethod
        def now(cls, tz=None):
            return real.datetime.now(tz) + real.timedelta(seconds=next(offsets))

    monkeypatch.setattr("plinth.ledger.store.datetime", Jumping)
    world.start()
    begun = world.clock.now
    assert world.run("done")[-1] == ("done", 2)
    assert 9 <= world.clock.now - begun <= 14
    assert len(world.actions().copy()) == len(set(world.actions())) + 2  # each effect once: three aliases
    assert world.ledger.broken_entry() is None


# What is kept ---------------------------------------------------------------------------------------------------


def test_a_restart_loses_at_most_two_seconds_of_a_stage(world):
    world.start(stages=(Stage(kind="canary", percent=10, bake=60), Stage(kind="full", percent=100, bake=60)))
    for _ in range(20):
        world.step()
    assert 17 <= world.newest.state.baked <= 20
    again = world.make_controller("two")
    world.controller.step_down()
    baked = world.newest.state.baked
    world.step(1, again)
    world.step(1, again)
    assert baked <= world.newest.state.baked <= baked + 2


def test_time_is_written_every_other_second_and_not_more(world):
    world.start(stages=(Stage(kind="canary", percent=10, bake=600), Stage(kind="full", percent=100, bake=60)))
    world.step()
    before = world.newest.revision
    for _ in range(80):
        world.step(0.25)
    assert 9 <= world.newest.revision - before <= 11


def test_a_command_between_two_ticks_is_not_overwritten(world):
    world.start()
    world.step()
    healthy = world.services.observe

    def pause_meanwhile(product):
        world.services.observe = healthy
        world.wish("pause")
        return healthy(product)

    world.outcome = "no-harm"  # a change of verdict, so that the tick writes
    world.services.observe = pause_meanwhile
    world.step()
    assert world.newest.state.phase == "paused"


# Effects --------------------------------------------------------------------------------------------------------


def test_nothing_to_project_builds_no_registry(world):
    world.step()
    assert world.built == 1
    again = world.make_controller("two", glance=lambda model, alias: world.registry.aliases.get(alias))
    world.controller.step_down()
    for _ in range(100):
        world.step(1, again)
    assert world.built == 1


def test_an_alias_that_a_stranger_moved_is_mended_and_audited(world):
    world.step()
    world.registry.aliases["serving"] = "9"
    for _ in range(31):
        world.step()
    assert world.registry.aliases["serving"] == "1"
    mended = [entry for entry in world.ledger.audit() if entry.action == "alias.mended"]
    assert [entry.payload["changed"] for entry in mended] == [["serving to version 1, from 9"]]


def test_a_glance_that_shows_a_moved_alias_builds_the_registry_and_mends(world):
    world.step()
    world.controller.step_down()
    again = world.make_controller("two", glance=lambda model, alias: world.registry.aliases.get(alias))
    world.registry.aliases["serving"] = "9"
    for _ in range(32):
        world.step(1, again)
    assert world.registry.aliases["serving"] == "1"
    assert world.built == 2


def test_a_registry_that_is_away_is_tried_less_and_less_often_and_converges(world):
    world.registry.away = True
    tries = []
    inner = world.registry.by_alias
    world.registry.by_alias = lambda *args: tries.append(world.clock.now) or inner(*args)
    world.start()
    for _ in range(70):
        world.step()
    waits = [after - before for before, after in pairwise(tries)]
    assert waits[:6] == [1, 2, 4, 8, 16, 30]
    assert world.newest.state.phase == "promoting"  # its route needed no registry
    world.registry.away = False
    for _ in range(32):
        world.step()
    assert world.registry.aliases == {"serving": "2"}
    assert world.newest.state.phase == "done"
    assert world.ledger.pending_effects(PRODUCT) == []


def test_a_version_that_the_registry_does_not_know_stays_in_the_outbox(world):
    def unknown(model, version, alias):
        raise NotFound(f"no version {version}")

    world.registry.set_alias = unknown
    for _ in range(5):
        world.step()
    assert len(world.ledger.pending_effects(PRODUCT)) == 1


def test_an_effect_that_was_carried_out_before_a_crash_is_recorded_once(world):
    world.registry.aliases["serving"] = "1"  # written; the process died before it said so
    world.step()
    assert world.registry.writes == 0
    assert world.actions().count("effect.registry-alias") == 1


def test_commands_leave_the_registry_to_the_controller_that_leads(world):
    world.step()
    world.registry.writes = 0
    change = release.promote(world.ledger, world.registry, PRODUCT, world.digests[2], actor="ada", reason="now")
    assert not change.projected
    assert world.registry.writes == 0
    world.step()
    assert world.registry.aliases == {"serving": "3"}


def test_a_rollout_is_never_saved_with_a_lease_that_somebody_else_took(world):
    rollout = world.start()
    world.step()
    stale = world.controller._held
    world.clock.now += 10
    taker = Candidate(world.ledger, LEASE, "two", clock=world.clock)
    taker.hold()
    world.clock.now += 10
    assert taker.hold() is not None
    rollout = world.newest
    with pytest.raises(Conflict, match="taken by another process"):
        world.rollouts.save(rollout, replace(rollout.state, baked=99), actor="x", lease=stale)
    assert world.newest.state.baked == rollout.state.baked
