"""MLflow's and Prefect's servers as containers run them: whoever shows no password gets nothing from any route."""

import base64
import concurrent.futures
import contextlib
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from pydantic import SecretStr

import processes
from patience import PATIENCE
from plinth.core.basic_auth import authorization
from plinth.errors import InvalidInput, RefusedByPolicy, Unavailable
from plinth.models.mlflow_connection import MlflowConnection
from plinth.models.mlflow_http import version_at

ROUTES = """
import json, os, sys, tempfile
os.environ |= {"_MLFLOW_SGI_NAME": "uvicorn", "MLFLOW_FLASK_SERVER_SECRET_KEY": "x"}
os.environ["MLFLOW_AUTH_ADMIN_PASSWORD"] = "y" * 20
folder = tempfile.mkdtemp()
from plinth.runtime.mlflow import application
app = application(f"sqlite:///{folder}/mlflow.db", "mlflow-artifacts:/", guarded=True)
from mlflow.server import app as flask_app
found = [(method, rule.rule) for rule in flask_app.url_map.iter_rules() for method in rule.methods]
def walk(routes, prefix=""):
    for route in routes:
        path = prefix + getattr(route, "path", "")
        found.extend((method, path) for method in getattr(route, "methods", None) or ())
        included = getattr(route, "routes", None) or getattr(getattr(route, "original_router", None), "routes", None)
        if included:
            context = getattr(route, "include_context", None)
            walk(included, prefix + (getattr(context, "prefix", "") or getattr(route, "path", "") or ""))
walk(app._app.routes)
print(json.dumps(found))
"""


def status(url, method="GET", headers=None, data=None):
    request = urllib.request.Request(url, method=method, headers=headers or {}, data=data)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def filled(path):
    return re.sub(r"[<{][^>}]*[>}]", "1", path)


