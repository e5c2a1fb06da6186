import json
import os
from types import SimpleNamespace

import pytest

from plinth.runtime import mlflow, prefect
from plinth.runtime.services import environment, product_service
from plinth.settings import Settings


@pytest.fixture
def settings(tmp_path):
    return Settings(
        home=tmp_path, state=tmp_path / "a folder", prefect_port=14200, mlflow_port=15001,
        service_ports={"flight-delays": 13001}, traces=False, actor="someone",
    )  # fmt: skip


def test_every_process_of_the_profile_reads_the_same_settings(settings, monkeypatch):
    for name in [name for name in os.environ if name.startswith("PLINTH_")]:
        monkeypatch.delenv(name)
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    read = Settings()
    assert read.model_dump() == settings.model_dump()


def test_the_servers_listen_where_the_settings_say_and_nowhere_else(settings):
    for service, port in ((prefect.server(settings), "14200"), (mlflow.service(settings), "15001")):
        assert service.argv[service.argv.index("--host") + 1] == "127.0.0.1"
        assert service.argv[service.argv.index("--port") + 1] == port
        assert service.health.startswith(f"http://127.0.0.1:{port}/")


def test_the_mlflow_server_runs_no_jobs_reads_no_pickles_and_knows_its_names_with_and_without_port(settings):
    env = mlflow.service(settings).env
    assert env["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert env["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
    assert env["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",") == [
        "127.0.0.1", "127.0.0.1:15001", "localhost", "localhost:15001"
    ]  # fmt: skip


def test_the_prefect_server_names_its_origins_and_calls_nobody(settings):
    env = prefect.server(settings).env
    assert env["PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS"] == "http://127.0.0.1:14200,http://localhost:14200"
    assert env["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert env["PREFECT_HOME"].startswith(str(settings.state_dir))


# The two parts of a product that its service is started from.
MANIFEST = SimpleNamespace(
    name="flight-delays", serving=SimpleNamespace(service="flight_delays.service:FlightDelays", port=3001)
)


def test_a_product_s_service_is_its_module_on_the_port_of_the_setting(settings):
    service = product_service(settings, MANIFEST)
    assert service.argv[2:] == ("-m", "flight_delays.service", "--host", "127.0.0.1", "--port", "13001")
    assert service.health == "http://127.0.0.1:13001/healthz"
    assert json.loads(service.setting.partition("JSON: ")[2].rstrip(")")) == {"flight-delays": 13001}
    assert product_service(Settings(home=settings.home), MANIFEST).port == 3001
