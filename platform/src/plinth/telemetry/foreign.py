"""Metrics of the servers around the platform that dashboards and alerts read. Nothing else names one of them.

Each says who emits it and where its maker writes about it: what cannot be run here is checked against that.
"""

from __future__ import annotations

from dataclasses import dataclass

TARGET = ("job", "instance")
"""Labels that Prometheus itself puts on every series it scrapes."""


@dataclass(frozen=True, slots=True)
class Foreign:
    """A metric that others emit.

    Attributes:
        name: As Prometheus knows it.
        labels: Its own, without the target's.
        server: The compose service that emits it; `every` for what each target has, `own` for the platform's processes.
        source: Where it is documented, or what was run to see it.
        empty_in_health: As `Metric`.
        histogram: Whether it is one, with `_bucket`, `_sum` and `_count`.
    """

    name: str
    labels: tuple[str, ...]
    server: str
    source: str
    empty_in_health: str = ""
    histogram: bool = False


_SCRAPES = "prometheus.io/docs/concepts/jobs_instances"
UP = Foreign("up", (), "every", _SCRAPES)
SCRAPE_SECONDS = Foreign("scrape_duration_seconds", (), "every", _SCRAPES)
SCRAPE_SAMPLES = Foreign("scrape_samples_scraped", (), "every", _SCRAPES)
ALERTS = Foreign(
    "ALERTS", ("alertname", "alertstate", "severity", "product", "team", "level", "pipeline", "source", "contract"),
    "prometheus", "prometheus.io/docs/prometheus/latest/configuration/alerting_rules",
    empty_in_health="no alert fires",
)  # fmt: skip

_PROCESS = "prometheus.io/docs/instrumenting/writing_clientlibs#process-metrics"
CPU = Foreign("process_cpu_seconds_total", (), "own", _PROCESS)
MEMORY = Foreign("process_resident_memory_bytes", (), "own", _PROCESS)
OPEN_FILES = Foreign("process_open_fds", (), "own", _PROCESS)
MAX_FILES = Foreign("process_max_fds", (), "own", _PROCESS)
STARTED = Foreign("process_start_time_seconds", (), "own", _PROCESS)

_PROMETHEUS = "Prometheus 2.42's own /metrics"
HEAD_SERIES = Foreign("prometheus_tsdb_head_series", (), "prometheus", _PROMETHEUS)
BLOCK_BYTES = Foreign("prometheus_tsdb_storage_blocks_bytes", (), "prometheus", _PROMETHEUS)
RULE_FAILURES = Foreign(
    "prometheus_rule_evaluation_failures_total", ("rule_group",), "prometheus", _PROMETHEUS
)  # fmt: skip
RULE_SECONDS = Foreign("prometheus_rule_group_last_duration_seconds", ("rule_group",), "prometheus", _PROMETHEUS)
RELOADED = Foreign("prometheus_config_last_reload_successful", (), "prometheus", _PROMETHEUS)
ALERTMANAGERS = Foreign("prometheus_notifications_alertmanagers_discovered", (), "prometheus", _PROMETHEUS)
NOT_NOTIFIED = Foreign("prometheus_notifications_dropped_total", (), "prometheus", _PROMETHEUS)

_ALERTMANAGER = "Alertmanager 0.28's own /metrics"
HELD_ALERTS = Foreign("alertmanager_alerts", ("state",), "alertmanager", _ALERTMANAGER)
NOTIFICATIONS = Foreign("alertmanager_notifications_total", ("integration",), "alertmanager", _ALERTMANAGER)
NOTIFICATIONS_FAILED = Foreign(
    "alertmanager_notifications_failed_total", ("integration", "reason"), "alertmanager", _ALERTMANAGER
)

_SEAWEEDFS = "SeaweedFS 4's own /metrics"
S3_REQUESTS = Foreign("SeaweedFS_s3_request_total", ("bucket", "code", "type"), "seaweedfs", _SEAWEEDFS)
S3_SECONDS = Foreign("SeaweedFS_s3_request_seconds", ("bucket", "type"), "seaweedfs", _SEAWEEDFS, histogram=True)
S3_DISK = Foreign("SeaweedFS_volumeServer_resource", ("name", "type"), "seaweedfs", _SEAWEEDFS)

_QDRANT = "qdrant.tech/documentation/ops-monitoring/monitoring"
QDRANT_COLLECTIONS = Foreign("collections_total", (), "qdrant", _QDRANT)
QDRANT_REQUESTS = Foreign(
    "rest_responses_total", ("method", "endpoint", "status"), "qdrant", _QDRANT
)  # fmt: skip

_COLLECTOR = "opentelemetry.io/docs/collector/internal-telemetry"
SPANS_SENT = Foreign("otelcol_exporter_sent_spans_total", ("exporter",), "collector", _COLLECTOR)
SPANS_NOT_SENT = Foreign(
    "otelcol_exporter_send_failed_spans_total", ("exporter",), "collector", _COLLECTOR,
    empty_in_health="none failed",
)  # fmt: skip
LINES_SENT = Foreign("otelcol_exporter_sent_log_records_total", ("exporter",), "collector", _COLLECTOR)

LOKI_LINES = Foreign(
    "loki_distributor_lines_received_total",
    ("tenant",),
    "loki",
    "grafana.com/docs/loki/latest/operations/meta-monitoring",
)
TEMPO_SPANS = Foreign(
    "tempo_distributor_spans_received_total", ("tenant",), "tempo", "grafana.com/docs/tempo/latest/operations/monitor"
)
GRAFANA_REQUESTS = Foreign(
    "grafana_http_request_duration_seconds_count", ("handler", "method", "status_code"), "grafana",
    "grafana.com/docs/grafana/latest/setup-grafana/set-up-grafana-monitoring",
)  # fmt: skip

FOREIGN = (
    UP, SCRAPE_SECONDS, SCRAPE_SAMPLES, ALERTS, CPU, MEMORY, OPEN_FILES, MAX_FILES, STARTED, HEAD_SERIES, BLOCK_BYTES,
    RULE_FAILURES, RULE_SECONDS, RELOADED, ALERTMANAGERS, NOT_NOTIFIED, HELD_ALERTS, NOTIFICATIONS,
    NOTIFICATIONS_FAILED, S3_REQUESTS, S3_SECONDS, S3_DISK, QDRANT_COLLECTIONS, QDRANT_REQUESTS,
    SPANS_SENT, SPANS_NOT_SENT, LINES_SENT, LOKI_LINES, TEMPO_SPANS, GRAFANA_REQUESTS,
)  # fmt: skip

LOG_LABELS = ("service_name", "level", "detected_level")
"""What Loki's streams are told apart by (infra/otel, infra/loki)."""

LOG_FIELDS = ("trace_id", "request_id", "level", "event", "product", "release")
"""What a line of our logs has beside them: structured metadata, or keys of its JSON."""

SPAN_ATTRIBUTES = ("resource.service.name", "span.plinth.product", "span.plinth.release", "status", "duration", "name")
"""What TraceQL may ask our spans for (`traces.py`)."""
