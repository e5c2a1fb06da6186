"""The telemetry contract on running services: a real Prometheus with the rendered rules asks for every query.

Run here: the services of both products, the controller and the Prefect server, under traffic. Not made here, and so
written as the files they leave: a pipeline's run, a drift report, the record of an index build. Servers that do not run
here (SeaweedFS, Qdrant, Alertmanager, the collector, Loki, Tempo, Grafana) are known by their job's absence. The
compose suite checks the same on the whole stack after the demos.
"""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

import telemetry_contract as contract
from assistant_state import TOPICS, State, documents, question
from patience import PATIENCE
from plinth.assistants import freshness
from plinth.assistants.records import BuildRecord, SourceRecord, build_folder
from plinth.settings import Settings

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
import synthetic_state

HOME = synthetic_state.HOME
INFRA = HOME / "infra"
MODEL, ASSISTANT = "flight-delays", "docs-assistant"
PROMETHEUS = shutil.which("prometheus")
UNMADE = {
    "plinth_evaluation": "releases made for tests were evaluated by nobody",
    "plinth_log_lines_exported_total": "no collector runs here",
    "plinth_log_lines_dropped_total": "no collector runs here",
    "plinth_log_hours_waiting": "no bucket is here, and so no archive",
}


def write(path, document):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def run_record(folder, pipeline):
    """What a pipeline's run leaves (pipelines/execution.py)."""
    ended = datetime.now(UTC).isoformat()
    steps = [{"name": "one", "attempts": 1}]
    record = {"pipeline": pipeline, "finished_at": ended, "seconds": 3.0, "status": "completed", "steps": steps}
    write(folder / "runs" / f"{pipeline}-1" / "run.json", record)


def drift_report(folder, release):
    """The numbers of a drift report, as monitoring/latest.py keeps them."""
    features = [{"name": name, "status": "ok", "psi": 0.01} for name in ("carrier_code", "origin_code", "dest_code")]
    month = {
        "release": release, "labelled": 10, "auc": 0.7, "log_loss": 0.5, "mean_prediction": 0.2, "outcome_rate": 0.2,
    }  # fmt: skip
    report = {
        "made_at": time.time(), "release": release, "calibration": {"gap": 0.01}, "months": [month],
        "drift": {"bound": 0.2, "features": features, "score": {"status": "ok", "psi": 0.02}},
    }  # fmt: skip
    write(folder / "reports" / "drift.json", report)


def build_record(folder, index):
    """What stands beside an index build (assistants/records.py), of the product's own source."""
    now = freshness.stamp()
    source = SourceRecord(as_of=now, documents=10, chunks=20)
    record = BuildRecord(index=index, made_at=now, avg_len=12.0, sources={"repository": source})
    write(build_folder(folder, index.build) / "build.json", record.model_dump(mode="json"))


