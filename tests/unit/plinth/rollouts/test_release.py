from types import SimpleNamespace

import pytest

from plinth.errors import NotFound, RefusedByPolicy, Unavailable
from plinth.ledger.store import Ledger
from plinth.rollouts import release


class Registry:
    """Aliases in memory; `broken` makes it fail as a registry that is away does."""

    def __init__(self):
        self.aliases = {}
        self.broken = False

    def set_alias(self, model, version, alias):
        if self.broken:
            raise Unavailable("the registry is away")
        self.aliases[model, alias] = version

    def delete_alias(self, model, alias):
        self.aliases.pop((model, alias), None)

    def by_alias(self, model, alias):
        version = self.aliases.get((model, alias))
        return version and SimpleNamespace(version=version)


@pytest.fixture
def registry():
    return Registry()


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield ledger
    ledger.close()


@pytest.fixture
def digests(ledger, make_manifest):
    return [ledger.register_release(make_manifest(n), "ada") for n in (1, 2, 3)]


def promote(ledger, registry, digest):
    return release.promote(ledger, registry, "flight-delays", digest, actor="ada", reason="test")


def rollback(ledger, registry, digest=None):
    return release.rollback(ledger, registry, "flight-delays", digest, actor="ada", reason="test")


def test_a_promotion_is_projected_onto_the_registrys_alias(ledger, registry, digests):
    change = promote(ledger, registry, digests[0])
    assert change.projected
    assert change.previous is None
    assert registry.aliases == {("flight-delays", "serving"): "1"}
    assert ledger.pending_effects("flight-delays") == []


def test_a_registry_that_is_away_does_not_undo_the_decision_and_catches_up_later(ledger, registry, digests):
    registry.broken = True
    assert not promote(ledger, registry, digests[0]).projected
    assert ledger.current("flight-delays").digest == digests[0]
    registry.broken = False
    assert promote(ledger, registry, digests[1]).projected
    assert registry.aliases == {("flight-delays", "serving"): "2"}
    assert ledger.pending_effects("flight-delays") == []


def test_a_slow_projection_does_not_leave_an_older_alias_over_a_newer_one(ledger, registry, digests):
    set_alias = registry.set_alias

    def overtaken(model, version, alias):
        registry.set_alias = set_alias
        promote(ledger, registry, digests[1])
        set_alias(model, version, alias)

    registry.set_alias = overtaken
    promote(ledger, registry, digests[0])
    assert ledger.current("flight-delays").digest == digests[1]
    assert registry.aliases == {("flight-delays", "serving"): "2"}


def test_promoting_what_serves_already_is_refused(ledger, registry, digests):
    promote(ledger, registry, digests[0])
    with pytest.raises(RefusedByPolicy, match="already"):
        promote(ledger, registry, digests[0])


def test_a_rollback_goes_to_the_release_before_and_forward_again(ledger, registry, digests):
    promote(ledger, registry, digests[0])
    promote(ledger, registry, digests[1])
    assert rollback(ledger, registry).serving.digest == digests[0]
    assert registry.aliases == {("flight-delays", "serving"): "1"}
    assert rollback(ledger, registry, digests[1]).serving.generation == 4


def test_with_one_release_there_is_nothing_to_roll_back_to(ledger, registry, digests):
    with pytest.raises(NotFound, match="no earlier release"):
        rollback(ledger, registry)
    promote(ledger, registry, digests[0])
    with pytest.raises(NotFound, match="no earlier release"):
        rollback(ledger, registry)
