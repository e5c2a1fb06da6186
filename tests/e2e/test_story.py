"""The demo's story, and the commands a user types after it."""

import itertools
import json
import math
import sqlite3
import time
import urllib.error
import urllib.request

import pytest

from plinth.ledger.audit import first_broken
from plinth.ledger.store import Ledger

pytestmark = pytest.mark.timeout(1800)
FLIGHT = {
    "carrier": "UA",
    "flight": 1545,
    "origin": "EWR",
    "dest": "IAH",
    "tailnum": "N14228",
    "scheduled_departure": "2014-01-01T10:15:00Z",
}


def predict(story, flights):
    body = json.dumps({"flights": flights}).encode()
    request = urllib.request.Request(f"{story.url}/predict", body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_the_data_is_whole_and_keeps_its_contracts(story):
    assert story.summary["rows_by_dataset"] == {"flights": 336_776, "weather": 26_115}
    assert story.summary["contract_violations"] == 0


def test_the_backtest_passes_the_bar(story):
    backtest = story.summary["backtest"]
    assert backtest["auc"] >= 0.74
    assert backtest["auc"] - backtest["baseline_auc"] >= 0.10
    by_month = [backtest[f"auc_2013_{month:02d}"] for month in range(6, 13)]
    assert min(by_month) >= 0.69


def test_every_flight_of_the_seven_months_was_predicted_over_http(story):
    months = story.summary["auc"]
    assert list(months) == [f"2013-{month:02d}" for month in range(6, 13)]
    assert 190_000 < story.summary["predictions"] < 205_000
    assert 0.9 * story.summary["predictions"] < story.summary["labels"] <= story.summary["predictions"] + 2_000


def test_what_was_served_is_as_good_as_the_backtest_said(story):
    """The back-test joins offline, the service reads online: the same release on the same flights."""
    first = story.summary["releases"][0]["digest"]
    for month, by_release in story.summary["auc"].items():
        if set(by_release) == {first}:
            assert by_release[first] == pytest.approx(
                story.summary["backtest"][f"auc_{month.replace('-', '_')}"], abs=0.005
            )
    assert first in story.summary["auc"]["2013-06"]


def test_an_alarm_led_to_a_retraining_that_its_gates_judged(story):
    retrained = story.summary["retrained"]
    assert retrained
    rolled_out = {rollout["release"]: rollout for rollout in story.summary["rollouts"]}
    for entry in retrained:
        assert (entry["release"] in rolled_out) == (not entry["failed_gates"])
        assert entry["promoted"] == (rolled_out.get(entry["release"], {}).get("phase") == "done")
        assert "calibration gap" in entry["reason"]
    for earlier, later in itertools.pairwise(retrained):
        assert later["day"] > earlier["day"]


def test_the_calibration_bound_is_the_one_that_may_sets(story):
    declared = story.json("product", "show", "flight-delays")["monitoring"]["calibration_gap"]
    assert declared == round(story.summary["backtest"]["calibration_gap_bound"], 2)


def test_the_pipeline_runs_of_the_story_are_traced(story):
    database = sqlite3.connect(story.state / "mlflow" / "mlflow.db")
    names = {name for (name,) in database.execute("SELECT DISTINCT name FROM spans")}
    database.close()
    assert "pipeline flight-delays.train" in names


def test_a_retrained_release_reached_all_traffic_by_a_rollout_on_evidence(story):
    rollouts = story.summary["rollouts"]
    done = [rollout for rollout in rollouts if rollout["phase"] == "done"]
    assert done, rollouts
    for rollout in done:
        assert rollout["started"] < rollout["ended"]
        assert rollout["steps"] == ["shadow", "10%", "50%", "100%"]
        assert {verdict["outcome"] for verdict in rollout["verdicts"]} <= {"pass", "not-applicable"}
        assert rollout["requests"]["shadow"] > 50
        assert rollout["requests"]["candidate"] > 400
    for rollout in rollouts:
        assert rollout["phase"] in {"done", "rolled-back"}, "none is left open"


def test_no_rollout_of_the_story_overlaps_a_retraining_or_another(story):
    """Of two changes at once nobody could say which one helped: an alarm waits."""
    for rollout in story.summary["rollouts"]:
        days = [entry["day"] for entry in story.summary["retrained"]]
        assert not [day for day in days if rollout["started"] < day < rollout["ended"]]
    for earlier, later in itertools.pairwise(story.summary["rollouts"]):
        assert earlier["ended"] <= later["started"]


def test_the_drills_release_was_found_and_rolled_back(story):
    drill = story.summary["drill"]
    assert drill["fault"] == "bad-model"
    assert drill["detected"]
    assert drill["rolled_back"]
    assert drill["seconds_to_recover"] < 60
    assert drill["decision_to_last_bad_answer_seconds"] <= 2.0
    assert 0 < drill["requests_harmed"] < drill["requests_total"]
    shown = next(
        r for r in story.json("release", "list", "flight-delays")["releases"] if r["digest"] == drill["release"]
    )
    assert shown["status"] == "drill"
    refused = story.plinth("release", "promote", "flight-delays", drill["release"])
    assert refused.returncode == 3
    assert "drill" in refused.stderr


def test_the_story_rolled_back_and_forward_without_losing_a_request(story):
    switches = story.summary["switches"]
    assert [switch["kind"] for switch in switches] == ["rolled back", "rolled forward"]
    assert story.summary["rolled_back_to"] == switches[0]["digest"]
    assert sum(switch["failed"] for switch in switches) == 0
    assert min(switch["requests"] for switch in switches) > 20


def test_the_retrained_release_that_serves_is_better_than_the_first_would_have_been(story):
    gain = story.summary["gain"]
    assert gain["served"]["rows"] == gain["first_release"]["rows"] > 10_000
    assert gain["served"]["log_loss"] < gain["first_release"]["log_loss"]


def test_status_names_every_service_as_healthy(story):
    status = story.json("status")
    assert status["profile"] == "embedded"
    services = {service["name"]: service for service in status["services"]}
    assert {"prefect", "mlflow", "flight-delays"} <= set(services)
    for service in services.values():
        assert set(service) == {"name", "url", "health", "pid", "restarts"}
        assert service["health"] == "healthy"


def test_a_prediction_carries_probability_release_and_request_id(story):
    code, answer = predict(story, [FLIGHT, {**FLIGHT, "carrier": "DL", "dest": "ATL", "tailnum": None}])
    assert code == 200
    serving = next(
        release for release in story.json("release", "list", "flight-delays")["releases"] if release["serving"]
    )
    assert answer["release"] == serving["digest"]
    assert answer["request_id"]
    assert all(0 < row["probability"] < 1 for row in answer["predictions"])


def test_plinth_predict_answers_as_the_service_does(story):
    done = story.plinth("predict", "flight-delays", *(f"{key}={value}" for key, value in FLIGHT.items()), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["predictions"][0]["flight_id"] == "UA1545-EWR-20140101T1015Z"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"carrier": "ZZ"}, "carrier"),
        ({"flight": float("nan")}, "flight"),
        ({"flight": "1545"}, "flight"),
        ({"scheduled_departure": "tomorrow"}, "scheduled_departure"),
        ({"color": "red"}, "color"),
    ],
)
def test_bad_input_gets_a_4xx_that_names_the_field(story, change, field):
    code, answer = predict(story, [{**FLIGHT, **change}])
    assert 400 <= code < 500
    assert field in json.dumps(answer) or math.isnan(change.get("flight", 0.0))
    assert predict(story, [FLIGHT])[0] == 200


