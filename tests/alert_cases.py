"""For each alert: series that make it fire, and series that must not. promtool plays both (test_alerts.py).

Values are promtool's: `5x60` is 5 for an hour of minutes, `0+2x60` grows by 2 a minute, `_x10` is absent so long.
"""

from dataclasses import dataclass, field

from plinth.core.durations import seconds
from plinth.telemetry.alerts.schedule import longest_gap

MINUTES = 400


@dataclass(frozen=True)
class Case:
    """Series by name; evaluated `at` that time."""

    fires: dict
    silent: dict
    at: str = "45m"
    also_silent: tuple = field(default=())


def grows(by):
    return f"0+{by}x{MINUTES}"


def stays(value):
    return f"{value}x{MINUTES}"


def jumps(after=30, by=1):
    """A counter that is not there, then is."""
    return f"_x{after} {by}x{MINUTES}"


def product_cases(product):
    """By alert's name."""
    p = f'product="{product.name}"'
    denied = f'plinth_requests_denied_total{{{p},reason="token"}}'
    ended = f'plinth_rollouts_ended_total{{{p},outcome="rolled-back"}}'
    lives, runs = {"plinth_ledger_up": stays(1)}, {"plinth_prefect_up": stays(1)}
    candidate = f'plinth_rollout_requests_total{{{p},generation="2",step="1",arm="candidate",release="b"}}'
    canary = {f'plinth_rollout_phase{{{p},phase="canary"}}': stays(1)}
    budget = {f'plinth_budget_monthly{{{p},currency="USD"}}': stays(100)}
    cost = f"plinth:product_cost:monthly{{{p}}}"
    failed, done = (f'plinth_pipeline_runs_total{{{p},pipeline="x",state="{s}"}}' for s in ("failed", "completed"))
    queued, running = (f'plinth_pipeline_{what}{{{p},pipeline="x"}}' for what in ("queued", "running"))
    return {
        "ServiceDown": Case({"up": stays(0)}, {f"plinth_release_generation{{{p}}}": stays(3)}),
        "RequestsDenied": Case({denied: grows(50)}, {denied: grows(1)}),
        "SpansNotExported": Case(
            {f"plinth_trace_spans_failed_total{{{p}}}": grows(3)}, {f"plinth_trace_spans_failed_total{{{p}}}": stays(3)}
        ),
        "ReleaseStale": Case({f"plinth_release_stale{{{p}}}": stays(1)}, {f"plinth_release_stale{{{p}}}": stays(0)}),
        "ReleaseLoadFails": Case(
            {f"plinth_release_load_failures_total{{{p}}}": grows(2)},
            {f"plinth_release_load_failures_total{{{p}}}": stays(7)},
        ),
        "ProjectionsPending": Case(
            {f"plinth_projections_pending{{{p}}}": stays(1)}, {f"plinth_projections_pending{{{p}}}": stays(0)}
        ),
        "RolloutPaused": Case({f'plinth_rollout_phase{{{p},phase="paused"}}': stays(1)}, canary),
        "ApprovalWaiting": Case(
            {f"plinth_approvals_waiting{{{p}}}": stays(1)}, {f"plinth_approvals_waiting{{{p}}}": stays(0)}, "5h"
        ),
        "RolledBack": Case(
            {ended: f"0x35 {stays(1)}", **lives}, {ended: stays(3), **lives},
            # Nothing was known of before: a controller that just started counted what is long past.
            # Nor while the ledger was down: its counts are not there then, and come back whole.
            also_silent=(
                {ended: jumps(40, 3), "plinth_ledger_up": jumps(40)},
                {ended: f"3x20 {jumps(18, 3)}", "plinth_ledger_up": f"1x20 0x18 {stays(1)}"},
            ),
        ),
        "CandidateUnseen": Case(canary, {**canary, candidate: grows(10)}, also_silent=({candidate: stays(0)},)),
        "CostAboveBudget": Case({cost: stays(120), **budget}, {cost: stays(80), **budget}, "2h"),
        "PipelineFailed": Case(
            {failed: f"1x35 {stays(2)}", **runs}, {done: grows(1), failed: stays(2), **runs},
            # Prefect was down half an hour ago, the controller and the ledger were not.
            also_silent=({failed: f"2x5 {jumps(33, 2)}", "plinth_prefect_up": f"1x5 0x33 {stays(1)}", **lives},),
        ),
        "PipelineQueueStuck": Case({queued: stays(2), running: stays(0)}, {queued: stays(2), running: stays(1)}),
    }  # fmt: skip


