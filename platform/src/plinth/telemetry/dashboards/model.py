"""What a dashboard is made of: queries, panels, rows. No tool in sight; `grafana.py` makes Grafana's objects of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Source = Literal["prometheus", "loki", "tempo"]
Kind = Literal["timeseries", "stat", "gauge", "table", "heatmap", "bars", "logs", "traces"]

LONGEST_UID = 40
"""Grafana's own limit."""


@dataclass(frozen=True, slots=True)
class Query:
    """What a panel asks.

    Attributes:
        expression: PromQL, LogQL or TraceQL.
        legend: Name of each series, with labels as `{{label}}`.
        source: Which data source answers.
        exemplars: Whether to show the traces that a histogram names.
        now: Only the newest values, not their history.
    """

    expression: str
    legend: str = ""
    source: Source = "prometheus"
    exemplars: bool = False
    now: bool = False


@dataclass(frozen=True, slots=True)
class Bound:
    """From this value on a panel shows this colour."""

    value: float
    color: Literal["green", "yellow", "orange", "red", "blue"]


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Attributes:
        title: What it shows.
        description: What it tells, and what to do when it looks bad.
        unit: Grafana's name of the unit, see `units.py`.
        queries: What it asks.
        kind: How it shows the answers. Bars are named by the one label that their query leaves.
        width: Of 24 columns.
        height: In Grafana's rows.
        bounds: Colours by value; below the first it is `base`.
        base: Colour below the first bound.
        stacked: Whether series stand on each other.
        runbook: Page of docs/runbooks to link.
        low: Least value of the axis.
        high: Largest value of the axis.
    """

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    kind: Kind = "timeseries"
    width: int = 8
    height: int = 8
    bounds: tuple[Bound, ...] = ()
    base: Literal["green", "yellow", "orange", "red", "blue"] = "green"
    stacked: bool = False
    runbook: str = ""
    low: float | None = 0.0
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """Panels that belong together, under a title."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice at the top of a dashboard: the values of a label of a series.

    Attributes:
        name: As queries use it, `$name`.
        label: As people read it.
        selector: Series whose label is listed.
        of: The label.
    """

    name: str
    label: str
    selector: str
    of: str

    @property
    def query(self) -> str:
        """As Grafana asks Prometheus."""
        return f"label_values({self.selector}, {self.of})"


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard. `slug` makes its stable uid and its file's name."""

    slug: str
    title: str
    description: str
    rows: tuple[Row, ...]
    variables: tuple[Variable, ...] = ()
    tags: tuple[str, ...] = ("plinth",)
    since: str = "now-6h"

    @property
    def uid(self) -> str:
        """Its identity in Grafana; at most 40 characters, whatever the product's name."""
        plain = f"plinth-{self.slug}"
        if len(plain) <= LONGEST_UID:
            return plain
        return f"{plain[: LONGEST_UID - 9]}-{hashlib.sha256(plain.encode()).hexdigest()[:8]}"

    def panels(self) -> Sequence[Panel]:
        """All panels, in order."""
        return [panel for row in self.rows for panel in row.panels]


def stat(title: str, description: str, unit: str, expression: str, *, legend: str = "", **more: object) -> Panel:
    """A panel of one number, a quarter of a line wide."""
    given = {"width": 4, "height": 4, **more}
    return Panel(title, description, unit, (Query(expression, legend, now=True),), kind="stat", **given)  # type: ignore[arg-type]
