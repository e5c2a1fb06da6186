"""The real embedded profile, through the command itself: both servers, the worker and a product's service."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import psutil
import pytest

from patience import PATIENCE
from plinth.errors import Unavailable
from plinth.runtime import leftovers
from plinth.runtime.ports import is_free

SERVICE = """
import argparse, http.server
parser = argparse.ArgumentParser()
parser.add_argument("--host"); parser.add_argument("--port", type=int)
args = parser.parse_args()
class Ok(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/healthz" else 404); self.end_headers()
http.server.HTTPServer((args.host, args.port), Ok).serve_forever()
"""
NAMES = ["prefect", "mlflow", "small-product", "pipelines", "controller"]


@pytest.fixture(scope="module")
def plinth(tmp_path_factory, free_port, make_product_manifest):
    """Runs `plinth ...` in a workspace of its own, and stops what it left."""
    home = tmp_path_factory.mktemp("workspace")
    product = home / "services" / "small-product"
    product.mkdir(parents=True)
    manifest = make_product_manifest("small-product", entry="small_product:train", service="small_product:Service")
    (product / "product.yaml").write_text(manifest)
    (product / "small_product.py").write_text(SERVICE)
    ports = {name: free_port() for name in ("prefect", "mlflow", "small-product", "controller")}
    env = {
        **{key: text for key, text in os.environ.items() if not key.startswith(("PLINTH_", "PREFECT_", "MLFLOW_"))},
        "PLINTH_HOME": str(home), "PLINTH_PREFECT_PORT": str(ports["prefect"]), "PYTHONPATH": str(product),
        "PLINTH_CONTROLLER_PORT": str(ports["controller"]),
        "PLINTH_MLFLOW_PORT": str(ports["mlflow"]), "HOME": str(home),
        "PLINTH_SERVICE_PORTS": json.dumps({"small-product": ports["small-product"]}),
    }  # fmt: skip

    def run(*words, code=0, **changed):
        done = subprocess.run(
            [sys.executable, "-m", "plinth.cli.main", *words], env={**env, **changed}, cwd=home,
            capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return json.loads(done.stdout) if "--json" in words else done.stdout + done.stderr

    run.ports, run.state = ports, home / ".plinth"
    try:
        yield run
    finally:
        leftovers.end_all(run.state)


def by_name(status):
    return {service["name"]: service for service in status["services"]}


def get(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
        return answer.status


def test_status_before_the_first_up_says_that_nothing_runs(plinth):
    status = plinth("status", "--json")
    assert status["profile"] == "embedded"
    assert [service["name"] for service in status["services"]] == NAMES
    assert {service["health"] for service in status["services"]} == {"stopped"}
    assert plinth("down", "--json") == {"ended": 0}


def test_up_starts_everything_and_the_addresses_answer(plinth):
    status = by_name(plinth("up", "--detach", "--json"))
    assert list(status) == NAMES
    assert {service["health"] for service in status.values()} == {"healthy"}
    assert set(status["mlflow"]) == {"name", "url", "health", "pid", "restarts"}
    for name in ("prefect", "mlflow"):
        assert get(status[name]["url"]) == 200
    assert get(f"http://127.0.0.1:{plinth.ports['controller']}/metrics") == 200
    assert "already running" in plinth("up", "--detach")
    assert by_name(plinth("status", "--json")) == status


def test_everything_beside_the_two_servers_idles_within_700_mib(plinth):
    total = 0
    for process in leftovers.find(plinth.state):
        if process.environ().get(leftovers.SERVICE) not in {"prefect", "mlflow"}:
            total += process.memory_info().rss
    # This workspace's service is a small one; flight-delays was measured at 130 MiB.
    assert total < (700 - 130) * 2**20


def test_each_service_is_one_process_so_that_a_kill_leaves_nothing_on_its_port(plinth):
    for service in plinth("status", "--json")["services"]:
        assert psutil.Process(service["pid"]).children() == []


def test_the_mlflow_server_refuses_other_host_names_and_the_prefect_server_other_origins(plinth):
    mlflow = f"http://127.0.0.1:{plinth.ports['mlflow']}/ajax-api/2.0/mlflow/experiments/search?max_results=1"
    assert get(mlflow) == 200
    assert get(mlflow, Host=f"localhost:{plinth.ports['mlflow']}") == 200
    with pytest.raises(urllib.error.HTTPError) as info:
        get(mlflow, Host="attacker.example")
    assert info.value.code == 403
    prefect = f"http://127.0.0.1:{plinth.ports['prefect']}/api/health"
    with urllib.request.urlopen(
        urllib.request.Request(prefect, headers={"Origin": "http://attacker.example"})
    ) as answer:
        assert "Access-Control-Allow-Origin" not in answer.headers


def test_the_mlflow_server_says_which_version_carries_an_alias(plinth):
    from plinth.models.mlflow import MlflowRegistry
    from plinth.models.mlflow_connection import MlflowConnection
    from plinth.models.mlflow_http import version_at

    server = f"http://127.0.0.1:{plinth.ports['mlflow']}"
    assert version_at(server, "fares", "serving", {}) is None
    folder = plinth.state / "mlflow"
    client = MlflowRegistry(MlflowConnection(f"sqlite:///{folder / 'mlflow.db'}"), folder / "artifacts")._client
    client.create_registered_model("fares")
    client.create_model_version("fares", "file:///nowhere")
    assert version_at(server, "fares", "serving", {}) is None
    client.set_registered_model_alias("fares", "serving", "1")
    assert version_at(server, "fares", "serving", {}) == "1"
    with pytest.raises(Unavailable):
        version_at(f"http://127.0.0.1:{plinth.ports['small-product']}", "fares", "serving", {})


def test_doctor_finds_nothing_in_the_way_and_names_each_service(plinth):
    report = plinth("doctor", "--json")
    assert report["errors"] == 0
    said = " ".join(finding["what"] for finding in report["findings"])
    assert all(f"{name} is healthy" in said for name in NAMES)


def test_logs_are_shown_and_a_wrong_name_is_bad_use(plinth):
    assert "spawned: 'mlflow'" in plinth("logs", "supervisord")
    assert "logs:" in plinth("logs", "nobody", code=2)


def test_a_port_in_use_is_refused_with_port_and_setting(plinth, tmp_path):
    taken = str(plinth.ports["prefect"])
    said = plinth("up", "--detach", PLINTH_STATE=str(tmp_path / "other"), code=1)
    assert f"port {taken} of prefect is in use by process" in said
    assert "PLINTH_PREFECT_PORT" in said


def test_every_service_survives_kill_9(plinth):
    before = by_name(plinth("status", "--json"))
    for service in before.values():
        os.kill(service["pid"], signal.SIGKILL)
    until = time.monotonic() + PATIENCE
    while True:
        after = by_name(plinth("status", "--json"))
        if all(item["health"] == "healthy" and item["pid"] != before[name]["pid"] for name, item in after.items()):
            break
        assert time.monotonic() < until, after
        time.sleep(1)
    assert {service["restarts"] for service in after.values()} == {1}
    assert {name: item["url"] for name, item in after.items()} == {name: item["url"] for name, item in before.items()}


def test_down_leaves_nothing_running_and_the_ports_free(plinth):
    assert "processes ended" in plinth("down")
    assert leftovers.find(plinth.state) == []
    assert all(is_free("127.0.0.1", port) for port in plinth.ports.values())
    assert {service["health"] for service in plinth("status", "--json")["services"]} == {"stopped"}
