"""Which changes of a contract break whom."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinth.contracts.diff import bump, diff, version_problem
from plinth.contracts.model import Column, Contract, Freshness, Quality

BASE = Contract(
    id="c", version="1.0.0", status="active", dataset="d", owner="team", digest="0" * 64, source="c.yaml",
    columns=(
        Column("id", "integer", required=True, key=1),
        Column("kind", "string", values=("a", "b")),
        Column("size", "number", minimum=0, maximum=10, unit="kg"),
        Column("code", "string", unique=True, pattern="^x"),
    ),
    quality=(Quality("rows", "rowCount", "mustBeBetween", (10.0, 20.0)),),
    freshness=Freshness("id", 3600.0),
)  # fmt: skip


def column(which, **changes):
    columns = tuple(replace(item, **changes) if item.name == which else item for item in BASE.columns)
    return replace(BASE, columns=columns)


def rows(low, high):
    return replace(BASE, quality=(Quality("rows", "rowCount", "mustBeBetween", (low, high)),))


CONSUMERS, PRODUCERS, BOTH = ("consumers",), ("producers",), ("consumers", "producers")


@pytest.mark.parametrize(
    ("new", "kind", "breaks"),
    [
        (replace(BASE, columns=BASE.columns[:3]), "column-removed", CONSUMERS),
        (column("size", name="mass"), "column-renamed", BOTH),
        (column("size", logical_type="integer"), "type-changed", BOTH),
        (column("size", physical_type="FLOAT"), "type-changed", BOTH),
        (column("size", unit="g"), "unit-changed", CONSUMERS),
        (column("size", required=True), "required-added", PRODUCERS),
        (column("id", required=False), "required-removed", CONSUMERS),
        (column("code", unique=False), "unique-removed", CONSUMERS),
        (column("kind", unique=True), "unique-added", PRODUCERS),
        (column("kind", values=("a",)), "enumeration-narrowed", PRODUCERS),
        (column("kind", values=("a", "b", "c")), "enumeration-widened", CONSUMERS),
        (column("kind", values=None), "enumeration-removed", CONSUMERS),
        (column("code", values=("x1",)), "enumeration-added", PRODUCERS),
        (column("size", maximum=9), "maximum-narrowed", PRODUCERS),
        (column("size", maximum=11), "maximum-widened", CONSUMERS),
        (column("size", minimum=None), "minimum-removed", CONSUMERS),
        (column("size", minimum=1), "minimum-narrowed", PRODUCERS),
        (column("code", max_length=3), "max-length-added", PRODUCERS),
        (column("code", pattern="^y"), "pattern-changed", BOTH),
        (column("code", pattern=None), "pattern-removed", CONSUMERS),
        (column("id", key=0), "primary-key-removed", CONSUMERS),
        (column("kind", key=2), "primary-key-widened", CONSUMERS),
        (
            replace(BASE, columns=(*BASE.columns, Column("new", "string", required=True))),
            "required-column-added",
            PRODUCERS,
        ),
        (rows(5.0, 20.0), "bounds-widened", CONSUMERS),
        (rows(12.0, 20.0), "bounds-narrowed", PRODUCERS),
        (replace(BASE, quality=()), "rule-removed", CONSUMERS),
        (replace(BASE, freshness=Freshness("id", 7200.0)), "freshness-loosened", CONSUMERS),
        (replace(BASE, freshness=Freshness("id", 60.0)), "freshness-tightened", PRODUCERS),
        (replace(BASE, freshness=None), "freshness-loosened", CONSUMERS),
        (replace(BASE, dataset="e"), "dataset-changed", BOTH),
        (replace(BASE, id="e"), "id-changed", BOTH),
    ],
)
def test_breaking_changes_name_whom_they_break(new, kind, breaks):
    (change,) = diff(BASE, new)
    assert (change.kind, change.breaks, change.breaking) == (kind, breaks, True)
    assert change.reason
    assert bump([change]) == "major"


@pytest.mark.parametrize(
    ("new", "kind", "step"),
    [
        (replace(BASE, columns=(*BASE.columns, Column("new", "string"))), "column-added", "minor"),
        (column("size", description="how heavy"), "documentation-changed", "patch"),
        (replace(BASE, owner="others"), "owner-changed", "minor"),
        (replace(BASE, consumers=("x",)), "consumers-changed", "minor"),
        (replace(BASE, description="words"), "description-changed", "patch"),
        (replace(BASE, digest="1" * 64), "document-changed", "patch"),
        (
            replace(
                BASE, quality=(*BASE.quality, Quality("w", "nullValues", "mustBe", (0.0,), "kind", severity="warning"))
            ),
            "warning-changed",
            "minor",
        ),
    ],
)
def test_compatible_changes(new, kind, step):
    (change,) = diff(BASE, new)
    assert (change.kind, change.breaking, bump([change])) == (kind, False, step)


def test_bounds_that_move_both_ways_break_both_sides():
    assert {change.breaks for change in diff(BASE, rows(5.0, 15.0))} == {CONSUMERS, PRODUCERS}


def test_nothing_changed_is_no_change():
    assert diff(BASE, BASE) == []
    assert bump([]) == "none"
    assert version_problem("1.0.0", "1.0.0", []) is None


def test_breaking_changes_come_first():
    new = replace(column("size", maximum=99), description="words")
    assert [change.breaking for change in diff(BASE, new)] == [True, False]


@pytest.mark.parametrize(
    ("version", "fits"),
    [("1.0.0", False), ("1.0.1", False), ("1.1.0", False), ("2.0.0", True), ("0.9.0", False), ("two", False)],
)
def test_a_breaking_change_needs_a_major_version(version, fits):
    changes = diff(BASE, column("size", maximum=9))
    assert (version_problem("1.0.0", version, changes) is None) == fits


bounds = st.one_of(st.none(), st.integers(-5, 5))


@given(bounds, bounds, bounds, bounds)
def test_a_range_breaks_consumers_when_it_admits_more_and_producers_when_it_admits_less(low1, high1, low2, high2):
    def admitted(low, high):
        return {v for v in range(-9, 10) if (low is None or v >= low) and (high is None or v <= high)}

    old, new = column("size", minimum=low1, maximum=high1), column("size", minimum=low2, maximum=high2)
    before, after = admitted(low1, high1), admitted(low2, high2)
    sides = {side for change in diff(old, new) for side in change.breaks}
    if after - before:
        assert "consumers" in sides
    if before - after:
        assert "producers" in sides
    if (low1, high1) == (low2, high2):
        assert not sides
