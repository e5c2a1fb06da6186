"""The controller's page says what the ledger, the manifests and the files say, and no more."""

import json
import time
from pathlib import Path

import pytest

from plinth.core.manifests import parse_product
from plinth.errors import InvalidInput
from plinth.ledger.totals import Totals, totals
from plinth.runtime import log_archive, log_merge, platform_readings
from plinth.runtime.controller import Manifests
from plinth.runtime.platform_readings import Files, Runs, archive_readings, drift_readings, ledger_readings
from plinth.settings import Settings
from plinth.telemetry import metrics
from plinth.wiring import Platform

SERVICES = Path(__file__).parents[4] / "services"


@pytest.fixture
def platform(tmp_path):
    folder = tmp_path / "services" / "small"
    folder.mkdir(parents=True)
    text = (SERVICES / "flight-delays" / "product.yaml").read_text()
    (folder / "product.yaml").write_text(text.replace("name: flight-delays", "name: small"))
    return Platform(Settings(home=tmp_path, state=tmp_path / "state"))


def values(readings, metric):
    return {labels: value for found, labels, value in readings if found is metric}


def record(folder, number, **fields):
    run = folder / "runs" / f"run-{number}"
    run.mkdir(parents=True)
    about = {
        "pipeline": "train", "status": "completed", "seconds": 2.5, "finished_at": "2026-01-01T00:00:00.000+00:00",
        "steps": [{"attempts": 1}, {"attempts": 3}, {"attempts": 0}],
    }  # fmt: skip
    (run / "run.json").write_text(json.dumps({**about, **fields}))


def test_counters_of_the_ledger_begin_at_nothing_and_have_every_outcome(platform):
    readings = list(ledger_readings(platform))
    assert values(readings, metrics.RELEASES) == {("small",): 0}
    assert values(readings, metrics.ROLLOUTS_ENDED) == {("small", "done"): 0, ("small", "rolled-back"): 0}
    assert set(values(readings, metrics.EVENTS)) == {("small", kind) for kind in platform_readings.EVENTS}
    assert values(readings, metrics.ROLLOUT_PHASE) == {}


def test_the_ledgers_counts_are_told_by_product(platform, monkeypatch):
    found = Totals(
        releases={"small": 3}, running={("small", "waiting"): 1}, ended={("small", "done"): 2, ("gone", "done"): 1},
        pending={"small": 4}, audit=17, events={("small", "retrain-trigger"): 5},
        evaluations={"small": {"auc": 0.7}},
    )  # fmt: skip
    monkeypatch.setattr(platform_readings, "totals", lambda _ledger: found)
    readings = list(ledger_readings(platform))
    assert values(readings, metrics.APPROVALS_WAITING) == {("small",): 1}
    assert values(readings, metrics.ROLLOUT_PHASE) == {("small", "waiting"): 1}
    assert values(readings, metrics.ROLLOUTS_ENDED) == {
        ("small", "done"): 2, ("small", "rolled-back"): 0, ("gone", "done"): 1,
    }  # fmt: skip
    assert values(readings, metrics.EVALUATION) == {("small", "auc"): 0.7}
    assert values(readings, metrics.AUDIT_ENTRIES) == {(): 17}


def test_an_event_is_counted_in_the_ledger(platform):
    platform.ledger.record_event("small", "retrain-trigger", {})
    found = totals(platform.ledger)
    assert found.events == {("small", "retrain-trigger"): 1}


def test_events_that_are_counted_from_nothing_are_those_that_are_recorded():
    from plinth.assistants import freshness
    from plinth.governance import lineage
    from plinth.monitoring import trigger

    assert set(platform_readings.EVENTS) == {trigger.EVENT, freshness.EVENT, lineage.EVENT_KIND}


def test_a_manifest_tells_owner_objectives_and_budget(platform):
    readings = list(Files(platform, Manifests(platform))())
    ((labels, one),) = values(readings, metrics.PRODUCT_INFO).items()
    assert (labels[0], labels[3], one) == ("small", "model", 1)
    assert values(readings, metrics.OBJECTIVE)
    assert values(readings, metrics.BUDGET_MONTHLY)
    assert values(readings, metrics.CONTRACT_VIOLATIONS)


def test_a_manifest_that_does_not_fit_has_no_readings_and_stops_no_other(platform):
    def manifest(name):
        raise InvalidInput("no")

    assert list(Files(platform, manifest)()) == []


