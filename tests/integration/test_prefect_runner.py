"""What only a real server can show: that its history is complete, and what happens when it is not there."""

import os
import signal
import time

import httpx
import pytest

from patience import PATIENCE
from plinth.errors import Unavailable
from plinth.pipelines.prefect import PrefectRunner
from plinth.pipelines.step import artifact, step
from plinth.runtime import embedded


@step(version="1", cache=False)
def quick(number: int) -> int:
    return number


@step(version="1")
def kept(number: int) -> int:
    return number


def many(context, count: int) -> int:
    """Many quick steps."""
    artifact("story", markdown="# many")
    return sum(quick(number) for number in range(count))


def one(context) -> int:
    return kept(1)


@pytest.fixture
def runner(prefect_platform, tmp_path):
    settings = prefect_platform.settings
    return PrefectRunner(
        product="quick", state=tmp_path / "product", cache=tmp_path / "steps", ports=None,
        api_url=settings.prefect_api_url, home=settings.state_dir / "prefect",
    )  # fmt: skip


def task_runs(url, run_id, expected, patience=PATIENCE):
    """The task runs of a flow run; the server records them a moment after they happened."""
    until = time.monotonic() + patience
    found = []
    while time.monotonic() < until:
        found = []
        while True:
            body = {"flow_runs": {"id": {"any_": [run_id]}}, "limit": 200, "offset": len(found)}
            page = httpx.post(f"{url}/task_runs/filter", json=body).json()
            found += page
            if len(page) < 200:
                break
        if len(found) >= expected and all(item["state_type"] == "COMPLETED" for item in found):
            break
        time.sleep(0.5)
    return found


def test_the_server_keeps_a_record_of_each_of_200_quick_steps(runner, prefect_platform):
    result = runner.run(many, {"count": 200})
    assert result.output == sum(range(200))
    found = task_runs(prefect_platform.settings.prefect_api_url, result.run_id, 200)
    assert len(found) == 200
    assert {item["state_type"] for item in found} == {"COMPLETED"}


def test_the_run_is_seen_in_the_server_under_the_same_id_with_artifacts_and_logs(runner, prefect_platform):
    url = prefect_platform.settings.prefect_api_url
    result = runner.run(many, {"count": 1})
    flow_run = httpx.get(f"{url}/flow_runs/{result.run_id}").json()
    assert flow_run["state_type"] == "COMPLETED"
    assert flow_run["parameters"] == {"params": {"count": 1}}
    flow = httpx.get(f"{url}/flows/{flow_run['flow_id']}").json()
    assert flow["name"] == "quick.many"
    page = httpx.get(result.url, headers={"Accept": "text/html"}, follow_redirects=True)
    assert (page.status_code, page.headers["content-type"].partition(";")[0]) == (200, "text/html")
    of_run = {"flow_runs": {"id": {"any_": [result.run_id]}}}
    stored = httpx.post(f"{url}/artifacts/filter", json=of_run).json()
    assert [(item["key"], item["data"]) for item in stored] == [("story", "# many")]
    until = time.monotonic() + PATIENCE
    messages: list[str] = []
    while "run completed, 1 steps" not in messages and time.monotonic() < until:
        time.sleep(0.5)
        logs = httpx.post(f"{url}/logs/filter", json={"logs": {"flow_run_id": {"any_": [result.run_id]}}}).json()
        messages = [item["message"] for item in logs]
    assert "run completed, 1 steps" in messages


def test_a_skipped_step_is_seen_as_cached(runner, prefect_platform):
    runner.run(one)
    second = runner.run(one)
    found = task_runs(prefect_platform.settings.prefect_api_url, second.run_id, 1)
    assert [item["state_name"] for item in found] == ["Cached"]


def test_without_a_server_nothing_starts_and_the_hint_says_how(tmp_path, free_port):
    url = f"http://127.0.0.1:{free_port()}/api"
    runner = PrefectRunner(
        product="quick", state=tmp_path, cache=tmp_path, ports=None, api_url=url, home=tmp_path / "prefect"
    )
    with pytest.raises(Unavailable, match="no Prefect server answers") as info:
        runner.run(one)
    assert "plinth up" in info.value.hint
    assert not (tmp_path / "runs").exists()


@step(version="1", cache=False)
def slow(number: int) -> int:
    time.sleep(0.2)
    return number


def test_a_run_survives_the_kill_of_the_server_and_is_told_to_it_afterwards(runner, prefect_platform):
    def interrupted(context) -> int:
        total = slow(1)
        os.kill(embedded.status(prefect_platform).services[0].pid, signal.SIGKILL)
        return total + slow(2)

    result = runner.run(interrupted)
    assert (result.status, result.output) == ("completed", 3)
    url = prefect_platform.settings.prefect_api_url
    assert httpx.get(f"{url}/flow_runs/{result.run_id}", timeout=PATIENCE).json()["state_type"] == "COMPLETED"
    # The slot that could not be given back does not keep the product's next run from starting.
    assert runner.run(one).status == "completed"
