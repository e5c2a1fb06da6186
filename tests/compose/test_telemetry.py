"""The telemetry contract on the whole stack, after the parity suite has made traffic (tests/telemetry_contract.py)."""

import time

import pytest

import telemetry_contract as contract

LATER = "calibration"
"""What four days of the story cannot make: calibration is told from 10,000 outcomes on, about eleven days of them."""


@pytest.fixture(scope="module")
def prometheus(stack):
    """Address of the stack's Prometheus, once it has looked at everything a few times."""
    started = time.time()
    # What is scheduled has not all been due yet: once by hand.
    for words in (("docs-assistant", "refresh"), ("flight-delays", "watch")):
        ran = stack.plinth("pipeline", "run", *words)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    url = stack.url("PROMETHEUS_PORT")
    assert contract.settled(url, "plinth_controller_leads == 1", 90)
    assert contract.settled(url, "plinth_prefect_up == 1", 90)
    for pipeline in ("refresh", "watch"):
        ran = f'plinth_pipeline_last_success_timestamp_seconds{{pipeline="{pipeline}"}} > {started}'
        assert contract.settled(url, ran, 90), f"{pipeline} is not seen"
    time.sleep(30)  # two more looks at everything that a minute's run has changed: a rate needs both
    return url


def test_every_target_of_the_core_is_up(prometheus, stack):
    server = contract.Server(prometheus)
    end = time.monotonic() + 60
    while True:
        down = sorted(sample["metric"]["job"] for sample in server.query("up == 0"))
        if not down or time.monotonic() > end:
            break
        time.sleep(2)
    assert not down
    assert server.jobs() >= {"flight-delays", "docs-assistant", "controller", "prometheus", "alertmanager", "seaweedfs"}


def test_every_query_of_every_panel_alert_and_rule_is_answered(prometheus, stack):
    failures = contract.unanswered(prometheus, infra=stack.home / "infra")
    failures = [failure for failure in failures if LATER not in failure.lower()]
    assert not failures, "\n" + "\n".join(failures)


def test_alertmanager_hears_of_alerts(prometheus):
    found = contract.Server(prometheus).query("prometheus_notifications_alertmanagers_discovered")
    assert [sample["value"][1] for sample in found] == ["1"]
