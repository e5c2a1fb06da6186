"""The parts of a drill that need no service."""

from types import SimpleNamespace

import pytest

from ledgers import PRODUCT, begin, move
from plinth.ledger.rollouts import Rollouts
from plinth.ledger.store import Ledger
from plinth.runtime import drill


@pytest.fixture
def platform(tmp_path, make_manifest):
    """A ledger with a rollout that runs."""
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    first, second = (ledger.register_release(make_manifest(number), "ada") for number in (1, 2))
    ledger.promote(PRODUCT, first, expected_generation=0, actor="ada", reason="first")
    rollout = begin(Rollouts(ledger), second)
    yield SimpleNamespace(ledger=ledger, actor="ada", rollout=rollout)
    ledger.close()


@pytest.mark.parametrize("phases", [(), ("aborting",), ("aborting", "rolled-back")])
def test_a_drill_that_ends_its_rollout_takes_no_offence_at_who_was_faster(platform, phases):
    rollouts = Rollouts(platform.ledger)
    move(rollouts, platform.rollout, *phases)
    drill._abort(platform, PRODUCT, "the drill ended")
    after = rollouts.get(platform.rollout.id)
    assert not after.active
    assert after.reason == (phases[-1] if phases else "aborted by hand: the drill ended")
