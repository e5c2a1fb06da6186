import math
from itertools import pairwise

import pytest

from plinth.core.routes import FULL, Route

KEYS = 100_000
ENTITIES = [f"UA{number % 997}-EWR-{number:06d}" for number in range(KEYS)]


def route(generation=7, weight=0, step=1):
    return Route(generation, step, "a" * 64, "b" * 64, weight)


def chosen(route):
    return {entity for entity, to in zip(ENTITIES, route.to_candidate(ENTITIES), strict=True) if to}


@pytest.mark.parametrize("percent", [1, 5, 10, 50])
def test_the_weight_is_exact_over_a_hundred_thousand_keys(percent):
    expected = KEYS * percent / 100
    statistics = []
    for generation in range(1, 6):
        observed = sum(route(generation, percent * FULL // 100).to_candidate(ENTITIES))
        statistics.append((observed - expected) ** 2 / expected + (observed - expected) ** 2 / (KEYS - expected))
    # Chi-square with five degrees of freedom: 20.5 is passed by one of a thousand.
    assert sum(statistics) < 20.5, statistics


def test_places_are_even_over_the_whole_range():
    # A chi-square test over a hundred equal parts: 148.2 is the 0.999 quantile for 99 degrees of freedom.
    some = ENTITIES[:10_000]
    steps = [sum(route(3, part * FULL // 100).to_candidate(some)) for part in range(101)]
    assert sum((b - a - 100) ** 2 / 100 for a, b in pairwise(steps)) < 148.2


def test_a_growing_weight_only_adds_entities():
    before = set()
    for weight in (0, 1, 100, 500, 1000, 5000, 9999, FULL):
        now = chosen(route(weight=weight))
        assert before <= now
        before = now
    assert len(before) == KEYS


def test_an_entity_keeps_its_place_over_steps_and_calls():
    assert chosen(route(weight=1000, step=1)) == chosen(route(weight=1000, step=4))


def test_the_order_of_the_entities_does_not_matter():
    mixed = ENTITIES[::-1]
    assert route(weight=1000).to_candidate(mixed) == route(weight=1000).to_candidate(ENTITIES)[::-1]


def test_another_generation_shuffles_anew():
    one, other = chosen(route(1, 1000)), chosen(route(2, 1000))
    both, expected = len(one & other), KEYS * 0.01
    assert abs(both - expected) < 4 * math.sqrt(expected)


def test_nothing_and_everything_are_exact():
    assert not any(route(weight=0).to_candidate(ENTITIES))
    assert all(route(weight=FULL).to_candidate(ENTITIES))


@pytest.mark.parametrize("entity", ["", "\udcff", "ü" * 10_000, "\x00"])
def test_any_text_is_an_entity(entity):
    assert route(weight=FULL).to_candidate([entity]) == [True]


def test_order_and_releases():
    assert route(2, step=0).order > route(1, step=9).order
    assert Route(1, 0, "a").releases == ("a",)
    assert Route(1, 1, "a", "b").releases == ("a", "b")
