"""Metric names live in one place, and the reference page says the same."""

import re
import threading
from pathlib import Path

import numpy as np
from prometheus_client import values
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from plinth.core.evidence import LATENCY_BOUNDS, SCORE_BOUNDS, bin_of
from plinth.core.routes import Route
from plinth.telemetry import metrics
from plinth.telemetry.prometheus import Metrics, service_readings

DOCS = Path(__file__).parents[4] / "docs" / "reference" / "metrics.md"
STATS = {
    "written": 5, "dropped": 1, "buffered": 2, "write_errors": 3, "release": "d" * 64, "generation": 4,
    "stale": True, "release_failures": 6, "step": 2, "weight": 500, "shadow_dropped": 9,
}  # fmt: skip


SERVING, CANDIDATE = "5" * 64, "c" * 64


def route(generation=7, step=1):
    return Route(generation, step, SERVING, CANDIDATE, 1000)


def arm(told, generation=7, step=1, *, who="candidate", release=CANDIDATE, failed=False, seconds=0.003, scores=(0.4,)):
    told.rollout.add(
        route(generation, step),
        who,
        release,
        failed=failed,
        seconds=seconds,
        scores=np.array(scores, float),
        defaulted=1,
    )


def series(told, name):
    """Labels without product to value."""
    families = text_string_to_metric_families(told.render()[0].decode())
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return {tuple(sorted((k, v) for k, v in s.labels.items() if k != "product")): s.value for s in samples}


def rendered(product="p"):
    told = Metrics(product, lambda: service_readings(STATS, 7, 8))
    told.request("/predict", 200, 0.003, 2, "d" * 64)
    told.request("/predict", 422, 0.001, 0, "")
    told.defaulted({"weather": 3})
    told.denied("token")
    arm(told)
    body, content_type = told.render()
    assert content_type.startswith("text/plain")
    return body.decode()


def test_names_are_unique_and_follow_prometheus_conventions():
    names = [metric.name for metric in metrics.ALL]
    assert len(set(names)) == len(names)
    for metric in metrics.ALL:
        assert re.fullmatch(r"plinth_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert "product" in metric.labels[:1] or metric.room == "controller"
        assert metric.help.endswith(".")


def test_every_declared_metric_is_emitted_and_nothing_else_of_ours():
    emitted = set(re.findall(r"^# TYPE (plinth_\w+) (\w+)", rendered(), re.MULTILINE))
    created = {pair for pair in emitted if pair[0].endswith("_created")}
    assert emitted - created == {(metric.name, metric.kind) for metric in metrics.SERVING}


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
    assert 'plinth_route_step{product="p"} 2.0' in text
    assert 'plinth_route_candidate_ratio{product="p"} 0.05' in text
    assert 'plinth_shadow_dropped_total{product="p"} 9.0' in text
    assert 'plinth_request_seconds_bucket{le="0.005",path="/predict",product="p"} 2.0' in text
    assert 'plinth_trace_spans_failed_total{product="p"} 8.0' in text


def test_a_service_levels_threshold_is_a_bucket_of_its_own():
    told = Metrics("p", thresholds=(0.075, 0.1))
    told.request("/predict", 200, 0.075, 1, "")
    told.request("/predict", 200, 0.0751, 1, "")
    buckets = {dict(labels)["le"]: value for labels, value in series(told, "plinth_request_seconds_bucket").items()}
    assert (buckets[metrics.le(0.075)], buckets[metrics.le(0.1)], buckets["+Inf"]) == (1, 2, 2)
    assert len(buckets) == len(metrics.LATENCY_BUCKETS) + 2


def test_openmetrics_is_answered_to_who_asks_for_it():
    told = Metrics("p", lambda: service_readings(STATS))
    told.request("/predict", 200, 0.003, 2, "d" * 64, "a" * 32)
    body, content_type = told.render("application/openmetrics-text;version=99;x=y,text/plain;q=0.5")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in openmetrics_families(body.decode())}
    assert {metric.name.removesuffix("_total") for metric in (metrics.REQUESTS, metrics.LOG_WRITTEN)} <= set(families)
    (exemplar,) = [s.exemplar for s in families["plinth_request_seconds"].samples if s.exemplar]
    assert (exemplar.labels, exemplar.value) == ({"trace_id": "a" * 32}, 0.003)
    assert b"trace_id" not in told.render("text/plain")[0]