class Stack:
    """Both products, the controller and Prometheus, as processes."""

    def __init__(self, folder, free_port, prefect):
        self.state, self.processes = folder / "state", []
        self.ports = {MODEL: free_port(), ASSISTANT: free_port()}
        self.controller_port, self.prometheus_port = free_port(), free_port()
        self.env = {
            **{name: text for name, text in os.environ.items() if not name.startswith(("PLINTH_", "MLFLOW_"))},
            "PLINTH_STATE": str(self.state), "PLINTH_HOME": str(HOME), "PLINTH_MLFLOW_PORT": "1",
            "PLINTH_PREFECT_PORT": str(prefect), "PLINTH_CONTROLLER_PORT": str(self.controller_port),
            "PLINTH_SERVICE_PORTS": json.dumps(self.ports), "PLINTH_TRACES": "false",
        }  # fmt: skip
        self._fill()
        self.services = self._serve()
        self._start([sys.executable, "-P", "-m", "plinth.runtime.controller"], "controller")
        self._prometheus(folder)

    def _fill(self):
        synthetic_state.fill(self.state, trees=20)
        made = State(Settings(state=self.state, home=HOME, service_ports=self.ports))
        config = made.config(documents("heron"))
        build_record(self.state / "products" / ASSISTANT, config.index)
        made.promote(made.register(config))
        ledger = made.platform.ledger
        drift_report(self.state / "products" / MODEL, ledger.current(MODEL).digest)
        for name in (MODEL, ASSISTANT):
            for pipeline in made.platform.products.get(name).spec.pipelines:
                run_record(self.state / "products" / name, pipeline.name)
        ledger.close()

    def _serve(self):
        command = [sys.executable, "-m", "docs_assistant.service", "--port", str(self.ports[ASSISTANT])]
        model = synthetic_state.ServiceProcess(self.state, self.ports[MODEL], PLINTH_TRACES="false")
        assistant = synthetic_state.ServiceProcess(self.state, self.ports[ASSISTANT], command=command)
        self.processes += [model.process, assistant.process]
        return {MODEL: model.wait_ready(), ASSISTANT: assistant.wait_ready()}

    def _start(self, command, name):
        with (self.state / f"{name}.log").open("ab") as log:
            self.processes.append(subprocess.Popen(command, env=self.env, stdout=log, stderr=log, cwd=HOME))

    def _prometheus(self, folder):
        """As infra/prometheus/prometheus.yml has it, with these addresses and every second."""
        rules = folder / "rules"
        shutil.copytree(INFRA / "prometheus" / "rules", rules)
        for path in rules.glob("*.yml"):
            document = yaml.safe_load(path.read_text())
            for group in document["groups"]:
                group.pop("interval", None)
            path.write_text(yaml.safe_dump(document))
        ports = {**self.ports, "controller": self.controller_port, "prometheus": self.prometheus_port}
        jobs = [
            {"job_name": name, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]} for name, port in ports.items()
        ]
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "2s"},
            "rule_files": [f"{rules}/*.yml"], "scrape_configs": jobs,
        }  # fmt: skip
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.url = f"http://127.0.0.1:{self.prometheus_port}"
        self._start(
            [PROMETHEUS, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
             f"--web.listen-address=127.0.0.1:{self.prometheus_port}", "--enable-feature=exemplar-storage",
             "--log.level=warn"], "prometheus",
        )  # fmt: skip

    def ask(self, seconds):
        """A little of everything that users do, for so long."""
        bodies = [{"flights": [synthetic_state.as_json(one)]} for one in synthetic_state.flights(50)]
        until = time.monotonic() + seconds
        for i in itertools.count():
            if time.monotonic() > until:
                return
            assert self.services[MODEL].ask("POST", "/predict", bodies[i % 50])[0] == 200
            asked = {"question": question(TOPICS[i % len(TOPICS)])}
            assert self.services[ASSISTANT].ask("POST", "/ask", asked)[0] == 200
            time.sleep(0.2)

    def stop(self):
        for process in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.fixture(scope="module")
def stack(tmp_path_factory, free_port, prefect_platform):
    if PROMETHEUS is None:
        pytest.skip("no prometheus on this machine (Debian: prometheus)")
    made = Stack(tmp_path_factory.mktemp("contract"), free_port, prefect_platform.settings.prefect_port)
    try:
        made.ask(10)
        for product in (MODEL, ASSISTANT):
            assert contract.settled(made.url, f'plinth:product_cost:monthly{{product="{product}"}}')
            assert contract.settled(made.url, f'plinth:level_burn:rate1h{{product="{product}"}}')
        assert contract.settled(made.url, "plinth_prefect_up == 1")
        assert contract.settled(made.url, "plinth_controller_leads == 1")
        made.ask(5)
        yield made
    finally:
        made.stop()


def test_every_query_of_every_panel_alert_and_rule_is_answered(stack):
    failures = contract.unanswered(stack.url, infra=INFRA, unmade=UNMADE)
    assert not failures, "\n" + "\n".join(failures)


def test_a_query_of_what_nobody_emits_is_found(stack, tmp_path):
    """Else the test above would prove nothing."""
    shutil.copytree(INFRA, tmp_path / "infra", ignore=shutil.ignore_patterns("compose", "images"))
    path = tmp_path / "infra" / "grafana" / "dashboards" / "overview.json"
    path.write_text(path.read_text().replace("plinth_ledger_up", 'plinth_ledger_up{job=\\"nobody\\"}'))
    failures = contract.unanswered(stack.url, infra=tmp_path / "infra", unmade=UNMADE)
    assert [failure for failure in failures if "nobody" in failure], failures


def test_no_alert_fires_and_no_rule_fails_in_health(stack):
    server = contract.Server(stack.url)
    # Without an Alertmanager here that one alert is right.
    assert server.query('ALERTS{alertstate="firing",alertname!="AlertmanagerMissing"}') == []
    assert server.query("sum(prometheus_rule_evaluation_failures_total)")[0]["value"][1] == "0"


def test_what_is_recorded_is_what_was_asked(stack):
    server = contract.Server(stack.url)
    for product in (MODEL, ASSISTANT):
        left = server.query(f'plinth:level_budget:left_ratio{{product="{product}",level="availability"}}')
        assert [float(one["value"][1]) for one in left] == [1.0], "no request failed"
        cores = server.query(f'plinth:service_cores:rate1h{{product="{product}"}}')
        assert 0 < float(cores[0]["value"][1]) < 4
