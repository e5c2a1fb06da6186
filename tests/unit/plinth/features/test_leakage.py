import numpy as np
import pytest

from plinth.errors import InvalidInput
from plinth.features.leakage import changed_rows, early_events

HOUR = np.timedelta64(1, "h")
T0 = np.datetime64("2013-06-01T00:00", "us")


def table(values, keys=("a", "b", "a"), hours=(0, 0, 1)):
    return {"key": np.array(keys), "at": T0 + HOUR * np.array(hours), "value": np.array(values, dtype=float)}


def test_events_counted_when_known_or_later_are_clean():
    report = early_events(np.array(["x", "y"]), T0 + HOUR * np.array([1, 2]), T0 + HOUR * np.array([1, 0]))
    assert report.clean
    assert report.checked == 2


def test_an_event_counted_before_it_was_known_is_named_worst_first():
    report = early_events(np.array(["x", "y", "z"]), T0 + HOUR * np.zeros(3, int), T0 + HOUR * np.array([1, 5, 0]))
    assert (report.leaked, report.worst_seconds, report.examples) == (2, 5 * 3600, ("y", "x"))


def test_an_event_that_never_happened_leaks_whenever_it_is_counted():
    report = early_events(np.array(["x"]), np.array([T0]), np.array([np.datetime64("NaT")]))
    assert report.leaked == 1


def test_nothing_checked_is_not_clean():
    empty = np.array([], dtype="datetime64[us]")
    assert not early_events(np.array([]), empty, empty).clean


def test_lengths_that_differ_are_refused():
    with pytest.raises(InvalidInput):
        early_events(np.array(["x"]), np.array([T0, T0]), np.array([T0]))


def test_a_change_after_the_present_is_no_leak_and_row_order_does_not_matter():
    before = table([1, 2, 3])
    after = table([2, 1, 99], keys=("b", "a", "a"))
    report = changed_rows(before, after, ["key"], "at", T0)
    assert report.clean
    assert report.checked == 2


def test_a_change_at_or_before_the_present_is_named():
    report = changed_rows(table([1, 2, 3]), table([1, 5, 3]), ["key"], "at", T0 + HOUR)
    assert (report.checked, report.leaked, report.worst_seconds) == (3, 1, 3600)
    assert report.examples[0].startswith("b ")


@pytest.mark.parametrize("swap", [False, True])
def test_a_row_that_only_one_build_has_is_a_leak(swap):
    tables = [table([1, 2, 3]), table([1, 3], keys=("a", "a"), hours=(0, 1))]
    report = changed_rows(*(tables[::-1] if swap else tables), ["key"], "at", T0 + HOUR)
    assert report.leaked == 1
    assert report.examples[0].startswith("b ")


def test_two_nans_are_equal():
    assert changed_rows(table([1, np.nan, 3]), table([1, np.nan, 3]), ["key"], "at", T0 + HOUR).clean