def late_case(product, pipeline):
    """`time()` begins at 0 in promtool, so a success long ago lies before it."""
    last = f'plinth_pipeline_last_success_timestamp_seconds{{product="{product.name}",pipeline="{pipeline.name}"}}'
    allowed = 2 * longest_gap(pipeline.schedule) + seconds(pipeline.timeout)
    return Case({last: stays(int(-allowed))}, {last: stays(0)})


def model_cases(product):
    """Of products with a model."""
    p, watched = f'product="{product.name}"', product.monitoring
    dropped, errors = (f"plinth_inference_log_{what}_total{{{p}}}" for what in ("dropped", "write_errors"))
    defaulted = f'plinth_feature_rows_defaulted_total{{{p},view="v"}}'
    asked = {f'plinth_predictions_total{{{p},release="a"}}': grows(100)}
    feature = (watched.watch or ("any",))[0]
    psi, other = (f'plinth_drift_psi{{{p},feature="{name}"}}' for name in (feature, "not_watched"))
    gap, report = f"plinth_calibration_gap{{{p}}}", f"plinth_drift_report_timestamp_seconds{{{p}}}"
    drifted = watched.drift_psi * 2
    violations = f'plinth_contract_violations{{{p},contract="c"}}'
    return {
        "ContractViolated": Case({violations: stays(3)}, {violations: stays(0)}),
        "InferenceLogDrops": Case({dropped: grows(1)}, {dropped: stays(4)}),
        "InferenceLogWriteFails": Case({errors: grows(1)}, {errors: stays(4)}),
        "FeaturesDefaulted": Case(
            {defaulted: grows(100), **asked}, {defaulted: grows(1), **asked},
            also_silent=({defaulted: "0+1x3 3x400", f'plinth_predictions_total{{{p},release="a"}}': "0+1x3 3x400"},),
        ),
        "Drift": Case({psi: stays(drifted)}, {psi: stays(0.01), **({other: stays(drifted)} if watched.watch else {})}),
        "CalibrationOff": Case({gap: stays(-2 * watched.calibration_gap)}, {gap: stays(watched.calibration_gap / 2)}),
        "DriftReportOld": Case({report: stays(-9 * 86400)}, {report: stays(0)}, "2h"),
    }  # fmt: skip


def assistant_cases(product):
    """Of assistants."""
    p = f'product="{product.name}"'
    dropped, errors = (f"plinth_answer_log_{what}_total{{{p}}}" for what in ("dropped", "write_errors"))
    stale = f'plinth_source_stale{{{p},source="docs"}}'
    hits = f'plinth_guardrail_hits_total{{{p},rule="injection",stage="question",action="block"}}'
    good, unknown = (f'plinth_answers_total{{{p},release="a",outcome="{o}"}}' for o in ("answered", "unknown"))
    shed = f"plinth_answers_shed_total{{{p}}}"
    few = {good: "0x400", unknown: "0+0.2x400"}
    return {
        "AnswerLogDrops": Case({dropped: grows(1)}, {dropped: stays(4)}),
        "AnswerLogWriteFails": Case({errors: grows(1)}, {errors: stays(4)}),
        "SourceStale": Case({stale: stays(1)}, {stale: stays(0)}),
        "GuardrailSurge": Case({hits: grows(5), good: grows(10)}, {hits: grows(1), good: grows(10)}),
        "RefusalSurge": Case(
            {good: grows(1), unknown: grows(9)}, {good: grows(9), unknown: grows(1)}, also_silent=(few,)
        ),
        "QuestionsShed": Case({shed: grows(5)}, {shed: stays(50)}),
    }


