from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from plinth.core.manifests import parse_product
from plinth.core.rollout_policy import RolloutPolicy
from plinth.core.rollouts import State
from plinth.errors import Conflict, InvalidInput, NotFound, RefusedByPolicy
from plinth.ledger.rollouts import Rollouts
from plinth.ledger.store import Ledger
from plinth.rollouts import commands
from plinth.rollouts.approvals import policy_digest

MANIFEST = Path(__file__).parents[4] / "services" / "flight-delays" / "product.yaml"
NAME = "flight-delays"


class Aliases:
    """A registry's aliases in memory, as `rollouts.release` wants them."""

    def __init__(self):
        self.now = {}

    def set_alias(self, model, version, alias):
        self.now[model, alias] = version

    def by_alias(self, model, alias):
        version = self.now.get((model, alias))
        return version and SimpleNamespace(version=version)


@pytest.fixture
def aliases():
    return Aliases()


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield ledger
    ledger.close()


@pytest.fixture
def rollouts(ledger):
    return Rollouts(ledger)


@pytest.fixture
def spec():
    return parse_product(MANIFEST.read_text(), str(MANIFEST)).model_copy(update={"rollout": None, "tier": 3})


@pytest.fixture
def digests(ledger, make_manifest):
    """Three releases; the first served, the second serves."""
    made = [ledger.register_release(make_manifest(n), "maya") for n in (1, 2, 3)]
    for generation, digest in enumerate(made[:2]):
        ledger.promote(NAME, digest, expected_generation=generation, actor="maya", reason="test")
    return made


def start(ledger, spec, digest, **options):
    return commands.start(ledger, spec, digest, actor="sam", reason="test", **options)


def to(rollouts, rollout, phase, stage=0):
    """The rollout, moved by the controller to a phase."""
    return rollouts.save(rollout, State(phase, stage), actor="controller", reason="test")


def rollback(ledger, aliases, digest=None):
    return commands.rollback(ledger, aliases, NAME, digest, actor="sam", reason="bad")


# Starting -------------------------------------------------------------------------------------------------------


def test_a_rollout_starts_by_the_policy_of_the_product(ledger, rollouts, spec, digests):
    rollout = start(ledger, spec, digests[2][:12])
    assert (rollout.candidate, rollout.serving, rollout.generation) == (digests[2], digests[1], 3)
    assert [stage.percent for stage in rollout.plan.stages] == [10, 50, 100]
    assert rollout.policy == policy_digest(spec)
    assert ledger.current(NAME).digest == digests[1]
    assert rollouts.route(NAME).candidate == digests[2]


def test_what_the_caller_says_goes_before_the_policy(ledger, spec, digests):
    rollout = start(ledger, spec, digests[2], steps=(20, 100), bake="30s")
    assert [(stage.percent, stage.bake) for stage in rollout.plan.stages] == [(20, 30.0), (100, 30.0)]


def test_a_tier_1_rollout_waits_for_its_approval_before_any_traffic_moves(ledger, rollouts, spec, digests):
    rollout = start(ledger, spec.model_copy(update={"tier": 1}), digests[2])
    assert rollout.state.phase == "waiting"
    assert rollouts.route(NAME).candidate is None


def test_where_nothing_serves_the_hint_is_to_promote(ledger, spec, make_manifest):
    digest = ledger.register_release(make_manifest(1), "maya")
    with pytest.raises(NotFound, match="serves nothing yet") as caught:
        start(ledger, spec, digest)
    assert f"plinth release promote {NAME} {digest[:12]}" in caught.value.hint


@pytest.mark.parametrize("bake", ["60", "soon", "-5s", "0s", ""])
def test_a_bake_that_is_no_duration_is_bad_use(ledger, spec, digests, bake):
    with pytest.raises(InvalidInput) as caught:
        start(ledger, spec, digests[2], bake=bake)
    assert caught.value.where == "--bake"


def test_steps_of_a_strategy_without_steps_are_bad_use(ledger, spec, digests):
    with pytest.raises(InvalidInput, match="blue-green"):
        start(ledger, spec, digests[2], strategy="blue-green", steps=(10, 100))


def test_one_rollout_at_a_time(ledger, spec, digests, make_manifest):
    start(ledger, spec, digests[2])
    fourth = ledger.register_release(make_manifest(4), "maya")
    with pytest.raises(Conflict, match="is running"):
        start(ledger, spec, fourth)


