"""The controller's page of metrics, over real sockets: who may read it, and that nothing slow or broken holds it up."""

import http.client
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from pydantic import SecretStr

from patience import PATIENCE
from plinth.runtime.controller import Manifests
from plinth.runtime.exporter import AT_ONCE, Exporter
from plinth.settings import Settings
from plinth.telemetry import metrics
from plinth.wiring import Platform

TOKEN = "a-scrape-token"


class Prefect(BaseHTTPRequestHandler):
    """Counts what it is asked, as the server's API does. `server.code` may refuse."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, self.headers.get("Authorization"), asked))
        (kind, *_) = asked["flow_runs"]["state"]["type"]["any_"]
        body = str({"COMPLETED": 7, "RUNNING": 1, "SCHEDULED": 2}.get(kind, 0)).encode()
        self.send_response(self.server.code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def prefect():
    server = HTTPServer(("127.0.0.1", 0), Prefect)
    server.asked, server.code = [], 200
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def exported(tmp_path, make_product_manifest, free_port, prefect):
    folder = tmp_path / "services" / "small"
    folder.mkdir(parents=True)
    (folder / "product.yaml").write_text(make_product_manifest("small", entry="small:train", service="small:Service"))
    running = []

    def start(**changed):
        settings = Settings(
            **{
                "home": tmp_path, "state": tmp_path / "state", "controller_port": free_port(),
                "prefect_server": f"http://127.0.0.1:{prefect.server_port}", **changed,
            }
        )  # fmt: skip
        platform = Platform(settings)
        exporter = Exporter(platform, Manifests(platform), lambda: False)
        exporter.start()
        running.append(exporter)
        return exporter

    yield start
    for exporter in running:
        exporter.close()


def get(exporter, path="/metrics", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", exporter.port, timeout=PATIENCE)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body, answer.headers


def test_a_page_tells_of_ledger_manifests_files_and_prefect(exported, prefect):
    exporter = exported(prefect_auth=SecretStr("admin:pw"))
    exporter.metrics.tick("follows", 0.01)
    status, page, _ = get(exporter)
    assert status == 200
    assert 'plinth_pipeline_runs_total{pipeline="train",product="small",state="completed"} 7.0' in page
    assert 'plinth_pipeline_queued{pipeline="train",product="small"} 2.0' in page
    for line in ("plinth_ledger_up 1.0", "plinth_prefect_up 1.0", "plinth_controller_leads 0.0"):
        assert line in page
    assert 'plinth_controller_ticks_total{result="follows"} 1.0' in page
    assert "plinth_controller_tick_seconds_count 1.0" in page
    assert {auth for _, auth, _ in prefect.asked} == {"Basic YWRtaW46cHc="}
    assert {path for path, *_ in prefect.asked} == {"/api/flow_runs/count"}


def test_every_metric_of_the_platform_that_needs_no_history_is_there(exported):
    page = get(exported())[1]
    later = {
        metrics.DRIFT_PSI, metrics.DRIFT_SCORE, metrics.CALIBRATION_GAP, metrics.QUALITY, metrics.REPORT_TIME,
        metrics.EVALUATION, metrics.PIPELINE_SECONDS, metrics.PIPELINE_TIME, metrics.INDEX_BUILDS,
        metrics.ROLLOUT_PHASE, metrics.LOG_HOURS_WAITING,
    }  # fmt: skip
    missing = {metric.name for metric in metrics.PLATFORM if f"# TYPE {metric.name} " not in page}
    assert missing == {metric.name for metric in later}


def test_with_a_bucket_the_page_tells_what_waits_for_it_though_it_is_away(exported, free_port):
    page = get(exported(object_store="s3://plinth", object_endpoint=f"http://127.0.0.1:{free_port()}"))[1]
    assert 'plinth_log_hours_waiting{product="small"} 0.0' in page


def test_a_prefect_server_that_refuses_or_is_away_costs_its_own_series_only(exported, prefect):
    prefect.code = 401
    page = get(exported())[1]
    assert "plinth_prefect_up 0.0" in page
    assert "plinth_pipeline_runs_total{" not in page
    assert "plinth_ledger_up 1.0" in page


def test_a_ledger_that_cannot_be_read_is_down_and_the_page_is_there(exported, tmp_path):
    page = get(exported(ledger_url=f"sqlite:///{tmp_path}"))[1]
    assert "plinth_ledger_up 0.0" in page
    assert "plinth_releases{" not in page
    assert "plinth_product_info{" in page


def test_with_a_scrape_token_nobody_reads_without_it(exported):
    exporter = exported(scrape_token=SecretStr(TOKEN))
    assert get(exporter)[0] == 401
    assert get(exporter, Authorization="Bearer other")[0] == 401
    assert get(exporter, Authorization=f"Basic {TOKEN}")[0] == 401
    assert get(exporter, Authorization=f"Bearer {TOKEN}")[0] == 200
    assert get(exporter, "/healthz")[0] == 200


def test_a_foreign_host_is_refused_and_a_known_one_answered(exported):
    exporter = exported(allowed_hosts=("controller",))
    assert get(exporter, Host="evil.example")[0] == 403
    assert get(exporter, Host="controller:3010")[0] == 200


def test_only_the_two_paths_and_reading_are_answered(exported):
    exporter = exported()
    assert get(exporter, "/")[0] == 404
    connection = http.client.HTTPConnection("127.0.0.1", exporter.port, timeout=PATIENCE)
    connection.request("POST", "/metrics", body=b"x")
    assert connection.getresponse().status == 501
    connection.close()


def test_openmetrics_is_answered_to_who_asks(exported):
    headers = get(exported(), Accept="application/openmetrics-text;version=1.0.0")[2]
    assert headers["Content-Type"].startswith("application/openmetrics-text")


def test_a_port_in_use_costs_the_page_and_nothing_else(exported, caplog):
    first = exported()
    second = exported(controller_port=first.port)
    assert second.port is None
    assert "no page of metrics" in caplog.text
    second.close()
    assert get(first)[0] == 200


def test_clients_that_hold_connections_do_not_pile_up(exported):
    exporter = exported()
    held = [socket.create_connection(("127.0.0.1", exporter.port)) for _ in range(AT_ONCE + 4)]
    closed = 0
    for one in held[AT_ONCE:]:
        one.settimeout(5)
        closed += one.recv(1) == b""
    assert closed == 4
    for one in held:
        one.close()
    until = time.monotonic() + PATIENCE
    while True:
        try:
            assert get(exporter, "/healthz")[0] == 200
            return
        except (OSError, http.client.HTTPException):  # their threads have not noticed yet
            assert time.monotonic() < until
