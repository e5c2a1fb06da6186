"""The acceptance suite of every profile (tests/parity.py), in containers; tests/e2e plays it in the embedded one."""

import pytest

from parity import SCENARIOS, play


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_the_compose_profile_passes(stand, scenario):
    assert play(stand, scenario).passed
