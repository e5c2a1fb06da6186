"""Infrastructure: what is up, what it uses, and how the servers around the platform are."""

from __future__ import annotations

from plinth.telemetry import foreign, metrics
from plinth.telemetry.dashboards import units
from plinth.telemetry.dashboards.model import Board, Bound, Panel, Query, Row, Variable
from plinth.telemetry.expressions import INTERVAL, average, increase, largest, quantile, rate, series, total

WHICH = {"job": "~$job"}


def board() -> Board:
    """The dashboard."""
    return Board(
        "infrastructure",
        "Plinth: infrastructure",
        "Targets, processes and servers.",
        (_targets(), _processes(), _controller(), _telemetry(), _stores()),
        (Variable("job", "Job", foreign.UP.name, "job"),),
        ("plinth", "infrastructure"),
    )


def _targets() -> Row:
    return Row(
        "Targets",
        (
            Panel(
                "Up",
                "1 while Prometheus can scrape it. At 0 its panels are blind and an alert is raised.",
                units.NUMBER,
                (Query(series(foreign.UP, **WHICH), "{{job}}", now=True),),
                kind="stat",
                width=12,
                base="red",
                bounds=units.GOOD_FROM_1,
                runbook="servers",
            ),
            Panel(
                "Duration of scrapes",
                "Near the scrape interval, samples go missing.",
                units.SECONDS,
                (Query(series(foreign.SCRAPE_SECONDS, **WHICH), "{{job}}"),),
                width=6,
                runbook="telemetry",
            ),
            Panel(
                "Samples of a scrape",
                "Series that each target gives. One that only grows has a label it should not have.",
                units.COUNT,
                (Query(series(foreign.SCRAPE_SAMPLES, **WHICH), "{{job}}"),),
                width=6,
                runbook="telemetry",
            ),
        ),
    )


def _processes() -> Row:
    files = f"{series(foreign.OPEN_FILES, **WHICH)} / {series(foreign.MAX_FILES, **WHICH)}"
    return Row(
        "Processes",
        (
            Panel(
                "Memory",
                "Resident memory. At a container's limit it is killed and started again.",
                units.BYTES,
                (Query(series(foreign.MEMORY, **WHICH), "{{job}}"),),
                width=6,
                runbook="servers",
            ),
            Panel(
                "Cores",
                "Cores in use. At a container's limit everything in it slows down.",
                units.CORES,
                (Query(rate(foreign.CPU, INTERVAL, **WHICH), "{{job}}"),),
                width=6,
            ),
            Panel(
                "File handles",
                "Share of those it may open.",
                units.SHARE,
                (Query(files, "{{job}}"),),
                width=6,
                bounds=(Bound(0.8, "red"),),
                runbook="servers",
            ),
            Panel(
                "Started",
                "Seconds since it started. A saw is a process that dies again and again.",
                units.SECONDS,
                (Query(f"time() - {series(foreign.STARTED, **WHICH)}", "{{job}}"),),
                width=6,
                runbook="servers",
            ),
        ),
    )


def _controller() -> Row:
    ticks = total(rate(metrics.CONTROLLER_TICKS, INTERVAL), "result")
    return Row(
        "Controller",
        (
            Panel(
                "Looks at the rollouts",
                "A second, by result. None: nothing moves.",
                units.PER_SECOND,
                (Query(ticks, "{{result}}"),),
                width=6,
                runbook="controller",
            ),
            Panel(
                "Duration of a look",
                "p95, and the mean. Beyond its interval, rollouts are looked at late.",
                units.SECONDS,
                (
                    Query(quantile(0.95, metrics.CONTROLLER_TICK_SECONDS), "p95"),
                    Query(average(metrics.CONTROLLER_TICK_SECONDS, "job"), "mean"),
                ),
                width=6,
                runbook="controller",
            ),
            Panel(
                "Leads",
                "1 for the controller that acts. Several may run; one leads.",
                units.NUMBER,
                (Query(series(metrics.CONTROLLER_LEADS), "{{instance}}"),),
                width=6,
                runbook="controller",
            ),
            Panel(
                "Log hours to archive",
                "Closed hours of each product's logs that are not in the bucket. One of each log, just after an hour's "
                "end, is right. Above 3 for half an hour an alert is raised. Empty without a bucket.",
                units.COUNT,
                (Query(largest(series(metrics.LOG_HOURS_WAITING), "product"), "{{product}}"),),
                width=6,
                bounds=(Bound(4, "red"),),
                runbook="logs",
            ),
        ),
    )