def test_a_killed_service_comes_back(story):
    import os
    import signal

    before = {service["name"]: service for service in story.json("status")["services"]}["flight-delays"]
    os.kill(before["pid"], signal.SIGKILL)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        now = {service["name"]: service for service in story.json("status")["services"]}["flight-delays"]
        if now["pid"] not in (None, before["pid"]) and now["health"] == "healthy":
            break
        time.sleep(0.5)
    assert now["restarts"] == before["restarts"] + 1
    assert predict(story, [FLIGHT])[0] == 200


def test_a_release_walks_back_to_data_code_and_features(story):
    digest = story.summary["releases"][0]["digest"]
    shown = story.json("release", "show", digest[:12])
    assert shown["digest"] == digest
    assert {ref["role"] for ref in shown["lineage"]["data"]} == {"train", "validate", "evaluate"}
    assert [contract["id"] for contract in shown["lineage"]["contracts"]]
    assert shown["lineage"]["features"]["name"] == "flight_delays_v1"
    assert shown["lineage"]["code"]["commit"]
    assert shown["lineage"]["runs"]


def test_a_promotion_of_a_rejected_release_is_refused_by_policy(story):
    rejected = [release for release in story.summary["releases"] if release["status"] == "rejected"]
    if not rejected:
        pytest.skip("no candidate was rejected in this telling of the story")
    done = story.plinth("release", "promote", "flight-delays", rejected[0]["digest"])
    assert done.returncode == 3
    assert rejected[0]["failed_gates"][0] in done.stderr


