"""The flight-delays service as a process of its own, over HTTP, on a state made without its pipeline."""

import importlib.util
import json
import signal
import sys
import threading
import time
import urllib.request
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from flight_delays import vector
from patience import PATIENCE
from plinth.cli import predict as predict_command
from plinth.cli.command import Groups
from plinth.cli.output import Output
from plinth.errors import InvalidInput, Unavailable
from plinth.features.readplan import ReadPlan
from plinth.ledger.store import Ledger
from plinth.settings import Settings, find_home

HOME = find_home(Path(__file__).parent)


def load_synthetic():
    spec = importlib.util.spec_from_file_location("synthetic_state", HOME / "tests" / "bench" / "synthetic_state.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


synthetic = load_synthetic()


Service = synthetic.ServiceProcess


@pytest.fixture(scope="module")
def models():
    """Two small models: (booster, ONNX bytes)."""
    return synthetic.make_model(12, seed=1), synthetic.make_model(12, seed=2)


@pytest.fixture(scope="module")
def make_state(models):
    def make(folder):
        folder.mkdir(exist_ok=True)
        settings = Settings(state=folder)
        store = settings.product_dir(synthetic.PRODUCT) / "online" / "online.db"
        synthetic.write_online_store(store, synthetic.flights(40))
        synthetic.release(settings, models[0][1])
        return settings

    return make


@pytest.fixture(scope="module")
def running(tmp_path_factory, free_port, make_state):
    state = tmp_path_factory.mktemp("service")
    make_state(state)
    service = Service(state, free_port())
    yield service.wait_ready()
    service.stop()


def as_request(flights):
    return {"flights": [synthetic.as_json(flight) for flight in flights]}


GOOD = synthetic.as_json(synthetic.flights(1)[0])


def test_served_probabilities_equal_the_model_on_the_stores_features(running, models):
    flights = synthetic.flights(40)
    reader = ReadPlan.from_dict(synthetic.read_plan()).open(
        running.state / "products" / "flight-delays" / "online" / "online.db"
    )
    block = reader.read(synthetic.join_keys(flights), np.array([f.prediction_epoch for f in flights]))
    assert not block.status.any()
    expected = models[0][0].predict(vector.assemble(flights, block.values))
    status, answer, _ = running.ask("POST", "/predict", as_request(flights))
    assert status == 200
    assert [row["flight_id"] for row in answer["predictions"]] == [flight.flight_id for flight in flights]
    assert [row["probability"] for row in answer["predictions"]] == pytest.approx(expected, abs=1e-5)
    singly = [running.ask("POST", "/predict", as_request([f]))[1]["predictions"][0]["probability"] for f in flights[:5]]
    assert singly == pytest.approx(expected[:5], abs=1e-5)


def test_a_flight_without_feature_rows_is_served_by_defaults_and_flagged(running):
    status, answer, _ = running.ask("POST", "/predict", {"flights": [{**GOOD, "tailnum": None, "flight": 9999}]})
    assert status == 200
    assert set(answer["predictions"][0]["defaulted"]) == {"line_history", "aircraft_last_leg"}
    assert "missing:aircraft_last_leg" in answer["predictions"][0]["flags"]


def test_old_feature_rows_are_flagged_as_stale(running):
    flight = {**GOOD, "scheduled_departure": "2013-06-20T09:15:00Z"}
    _, answer, _ = running.ask("POST", "/predict", {"flights": [flight]})
    assert "stale:origin_weather" in answer["predictions"][0]["flags"]


def test_feature_rows_from_the_future_are_not_used(running):
    flight = {**GOOD, "scheduled_departure": "2013-05-01T09:15:00Z"}
    _, answer, _ = running.ask("POST", "/predict", {"flights": [flight]})
    assert "future:origin_weather" in answer["predictions"][0]["flags"]
    assert len(answer["predictions"][0]["defaulted"]) == len(synthetic.read_plan()["views"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("carrier", "XX"), ("carrier", "UA\x00"), ("carrier", 7), ("carrier", None), ("carrier", ["UA"]),
        ("carrier", "\ud800"), ("origin", "LAX"), ("origin", "ewr"), ("dest", "ZZZ"), ("dest", ""),
        ("flight", "NaN"), ("flight", float("nan")), ("flight", float("inf")), ("flight", float("-inf")),
        ("flight", 1.5), ("flight", True), ("flight", 0), ("flight", 10**40), ("flight", "1545"), ("flight", None),
        ("tailnum", 5), ("tailnum", "N1\x00"), ("tailnum", "n14228"), ("tailnum", "N" * 500), ("tailnum", "\udfff"),
        ("tailnum", {}), ("scheduled_departure", "yesterday"), ("scheduled_departure", "2013-06-01T09:15:00"),
        ("scheduled_departure", "2013-06-01"), ("scheduled_departure", 1370077200),
        ("scheduled_departure", "2013-13-01T09:15:00Z"), ("scheduled_departure", "0001-01-01T00:00:00+23:59"),
        ("scheduled_departure", "9999-12-31T23:59:59-23:59"), ("scheduled_departure", float("nan")),
    ],
)  # fmt: skip
def test_a_value_that_does_not_fit_is_a_422_that_names_its_field(running, field, value):
    status, answer, _ = running.ask("POST", "/predict", {"flights": [GOOD, {**GOOD, field: value}]})
    assert status == 422
    assert answer["error"]["where"] == f"flights[1].{field}"
    assert answer["error"]["next"]


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({}, "flights"), ([], "body"), ({"flights": []}, "flights"), ({"flights": GOOD}, "flights"),
        ({"flights": [GOOD], "extra": 1}, "body"), ({"flights": [{**GOOD, "late": 1}]}, "flights[0]"),
        ({"flights": [GOOD] * 513}, "flights"), ({"flights": [GOOD, 3]}, "flights[1]"),
        ({"flights": [{k: v for k, v in GOOD.items() if k != "dest"}]}, "flights[0].dest"),
        ({"flights": [GOOD], "\ud800": 1}, "body"),
    ],
)  # fmt: skip
def test_a_body_that_does_not_fit_is_a_422_that_says_where(running, body, where):
    status, answer, _ = running.ask("POST", "/predict", body)
    assert (status, answer["error"]["where"]) == (422, where)