def test_runs_are_added_up_once_and_only_grow(platform, tmp_path):
    files = Files(platform, Manifests(platform))
    folder = platform.settings.product_dir("small")
    product = Manifests(platform)("small")
    record(folder, 1, pipeline=product.pipelines[0].name)
    record(folder, 2, pipeline=product.pipelines[0].name, status="failed", seconds=9.0,
           finished_at="2026-01-02T00:00:00.000+00:00")  # fmt: skip
    for _ in range(2):
        readings = list(files())
    key = "small", product.pipelines[0].name
    assert values(readings, metrics.PIPELINE_RETRIES)[key] == 4
    assert values(readings, metrics.PIPELINE_SECONDS) == {key: 9.0}
    assert values(readings, metrics.PIPELINE_TIME) == {key: 1767225600.0}
    for path in folder.glob("runs/*/run.json"):  # collected
        path.unlink()
    assert values(list(files()), metrics.PIPELINE_RETRIES)[key] == 4


def test_a_record_that_is_half_written_is_read_when_it_is_whole(tmp_path):
    runs = Runs()
    (tmp_path / "runs" / "run-1").mkdir(parents=True)
    (tmp_path / "runs" / "run-1" / "run.json").write_text('{"pipeline"')
    runs.look(tmp_path / "runs")
    assert runs.last == {}
    (tmp_path / "runs" / "run-1" / "run.json").unlink()
    (tmp_path / "runs" / "run-1").rmdir()
    record(tmp_path, 1)
    runs.look(tmp_path / "runs")
    assert runs.retries == {"train": 2}


def test_violations_are_those_of_batches_that_nobody_delivered_again(platform):
    folder = platform.settings.product_dir("small")
    for batch, count in (("2026-01", 2), ("2026-02.resolved", 5), (".2026-03.1.partial", 7)):
        (folder / "quarantine" / "flights" / batch).mkdir(parents=True)
        (folder / "quarantine" / "flights" / batch / "report.json").write_text(json.dumps({"violations": [{}] * count}))
    readings = list(Files(platform, Manifests(platform))())
    assert values(readings, metrics.CONTRACT_VIOLATIONS)[("small", "flights")] == 2


def test_the_last_drift_report_is_told_and_none_before_the_first(tmp_path):
    assert list(drift_readings("p", tmp_path)) == []
    report = {
        "made_at": 5.0, "release": "r",
        "drift": {
            "bound": 0.2, "features": [{"name": "speed", "status": "drift", "psi": 0.3}],
            "score": {"status": "ok", "psi": 0.1},
        },
        "calibration": {"gap": -0.02},
        "months": [
            {"release": "r", "labelled": 9, "auc": 0.7, "log_loss": None, "mean_prediction": 0.2, "outcome_rate": 0.1},
            {"release": "other", "labelled": 9, "auc": 0.1},
        ],
    }  # fmt: skip
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "drift.json").write_text(json.dumps(report))
    readings = list(drift_readings("p", tmp_path))
    assert values(readings, metrics.DRIFT_PSI) == {("p", "speed"): 0.3}
    assert values(readings, metrics.DRIFT_SCORE) == {("p",): 0.1}
    assert values(readings, metrics.CALIBRATION_GAP) == {("p",): -0.02}
    assert values(readings, metrics.QUALITY) == {
        ("p", "auc"): 0.7, ("p", "mean_prediction"): 0.2, ("p", "outcome_rate"): 0.1,
    }  # fmt: skip
    assert values(readings, metrics.REPORT_TIME) == {("p",): 5.0}


def test_a_drift_index_is_told_as_its_verdict_reads_it(tmp_path):
    """A few rows say nothing; what may be noise is told as the bound, which is not beyond it."""
    found = {"few": ("small-sample", 0.9), "noise": ("ok", 0.3), "calm": ("ok", 0.1), "off": ("drift", 0.4)}
    features = [{"name": name, "status": status, "psi": psi} for name, (status, psi) in found.items()]
    drift = {"bound": 0.2, "features": features, "score": {"status": "small-sample", "psi": 0.9}}
    (tmp_path / "reports").mkdir()
    report = {"made_at": 1.0, "release": "r", "drift": drift, "calibration": None, "months": []}
    (tmp_path / "reports" / "drift.json").write_text(json.dumps(report))
    readings = list(drift_readings("p", tmp_path))
    assert {labels[1]: value for labels, value in values(readings, metrics.DRIFT_PSI).items()} == {
        "noise": 0.2, "calm": 0.1, "off": 0.4,
    }  # fmt: skip
    assert values(readings, metrics.DRIFT_SCORE) == {}


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"drift": {"features": [{"name": "a", "psi": null}]}, "made_at": 5}']
)
def test_a_drift_report_that_is_not_one_is_too_old_rather_than_the_end_of_the_page(tmp_path, text):
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "drift.json").write_text(text)
    assert list(drift_readings("p", tmp_path)) == [(metrics.REPORT_TIME, ("p",), 0)]