def test_the_drift_report_reads_the_log_of_the_story(story, tmp_path):
    page = tmp_path / "drift.html"
    done = story.plinth(
        "drift", "report", "flight-delays", "--from", "2013-12-01", "--to", "2014-01-01", "--as-of", "2014-01-03",
        "--html", str(page), "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    serving = next(r for r in story.json("release", "list", "flight-delays")["releases"] if r["serving"])
    assert report["release"] == serving["digest"]
    assert report["drift"]["rows"] > 1_000  # it may have served for the last two weeks only, and a share of them
    assert "<svg" in page.read_text()


def test_the_scheduled_watch_leaves_a_report_for_the_dashboards(story):
    ran = story.json("pipeline", "run", "flight-delays", "watch")
    serving = next(r for r in story.json("release", "list", "flight-delays")["releases"] if r["serving"])
    kept = json.loads((story.state / "products" / "flight-delays" / "reports" / "drift.json").read_text())
    assert time.time() - kept["made_at"] < 120
    assert kept["release"] == ran["output"]["release"] == serving["digest"]
    assert kept["drift"]["rows"] == ran["output"]["predictions"] > 1_000


def test_the_model_has_a_card_and_its_versions_are_listed(story):
    card = story.plinth("model", "card", "flight-delays")
    assert card.returncode == 0, card.stderr
    for expected in ("air-operations-ml", "0.7", "flights"):
        assert expected in card.stdout
    assert len(story.json("model", "list")["versions"]) >= 1


def test_the_audit_chain_is_whole_after_the_story(story):
    ledger = Ledger(f"sqlite:///{story.state / 'ledger.db'}")
    entries = ledger.audit()
    ledger.close()
    assert first_broken(entries) is None
    assert {"release.register", "release.promote", "release.rollback"} <= {entry.action for entry in entries}
    assert {"rollout.start", "rollout.plan", "rollout.promoting", "rollout.done", "rollout.rolled-back"} <= {
        entry.action for entry in entries
    }
    assert {entry.actor for entry in entries} == {"tester", "controller"}


def test_a_second_run_of_the_pipeline_skips_what_has_not_changed(story):
    first = story.json("pipeline", "run", "flight-delays", "train", "--inline")
    second = story.json("pipeline", "run", "flight-delays", "train", "--inline")
    assert all(step["cached"] for step in second["steps"]), second["steps"]
    assert second["output"]["release"] == first["output"]["release"]


def test_the_backtest_after_the_story_gives_the_first_release_again(story):
    """What a second telling begins with: nothing is compared with a release that has seen the months judged."""
    again = story.json("pipeline", "run", "flight-delays", "train", "--inline")
    first = story.json("release", "show", story.summary["releases"][0]["digest"])
    now = story.json("release", "show", again["output"]["release"])
    assert again["output"]["accepted"]
    assert now["manifest"]["artifacts"] == first["manifest"]["artifacts"]


def test_prefect_kept_the_runs_of_the_story(story):
    port = story.env["PLINTH_PREFECT_PORT"]
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/task_runs/count", b"{}", {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert json.load(answer) >= 8


def test_doctor_finds_nothing_wrong_with_a_running_platform(story):
    done = story.plinth("doctor", "--json")
    assert done.returncode == 0, done.stdout


def test_peak_memory_and_the_stages_times_are_in_the_summary(story):
    assert 500 < story.summary["peak_rss_mb"] < 6_000
    assert {"services", "train", "replay", "watch", "retrain", "rollback", "drill", "total"} <= set(
        story.summary["seconds"]
    )