@pytest.fixture(scope="module")
def mlflow_routes():
    done = subprocess.run([sys.executable, "-c", ROUTES], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return sorted({(method, filled(path)) for method, path in json.loads(done.stdout.splitlines()[-1])})


def test_no_route_of_mlflow_answers_without_a_password_but_its_health(mlflow_server, mlflow_routes):
    assert len(mlflow_routes) > 300
    assert {"/v1/traces", "/api/2.0/mlflow/runs/create", "/graphql"} <= {path for _, path in mlflow_routes}
    extra = [
        ("GET", path) for path in ("/static/x", "/healthy", "/health/x", "//health", "/favicon.ico", "/no-such-route")
    ]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        codes = pool.map(lambda route: status(mlflow_server.url + route[1], route[0]), [*mlflow_routes, *extra])
        answers = dict(zip([*mlflow_routes, *extra], codes, strict=True))
    opened = {route for route, code in answers.items() if code != 401}
    assert opened == {("GET", "/health"), ("HEAD", "/health")}


@pytest.mark.parametrize(
    "header", ["Basic", "Basic !", "Bearer x", "Basic " + base64.b64encode(b"admin:wrong").decode()]
)
def test_a_wrong_password_is_none(mlflow_server, header):
    assert status(f"{mlflow_server.url}/version", headers={"Authorization": header}) == 401


def test_another_host_name_is_refused_even_with_the_password(mlflow_server):
    shown = authorization(mlflow_server.user, SecretStr(mlflow_server.password))
    url = f"{mlflow_server.url}/api/2.0/mlflow/experiments/search?max_results=1"
    assert status(url, headers=shown) == 200
    assert status(url, headers={**shown, "Host": "mlflow"}) == 200
    assert status(url, headers={**shown, "Host": "attacker.example"}) == 403


def test_traces_are_taken_with_the_password_only(mlflow_server, monkeypatch):
    from plinth.settings import Settings
    from plinth.telemetry import traces as telling
    from plinth.telemetry.traces import configure

    # By design a server that is slow costs its spans; here it may be slow, and is asked for its answer.
    monkeypatch.setattr(telling, "TIMEOUT", PATIENCE)

    def exported(password):
        settings = Settings(
            mlflow_server=mlflow_server.url, mlflow_username=mlflow_server.user, mlflow_password=password
        )
        traces = configure(settings, "password-test", sample=1.0)
        with traces.span("one"):
            pass
        traces.close()
        return traces.exporter.exported

    assert exported("wrong") == 0
    assert exported(mlflow_server.password) == 1


def test_what_the_client_is_told_of_a_password_is_what_to_do_and_never_the_password(mlflow_server):
    wrong = MlflowConnection(mlflow_server.url, "admin", "an-own-secret")
    with pytest.raises(RefusedByPolicy, match="PLINTH_MLFLOW_PASSWORD") as refused:
        _ = wrong.client
    assert "an-own-secret" not in str(refused.value) + repr(wrong.__dict__)
    with pytest.raises(RefusedByPolicy):
        version_at(mlflow_server.url, "m", "serving", {})
    with pytest.raises(InvalidInput) as inside:
        _ = MlflowConnection("http://admin:an-own-secret@127.0.0.1:1").client
    assert "an-own-secret" not in str(inside.value)
    with pytest.raises(Unavailable, match="plinth status"):
        _ = MlflowConnection(f"http://127.0.0.1:{processes.free_port()}", "admin", "an-own-secret").client


def test_a_password_is_shown_to_the_server_it_is_for_alone_and_stays_out_of_the_environment(mlflow_server):
    connection = MlflowConnection(mlflow_server.url, mlflow_server.user, mlflow_server.password)
    run = connection.client.create_run("0")
    assert mlflow_server.password not in json.dumps(run.data.tags)
    assert mlflow_server.password not in json.dumps(dict(os.environ))

    import requests
    from mlflow.tracking.request_auth.registry import fetch_auth

    def header(url):
        return requests.Request("GET", url, auth=fetch_auth("plinth")).prepare().headers.get("Authorization")

    assert header(f"{mlflow_server.url}/api")
    assert header("http://127.0.0.1:1/api") is None


def test_prefect_answers_nothing_without_its_auth_string_but_probes_and_the_pages_of_its_ui(prefect_server):
    shown = authorization(*prefect_server.auth.split(":")[:1], SecretStr(prefect_server.auth.split(":")[1]))
    request = urllib.request.Request(f"{prefect_server.url}/api/openapi.json", headers=shown)
    try:
        with urllib.request.urlopen(request) as answer:
            paths = json.load(answer)["paths"]
    except urllib.error.HTTPError:
        with urllib.request.urlopen(f"{prefect_server.url}/openapi.json") as answer:
            paths = json.load(answer)["paths"]
    routes = sorted({(method.upper(), filled(path)) for path, methods in paths.items() for method in methods})
    assert len(routes) > 100
    prefix = "" if any(path.startswith("/api/") for _, path in routes) else "/api"
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        codes = pool.map(lambda route: status(prefect_server.url + prefix + route[1], route[0]), routes)
        opened = {path for (_, path), code in zip(routes, codes, strict=True) if code != 401}
    assert {path.removeprefix("/api") for path in opened} == {"/health", "/ready"}


def test_the_wrong_auth_string_is_refused_before_anything_runs(prefect_server, tmp_path):
    from plinth.pipelines.prefect import PrefectRunner

    def pipeline(context):
        """Does nothing."""

    runner = PrefectRunner(
        product="p", state=tmp_path, cache=tmp_path / "c", ports=None, api_url=prefect_server.api,
        home=tmp_path / "home", auth=SecretStr("admin:an-own-secret"),
    )  # fmt: skip
    with pytest.raises(RefusedByPolicy, match="PLINTH_PREFECT_AUTH") as refused:
        runner.run(pipeline)
    assert "an-own-secret" not in str(refused.value)


def test_only_a_prefect_server_that_the_settings_do_not_name_is_done_without(prefect_server, tmp_path):
    from plinth.runtime.pipelines import without_server
    from plinth.settings import Settings
    from plinth.wiring import Platform

    def platform(**values):
        return Platform(Settings(state=tmp_path, **values))

    port = processes.free_port()
    assert without_server(platform(prefect_port=port))
    with pytest.raises(Unavailable):
        without_server(platform(prefect_server=f"http://127.0.0.1:{port}"))
    with pytest.raises(RefusedByPolicy):
        without_server(platform(prefect_server=prefect_server.url))
    assert not without_server(platform(prefect_server=prefect_server.url, prefect_auth=prefect_server.auth))


def test_a_slot_that_was_taken_when_the_prefect_server_died_is_given_back_at_its_next_start(postgres, tmp_path):
    import httpx

    def api(server):
        user, _, password = server.auth.partition(":")
        return httpx.Client(base_url=f"{server.api}/v2/concurrency_limits", auth=(user, password), timeout=PATIENCE)

    with postgres.database() as url:
        database = url.replace("+psycopg", "+asyncpg")
        with processes.prefect(tmp_path, database) as server, api(server) as client:
            client.post("/", json={"name": "plinth-p", "limit": 1}).raise_for_status()
            taken = {"names": ["plinth-p"], "slots": 1, "mode": "concurrency"}
            client.post("/increment-with-lease", json=taken).raise_for_status()
            assert client.get("/plinth-p").json()["active_slots"] == 1
        with processes.prefect(tmp_path, database) as server, api(server) as client:
            assert client.get("/plinth-p").json()["active_slots"] == 0


@pytest.mark.parametrize("path", ["/api/events/in", "/api/events/out", "/api/logs/out"])
def test_a_web_socket_of_prefect_says_nothing_without_the_auth_string(prefect_server, path):
    from websockets.exceptions import ConnectionClosed, InvalidHandshake
    from websockets.sync.client import connect

    url = prefect_server.url.replace("http", "ws") + path
    with pytest.raises((ConnectionClosed, InvalidHandshake)), connect(url) as socket:
        socket.recv(10)
    said = []
    with contextlib.suppress(ConnectionClosed), connect(url, subprotocols=["prefect"]) as socket:
        socket.send(json.dumps({"type": "auth", "token": "wrong"}))
        said.extend(json.loads(text)["type"] for text in iter(lambda: socket.recv(10), None))
    assert set(said) <= {"auth_failure"}


def test_a_web_socket_of_mlflow_is_refused(mlflow_server):
    from websockets.exceptions import InvalidHandshake
    from websockets.sync.client import connect

    with pytest.raises(InvalidHandshake), connect(mlflow_server.url.replace("http", "ws") + "/v1/traces"):
        pass


def test_two_servers_start_on_an_empty_postgresql_at_once_and_a_new_password_takes_effect_at_a_start(
    postgres, tmp_path
):
    def shown(server):
        return status(f"{server.url}/version", headers=authorization(server.user, SecretStr(server.password)))

    with postgres.database() as url, concurrent.futures.ThreadPoolExecutor(2) as pool:

        def start(name):
            with processes.mlflow(tmp_path / name, url) as server:
                return server, shown(server)

        first, second = pool.map(start, ["a", "b"])
        # Each start sets its own password, so the later one's holds; either may have been the later.
        assert 200 in {first[1], second[1]}
        with processes.mlflow(tmp_path / "c", url) as third:
            assert shown(third) == 200
            old = authorization("admin", SecretStr(first[0].password))
            assert status(f"{third.url}/version", headers=old) == 401
            client = MlflowConnection(third.url, third.user, third.password).client
            assert client.get_experiment("0").artifact_location.startswith("mlflow-artifacts:/")


def test_an_older_schema_is_upgraded_at_the_start_and_a_newer_one_is_left_alone(tmp_path):
    code = """
import sys
import sqlalchemy
from alembic import command
from mlflow.store.db import utils
from plinth.runtime.mlflow import _alone, _upgrade
store = sys.argv[1]
engine = sqlalchemy.create_engine(store)
utils.InitialBase.metadata.create_all(engine)
config = utils._get_alembic_config(store)
command.upgrade(config, "head-2")
assert utils._get_schema_version(engine) != utils._get_latest_schema_revision()
with _alone(store):
    _upgrade(store)
assert utils._get_schema_version(engine) == utils._get_latest_schema_revision()
with engine.begin() as connection:
    connection.execute(sqlalchemy.text("UPDATE alembic_version SET version_num = 'of-the-future'"))
try:
    _upgrade(store)
except Exception as error:
    print("refused:", type(error).__name__)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, f"sqlite:///{tmp_path / 'mlflow.db'}"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "refused:" in done.stdout