def test_a_record_of_a_run_that_is_not_one_hides_no_other(tmp_path):
    record(tmp_path, 1, finished_at="yesterday")
    record(tmp_path, 2)
    runs = Runs()
    runs.look(tmp_path / "runs")
    assert list(runs.success) == ["train"]


def test_an_assistants_builds_are_counted(platform):
    product = parse_product((SERVICES / "docs-assistant" / "product.yaml").read_text(), "product.yaml")
    build = platform.settings.product_dir("small") / "builds" / "abc"
    build.mkdir(parents=True)
    (build / "build.json").write_text("{}")
    readings = list(Files(platform, lambda name: product)())
    assert values(readings, metrics.INDEX_BUILDS) == {("small",): 1}
    assert values(readings, metrics.CONTRACT_VIOLATIONS) == {}


# The archive of the logs. Only names are looked at, so empty files do; the bucket is never asked.

NOON = 1_769_860_800
"""31 January 2026."""


@pytest.fixture
def archived(platform):
    """The same with a bucket, and a second product."""
    home = platform.settings.home
    (home / "services" / "other").mkdir()
    (home / "services" / "other" / "product.yaml").write_text("name: other")
    return Platform(
        Settings(home=home, state=home / "state", object_store="s3://plinth", object_endpoint="http://[::1]:9")
    )


def write_hours(platform, product, log, *hours):
    """A file of each hour after noon; returns the log's folder."""
    folder = platform.settings.product_dir(product) / log
    for hour in hours:
        path = folder / "date=2026-01-31" / f"part-{(NOON + 3600 * hour) * 10**9}-1-1.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def waiting(platform):
    return {
        product: value for (product,), value in values(archive_readings(platform), metrics.LOG_HOURS_WAITING).items()
    }


def test_without_a_bucket_nothing_waits_for_one(platform):
    write_hours(platform, "small", "inference", 0)
    assert list(archive_readings(platform)) == []


def test_closed_hours_of_all_logs_wait_and_none_is_told_as_0(archived):
    assert waiting(archived) == {"other": 0, "small": 0}
    write_hours(archived, "small", "inference", 0, 1)
    write_hours(archived, "small", "requests", 1)
    write_hours(archived, "gone", "answers", 0)  # a product that left its logs
    write_hours(archived, "other", "answers", int((time.time() - NOON) // 3600))  # an hour that is not over
    assert waiting(archived) == {"gone": 1, "other": 0, "small": 3}


@pytest.mark.parametrize(("text", "count"), [("{}", 2), ("{", 2), ("[]", 2), ('{"20260131T12": {}}', 2), (None, 1)])
def test_what_is_in_the_bucket_does_not_wait_and_without_a_list_of_it_everything_does(archived, text, count):
    folder = write_hours(archived, "small", "inference", 0, 1)
    files = [f"{path.parent.name}/{path.name}" for path in folder.glob("*/*.parquet")]
    known = {"20260131T12": {"digest": "d", "size": 1, "files": files}}
    (folder / ".archive.json").write_text(json.dumps(known) if text is None else text)
    assert waiting(archived)["small"] == count


def test_a_log_whose_list_cannot_be_read_keeps_no_other_from_being_looked_after(archived):
    folder = write_hours(archived, "other", "inference")
    folder.mkdir(parents=True)
    (folder / ".archive.json").write_text("{")
    write_hours(archived, "small", "inference", 0)
    assert log_archive.due(archived)


@pytest.mark.parametrize(
    ("error", "told"), [(FileNotFoundError, {"other": 1, "small": 2}), (PermissionError, {"other": 1})]
)
def test_a_log_that_vanishes_has_nothing_and_one_that_cannot_be_looked_at_hides_no_other_product(
    archived, monkeypatch, error, told
):
    for product, log, hours in (
        ("small", "inference", (0, 1)),
        ("small", "requests", (1,)),
        ("other", "answers", (0,)),
    ):
        write_hours(archived, product, log, *hours)
    listed = log_merge.partitions

    def partitions(folder):
        if folder.name == "requests":
            raise error(2, "no", str(folder))
        return listed(folder)

    monkeypatch.setattr(log_merge, "partitions", partitions)
    assert waiting(archived) == told


def test_a_partition_that_vanishes_while_it_is_looked_at_has_no_hours(archived, monkeypatch):
    folder = write_hours(archived, "small", "requests", 0)
    listed = log_merge.partitions
    monkeypatch.setattr(log_merge, "partitions", lambda path: [*listed(path), folder / "generation=1"])
    assert waiting(archived)["small"] == 1
