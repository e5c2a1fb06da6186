"""What Grafana is told at its start: where metrics, logs and traces are, how they lead to each other, and the boards.

A latency's exemplar opens its trace, a log line's trace_id does too, and a trace opens its logs and its service's
latency.
"""

from __future__ import annotations

from typing import Any

import yaml

from plinth.telemetry import metrics

PROMETHEUS, LOKI, TEMPO = "plinth-prometheus", "plinth-loki", "plinth-tempo"
"""Identities of the data sources, the same in every Grafana: panels name them."""
UIDS = {"prometheus": PROMETHEUS, "loki": LOKI, "tempo": TEMPO}
ADDRESSES = {"prometheus": "http://prometheus:9090", "loki": "http://loki:3100", "tempo": "http://tempo:3200"}
"""As Grafana reaches them in the compose profile."""
FOLDER = "plinth"
HEAD = "# Made by `plinth dashboard render`; not to be edited.\n"
TRACE_ID = "trace_id"
"""Label of exemplars, and field of log lines."""


def data_sources(addresses: dict[str, str] | None = None) -> list[dict[str, Any]]:
    """The three, as Grafana's provisioning and its API take them.

    Args:
        addresses: Where Grafana finds `prometheus`, `loki` and `tempo`; by default the compose profile's.
    """
    where = {**ADDRESSES, **(addresses or {})}
    return [
        _source("Prometheus", "prometheus", where, {
            "httpMethod": "POST", "prometheusType": "Prometheus", "timeInterval": "15s",
            "exemplarTraceIdDestinations": [{"name": TRACE_ID, "datasourceUid": TEMPO, "urlDisplayLabel": "Trace"}],
        }, default=True),
        _source("Loki", "loki", where, {
            "derivedFields": [
                {"name": "Trace", "matcherType": "label", "matcherRegex": TRACE_ID, "url": "${__value.raw}",
                 "datasourceUid": TEMPO, "urlDisplayLabel": "Trace"},
                {"name": "TraceOfLine", "matcherRegex": f'"{TRACE_ID}":\\s*"(\\w+)"', "url": "${__value.raw}",
                 "datasourceUid": TEMPO, "urlDisplayLabel": "Trace"},
            ],
        }),
        _source("Tempo", "tempo", where, {
            "tracesToLogsV2": {
                "datasourceUid": LOKI, "spanStartTimeShift": "-1m", "spanEndTimeShift": "1m",
                "tags": [{"key": "service.name", "value": "service_name"}], "filterByTraceID": True,
                "filterBySpanID": False,
            },
            "tracesToMetrics": {
                "datasourceUid": PROMETHEUS, "spanStartTimeShift": "-10m", "spanEndTimeShift": "10m",
                "tags": [{"key": "service.name", "value": "product"}],
                "queries": [{"name": "p95", "query": _latency_of_tags()},
                            {"name": "Requests", "query": _rate_of_tags()}],
            },
            "nodeGraph": {"enabled": True}, "serviceMap": {"datasourceUid": PROMETHEUS},
        }),
    ]  # fmt: skip


def _latency_of_tags() -> str:
    return f"histogram_quantile(0.95, sum by (le) (rate({metrics.REQUEST_SECONDS.name}_bucket{{$__tags}}[5m])))"


def _rate_of_tags() -> str:
    return f"sum(rate({metrics.REQUESTS.name}{{$__tags}}[5m]))"


def _source(
    name: str, kind: str, where: dict[str, str], more: dict[str, Any], *, default: bool = False
) -> dict[str, Any]:
    return {
        "name": name, "uid": UIDS[kind], "type": kind, "access": "proxy", "url": where[kind], "isDefault": default,
        "editable": False, "jsonData": more,
    }  # fmt: skip


def data_sources_file() -> str:
    """`provisioning/datasources/plinth.yaml`."""
    return HEAD + _escaped(yaml.safe_dump({"apiVersion": 1, "datasources": data_sources()}, sort_keys=False, width=120))


def dashboards_file() -> str:
    """`provisioning/dashboards/plinth.yaml`: Grafana reads the rendered boards from a folder."""
    provider = {
        "name": "plinth", "folder": "Plinth", "folderUid": FOLDER, "type": "file", "disableDeletion": True,
        "allowUiUpdates": False, "updateIntervalSeconds": 30,
        "options": {"path": "/etc/grafana/dashboards", "foldersFromFilesStructure": False},
    }  # fmt: skip
    return HEAD + yaml.safe_dump({"apiVersion": 1, "providers": [provider]}, sort_keys=False, width=120)


def _escaped(text: str) -> str:
    """Grafana replaces `$NAME` and `${NAME}` in these files by the environment's; `$$` is a dollar."""
    return text.replace("$", "$$")
