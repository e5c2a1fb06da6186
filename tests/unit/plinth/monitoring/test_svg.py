"""Plots: what is drawn is what was counted, and no input breaks the picture."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from plinth.monitoring import svg
from plinth.monitoring.histogram import Histogram, fit


def pair(reference: object, current: object) -> tuple[Histogram, Histogram]:
    counted = fit(np.asarray(reference, np.float32).reshape(-1, 1), ["x"])
    return counted.columns[0], counted.count(np.asarray(current, np.float32).reshape(-1, 1)).columns[0]


@pytest.mark.parametrize(
    "values",
    [np.linspace(0, 1, 999), np.exp(np.linspace(-9, 9, 999)), np.arange(24), [0.5], [np.nan], np.arange(1000)],
    ids=["linear", "log", "codes", "one value", "missing", "many codes"],
)
def test_bars_hold_every_value_of_both(values: object) -> None:
    data = svg.bars(*pair(values, np.concatenate([np.ravel(values) + 1, [np.inf, -np.inf]])))
    assert data.reference.size == data.current.size <= 37
    assert data.current.sum() == pytest.approx(1)
    ET.fromstring(svg.overlay(data, 180, 40, 'a "<b>" & c'))  # noqa: S314  (our own text, parsed to see that it parses)


def test_the_current_distribution_outside_of_the_range_is_drawn_at_the_end() -> None:
    data = svg.bars(*pair(np.linspace(0, 1, 1000), np.full(100, 50.0)))
    assert data.current[-1] == 1
    assert data.reference[-1] < 0.1


def test_a_line_chart_has_its_lines_bands_bounds_and_ticks() -> None:
    series = [
        svg.Series("a", [0, 1, 2], [0.1, 0.2, 0.15], [0.01, 0.02, 0.01], "s0"),
        svg.Series("b", [1], [0.3], [0.0], "s1"),
    ]
    text = svg.lines(series, ticks=[(0, "May"), (2, "July & on")], bounds=(0.25,), zero=True)
    root = ET.fromstring(text)  # noqa: S314
    kinds = [element.get("class") for element in root]
    assert kinds.count("bound") == kinds.count("zero") == 1
    assert kinds.count("band s0") == 1
    assert kinds.count("line s0") == kinds.count("line s1") == 1
    assert [element.text for element in root.iter("text")][-2:] == ["May", "July & on"]


def test_a_chart_of_nothing_is_nothing() -> None:
    assert svg.lines([], ticks=[]) == ""


@pytest.mark.parametrize(("low", "high"), [(0.001, 0.0013), (-0.12, 0.06), (0.63, 0.70), (3.0, 9000.0)])
def test_axis_values_are_round_and_told_apart_by_their_decimals(low: float, high: float) -> None:
    values, digits = svg._nice(low, high)
    texts = [f"{value:.{digits}f}" for value in values]
    assert 2 <= len(values) <= 6
    assert len(set(texts)) == len(texts)
    assert [float(text) for text in texts] == pytest.approx(values)


def test_a_flat_line_is_not_blown_up_to_a_cliff() -> None:
    text = svg.lines([svg.Series("a", [0, 1], [0.700, 0.701], [0.0, 0.0], "s0")], ticks=[], span=0.05)
    points = next(e.get("points") for e in ET.fromstring(text) if e.get("class") == "line s0")  # noqa: S314
    (_, first), (_, second) = (tuple(map(float, point.split(","))) for point in (points or "").split())
    assert abs(first - second) < 10
