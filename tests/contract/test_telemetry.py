"""The telemetry contract without a server: names, labels and legends, files as rendered, boards as Grafana wants."""

import json
import re

import pytest
import yaml

import telemetry_contract as contract
from plinth.settings import find_home
from plinth.telemetry import metrics
from plinth.telemetry.dashboards import grafana, provisioning, render
from plinth.telemetry.dashboards.model import Board, Panel, Query, Row
from plinth.wiring.platform import Products

HOME = find_home()
INFRA = HOME / "infra"
PRODUCTS = [one.spec for one in Products(HOME / "services").all()]
KNOWN = contract.vocabulary()
QUERIES = list(contract.queries(INFRA))
BOARDS = render.boards(PRODUCTS)


def test_every_query_names_series_and_labels_that_somebody_emits():
    assert len(QUERIES) > 250
    wrong = {
        f"{asked.where}: {asked.expression}": found for asked in QUERIES if (found := contract.unknown(asked, KNOWN))
    }
    assert wrong == {}


@pytest.mark.parametrize(
    ("expression", "legend", "says"),
    [
        ("plinth_request_total", "", "nobody emits plinth_request_total"),
        ('plinth_requests_total{status="200"}', "", "has no label status"),
        ("sum by (status) (rate(plinth_requests_total[5m]))", "", "groups by status"),
        ("sum by (product) (rate(plinth_requests_total[5m]))", "{{code}}", "legend names code"),
        ("plinth_request_seconds{}", "", "nobody emits plinth_request_seconds"),
        ("up / on (release) plinth_release_info", "", "matches on release"),
        ("sum(rate(plinth_requests_total[5m])", "", "is no PromQL"),
        ("histogram_quantile(0.9, sum by (le) (rate(plinth_request_seconds_bucket[5m])))", "{{le}}", "legend names le"),
    ],
)
def test_a_wrong_query_is_seen(expression, legend, says):
    """Else the test above would prove nothing."""
    found = contract.unknown(contract.Asked("here", "panel", "prometheus", expression, legend), KNOWN)
    assert says in "; ".join(found)


def test_a_wrong_question_to_loki_or_tempo_is_seen():
    asked = [
        contract.Asked("", "panel", "loki", '{app="x"}'),
        contract.Asked("", "panel", "loki", '{service_name="x"} | json | colour="red"'),
        contract.Asked("", "panel", "tempo", '{resource.host="x"}'),
    ]
    assert all(contract.unknown(one, KNOWN) for one in asked)


def test_every_metric_of_the_platform_is_looked_at_somewhere():
    """What nobody looks at need not be emitted; what is meant for other readers says so here."""
    others = {
        metrics.OBJECTIVE.name: "alerts are rendered with the objective; this is for readers of Prometheus",
        metrics.BUDGET_CORE_HOUR.name: "likewise the price of a core",
        metrics.RELEASE_INFO.name: "joins a digest to other series in Explore",
    }
    text = " ".join(asked.expression for asked in QUERIES)
    unseen = {one.name for one in metrics.ALL if not re.search(rf"\b{one.name}(_bucket|_sum|_count)?\b", text)}
    assert unseen == others.keys()


def test_the_committed_files_are_what_would_be_rendered():
    assert render.stale(PRODUCTS, INFRA) == [], "plinth dashboard render"


def test_rendering_twice_gives_the_same_text():
    assert render.files(PRODUCTS) == render.files([one.spec for one in Products(HOME / "services").all()])


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.slug)
def test_a_dashboard_fits_the_sdks_own_types(board):
    """Decoded by Grafana's SDK and encoded again nothing is lost or changed; only defaults may be added."""
    text = grafana.to_json(board)
    again = grafana.encode(grafana.from_json(text))
    assert lost(json.loads(text), again) == []


def lost(asked, kept, where=""):
    if isinstance(asked, dict) and isinstance(kept, dict):
        return [
            found
            for name, value in asked.items()
            for found in lost(value, kept.get(name, "nothing"), f"{where}/{name}")
        ]
    if isinstance(asked, list) and isinstance(kept, list) and len(asked) == len(kept):
        pairs = enumerate(zip(asked, kept, strict=True))
        return [found for i, (a, b) in pairs for found in lost(a, b, f"{where}/{i}")]
    return [] if asked == kept else [f"{where}: {asked!r} became {kept!r}"]


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.slug)
def test_panels_stand_within_24_columns_and_on_no_other(board):
    taken = {}
    for panel in json.loads(grafana.to_json(board))["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, (panel["title"], taken.get((x, y)))
                taken[x, y] = panel["title"]


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.slug)
def test_every_panel_has_a_title_a_unit_and_says_what_to_do(board):
    titles = [panel.title for panel in board.panels()]
    assert len(titles) == len(set(titles))
    for panel in board.panels():
        assert panel.unit, panel.title
        assert len(panel.description) > 20, panel.title
        assert panel.description.endswith("."), panel.title
        if panel.runbook:
            assert (HOME / "docs" / "runbooks" / f"{panel.runbook}.md").is_file(), panel.title