def test_a_release_made_to_fail_starts_as_a_drill_only(ledger, spec, digests, make_manifest):
    bad = ledger.register_release(make_manifest(9), "maya", drill=True)
    with pytest.raises(RefusedByPolicy, match="drill"):
        start(ledger, spec, bad)
    assert all(stage.kind != "full" for stage in start(ledger, spec, bad, drill=True).plan.stages)


# Wishes ---------------------------------------------------------------------------------------------------------


def test_a_paused_rollout_keeps_its_split_and_resumes_there(ledger, rollouts, spec, digests):
    rollout = start(ledger, spec, digests[2])
    split = rollouts.route(NAME)
    assert commands.pause(ledger, NAME, actor="sam", reason="lunch").reason == "paused by hand: lunch"
    assert rollouts.route(NAME) == split
    assert commands.resume(ledger, NAME, actor="sam").state.phase == rollout.state.phase


def test_an_abort_takes_the_traffic_away_without_a_controller(ledger, rollouts, spec, digests):
    rollout = start(ledger, spec, digests[2])
    assert commands.abort(ledger, NAME, actor="sam").state.phase == "aborting"
    route = rollouts.route(NAME)
    assert (route.serving, route.candidate, route.generation) == (digests[1], None, rollout.generation + 1)


@pytest.mark.parametrize("wish", [commands.pause, commands.resume, commands.abort])
def test_without_a_rollout_there_is_nothing_to_wish(ledger, digests, wish):
    with pytest.raises(NotFound, match="no rollout of flight-delays is running"):
        wish(ledger, NAME, actor="sam")


def test_resuming_what_is_not_paused_is_told(ledger, spec, digests):
    start(ledger, spec, digests[2])
    with pytest.raises(Conflict, match="nothing to resume"):
        commands.resume(ledger, NAME, actor="sam")


def interrupt(monkeypatch, *others):
    """Before each of the first saves, somebody else's write; gives how many saves were tried."""
    save, waiting, tried = Rollouts.save, list(others), []

    def overtaken(self, rollout, state, **options):
        tried.append(options["actor"])
        if waiting:
            before = self.get(rollout.id)
            save(self, before, waiting.pop(0)(before.state), actor="controller", reason="controller")
        return save(self, rollout, state, **options)

    monkeypatch.setattr(Rollouts, "save", overtaken)
    return tried


def ticked(state):
    return replace(state, baked=state.baked + 1.0, waited=state.waited + 1.0)


@pytest.mark.parametrize(("wish", "phase"), [(commands.pause, "paused"), (commands.abort, "aborting")])
def test_a_wish_survives_what_the_controller_writes_meanwhile(monkeypatch, ledger, spec, digests, wish, phase):
    start(ledger, spec, digests[2])
    tried = interrupt(monkeypatch, ticked, ticked, lambda state: State("canary", 1), ticked)
    rollout = wish(ledger, NAME, actor="sam", reason="mine")
    assert rollout.state.phase == phase
    assert len(tried) == 5
    assert Rollouts(ledger).get(rollout.id).state == rollout.state
    assert rollout.state.stage == 1  # what the controller wrote is not lost either


def test_a_wish_that_the_controller_fulfils_first_is_fulfilled(monkeypatch, ledger, spec, digests):
    start(ledger, spec, digests[2])
    interrupt(monkeypatch, lambda state: State("aborting", 0))
    assert commands.abort(ledger, NAME, actor="sam").state.phase == "aborting"
    assert ledger.current(NAME).generation == 4  # rolled back once and not twice


def test_a_wish_comes_too_late_for_what_is_decided(monkeypatch, ledger, spec, digests):
    start(ledger, spec, digests[2])
    interrupt(monkeypatch, lambda state: State("promoting", 2))
    with pytest.raises(Conflict, match="nothing to pause"):
        commands.pause(ledger, NAME, actor="sam")


def test_a_wish_is_not_carried_over_to_the_next_rollout(monkeypatch, ledger, rollouts, spec, digests, make_manifest):
    first = start(ledger, spec, digests[2])
    fourth = ledger.register_release(make_manifest(4), "maya")
    save = Rollouts.save

    def replaced(self, rollout, state, **options):
        monkeypatch.setattr(Rollouts, "save", save)
        ended = to(self, to(self, self.get(first.id), "aborting"), "rolled-back")
        assert ended.ended_at
        start(ledger, spec, fourth)
        return save(self, rollout, state, **options)

    monkeypatch.setattr(Rollouts, "save", replaced)
    with pytest.raises(Conflict, match="nothing to pause"):
        commands.pause(ledger, NAME, actor="sam")
    assert rollouts.active(NAME).candidate == fourth
    assert rollouts.active(NAME).state.phase == "canary"


