import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from plinth.core.durations import seconds
from plinth.core.rollout_policy import DEFAULT_GATES, RolloutGate, RolloutPolicy, parse_steps, resolve
from plinth.errors import InvalidInput

TIERS = (1, 2, 3)


def gate(**fields):
    return TypeAdapter(RolloutGate).validate_python(fields)


@pytest.mark.parametrize("tier", TIERS)
def test_without_a_word_every_tier_has_a_whole_policy(tier):
    policy = resolve(None, tier)
    assert all(value is not None for value in policy.model_dump().values())
    assert policy.steps[-1] == 100
    assert policy.gates == DEFAULT_GATES


def test_a_stricter_tier_watches_longer_and_starts_smaller():
    policies = [resolve(None, tier) for tier in TIERS]
    assert [policy.steps[0] for policy in policies] == sorted(policy.steps[0] for policy in policies)
    bakes = [seconds(policy.bake) for policy in policies]
    assert bakes == sorted(bakes, reverse=True)


def test_a_critical_product_needs_somebody_elses_approval_and_no_short_cut():
    policy = resolve(None, 1)
    assert policy.approvals == 1
    assert policy.own_approval is False
    assert policy.direct is False


def test_what_is_written_stands_and_the_rest_comes_from_the_tier():
    policy = resolve(RolloutPolicy(bake="7s", steps=(20, 100)), 1)
    assert (policy.bake, policy.steps) == ("7s", (20, 100))
    assert policy.patience == "1h"


@pytest.mark.parametrize("steps", [(), (100, 100), (50,), (50, 10, 100), (0, 100), (10, 101)])
def test_steps_rise_to_a_hundred(steps):
    with pytest.raises(ValidationError):
        RolloutPolicy(steps=steps)


@given(st.text(max_size=12))
def test_steps_of_a_command_line_are_rising_percentages_or_refused(text):
    rising = [part.strip() for part in text.split(",")]
    try:
        numbers = [int(part) for part in rising]
    except ValueError:
        numbers = []
    if numbers and numbers[0] >= 1 and numbers[-1] == 100 and numbers == sorted(set(numbers)):
        assert list(parse_steps(text)) == numbers
    else:
        with pytest.raises(InvalidInput):
            parse_steps(text)


def test_steps_are_read_as_written():
    assert parse_steps("1,10,50,100") == (1, 10, 50, 100)


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "compare", "metric": "errors", "tolerance": 0.02, "effect": 0.02},
        {"kind": "compare", "metric": "latency", "tolerance": 0.5, "effect": 1.5},
        {"kind": "compare", "metric": "latency", "tolerance": 1.0, "effect": 1.1},
        {"kind": "compare", "metric": "scores", "tolerance": 0.0, "effect": 0.01},
        {"kind": "compare", "metric": "errors", "tolerance": 0.5, "effect": 1.5},
        {"kind": "quality", "tolerance": 0.05, "effect": 0.05},
        {"kind": "threshold", "metric": "error-rate", "maximum": 0},
        {"kind": "threshold", "metric": "error-rate", "maximum": 1.5},
        {"kind": "burn", "windows": [{"long": "5m", "short": "1h", "rate": 14.4}]},
        {"kind": "burn", "windows": []},
        {"kind": "unknown"},
    ],
)
def test_a_gate_that_could_never_judge_is_refused(fields):
    with pytest.raises(ValidationError):
        gate(**fields)