def test_two_services_in_one_process_do_not_share_series():
    one, two = Metrics("one"), Metrics("two")
    one.request("/predict", 200, 0.1, 1, "")
    assert b'product="one"' not in two.render()[0]


def test_a_service_without_a_router_still_has_the_routes_readings():
    before = {name: value for name, value in STATS.items() if name not in {"step", "weight", "shadow_dropped"}}
    told = Metrics("p", lambda: service_readings(before))
    assert series(told, "plinth_route_step") == {(): 0.0}


def test_each_arm_of_each_step_has_its_own_counts():
    told = Metrics("p")
    arm(told)
    arm(told, scores=(0.1, 0.9))
    arm(told, step=2, failed=True, scores=(0.5, 0.5))  # scored, and failed after it
    arm(told, who="serving", release=SERVING)
    one, two, serving = (
        (("arm", who), ("generation", "7"), ("release", release), ("step", step))
        for who, release, step in (
            ("candidate", CANDIDATE, "1"),
            ("candidate", CANDIDATE, "2"),
            ("serving", SERVING, "1"),
        )
    )
    assert series(told, "plinth_rollout_requests_total") == {one: 2, two: 1, serving: 1}
    assert series(told, "plinth_rollout_errors_total") == {one: 0, two: 1, serving: 0}
    assert series(told, "plinth_rollout_rows_total") == {one: 3, two: 0, serving: 1}
    assert series(told, "plinth_rollout_defaulted_total") == {one: 2, two: 0, serving: 1}
    assert series(told, "plinth_rollout_seconds_sum")[one] == 0.006
    assert series(told, "plinth_rollout_scores_count") == {one: 3, two: 0, serving: 1}


def test_the_histograms_have_the_bins_the_gates_judge_by():
    told = Metrics("p")
    scores = (0.0, 0.025, 0.0250001, 0.5, 0.975, 0.98, 1.0)
    arm(told, seconds=LATENCY_BOUNDS[10], scores=(*scores, float("nan"), float("inf")))
    ((_, cell),) = [(None, one.cell) for one in told.rollout.now()[1]]
    assert cell.latency[10] == 1
    assert [i for i, count in enumerate(cell.scores) for _ in range(count)] == [bin_of(v, SCORE_BOUNDS) for v in scores]
    assert cell.rows == 9
    buckets = {dict(labels)["le"]: value for labels, value in series(told, "plinth_rollout_scores_bucket").items()}
    assert (buckets["0.025"], buckets["0.5"], buckets["+Inf"]) == (2, 4, 7)


def test_a_larger_generation_drops_the_series_of_the_one_before():
    told = Metrics("p")
    for step in range(1, 6):
        arm(told, step=step)
    before = len(told.render()[0])
    arm(told, generation=9)
    assert {dict(labels)["generation"] for labels in series(told, "plinth_rollout_requests_total")} == {"9"}
    assert len(told.render()[0]) < before
    arm(told, generation=7)  # a shadow that comes late
    assert {dict(labels)["generation"] for labels in series(told, "plinth_rollout_requests_total")} == {"9"}


def test_rollout_counts_begin_at_nothing_where_the_client_keeps_values_in_files(tmp_path, monkeypatch):
    # As BentoML makes it, in this process: what the client itself counts outlives its registry there.
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr(values, "ValueClass", values.MultiProcessValue())
    for _ in range(2):
        told = Metrics("p")
        arm(told)
        told.defaulted({"weather": 1})
    assert list(series(told, "plinth_feature_rows_defaulted_total").values()) == [2]
    assert list(series(told, "plinth_rollout_requests_total").values()) == [1]


def test_no_count_is_lost_between_threads():
    told = Metrics("p")
    threads = [threading.Thread(target=lambda: [arm(told) for _ in range(500)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        told.render()
    assert list(series(told, "plinth_rollout_requests_total").values()) == [2000]


def test_the_reference_page_lists_every_metric_with_its_type_labels_and_help():
    page = DOCS.read_text(encoding="utf-8")
    for metric in metrics.ALL:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        assert f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |" in page
