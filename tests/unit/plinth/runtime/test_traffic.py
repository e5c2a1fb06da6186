"""What generated traffic makes of an answer, and where it refuses to go."""

import pytest

from plinth.errors import InvalidInput, RefusedByPolicy
from plinth.runtime.traffic import Answer, Traffic, answered_by

GOOD, BAD = "a" * 64, "b" * 64


def answer(code, *releases):
    return Answer(0.0, code, frozenset(releases), 0.01)


def test_an_answer_is_bad_when_it_failed_or_the_release_had_a_part_in_it():
    assert answer(500).bad(BAD)
    assert answer(0).bad()
    assert answer(200, GOOD, BAD).bad(BAD)
    assert not answer(200, GOOD).bad(BAD)


def test_each_row_names_its_release_where_it_is_another_one_than_the_answers():
    rows = [{"probability": 0.1}, {"probability": 0.2, "release": BAD}]
    assert answered_by({"release": GOOD, "predictions": rows}) == {GOOD, BAD}
    assert answered_by({"release": BAD, "predictions": rows[:1]}) == {BAD}


def test_an_assistants_answer_names_the_release_that_gave_it():
    assert answered_by({"release": BAD, "answer": "Yes.", "citations": []}) == {BAD}


def test_traffic_goes_to_this_machine_only():
    with pytest.raises(RefusedByPolicy, match=r"example\.com"):
        Traffic("http://example.com:80", [{}], 20.0)
    with pytest.raises(RefusedByPolicy):
        Traffic("http://192.168.0.7:3001", [{}], 20.0)


@pytest.mark.parametrize(("bodies", "rate"), [([], 20.0), ([{}], 0.0), ([{}], float("nan"))])
def test_traffic_needs_something_to_send_and_a_rate(bodies, rate):
    with pytest.raises(InvalidInput):
        Traffic("http://127.0.0.1:1", bodies, rate)
