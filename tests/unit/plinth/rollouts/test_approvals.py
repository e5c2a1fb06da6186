from pathlib import Path

import pytest

from plinth.core.manifests import parse_product
from plinth.core.rollout_policy import RolloutPolicy
from plinth.core.rollouts import make_plan
from plinth.errors import NotFound, RefusedByPolicy
from plinth.ledger.rollouts import Rollouts
from plinth.ledger.store import Ledger
from plinth.rollouts.approvals import approve, counted, policy_digest

MANIFEST = Path(__file__).parents[4] / "services" / "flight-delays" / "product.yaml"


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield ledger
    ledger.close()


@pytest.fixture
def rollouts(ledger):
    return Rollouts(ledger)


@pytest.fixture
def critical():
    """A tier 1 product that says nothing about rollouts: one approval, not one's own."""
    return product(tier=1)


@pytest.fixture
def digests(ledger, make_manifest):
    """Two releases that maya made; the first one serves."""
    made = [ledger.register_release(make_manifest(n), "maya") for n in (1, 2)]
    ledger.promote("flight-delays", made[0], expected_generation=0, actor="maya", reason="first")
    return made


def product(**changes):
    base = parse_product(MANIFEST.read_text(), str(MANIFEST))
    return base.model_copy(update={"rollout": None, **changes})


def start(rollouts, spec, digest, actor="sam"):
    return rollouts.start(
        "flight-delays", digest, make_plan(spec), policy=policy_digest(spec), expected_generation=1, actor=actor,
        reason="test",
    )  # fmt: skip


def refusals(ledger):
    return [(e.actor, e.payload["reason"]) for e in ledger.audit() if e.action == "release.approve-refused"]


def test_an_approval_names_who_when_why_and_which_digest_and_counts(ledger, rollouts, critical, digests):
    rollout = start(rollouts, critical, digests[1])
    given = approve(ledger, critical, digests[1][:12], actor="ines", reason="looks right")
    assert (given.actor, given.digest, given.reason) == ("ines", digests[1], "looks right")
    assert given.at
    assert counted(rollouts, rollout, critical) == [given]
    assert ledger.audit()[-1].action == "release.approve"


def test_an_approval_may_come_before_the_rollout_starts(ledger, rollouts, critical, digests):
    given = approve(ledger, critical, digests[1], actor="ines", reason="")
    assert counted(rollouts, start(rollouts, critical, digests[1]), critical) == [given]


def test_approving_twice_is_one_approval(ledger, rollouts, critical, digests):
    rollout = start(rollouts, critical, digests[1])
    approve(ledger, critical, digests[1], actor="ines", reason="once")
    approve(ledger, critical, digests[1], actor="ines", reason="twice")
    assert [approval.reason for approval in counted(rollouts, rollout, critical)] == ["once"]
    assert sum(entry.action == "release.approve" for entry in ledger.audit()) == 1


@pytest.mark.parametrize(("who", "why"), [("maya", "made this release"), ("sam", "started its rollout")])
def test_on_tier_1_nobody_approves_their_own_change_and_the_attempt_is_on_record(
    ledger, rollouts, critical, digests, who, why
):
    rollout = start(rollouts, critical, digests[1], actor="sam")
    with pytest.raises(RefusedByPolicy, match=why):
        approve(ledger, critical, digests[1], actor=who, reason="trust me")
    assert counted(rollouts, rollout, critical) == []
    assert refusals(ledger) == [(who, f"{who} {why} and may not approve it")]
    assert ledger.broken_entry() is None


def test_who_approves_first_and_starts_the_rollout_then_does_not_count(ledger, rollouts, critical, digests):
    approve(ledger, critical, digests[1], actor="sam", reason="early")
    rollout = start(rollouts, critical, digests[1], actor="sam")
    assert counted(rollouts, rollout, critical) == []


def test_who_started_another_releases_rollout_may_approve_this_one(ledger, rollouts, critical, digests, make_manifest):
    third = ledger.register_release(make_manifest(3), "maya")
    start(rollouts, critical, digests[1], actor="sam")
    assert approve(ledger, critical, third, actor="sam", reason="").digest == third


def test_where_the_policy_allows_it_ones_own_approval_counts(ledger, rollouts, digests):
    lenient = product(tier=2, rollout=RolloutPolicy(approvals=1))
    rollout = start(rollouts, lenient, digests[1], actor="maya")
    approve(ledger, lenient, digests[1], actor="maya", reason="mine")
    assert [approval.actor for approval in counted(rollouts, rollout, lenient)] == ["maya"]


def test_a_changed_manifest_voids_every_approval(ledger, rollouts, critical, digests):
    rollout = start(rollouts, critical, digests[1])
    approve(ledger, critical, digests[1], actor="ines", reason="")
    changed = critical.model_copy(update={"title": "Another product"})
    assert policy_digest(changed) != policy_digest(critical)
    assert counted(rollouts, rollout, changed) == []
    approve(ledger, changed, digests[1], actor="omar", reason="of the new manifest")
    assert counted(rollouts, rollout, changed) == []
    assert [approval.actor for approval in counted(rollouts, rollout, critical)] == ["ines"]


def test_an_approval_of_another_release_does_not_count(ledger, rollouts, critical, digests, make_manifest):
    third = ledger.register_release(make_manifest(3), "maya")
    rollout = start(rollouts, critical, digests[1])
    approve(ledger, critical, third, actor="ines", reason="")
    assert counted(rollouts, rollout, critical) == []


def test_what_may_not_serve_cannot_be_approved_and_the_attempt_is_on_record(ledger, critical, make_manifest):
    rejected = ledger.register_release(make_manifest(7, passed=False), "maya")
    drill = ledger.register_release(make_manifest(8), "maya", drill=True)
    foreign = ledger.register_release(make_manifest(9, product="other"), "maya")
    for digest in (rejected, drill, foreign):
        with pytest.raises(RefusedByPolicy):
            approve(ledger, critical, digest, actor="ines", reason="")
    assert len(refusals(ledger)) == 3


def test_a_release_that_is_not_there_cannot_be_approved(ledger, critical):
    with pytest.raises(NotFound):
        approve(ledger, critical, "abcdef123456", actor="ines", reason="")
    assert refusals(ledger) == []