def test_a_wish_against_endless_writes_gives_up_with_a_reason(monkeypatch, ledger, spec, digests):
    monkeypatch.setattr(commands.time, "sleep", lambda seconds: None)
    start(ledger, spec, digests[2])
    tried = interrupt(monkeypatch, *[ticked] * 100)
    with pytest.raises(Conflict, match="too fast to pause"):
        commands.pause(ledger, NAME, actor="sam")
    assert len(tried) == commands.TRIES


# Rolling back ---------------------------------------------------------------------------------------------------


def test_a_rollback_aborts_the_rollout_that_runs(ledger, aliases, spec, digests):
    rollout = start(ledger, spec, digests[2])
    done = rollback(ledger, aliases)
    assert (done.serving.digest, done.bad, done.aborted.id) == (digests[1], digests[2], rollout.id)
    assert done.aborted.state.phase == "aborting"


def test_a_rollback_to_what_serves_beside_a_rollout_is_its_abort(ledger, aliases, spec, digests):
    start(ledger, spec, digests[2])
    assert rollback(ledger, aliases, digests[1][:12]).aborted.state.phase == "aborting"
    assert ledger.current(NAME).digest == digests[1]


def test_a_rollback_to_an_earlier_release_goes_past_the_rollout(ledger, aliases, rollouts, spec, digests):
    start(ledger, spec, digests[2])
    done = rollback(ledger, aliases, digests[0])
    assert (done.serving.digest, done.bad) == (digests[0], digests[1])
    assert rollouts.active(NAME) is None
    assert rollouts.route(NAME).releases == (digests[0],)


def test_without_a_rollout_the_release_before_serves_again(ledger, aliases, digests):
    done = rollback(ledger, aliases)
    assert (done.serving.digest, done.bad, done.aborted) == (digests[0], digests[1], None)
    assert aliases.now == {(NAME, "serving"): "1"}


def test_a_rollback_that_comes_after_the_promotion_takes_the_promoted_release_away(
    monkeypatch, ledger, aliases, spec, digests
):
    start(ledger, spec, digests[2])
    interrupt(monkeypatch, lambda state: State("promoting", 2))
    done = rollback(ledger, aliases)
    assert (done.serving.digest, done.bad) == (digests[1], digests[2])


@pytest.mark.parametrize("ended", [False, True])
def test_a_rollback_after_an_automatic_one_does_not_take_the_good_release_away(
    ledger, aliases, rollouts, spec, digests, ended
):
    rollout = to(rollouts, start(ledger, spec, digests[2]), "aborting")
    if ended:
        to(rollouts, rollout, "rolled-back")
    with pytest.raises(Conflict, match="rolled back already"):
        rollback(ledger, aliases)
    assert ledger.current(NAME).digest == digests[1]
    assert rollback(ledger, aliases, digests[0]).serving.digest == digests[0]


# Without a rollout ----------------------------------------------------------------------------------------------


def promote(ledger, aliases, spec, digest):
    return commands.promote(ledger, aliases, spec, digest, actor="sam", reason="test")


def test_on_tier_1_what_serves_is_replaced_by_a_rollout_only(ledger, aliases, spec, digests):
    with pytest.raises(RefusedByPolicy, match="by a rollout only") as caught:
        promote(ledger, aliases, spec.model_copy(update={"tier": 1}), digests[2])
    assert f"plinth rollout start {NAME} --to {digests[2][:12]}" in caught.value.hint
    assert ledger.current(NAME).digest == digests[1]
    assert ledger.audit()[-1].action == "release.promote-refused"


def test_on_tier_1_the_first_release_is_promoted_directly(ledger, aliases, spec, make_manifest):
    digest = ledger.register_release(make_manifest(1), "maya")
    change = promote(ledger, aliases, spec.model_copy(update={"tier": 1}), digest)
    assert change.serving.digest == digest


def test_the_manifest_may_allow_or_forbid_it_whatever_the_tier(ledger, aliases, spec, digests):
    with pytest.raises(RefusedByPolicy):
        promote(ledger, aliases, spec.model_copy(update={"rollout": RolloutPolicy(direct=False)}), digests[2])
    allowed = spec.model_copy(update={"tier": 1, "rollout": RolloutPolicy(direct=True)})
    assert promote(ledger, aliases, allowed, digests[2]).serving.digest == digests[2]
