"""The window a batch's name stands for."""

from datetime import UTC, datetime

import pytest

from plinth.contracts.port import Window


def at(*parts):
    return datetime(*parts, tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "start", "end"),
    [
        ("2013", at(2013, 1, 1), at(2014, 1, 1)),
        ("2013-02", at(2013, 2, 1), at(2013, 3, 1)),
        ("2013-12", at(2013, 12, 1), at(2014, 1, 1)),
        ("2012-02-29", at(2012, 2, 29), at(2012, 3, 1)),
    ],
)
def test_years_months_and_days_are_windows(name, start, end):
    assert Window.of_batch(name) == Window(start, end)


@pytest.mark.parametrize("name", ["static", "2013-13", "2013-02-30", "0000", "13-01", "2013-1", "2013-01-01T00"])
def test_other_names_are_none(name):
    assert Window.of_batch(name) is None
