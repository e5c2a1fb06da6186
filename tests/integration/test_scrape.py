"""Prometheus scrapes services and a controller as compose has it: by token, every metric has series, exemplars link."""

import http.client
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import yaml

from assistant_workspace import PRODUCT as ASSISTANT
from assistant_workspace import begin, environment, make_workspace
from bench import synthetic_state
from patience import PATIENCE
from plinth.serving.tokens import Credentials
from plinth.telemetry import metrics

MODEL = "flight-delays"
INFRA = Path(__file__).parents[2] / "infra" / "prometheus"
KEY, TOKEN = "k" * 40, "scrape-token-of-a-test"
TRACE = "c" * 32
CALLER = f"00-{TRACE}-{'d' * 16}-01"

NOT_DONE_HERE = {
    metrics.DRIFT_PSI: "no drift report is made", metrics.DRIFT_SCORE: "no drift report is made",
    metrics.CALIBRATION_GAP: "no drift report is made", metrics.QUALITY: "no drift report is made",
    metrics.REPORT_TIME: "no drift report is made", metrics.EVALUATION: "the release was not evaluated",
    metrics.PIPELINE_RUNS: "no Prefect server runs", metrics.PIPELINE_RUNNING: "no Prefect server runs",
    metrics.PIPELINE_QUEUED: "no Prefect server runs", metrics.PIPELINE_SECONDS: "no pipeline ran",
    metrics.PIPELINE_TIME: "no pipeline ran", metrics.LOG_HOURS_WAITING: "no bucket is here",
}  # fmt: skip
"""Beside what is empty in health: what is left out of this stage."""