def test_the_largest_batch_is_served(running):
    status, answer, _ = running.ask("POST", "/predict", {"flights": [GOOD] * 512})
    assert status == 200
    assert len(answer["predictions"]) == 512


def test_the_openapi_examples_work_and_the_page_needs_no_other_host(running):
    _, document, _ = running.ask("GET", "/openapi.json")
    media = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    status, answer, _ = running.ask("POST", "/predict", media["example"])
    assert status == 200
    schema = document["paths"]["/predict"]["post"]["responses"]["200"]["content"]["application/json"]
    assert set(answer) == set(schema["example"]) == set(schema["schema"]["required"])
    status, page, headers = running.ask("GET", "/")
    assert status == 200
    assert "http" not in page
    assert "default-src 'none'" in headers["Content-Security-Policy"]


def test_no_route_of_the_framework_can_be_reached(running):
    for path in ("/schema.json", "/docs.json", "/livez", "/static_content/index.css", "/rpc"):
        assert running.ask("GET", path)[0] == 404
        assert running.ask("POST", path, b"", {"Content-Type": "application/vnd.bentoml+pickle"})[0] == 404


def test_the_request_id_is_in_the_answer_the_log_and_the_inference_log(running):
    status, answer, headers = running.ask("POST", "/predict", {"flights": [GOOD]}, {"X-Request-ID": "follow-me-1"})
    assert (status, answer["request_id"], headers["X-Request-ID"]) == (200, "follow-me-1", "follow-me-1")
    assert running.ask("POST", "/inference-log/flush")[0] == 200
    files = list(running.state.glob("products/flight-delays/inference/date=2013-06-01/*.parquet"))
    rows = [row for file in files for row in pq.read_table(file, partitioning=None).to_pylist()]
    (row,) = [row for row in rows if row["request_id"] == "follow-me-1"]
    assert row["release"] == answer["release"]
    assert row["score"] == pytest.approx(answer["predictions"][0]["probability"])
    assert row["entity_id"] == answer["predictions"][0]["flight_id"]
    assert set(vector.FEATURES) <= set(row)
    deadline = time.monotonic() + PATIENCE
    while not any(line.get("request_id") == "follow-me-1" for line in running.lines()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_metrics_count_what_was_served(running):
    def value(name):
        text = running.ask("GET", "/metrics")[1]
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name + "{"))

    before = value("plinth_predictions_total")
    running.ask("POST", "/predict", {"flights": [GOOD] * 7})
    assert value("plinth_predictions_total") == before + 7
    assert value("plinth_release_generation") == 1


