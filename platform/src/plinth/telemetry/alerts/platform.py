"""Alerts of the platform itself: the controller, the ledger, the servers, Prometheus."""

from __future__ import annotations

from plinth.telemetry import foreign, metrics
from plinth.telemetry.alerts.model import Alert
from plinth.telemetry.expressions import increase, largest, series


def alerts() -> list[Alert]:
    """The alerts that belong to no product."""
    return [*_controller(), *_logs(), *_servers(), *_telemetry()]


def _controller() -> list[Alert]:
    leads = series(metrics.CONTROLLER_LEADS)
    return [
        Alert(
            "ControllerDown", f"absent({leads})", "2m", "page",
            "The controller gives no metrics",
            "No rollout moves on and none is rolled back; what serves goes on. `plinth status`, then "
            "`plinth logs controller`.",
            "controller",
        ),
        Alert(
            "ControllerLeadsNot", f"max({leads}) == 0", "2m", "page",
            "No controller holds the lease",
            "Each waits for the other, or cannot write the ledger. `plinth logs controller` says who holds it.",
            "controller",
        ),
        Alert(
            "ControllerFails", f"sum({increase(metrics.CONTROLLER_TICKS, '10m', result='~(?i).*(fail|error).*')}) > 5",
            "5m", "ticket",
            "The controller's looks at the rollouts fail",
            "`plinth logs controller` has the error; `plinth doctor` checks what it needs.",
            "controller",
        ),
        Alert(
            "LedgerDown", f"min({series(metrics.LEDGER_UP)}) == 0", "1m", "page",
            "The ledger cannot be read",
            "Nothing can be released, rolled out or taken back. Services go on with what they serve. `plinth doctor` "
            "says "
            "what is wrong with the database.",
            "controller",
        ),
        Alert(
            "PrefectDown", f"{series(metrics.PREFECT_UP)} == 0", "5m", "ticket",
            "The Prefect server does not answer",
            "No pipeline starts: no training, no refresh of an index. `plinth status`, `plinth logs prefect`.",
            "controller",
        ),
    ]  # fmt: skip


def _logs() -> list[Alert]:
    # Of each product, and the platform's all the same: one bucket, one controller. Without a bucket there is no series.
    waiting = largest(series(metrics.LOG_HOURS_WAITING), "product")
    return [
        Alert(
            "LogArchiveBehind", f"{waiting} > 3", "30m", "ticket",
            "{{ $labels.product }}: {{ $value }} closed hours of its logs are not in the bucket",
            "They are on this machine's disk only. `plinth logs controller` says why none can be archived; the "
            "controller tries again every five minutes.",
            "logs",
        ),
    ]  # fmt: skip


def _servers() -> list[Alert]:
    free, disk = (series(foreign.S3_DISK, type=kind) for kind in ("avail", "all"))
    here = f"count by (job) ({series(foreign.UP)})"
    return [
        Alert(
            "TargetDown", f"{series(foreign.UP)} == 0", "5m", "ticket",
            "{{ $labels.job }}: Prometheus cannot scrape {{ $labels.instance }}",
            "It is down, or the scrape's token or address is wrong. Its panels and alerts are blind until then. "
            "`plinth status` shows whether it runs.",
            "servers",
        ),
        # What is found by its name is no target any more when it stops, and so not down.
        Alert(
            "TargetGone", f"count by (job) (count_over_time({series(foreign.UP, window='1d')})) unless on (job) {here}",
            "10m", "ticket",
            "{{ $labels.job }}: Prometheus finds it no more",
            "It was there within the last day, and its name leads nowhere now: it is stopped, or was left out on "
            "purpose, and then this ends by itself in a day. `plinth status` shows whether it runs.",
            "servers",
        ),
        Alert(
            "ProcessRestarts", f"changes({series(foreign.STARTED, window='15m')}) > 3", "0s", "ticket",
            "{{ $labels.job }}: restarted {{ $value }} times in 15 minutes",
            "It dies and is started again: out of memory, or a fault at its start. `plinth logs` has its last words.",
            "servers",
        ),
        Alert(
            "FilesRunOut", f"{series(foreign.OPEN_FILES)} / {series(foreign.MAX_FILES)} > 0.8", "10m", "ticket",
            "{{ $labels.job }}: {{ $value | humanizePercentage }} of its file handles are in use",
            "At the limit it refuses connections. A restart gives time; a number that grows with no traffic is a leak.",
            "servers",
        ),
        Alert(
            "ObjectStoreDiskLow", f"{free} / on (job, instance, name) {disk} < 0.1", "10m", "page",
            "The object store's disk is {{ $value | humanizePercentage }} free",
            "When it is full, no release and no backup can be stored. `plinth gc` says what can go, and `plinth gc "
            "--apply` "
            "deletes it.",
            "servers",
        ),
    ]  # fmt: skip


def _telemetry() -> list[Alert]:
    return [
        Alert(
            "RulesFail", f"increase({series(foreign.RULE_FAILURES, window='10m')}) > 0", "5m", "ticket",
            "Prometheus cannot evaluate {{ $labels.rule_group }}",
            "Alerts of that group are silent. Prometheus's page /rules shows the error.",
            "telemetry",
        ),
        Alert(
            "ConfigReloadFailed", f"{series(foreign.RELOADED)} == 0", "5m", "ticket",
            "Prometheus runs with an old configuration",
            "The last one it was given does not fit. `plinth logs prometheus` names the line.",
            "telemetry",
        ),
        Alert(
            "AlertmanagerMissing", f"{series(foreign.ALERTMANAGERS)} < 1", "5m", "ticket",
            "Prometheus knows no Alertmanager",
            "Alerts are raised and reach nobody: only this page and the dashboards show them. `plinth status` shows "
            "it.",
            "telemetry",
        ),
        Alert(
            "NotificationsFail", f"increase({series(foreign.NOTIFICATIONS_FAILED, window='10m')}) > 0", "5m", "ticket",
            "Alertmanager cannot notify through {{ $labels.integration }}",
            "Alerts are raised and reach nobody. The receiver's address is in infra/alertmanager/alertmanager.yml or "
            "its "
            "file of secrets.",
            "telemetry",
        ),
        Alert(
            "CollectorLosesSpans", f"increase({series(foreign.SPANS_NOT_SENT, window='10m')}) > 0", "10m", "ticket",
            "The collector cannot hand traces to {{ $labels.exporter }}",
            "Traces are kept in its queue and lost when that is full. `plinth status` shows Tempo and MLflow.",
            "telemetry",
        ),
    ]  # fmt: skip