def _telemetry() -> Row:
    sent, not_sent, lines = (
        total(rate(metric, INTERVAL), "exporter")
        for metric in (foreign.SPANS_SENT, foreign.SPANS_NOT_SENT, foreign.LINES_SENT)
    )
    return Row(
        "Telemetry",
        (
            Panel(
                "Prometheus: series",
                "Series in memory. A number that only grows is a label with too many values.",
                units.COUNT,
                (Query(series(foreign.HEAD_SERIES), "series"),),
                width=6,
            ),
            Panel(
                "Prometheus: blocks",
                "Bytes of its blocks on disk; the oldest go when the retention is reached.",
                units.BYTES,
                (Query(series(foreign.BLOCK_BYTES), "blocks"),),
                width=6,
            ),
            Panel(
                "Prometheus: duration of rules",
                "Of each group; beyond its interval, alerts come late.",
                units.SECONDS,
                (Query(series(foreign.RULE_SECONDS), "{{rule_group}}"),),
                width=6,
                runbook="telemetry",
            ),
            Panel(
                "Prometheus: rules that failed",
                "In the last hour. Their alerts are silent.",
                units.COUNT,
                (
                    Query(f"sum({increase(foreign.RULE_FAILURES, '1h')})", "failed"),
                    Query(f"1 - min({series(foreign.RELOADED)})", "configuration not loaded"),
                    Query(f"sum({increase(foreign.NOT_NOTIFIED, '1h')})", "alerts not delivered"),
                ),
                width=6,
                bounds=units.BAD_ABOVE_0,
                runbook="telemetry",
            ),
            Panel(
                "Alertmanager: alerts",
                "Alerts it holds, and the Alertmanagers that Prometheus knows.",
                units.COUNT,
                (
                    Query(total(series(foreign.HELD_ALERTS), "state"), "{{state}}"),
                    Query(series(foreign.ALERTMANAGERS), "known to Prometheus"),
                ),
                width=6,
                runbook="telemetry",
            ),
            Panel(
                "Alertmanager: notifications",
                "Sent in the last hour, and those that failed.",
                units.COUNT,
                (
                    Query(total(increase(foreign.NOTIFICATIONS, "1h"), "integration"), "{{integration}}"),
                    Query(total(increase(foreign.NOTIFICATIONS_FAILED, "1h"), "integration"), "{{integration}} failed"),
                ),
                width=6,
                runbook="telemetry",
            ),
            Panel(
                "Collector",
                "Spans and log lines it hands on a second, and spans it cannot.",
                units.PER_SECOND,
                (
                    Query(sent, "spans to {{exporter}}"),
                    Query(not_sent, "failed to {{exporter}}"),
                    Query(lines, "lines to {{exporter}}"),
                ),
                width=6,
                runbook="telemetry",
            ),
            Panel(
                "Loki, Tempo, Grafana",
                "Lines and spans that come in, and requests that Grafana answers, a second.",
                units.PER_SECOND,
                (
                    Query(f"sum({rate(foreign.LOKI_LINES, INTERVAL)})", "Loki lines"),
                    Query(f"sum({rate(foreign.TEMPO_SPANS, INTERVAL)})", "Tempo spans"),
                    Query(f"sum({rate(foreign.GRAFANA_REQUESTS, INTERVAL)})", "Grafana requests"),
                ),
                width=6,
                runbook="telemetry",
            ),
        ),
    )


def _stores() -> Row:
    free, disk = (series(foreign.S3_DISK, type=kind) for kind in ("avail", "all"))
    return Row(
        "Stores",
        (
            Panel(
                "Object store: requests",
                "Requests a second, by status.",
                units.PER_SECOND,
                (Query(total(rate(foreign.S3_REQUESTS, INTERVAL), "code"), "{{code}}"),),
                width=6,
                runbook="servers",
            ),
            Panel(
                "Object store: p95",
                "Time of its requests, by kind.",
                units.SECONDS,
                (Query(quantile(0.95, foreign.S3_SECONDS, "type"), "{{type}}"),),
                width=6,
                runbook="servers",
            ),
            Panel(
                "Object store: disk free",
                "Share of its disk that is free. Below 0.1 an alert is raised.",
                units.SHARE,
                (Query(f"{free} / on (job, instance, name) {disk}", "{{name}}"),),
                width=6,
                high=1.0,
                runbook="servers",
            ),
            Panel(
                "Qdrant",
                "Requests a second by status, and its collections.",
                units.COUNT,
                (
                    Query(total(rate(foreign.QDRANT_REQUESTS, INTERVAL), "status"), "{{status}}"),
                    Query(series(foreign.QDRANT_COLLECTIONS), "collections"),
                ),
                width=6,
                runbook="servers",
            ),
        ),
    )