def test_a_number_with_a_name_shows_it_and_bars_are_named_by_their_one_label():
    """Grafana hides the name of a single series, and names bars by the first label there is."""
    for board in BOARDS:
        shown = {panel["title"]: panel for panel in json.loads(grafana.to_json(board))["panels"]}
        for panel in board.panels():
            query = panel.queries[0]
            if panel.kind == "stat" and query.legend:
                assert shown[panel.title]["options"]["textMode"] == "value_and_name", panel.title
            if panel.kind == "bars":
                tree = contract.promql.parse(contract.substituted(query.expression))
                (label,) = contract._labels(tree, KNOWN, [])
                assert query.legend == f"{{{{{label}}}}}", panel.title


def test_every_product_has_a_dashboard_and_their_identities_are_stable():
    assert {board.slug: board.uid for board in BOARDS} == {
        "overview": "plinth-overview", "product-docs-assistant": "plinth-product-docs-assistant",
        "product-flight-delays": "plinth-product-flight-delays", "rag": "plinth-rag", "pipelines": "plinth-pipelines",
        "infrastructure": "plinth-infrastructure",
    }  # fmt: skip


def test_a_new_product_gets_a_dashboard_and_alerts_and_a_removed_one_loses_them(tmp_path):
    new = PRODUCTS[1].model_copy(update={"name": "a-name-that-is-as-long-as-a-name-may-be-in-plinth"})
    render.write([*PRODUCTS, new], tmp_path)
    made = tmp_path / "grafana" / "dashboards" / f"product-{new.name}.json"
    assert len(json.loads(made.read_text())["uid"]) == 40
    assert f'product="{new.name}"' in (tmp_path / "prometheus" / "rules" / "service-levels.yml").read_text()
    assert f"grafana/dashboards/product-{new.name}.json" in render.write(PRODUCTS, tmp_path)
    assert not made.exists()
    assert render.stale(PRODUCTS, tmp_path) == []


def test_latencies_lead_to_traces_logs_to_traces_and_traces_to_both():
    sources = {one["uid"]: one for one in provisioning.data_sources()}
    prometheus, loki, tempo = (sources[uid]["jsonData"] for uid in provisioning.UIDS.values())
    assert prometheus["exemplarTraceIdDestinations"][0]["datasourceUid"] == provisioning.TEMPO
    assert {field["datasourceUid"] for field in loki["derivedFields"]} == {provisioning.TEMPO}
    assert tempo["tracesToLogsV2"]["datasourceUid"] == provisioning.LOKI
    assert tempo["tracesToMetrics"]["datasourceUid"] == provisioning.PROMETHEUS
    for query in tempo["tracesToMetrics"]["queries"]:
        asked = contract.Asked("", "panel", "prometheus", query["query"].replace("$__tags", 'product="x"'))
        assert contract.unknown(asked, KNOWN) == []
    line = '{"event": "request", "trace_id": "00ff00ff00ff00ff00ff00ff00ff00ff"}'
    assert re.search(loki["derivedFields"][1]["matcherRegex"], line).group(1) == "00ff00ff00ff00ff00ff00ff00ff00ff"


def test_panels_ask_data_sources_that_are_provisioned():
    named = {uid for path in (INFRA / "grafana" / "dashboards").glob("*.json") for uid in re.findall(
        r'"uid": "(plinth-(?:prometheus|loki|tempo)|\$\{?\w+\}?)"', path.read_text()
    )}  # fmt: skip
    assert named == {one["uid"] for one in provisioning.data_sources()}
    kept = yaml.safe_load((INFRA / "grafana/provisioning/datasources/plinth.yaml").read_text())
    assert [one["uid"] for one in kept["datasources"]] == [*provisioning.UIDS.values()]


def test_grafana_does_not_fill_in_dollars_of_the_provisioning_file():
    """It replaces $NAME in these files by its environment's variables."""
    text = provisioning.data_sources_file()
    assert "$$__tags" in text
    assert re.findall(r"(?<!\$)\$(?!\$)", text) == []


def test_exemplars_are_asked_for_where_latency_is_shown():
    for product in PRODUCTS:
        board = json.loads((INFRA / "grafana" / "dashboards" / f"product-{product.name}.json").read_text())
        panel = next(one for one in board["panels"] if one["title"].startswith("Latency p50"))
        assert [target["exemplar"] for target in panel["targets"]] == [False, True, True]


def test_a_board_is_what_its_parts_say():
    board = Board("x", "X", "Says.", (Row("r", (Panel("p", "d", "s", (Query("up", "{{job}}"),)),)),))
    made = json.loads(grafana.to_json(board))
    row, panel = made["panels"]
    assert (row["type"], panel["type"], panel["fieldConfig"]["defaults"]["unit"]) == ("row", "timeseries", "s")
    assert made["editable"] is False