class Stage:
    """A model's service, an assistant's, a controller, and the Prometheus server that scrapes them."""

    def __init__(self, folder, models):
        self.folder, self.processes = folder, []
        self.ports = {name: synthetic_state.free_port() for name in (MODEL, ASSISTANT, "controller", "prometheus")}
        state = folder / "state"
        state.mkdir()
        synthetic_state.fill(state, trees=20)
        platform = make_workspace(folder / "home", models)
        begin(platform)
        given = {
            "PLINTH_TOKEN_KEY": KEY, "PLINTH_SCRAPE_TOKEN": TOKEN, "PLINTH_TRACES": "true", "PLINTH_TRACE_SAMPLE": "0",
            "PLINTH_MLFLOW_PORT": "1", "PLINTH_PREFECT_PORT": "1",
        }  # fmt: skip
        flights = {
            **os.environ, "PLINTH_STATE": str(state), "PLINTH_HOME": str(synthetic_state.HOME), **given,
            "PLINTH_CONTROLLER_PORT": str(self.ports["controller"]),
        }  # fmt: skip
        self.start("flight_delays.service", flights, synthetic_state.HOME, "--port", str(self.ports[MODEL]))
        self.start("plinth.runtime.controller", flights, synthetic_state.HOME)
        self.start(
            "docs_assistant.service", environment(platform, **given), folder / "home", "--port",
            str(self.ports[ASSISTANT]),
        )  # fmt: skip
        self.prometheus()

    def start(self, module, env, cwd, *words):
        with (self.folder / f"{module}.log").open("ab") as log:
            command = [sys.executable, "-P", "-m", module, *words]
            self.processes.append(subprocess.Popen(command, env=env, cwd=cwd, stdout=log, stderr=log))

    def prometheus(self):
        """With the configuration of compose, but for addresses, the token's file, and what does not run here."""
        config = yaml.safe_load((INFRA / "prometheus.yml").read_text())
        config["scrape_configs"] = [
            job for job in config["scrape_configs"] if job["job_name"] in {"products", "controller"}
        ]
        del config["alerting"], config["rule_files"]
        (self.folder / "token").write_text(TOKEN)
        products, controller = config["scrape_configs"]
        for job in (products, controller):
            job["authorization"]["credentials_file"] = str(self.folder / "token")
            job["scrape_interval"] = job["scrape_timeout"] = "1s"
        (self.folder / "products.yml").write_text(
            yaml.safe_dump([{"targets": [f"127.0.0.1:{self.ports[name]}"]} for name in (MODEL, ASSISTANT)])
        )
        controller["static_configs"][0]["targets"] = [f"127.0.0.1:{self.ports['controller']}"]
        (self.folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        command = [
            "prometheus", f"--config.file={self.folder / 'prometheus.yml'}", "--log.level=warn",
            f"--storage.tsdb.path={self.folder / 'tsdb'}", "--enable-feature=exemplar-storage",
            f"--web.listen-address=127.0.0.1:{self.ports['prometheus']}",
        ]  # fmt: skip
        with (self.folder / "prometheus.log").open("ab") as log:
            self.processes.append(subprocess.Popen(command, stdout=log, stderr=log))

    def ask(self, name, path, body=None, method="POST", **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[name], timeout=PATIENCE)
        headers = {"Content-Type": "application/json", **Credentials(KEY, "tester").headers(name), **headers}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def ready(self, name):
        until = time.monotonic() + PATIENCE
        while True:
            try:
                if self.ask(name, "/readyz", method="GET")[0] == 200:
                    return
            except OSError:
                pass
            assert time.monotonic() < until, [path.read_text()[-2000:] for path in self.folder.glob("*.log")]
            time.sleep(0.2)

    def query(self, path, **words):
        url = f"http://127.0.0.1:{self.ports['prometheus']}/api/v1/{path}?{urllib.parse.urlencode(words)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def settled(self, look):
        """What `look` gives as soon as it is something."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                found = look()
            except OSError:
                found = None
            if found or time.monotonic() > until:
                return found
            time.sleep(0.5)

    def close(self):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(timeout=PATIENCE)


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    if shutil.which("prometheus") is None:
        pytest.skip("no Prometheus server: apt-get install prometheus")
    stage = Stage(tmp_path_factory.mktemp("scrape"), None)
    try:
        for name in (MODEL, ASSISTANT):
            stage.ready(name)
        flights = [synthetic_state.as_json(flight) for flight in synthetic_state.flights(5)]
        for _ in range(5):
            assert stage.ask(MODEL, "/predict", {"flights": flights}, traceparent=CALLER)[0] == 200
            assert stage.ask(ASSISTANT, "/ask", {"question": "How heavy is a heron?"}, traceparent=CALLER)[0] == 200
        yield stage
    finally:
        stage.close()


def test_every_target_is_up_with_the_token(stage):
    def up():
        found = {one["metric"]["instance"]: one["value"][1] for one in stage.query("query", query="up")["result"]}
        return found if len(found) == 3 and set(found.values()) == {"1"} else None

    assert stage.settled(up) is not None, stage.query("targets")["activeTargets"]


def test_every_metric_has_series_but_those_that_say_why_not(stage):
    def missing():
        names = set(stage.query("label/__name__/values"))
        return {
            metric.name
            for metric in metrics.ALL
            if not {metric.name, f"{metric.name}_bucket"} & names
            and not metric.empty_in_health
            and metric not in NOT_DONE_HERE
        }

    stage.settled(lambda: not missing())
    assert missing() == set()


@pytest.mark.parametrize(
    "query",
    [
        'plinth_request_seconds_bucket{product="flight-delays",path="/predict"}',
        'plinth_request_seconds_bucket{path="/ask"}',
        'plinth_answer_seconds_bucket{step="total"}',
    ],
)
def test_latencies_link_to_the_traces_of_their_requests(stage, query):
    def traces():
        now = time.time()
        found = stage.query("query_exemplars", query=query, start=now - 600, end=now)
        return {exemplar["labels"]["trace_id"] for series in found for exemplar in series["exemplars"]}

    assert stage.settled(traces) == {TRACE}


def test_the_log_lines_of_traced_requests_name_their_trace(stage):
    for module in ("flight_delays.service", "docs_assistant.service"):
        lines = [
            json.loads(line) for line in (stage.folder / f"{module}.log").read_text().splitlines() if line[:1] == "{"
        ]
        asked = [line for line in lines if line.get("path") in {"/predict", "/ask"}]
        assert asked
        assert {line["trace_id"] for line in asked} == {TRACE}


def test_a_latency_objective_is_a_bucket_of_its_own(stage):
    look = 'plinth_request_seconds_bucket{product="flight-delays",path="/predict",le="0.1"}'
    assert stage.settled(lambda: stage.query("query", query=look)["result"])
