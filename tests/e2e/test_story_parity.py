"""The acceptance suite of every profile (tests/parity.py), in the embedded one; tests/compose plays it again."""

import pytest

from parity import SCENARIOS, Stand, play
from story import PLINTH, ROOT


@pytest.fixture(scope="module")
def stand(story, tmp_path_factory):
    made = Stand("embedded", (PLINTH,), ROOT, story.env, tmp_path_factory.mktemp("parity"))
    made.seen["told"] = story.summary  # the whole story was told already
    made.seen["days"] = ("2013-12-20", "2014-01-01")  # those of the release that serves at its end
    return made


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_the_embedded_profile_passes(stand, scenario):
    assert play(stand, scenario).passed