def call_command(running, *argv, monkeypatch, capsys):
    parser = ArgumentParser()
    predict_command.register(Groups(parser))
    monkeypatch.setenv("PLINTH_SERVICE_PORTS", json.dumps({"flight-delays": running.port}))
    monkeypatch.setenv("PLINTH_HOME", str(HOME))
    args = parser.parse_args(["predict", *argv])
    args.handler(args, Output(json_mode=args.json))
    return capsys.readouterr().out


def test_the_command_asks_by_fields_by_file_and_by_example(running, tmp_path, monkeypatch, capsys):
    fields = [f"{key}={value}" for key, value in GOOD.items()]
    call = {"monkeypatch": monkeypatch, "capsys": capsys}
    one = json.loads(call_command(running, "flight-delays", *fields, "--json", "--request-id", "cli-1", **call))
    assert one["request_id"] == "cli-1"
    (tmp_path / "flights.json").write_text(json.dumps([GOOD, GOOD]))
    many = json.loads(
        call_command(running, "flight-delays", "--file", str(tmp_path / "flights.json"), "--json", **call)
    )
    assert [row["probability"] for row in many["predictions"]] == [one["predictions"][0]["probability"]] * 2
    assert "probability" in call_command(running, "flight-delays", "--example", **call)


def test_the_command_passes_the_services_error_on(running, monkeypatch, capsys):
    call = {"monkeypatch": monkeypatch, "capsys": capsys}
    with pytest.raises(InvalidInput) as caught:
        call_command(running, "flight-delays", "carrier=UA", **call)
    assert caught.value.where == "flights[0].flight"
    with pytest.raises(InvalidInput):
        call_command(running, "flight-delays", **call)


def test_the_command_says_when_the_service_is_not_up(running, free_port, monkeypatch, capsys):
    class Nobody:
        port = free_port()

    with pytest.raises(Unavailable, match="plinth up"):
        call_command(Nobody, "flight-delays", "--example", monkeypatch=monkeypatch, capsys=capsys)


def test_a_second_service_on_the_same_port_is_refused_with_the_settings_name(running):
    second = Service(running.state, running.port)
    assert second.process.wait(timeout=PATIENCE) == 1
    assert "PLINTH_SERVICE_PORTS" in running.log.read_text()


def test_a_new_release_is_taken_over_without_dropping_a_request(tmp_path, free_port, make_state, models):
    settings = make_state(tmp_path)
    service = Service(tmp_path, free_port())
    try:
        service.wait_ready()
        seen, failures, stop = [], [], threading.Event()

        def load():
            while not stop.is_set():
                try:
                    status, answer, _ = service.ask("POST", "/predict", {"flights": [GOOD]})
                    seen.append(
                        (answer["release"], answer["predictions"][0]["probability"]) if status == 200 else status
                    )
                except OSError as error:
                    failures.append(error)

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        new = synthetic.release(settings, models[1][1], number=2)
        deadline = time.monotonic() + PATIENCE
        while service.ask("GET", "/readyz")[1]["release"] != new and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        stop.set()
        for thread in threads:
            thread.join()
        assert failures == []
        assert all(isinstance(item, tuple) for item in seen)
        by_release = dict(seen)
        assert len(by_release) == 2
        assert seen[-1][0] == new
        assert len(set(seen)) == 2, "a digest never answered with another release's score"
    finally:
        service.stop()


def test_sigterm_writes_the_rest_of_the_inference_log(tmp_path, free_port, make_state):
    make_state(tmp_path)
    service = Service(tmp_path, free_port()).wait_ready()
    for _ in range(5):
        assert service.ask("POST", "/predict", {"flights": [GOOD] * 3})[0] == 200
    service.stop()
    files = list(tmp_path.glob("products/flight-delays/inference/*/*.parquet"))
    assert sum(pq.read_metadata(file).num_rows for file in files) == 15


