"""A run leaves its lineage and its trace, whether it ends well or fails."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from plinth.core.manifests import parse_product
from plinth.errors import PlinthError
from plinth.governance.lineage import EVENT_KIND
from plinth.ledger.store import Ledger
from plinth.pipelines.inline import InlineRunner
from plinth.pipelines.step import step
from plinth.runtime import health, pipelines
from plinth.settings import Settings
from plinth.telemetry import traces

MANIFEST = (Path(__file__).parents[4] / "services" / "flight-delays" / "product.yaml").read_text()


@step(version="1", cache=False)
def double(number: int) -> int:
    return 2 * number


@step(version="1", cache=False)
def check(number: int) -> int:
    if number > 10:
        raise PlinthError("too large")
    return number


def pipeline(context, *, number: int = 1) -> int:
    return check(double(number))


class Kept(SpanExporter):
    spans: list

    def __init__(self):
        self.spans = []

    def export(self, spans):
        self.spans.extend(spans)
        return SpanExportResult.SUCCESS


@pytest.fixture
def platform(tmp_path, monkeypatch):
    monkeypatch.setattr("plinth.pipelines.entry.load_entry", lambda _entry: pipeline)
    settings = Settings(state=tmp_path)
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield SimpleNamespace(
        settings=settings,
        ledger=ledger,
        products=SimpleNamespace(get=lambda _name: SimpleNamespace(spec=parse_product(MANIFEST, "product.yaml"))),
        runner=lambda product, *, inline: InlineRunner(
            product=product, state=settings.product_dir(product), cache=tmp_path / "cache", ports=None
        ),
    )
    ledger.close()


@pytest.fixture
def kept(monkeypatch):
    kept = Kept()
    monkeypatch.setattr(health, "answers", lambda *_: True)
    monkeypatch.setattr(traces, "MlflowExporter", lambda _url, _experiment, _headers: kept)
    return kept


def last_event(platform):
    return platform.ledger.events("flight-delays", EVENT_KIND)[-1].payload


def test_a_run_s_trace_has_its_id_and_a_span_a_step(platform, kept):
    result = pipelines.run(platform, "flight-delays", "train", {"number": 3}, inline=True)
    spans = {span.name: span for span in kept.spans}
    root = spans["pipeline flight-delays.train"]
    assert root.attributes["plinth.run_id"] == result.run_id
    assert {"double", "check"} <= set(spans)
    assert {span.parent.span_id for span in kept.spans if span is not root} == {root.context.span_id}
    assert root.start_time <= spans["double"].end_time <= spans["check"].end_time <= root.end_time
    assert root.status.is_ok or root.status.is_unset
    assert last_event(platform)["eventType"] == "COMPLETE"


def test_a_failed_run_leaves_its_lineage_and_a_failed_trace(platform, kept):
    told = []
    with pytest.raises(PlinthError, match="too large"):
        pipelines.run(
            platform, "flight-delays", "train", {"number": 30}, inline=True,
            on_step=lambda name, record: told.append((name, record and record.status)),
        )  # fmt: skip
    assert told == [("double", None), ("double", "completed"), ("check", None), ("check", "failed")]
    event = last_event(platform)
    assert event["eventType"] == "FAIL"
    assert "check" in event["run"]["facets"]["errorMessage"]["message"]
    folders = list((platform.settings.product_dir("flight-delays") / "runs").glob("*/run.json"))
    assert [folder.parent.name for folder in folders] == [event["run"]["runId"]]
    root = next(span for span in kept.spans if span.parent is None)
    assert not root.status.is_ok
    assert not root.status.is_unset


def test_a_run_that_could_not_start_leaves_nothing(platform, kept):
    with pytest.raises(PlinthError):
        pipelines.run(platform, "flight-delays", "train", {"color": "red"}, inline=True)
    assert platform.ledger.events("flight-delays", EVENT_KIND) == []
    assert kept.spans == []


def test_without_the_server_or_with_tracing_off_no_span_is_made(platform, kept, monkeypatch):
    monkeypatch.setattr(health, "answers", lambda *_: False)
    pipelines.run(platform, "flight-delays", "train", inline=True)
    monkeypatch.setattr(health, "answers", lambda *_: True)
    platform.settings = Settings(state=platform.settings.state, traces=False)
    pipelines.run(platform, "flight-delays", "train", inline=True)
    assert kept.spans == []
