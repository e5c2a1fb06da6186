"""Metric names live in one place, and the reference page says the same."""

import re
from pathlib import Path

from plinth.telemetry import metrics
from plinth.telemetry.prometheus import Metrics, service_readings

DOCS = Path(__file__).parents[4] / "docs" / "reference" / "metrics.md"
STATS = {
    "written": 5, "dropped": 1, "buffered": 2, "write_errors": 3, "release": "d" * 64, "generation": 4,
    "stale": True, "release_failures": 6,
}  # fmt: skip


def rendered(product="p"):
    told = Metrics(product, lambda: service_readings(STATS, 7, 8))
    told.request("/predict", 200, 0.003, 2, "d" * 64)
    told.request("/predict", 422, 0.001, 0, "")
    told.defaulted({"weather": 3})
    body, content_type = told.render()
    assert content_type.startswith("text/plain")
    return body.decode()


def test_names_are_unique_and_follow_prometheus_conventions():
    names = [metric.name for metric in metrics.ALL]
    assert len(set(names)) == len(names)
    for metric in metrics.ALL:
        assert re.fullmatch(r"plinth_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert metric.labels[0] == "product"
        assert metric.help.endswith(".")


def test_every_declared_metric_is_emitted_and_nothing_else_of_ours():
    emitted = set(re.findall(r"^# TYPE (plinth_\w+) (\w+)", rendered(), re.MULTILINE))
    created = {pair for pair in emitted if pair[0].endswith("_created")}
    assert emitted - created == {(metric.name, metric.kind) for metric in metrics.ALL}


def test_values_come_out_under_their_labels():
    # A product of its own: once BentoML has started in this process, prometheus-client keeps values in files by label,
    # which outlive a registry.
    text = rendered("counted-once").replace('product="counted-once"', 'product="p"')
    digest = "d" * 64
    assert f'plinth_requests_total{{code="200",path="/predict",product="p",release="{digest}"}} 1.0' in text
    assert f'plinth_predictions_total{{product="p",release="{digest}"}} 2.0' in text
    assert 'plinth_feature_rows_defaulted_total{product="p",view="weather"} 3.0' in text
    assert 'plinth_inference_log_dropped_total{product="p"} 1.0' in text
    assert 'plinth_release_stale{product="p"} 1.0' in text
    assert 'plinth_request_seconds_bucket{le="0.005",path="/predict",product="p"} 2.0' in text
    assert 'plinth_trace_spans_failed_total{product="p"} 8.0' in text


def test_two_services_in_one_process_do_not_share_series():
    one, two = Metrics("one"), Metrics("two")
    one.request("/predict", 200, 0.1, 1, "")
    assert b'product="one"' not in two.render()[0]


def test_the_reference_page_lists_every_metric_with_its_type_labels_and_help():
    page = DOCS.read_text(encoding="utf-8")
    for metric in metrics.ALL:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        assert f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |" in page