def test_kill_9_leaves_no_orphan_and_the_port_can_be_taken_again(tmp_path, free_port, make_state):
    make_state(tmp_path)
    port = free_port()
    service = Service(tmp_path, port).wait_ready()
    assert psutil.Process(service.process.pid).children(recursive=True) == []
    assert service.stop(signal.SIGKILL) == -signal.SIGKILL
    again = Service(tmp_path, port).wait_ready()
    again.stop()


def test_bentoml_serve_serves_the_same(tmp_path, free_port, make_state):
    make_state(tmp_path)
    port = free_port()
    command = [
        str(Path(sys.executable).with_name("bentoml")), "serve", "flight_delays.service:FlightDelays",
        "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    service = Service(tmp_path, port, command=command, BENTOML_DO_NOT_TRACK="true")
    try:
        service.wait_ready()
        status, answer, _ = service.ask("POST", "/predict", {"flights": [GOOD]})
        assert status == 200
        assert answer["predictions"][0]["probability"] > 0
    finally:
        children = psutil.Process(service.process.pid).children(recursive=True)
        service.stop()
        psutil.wait_procs(children, timeout=PATIENCE)
        assert not [child for child in children if child.is_running()]


def test_a_requests_trace_arrives_in_mlflow_with_its_request_id(
    tmp_path, free_port, make_state, mlflow_server, monkeypatch
):
    make_state(tmp_path)
    service = Service(
        tmp_path, free_port(), PLINTH_TRACES="true", PLINTH_TRACE_SAMPLE="1", PLINTH_MLFLOW_SERVER=mlflow_server.url,
        PLINTH_MLFLOW_USERNAME=mlflow_server.user, PLINTH_MLFLOW_PASSWORD=mlflow_server.password,
    )  # fmt: skip
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", mlflow_server.user)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", mlflow_server.password)
    try:
        service.wait_ready()
        caller = f"00-{'ab' * 16}-{'cd' * 8}-01"
        service.ask("POST", "/predict", {"flights": [GOOD]}, {"X-Request-ID": "traced-1", "traceparent": caller})
        import mlflow

        client = mlflow.MlflowClient(mlflow_server.url)
        deadline = time.monotonic() + PATIENCE
        found = []
        while not found and time.monotonic() < deadline:
            time.sleep(0.3)
            experiment = client.get_experiment_by_name("flight-delays")
            if experiment is not None:
                found = list(client.search_traces(locations=[experiment.experiment_id]))
        (trace,) = found
        spans = {span.name: span for span in trace.data.spans}
        assert set(spans) == {"predict flight-delays", "parse", "features", "score", "answer"}
        assert spans["predict flight-delays"].attributes["plinth.request_id"] == "traced-1"
        assert "ab" * 16 in trace.info.trace_id
        logged = [line for line in service.lines() if line.get("request_id") == "traced-1"]
        assert logged[0]["trace_id"] == "ab" * 16
    finally:
        service.stop()


def test_without_a_release_the_service_runs_and_says_why_it_is_not_ready(tmp_path, free_port, models):
    settings = Settings(state=tmp_path)
    Ledger(settings.database_url).releases("flight-delays")
    synthetic.write_online_store(settings.product_dir("flight-delays") / "online" / "online.db", synthetic.flights(1))
    service = Service(tmp_path, free_port())
    try:
        _wait_for(f"http://127.0.0.1:{service.port}/healthz")
        status, answer, _ = service.ask("GET", "/readyz")
        assert (status, answer["release"]) == (503, None)
        assert "promoted" in answer["reasons"][0]
        assert service.ask("POST", "/predict", {"flights": [GOOD]})[0] == 503
        synthetic.release(settings, models[0][1])
        service.wait_ready()
        assert service.ask("POST", "/predict", {"flights": [GOOD]})[0] == 200
    finally:
        service.stop()


def _wait_for(url):
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                answer.read()
            return
        except OSError:
            assert time.monotonic() < deadline, url
            time.sleep(0.2)