def platform_cases():
    """Of the platform."""
    leads, ledger = "plinth_controller_leads", "plinth_ledger_up"
    bad, good = (f'plinth_controller_ticks_total{{result="{result}"}}' for result in ("failed", "led"))
    up = 'up{job="qdrant",instance="qdrant:6333"}'
    other = 'up{job="controller",instance="controller:3010"}'
    started = 'process_start_time_seconds{job="x"}'
    used, most = 'process_open_fds{job="x"}', 'process_max_fds{job="x"}'
    free, disk = (f'SeaweedFS_volumeServer_resource{{name="/data",type="{kind}"}}' for kind in ("avail", "all"))
    rules = 'prometheus_rule_evaluation_failures_total{rule_group="g"}'
    managers = "prometheus_notifications_alertmanagers_discovered"
    notified = 'alertmanager_notifications_failed_total{integration="webhook",reason="other"}'
    spans = 'otelcol_exporter_send_failed_spans_total{exporter="otlp/tempo"}'
    waiting = 'plinth_log_hours_waiting{product="p"%s}'
    reloaded = "prometheus_config_last_reload_successful"
    return {
        "ControllerDown": Case({"up": stays(1)}, {leads: stays(0)}),
        "ControllerLeadsNot": Case({leads: stays(0)}, {f'{leads}{{instance="a"}}': stays(0), leads: stays(1)}),
        "ControllerFails": Case({bad: grows(2)}, {bad: stays(3), good: grows(60)}),
        "LedgerDown": Case({ledger: stays(0)}, {ledger: stays(1)}),
        "PrefectDown": Case({"plinth_prefect_up": stays(0)}, {"plinth_prefect_up": stays(1)}),
        # Two controllers say the same, and it is one alert. Without a bucket nobody says anything.
        "LogArchiveBehind": Case(
            {waiting % f',instance="{name}"': stays(4) for name in "ab"},
            {waiting % "": stays(3)},
            also_silent=({waiting % "": f"9x20 {stays(2)}"}, {other: stays(1)}),
        ),
        "TargetDown": Case({up: stays(0)}, {up: stays(1)}),
        "TargetGone": Case(
            {up: "1x20", other: stays(1)}, {up: stays(0), other: stays(1)}, also_silent=({other: stays(1)},)
        ),
        "ProcessRestarts": Case({started: grows(60)}, {started: stays(10)}),
        "FilesRunOut": Case({used: stays(950), most: stays(1000)}, {used: stays(50), most: stays(1000)}),
        "ObjectStoreDiskLow": Case({free: stays(5), disk: stays(100)}, {free: stays(50), disk: stays(100)}),
        "RulesFail": Case({rules: grows(1)}, {rules: stays(2)}),
        "ConfigReloadFailed": Case({reloaded: stays(0)}, {reloaded: stays(1)}),
        "AlertmanagerMissing": Case({managers: stays(0)}, {managers: stays(1)}),
        "NotificationsFail": Case({notified: grows(1)}, {notified: stays(2)}),
        "CollectorLosesSpans": Case({spans: grows(1)}, {spans: stays(2)}),
    }


def level_case(product, level, *, of_requests, path, le):
    """Of a service level: nine of ten bad, against one of ten thousand; and one bad request in a quiet hour."""
    p = f'product="{product.name}"'
    request = f'plinth_requests_total{{{p},path="{path}",release="a",code="%s"}}'
    if not of_requests:
        if level.indicator == "freshness":
            age = f'plinth_source_age_seconds{{{p},source="s"}}'
            bound = level.threshold * 3600
            return Case({age: stays(bound * 2)}, {age: stays(bound / 2)}, "2h")
        gap = f"plinth_calibration_gap{{{p}}}"
        return Case({gap: stays(level.threshold * 2)}, {gap: stays(level.threshold / 2)}, "2h")
    if level.indicator == "availability":
        good, bad = request % "200", request % "500"
        return Case(
            {good: grows(100), bad: grows(900)}, {good: grows(10000), bad: grows(1)}, "2h",
            also_silent=({good: "0 1 2x400", bad: "0 0 1x400"},),
        )  # fmt: skip
    if level.indicator == "latency":
        every, fast = (f'plinth_request_seconds_{s}{{{p},path="{path}"%s}}' for s in ("count", "bucket"))
        every, fast = every % "", fast % f',le="{le}"'
        return Case(
            {every: grows(1000), fast: grows(100)}, {every: grows(10000), fast: grows(9999)}, "2h",
            also_silent=({every: "0 1 2 3x400", fast: "0 1 2x400"},),
        )  # fmt: skip
    rows, stale = f'plinth_predictions_total{{{p},release="a"}}', f'plinth_feature_rows_defaulted_total{{{p},view="v"}}'
    return Case(
        {rows: grows(1000), stale: grows(900)}, {rows: grows(10000), stale: grows(1)}, "2h",
        also_silent=({rows: "0 1 2x400", stale: "0 0 1x400"},),
    )  # fmt: skip
