from pathlib import Path

import pytest
import yaml

from plinth.core.products import Product
from plinth.core.rollouts import State, first_state, make_plan
from plinth.errors import InvalidInput, RefusedByPolicy

PRODUCT = Path(__file__).parents[4] / "services" / "flight-delays" / "product.yaml"


def product(tier=3, **rollout):
    document = yaml.safe_load(PRODUCT.read_text()) | {"tier": tier}
    document.pop("rollout", None)
    return Product.model_validate(document | ({"rollout": rollout} if rollout else {}))


def stages(plan):
    return [(stage.kind, stage.percent, stage.bake) for stage in plan.stages]


def test_a_canary_goes_through_its_steps_to_all():
    plan = make_plan(product())
    assert stages(plan) == [("canary", 10, 60), ("canary", 50, 60), ("full", 100, 60)]
    assert first_state(plan) == State("canary")


def test_a_tier_with_a_shadow_begins_unseen_and_one_with_approvals_waits():
    plan = make_plan(product(1))
    assert stages(plan)[0] == ("shadow", 0, 600)
    assert plan.approvals == 1
    assert not plan.own_approval
    assert first_state(plan) == State("waiting")


def test_a_shadow_rollout_is_unseen_and_then_everything_even_where_the_tier_has_no_shadow():
    assert stages(make_plan(product(), strategy="shadow")) == [("shadow", 0, 60), ("full", 100, 60)]
    assert stages(make_plan(product(shadow="5s"), strategy="shadow")) == [("shadow", 0, 5), ("full", 100, 60)]


def test_blue_green_is_everything_at_once():
    assert stages(make_plan(product(2), strategy="blue-green", bake="10s")) == [("full", 100, 10)]


def test_what_the_caller_says_goes_before_the_manifest():
    plan = make_plan(product(steps=(20, 100), bake="9s"), steps=(5, 100), bake="3s")
    assert stages(plan) == [("canary", 5, 3), ("full", 100, 3)]


@pytest.mark.parametrize("strategy", ["shadow", "blue-green"])
def test_steps_are_for_canaries(strategy):
    with pytest.raises(InvalidInput) as refused:
        make_plan(product(), strategy=strategy, steps=(10, 100))
    assert refused.value.where == "--steps"


def test_a_drill_never_answers_everything_and_asks_nobody():
    plan = make_plan(product(2), drill=True)
    assert plan.drill
    assert plan.approvals == 0
    assert {stage.kind for stage in plan.stages} == {"shadow", "canary"}


@pytest.mark.parametrize("given", [{"strategy": "blue-green"}, {"steps": (100,)}])
def test_a_drill_that_would_answer_everything_is_refused(given):
    with pytest.raises(InvalidInput):
        make_plan(product(), drill=True, **given)


def test_where_people_must_approve_a_drill_answers_nobody():
    with pytest.raises(RefusedByPolicy, match="bad on purpose"):
        make_plan(product(1), drill=True)
    plan = make_plan(product(1), strategy="shadow", drill=True)
    assert [stage.kind for stage in plan.stages] == ["shadow"]
