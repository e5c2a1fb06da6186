"""Boards as Grafana's objects and JSON, through `grafana-foundation-sdk`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from plinth.errors import MissingExtra
from plinth.telemetry.dashboards.model import Board, Panel, Query, Row, Variable
from plinth.telemetry.dashboards.provisioning import UIDS

try:
    from grafana_foundation_sdk.builders import (
        barchart,
        common,
        gauge,
        heatmap,
        logs,
        loki,
        prometheus,
        stat,
        table,
        tempo,
        timeseries,
    )
    from grafana_foundation_sdk.builders import dashboard as build
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models import common as common_models
    from grafana_foundation_sdk.models import dashboard as models
    from grafana_foundation_sdk.models import heatmap as heatmap_models
except ModuleNotFoundError:
    raise MissingExtra("grafana-foundation-sdk", "dashboards") from None

RUNBOOKS = "/public/runbooks"
"""Where Grafana serves docs/runbooks: the compose profile mounts it among its own static files."""

_PANELS: Mapping[str, Any] = {
    "timeseries": timeseries.Panel, "stat": stat.Panel, "gauge": gauge.Panel, "table": table.Panel,
    "heatmap": heatmap.Panel, "bars": barchart.Panel, "logs": logs.Panel, "traces": table.Panel,
}  # fmt: skip


def to_json(board: Board) -> str:
    """A board as Grafana reads it, with a stable order: the same board is the same text."""
    return json.dumps(dashboard(board), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def from_json(text: str) -> Any:
    """The SDK's object of a rendered board; what does not fit its types raises."""
    register_default_plugins()
    return models.Dashboard.from_json(json.loads(text))


def encode(decoded: Any) -> Any:
    """The SDK's object as plain JSON data."""
    return json.loads(json.dumps(decoded, cls=JSONEncoder))


def dashboard(board: Board) -> Any:
    """The SDK's object of a board."""
    made = (
        build.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags(list(board.tags))
        .time(board.since, "now")
        .timezone("browser")
        .refresh("30s")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .link(
            build.DashboardLink("Dashboards")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags(["plinth"])
            .as_dropdown(True)
            .keep_time(True)
        )
        .link(
            build.DashboardLink("Runbooks")
            .type(models.DashboardLinkType.LINK)
            .icon("doc")
            .url(f"{RUNBOOKS}/README.md")
            .target_blank(True)
        )
        .readonly()
    )
    for variable in board.variables:
        made = made.with_variable(_variable(variable))
    number = 0
    for row in board.rows:
        made, number = _row(made, row, number)
    return made.build()


def _row(made: Any, row: Row, number: int) -> tuple[Any, int]:
    """Add a row; panels are numbered through, which keeps links to them stable while they keep their place."""
    number += 1
    made = made.with_row(build.Row(row.title).id(number))
    for panel in row.panels:
        number += 1
        made = made.with_panel(_panel(panel, number))
    return made, number


def _panel(panel: Panel, number: int) -> Any:
    made = (
        _PANELS[panel.kind]()
        .id(number)
        .title(panel.title)
        .description(panel.description)
        .unit(panel.unit)
        .span(panel.width)
        .height(panel.height)
        .datasource(_source(panel.queries[0].source))
    )
    for i, query in enumerate(panel.queries):
        made = made.with_target(_query(query, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[i], panel))
    if panel.runbook:
        link = build.DashboardLink("Runbook").type(models.DashboardLinkType.LINK)
        made = made.links([link.url(f"{RUNBOOKS}/{panel.runbook}.md").target_blank(True)])
    if panel.bounds or panel.kind in ("stat", "gauge"):
        made = made.thresholds(_thresholds(panel))
    if panel.kind not in ("logs", "traces", "table"):
        made = made if panel.low is None else made.min(panel.low)
        made = made if panel.high is None else made.max(panel.high)
    return _LOOKS[panel.kind](made, panel) if panel.kind in _LOOKS else made


def _query(query: Query, ref: str, panel: Panel) -> Any:
    if query.source == "loki":
        return (
            loki.Dataquery().ref_id(ref).expr(query.expression).legend_format(query.legend).datasource(_source("loki"))
        )
    if query.source == "tempo":
        traces = tempo.TempoQuery().ref_id(ref).query_type("traceql").query(query.expression)
        return traces.limit(20).datasource(_source("tempo"))
    asked = prometheus.Dataquery().ref_id(ref).expr(query.expression).datasource(_source("prometheus"))
    asked = asked.legend_format(query.legend or "__auto").exemplar(query.exemplars)
    asked = asked.instant() if query.now else asked.range()
    if panel.kind in ("table", "heatmap", "bars"):
        from grafana_foundation_sdk.models.prometheus import PromQueryFormat

        asked = asked.format(PromQueryFormat.HEATMAP if panel.kind == "heatmap" else PromQueryFormat.TABLE)
    return asked


def _source(name: str) -> Any:
    return models.DataSourceRef(type_val=name, uid=UIDS[name])


def _thresholds(panel: Panel) -> Any:
    steps = [models.Threshold(value=None, color=panel.base)]
    steps += [models.Threshold(value=bound.value, color=bound.color) for bound in panel.bounds]
    return build.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)


def _variable(variable: Variable) -> Any:
    return (
        build.QueryVariable(variable.name)
        .label(variable.label)
        .query(variable.query)
        .datasource(_source("prometheus"))
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(models.VariableOption(selected=True, text="All", value="$__all"))
    )


def _lines(made: Any, panel: Panel) -> Any:
    legend = (
        common.VizLegendOptions()
        .display_mode(common_models.LegendDisplayMode.LIST)
        .placement(common_models.LegendPlacement.BOTTOM)
        .show_legend(True)
    )
    tooltip = common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI)
    made = made.legend(legend).tooltip(tooltip).fill_opacity(10).show_points(common_models.VisibilityMode.NEVER)
    if panel.stacked:
        made = made.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL)).fill_opacity(40)
    if panel.bounds:
        style = common.GraphThresholdsStyleConfig().mode(common_models.GraphThresholdsStyleMode.LINE)
        made = made.thresholds_style(style)
    return made


def _number(made: Any, panel: Panel) -> Any:
    newest = common.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields("")
    if panel.kind == "stat" and panel.queries[0].legend:  # left to itself, Grafana hides the name of a single series
        made = made.text_mode(common_models.BigValueTextMode.VALUE_AND_NAME)
    return made.reduce_options(newest)


def _map(made: Any, panel: Panel) -> Any:
    axis = heatmap.YAxisConfig().unit(panel.unit)
    return made.calculate(False).y_axis(axis).color(
        heatmap.HeatmapColorOptions().mode(heatmap_models.HeatmapColorMode.SCHEME).scheme("Oranges")
    )  # fmt: skip


def _log(made: Any, panel: Panel) -> Any:
    del panel
    return made.show_time(True).wrap_log_message(True).enable_log_details(True)


_LOOKS = {"timeseries": _lines, "stat": _number, "gauge": _number, "heatmap": _map, "logs": _log}
