"""Aliases of assistants: on the index build and the prompts of what the ledger decided. (Models: test_release.py.)"""

import pytest

from assistant_releases import PRODUCT, build_id, manifest
from plinth.core.rollout_policy import Contract
from plinth.core.rollouts import Plan, Stage
from plinth.errors import Unavailable
from plinth.generation.memory import MemoryPrompts
from plinth.ledger.rollouts import Rollouts
from plinth.ledger.store import Ledger
from plinth.rollouts import commands, release
from plinth.rollouts.agreement import check_registry
from plinth.rollouts.projection import VERIFY_SECONDS, Projector, align
from plinth.rollouts.targets import Targets

PROMPT = f"{PRODUCT}.answer"


class Index:
    """The aliases of a vector store, in memory; `away` makes it fail as a server that is away does."""

    def __init__(self):
        self.aliases, self.away = {}, False

    def set_alias(self, name, build):
        if self.away:
            raise Unavailable("the vector store is away")
        self.aliases[name] = build

    def alias(self, name):
        return self.aliases.get(name)


def no_models():
    raise AssertionError("an assistant has nothing in the model registry")


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield ledger
    ledger.close()


@pytest.fixture
def index():
    return Index()


@pytest.fixture
def prompts():
    prompts = MemoryPrompts()
    for number in (1, 2, 3):
        prompts.register(PROMPT, f"{number} {{{{ question }}}}", ["question"])
    return prompts


@pytest.fixture
def targets(index, prompts):
    return Targets(no_models, lambda: index, lambda: prompts)


@pytest.fixture
def digests(ledger):
    return [ledger.register_release(manifest(n, prompt=n), "ada") for n in (1, 2, 3)]


def promote(ledger, targets, digest):
    return release.promote(ledger, targets, PRODUCT, digest, actor="ada", reason="test")


def start(ledger, digest, *, drill=False):
    stages = [Stage(kind="canary", percent=50, bake=3)]
    plan = Plan(
        strategy="canary", stages=tuple(stages if drill else [*stages, Stage(kind="full", percent=100, bake=3)]),
        patience=10, approvals=0, own_approval=True, gates=(Contract(kind="contract"),), drill=drill,
    )  # fmt: skip
    generation = ledger.current(PRODUCT).generation
    return Rollouts(ledger).start(
        PRODUCT, digest, plan, policy="p" * 64, expected_generation=generation, actor="ada", reason="better"
    )


def seen(index, prompts):
    return (
        index.alias(PRODUCT), prompts.alias(PROMPT, "serving"),
        index.alias(f"{PRODUCT}-candidate"), prompts.alias(PROMPT, "candidate"),
    )  # fmt: skip


def test_a_promotion_is_projected_onto_the_index_and_the_prompts(ledger, targets, digests, index, prompts):
    assert promote(ledger, targets, digests[0]).projected
    assert seen(index, prompts) == (build_id(1), "1", build_id(1), "1")
    assert ledger.pending_effects(PRODUCT) == []


def test_a_rollback_restores_index_and_prompts_at_once(ledger, targets, digests, index, prompts):
    promote(ledger, targets, digests[0])
    promote(ledger, targets, digests[1])
    assert seen(index, prompts)[:2] == (build_id(2), "2")
    release.rollback(ledger, targets, PRODUCT, actor="ada", reason="test")
    assert seen(index, prompts) == (build_id(1), "1", build_id(1), "1")


def test_what_is_rolled_out_is_the_candidate_until_it_is_decided(ledger, targets, digests, index, prompts):
    promote(ledger, targets, digests[0])
    start(ledger, digests[1])
    align(ledger, targets, PRODUCT, lambda: True)
    assert seen(index, prompts) == (build_id(1), "1", build_id(2), "2")
    commands.abort(ledger, PRODUCT, actor="ada")
    align(ledger, targets, PRODUCT, lambda: True)
    assert seen(index, prompts) == (build_id(1), "1", build_id(1), "1")


def test_a_drills_build_gets_no_alias(ledger, targets, digests, index, prompts):
    promote(ledger, targets, digests[0])
    bad = ledger.register_release(manifest(9, passed=False), "ada", drill=True)
    start(ledger, bad, drill=True)
    assert align(ledger, targets, PRODUCT, lambda: True) == []
    assert seen(index, prompts) == (build_id(1), "1", build_id(1), "1")


def test_a_store_that_is_away_undoes_nothing_and_the_effect_waits(ledger, targets, digests, index, prompts):
    index.away = True
    assert not promote(ledger, targets, digests[0]).projected
    assert ledger.current(PRODUCT).digest == digests[0]
    found = check_registry(ledger, lambda product: targets, [PRODUCT])
    assert {(f.invariant, f.level) for f in found if f.subject == PRODUCT} == {
        ("registry.serving", "warning"), ("registry.candidate", "warning")
    }  # fmt: skip
    index.away = False
    assert promote(ledger, targets, digests[1]).projected
    assert seen(index, prompts)[:2] == (build_id(2), "2")


@pytest.mark.parametrize("glance", [False, True])
def test_an_alias_that_somebody_moved_is_mended_and_audited(ledger, targets, digests, index, prompts, glance):
    promote(ledger, targets, digests[0])
    now = [0.0]

    def look(name, alias):
        return found.version if (found := targets.by_alias(name, alias)) else None

    projector = Projector(
        ledger, lambda product: targets, actor="controller", clock=lambda: now[0], glance=look if glance else None
    )
    projector.work(PRODUCT, lambda: True)
    index.set_alias(PRODUCT, build_id(7))
    prompts.set_alias(PROMPT, "candidate", "3")
    broken = [f for f in check_registry(ledger, lambda product: targets, [PRODUCT]) if f.level == "violation"]
    assert {f.invariant for f in broken} == {"registry.serving", "registry.candidate"}
    now[0] += VERIFY_SECONDS + 1
    projector.work(PRODUCT, lambda: True)
    assert seen(index, prompts) == (build_id(1), "1", build_id(1), "1")
    (mended,) = [entry for entry in ledger.audit() if entry.action == "alias.mended"]
    assert mended.payload["changed"] == [
        f"serving of index:{PRODUCT} to version {build_id(1)}, from {build_id(7)}",
        f"candidate of prompt:{PROMPT} to version 1, from 3",
    ]


def test_who_lost_the_lease_moves_no_alias(ledger, targets, digests, index, prompts):
    promote(ledger, targets, digests[0])
    index.set_alias(PRODUCT, build_id(7))
    prompts.set_alias(PROMPT, "serving", "3")
    Projector(ledger, lambda product: targets, actor="x", clock=lambda: 1e9).work(PRODUCT, lambda: False)
    assert seen(index, prompts)[:2] == (build_id(7), "3")
