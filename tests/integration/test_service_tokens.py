"""Both products' services with a key, as processes: who gets in, who does not, and what is kept of it.

Rows 21, 22, 24, 25 and 26 of the fault list, as far as they are about who calls.
"""

import base64
import hashlib
import hmac
import http.client
import importlib.util
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from assistant_state import State, documents, question
from patience import PATIENCE
from plinth.assistants import tenants
from plinth.assistants.app import AnswerApp
from plinth.assistants.probing import Service as Probe
from plinth.serving.predictions import ServingApp
from plinth.serving.tokens import Credentials, Tokens
from plinth.settings import Settings

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
import synthetic_state

HOME = synthetic_state.HOME
KEY, OLD, SCRAPE = "k" * 40, "o" * 40, "s" * 32
PAGES = {"/": (b"", ""), "/openapi.json": (b"", "")}
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
FLIGHT = synthetic_state.as_json(synthetic_state.flights(1)[0])


class Guarded(synthetic_state.ServiceProcess):
    """A service that asks for tokens; `ask` shows one unless it is told another header."""

    def __init__(self, product, module, state, port, **environment):
        self.product, self.credentials = product, Credentials(KEY, "tester")
        command = [sys.executable, "-m", module, "--port", str(port)]
        given = {
            "PLINTH_TOKEN_KEY": f"{KEY},{OLD}", "PLINTH_SCRAPE_TOKEN": SCRAPE, "PLINTH_ALLOWED_HOSTS": '["inside"]',
            **environment,
        }  # fmt: skip
        super().__init__(state, port, command=command, **given)
        self.settings = Settings(state=state, home=HOME)

    def ask(self, method, path, body=None, headers=None, timeout=PATIENCE, token=None):
        shown = {"Authorization": f"Bearer {token}"} if token else self.credentials.headers(self.product)
        return super().ask(method, path, body, {**shown, **(headers or {})}, timeout)

    def anonymous(self, method, path, headers=None):
        """Status, headers and body of a request without a token, its path as it is."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, b"{}", {"Content-Type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def audit(self):
        """Refused tokens in the audit log: reason to count."""
        found = {}
        ledger = State(self.settings).platform.ledger
        try:
            assert ledger.broken_entry() is None
            for entry in ledger.audit(subject=self.product):
                if entry.action == "access.refused":
                    assert entry.actor == f"service:{self.product}"
                    found[entry.payload["reason"]] = found.get(entry.payload["reason"], 0) + entry.payload["count"]
        finally:
            ledger.close()
        return found

    def denied(self):
        """What the metric counts: reason to count."""
        text = self.ask("GET", "/metrics", token=SCRAPE)[1]
        lines = [line for line in text.splitlines() if line.startswith("plinth_requests_denied_total{")]
        return {line.split('reason="')[1].split('"')[0]: float(line.split()[-1]) for line in lines}


def start_flights(folder, port, **environment):
    synthetic_state.fill(folder, trees=12, count=40)
    service = Guarded("flight-delays", "flight_delays.service", folder, port, **environment)
    service.routes = set(
        ServingApp(SimpleNamespace(observer=None, log=None, requests=None), None, PAGES)._routes
    )  # fmt: skip
    service.good = ("POST", "/predict", {"flights": [FLIGHT]})
    return service


def start_answers(folder, port, **environment):
    state = State(Settings(state=folder, home=HOME))
    state.promote(state.register(state.config(documents("heron"))))
    state.platform.ledger.close()
    service = Guarded("docs-assistant", "docs_assistant.service", folder, port, **environment)
    parts = SimpleNamespace(observer=None, log=None, requests=None)
    service.routes = set(AnswerApp(parts, None, None, PAGES, model="", created=0)._routes)
    service.good = ("POST", "/ask", {"question": question("harbour")})
    return service


STARTS = {"flight-delays": start_flights, "docs-assistant": start_answers}


@pytest.fixture(scope="module", params=list(STARTS))
def service(request, tmp_path_factory, free_port):
    started = STARTS[request.param](tmp_path_factory.mktemp(request.param), free_port())
    yield started.wait_ready()
    started.stop()


def signed(claims, header=None, key=KEY):
    def segment(value):
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    text = f"{segment(header or {'alg': 'HS256', 'typ': 'JWT'})}.{segment(claims)}"
    signature = hmac.new(key.encode(), text.encode(), hashlib.sha256).digest()
    return f"{text}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def claims(product, **changes):
    now = int(time.time())
    return {"sub": "ada", "aud": product, "iat": now, "exp": now + 300, **changes}


def forged(product):
    """Reason to tokens that are refused for it."""
    good = claims(product)
    none = signed(good, {"alg": "none", "typ": "JWT"}).rpartition(".")[0] + "."
    return {
        "bad-algorithm": [none, signed(good, {"alg": "RS256"}), signed(good, {"alg": "HS512"})],
        "expired": [signed({**good, "exp": good["iat"] - 60})],
        "wrong-audience": [signed({**good, "aud": "another"}), signed({**good, "aud": [product]})],
        "bad-signature": [signed(good, key="x" * 40), signed(good)[:-4] + "AAAA"],
        "not-yet-valid": [signed({**good, "nbf": good["iat"] + 7200})],
        "too-long": [signed({**good, "exp": good["iat"] + 30 * 86400})],
        "malformed": [
            signed(good, {"alg": "HS256", "kid": "../../dev/null"}), signed({**good, "pad": "p" * 30_000}), "a.b.c",
            signed({"sub": "ada", "aud": product}),
        ],
    }  # fmt: skip


def wait_for(condition):
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


# Row 26 ---------------------------------------------------------------------------------------------------------------


def test_every_route_and_every_disguise_of_one_is_401_without_a_token(service):
    assert {"/healthz", "/readyz", "/metrics", "/", "/openapi.json", service.good[1]} <= service.routes
    paths = [*service.routes, "/nothing", "/v1/nothing", "/livez", "/schema.json", "/docs.json", "/..%2fhealthz"]
    for route in sorted(service.routes - {"/"}):
        paths += [
            "/" + route, route + "/", route + ".", route + "%2f", "/%2e%2e" + route, "/..;" + route, route + "/..;/",
            "/" + route.replace("/", "%2f"), "/healthz/.." + route, "/healthz/..;" + route, route.upper(),
            "/healthz?" + route, route + ";a=b", f"http://127.0.0.1:{service.port}{route}",
        ]  # fmt: skip
    answered = {}
    for path in dict.fromkeys(paths):
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"):
            status, headers, body = service.anonymous(method, path)
            health = method in ("GET", "HEAD") and path.split("?")[0].removeprefix(f"http://127.0.0.1:{service.port}")
            if health == "/healthz":
                assert status == 200, (method, path)
                continue
            assert (status, headers["WWW-Authenticate"]) == (401, "Bearer"), (method, path)
            if body:
                told = json.loads(body)
                answered.setdefault(json.dumps({k: v for k, v in told.items() if k != "request_id"}), path)
    shapes = [path.startswith("/v1/") for path in answered.values()]
    assert len(answered) == len(set(shapes)), "one text, in OpenAI's shape where its clients ask"


@pytest.mark.parametrize("token", ["", "a.b.c"])
def test_a_websocket_without_a_token_is_refused(service, token):
    shown = f"Authorization: Bearer {token}\r\n" if token else ""
    with socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE) as connection:
        connection.sendall(
            f"GET {service.good[1]} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{shown}"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        assert connection.recv(1000).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"Host": "evil.example"}, "foreign-host"), ({"Host": "0.0.0.0"}, "foreign-host"),
        ({"Host": "inside.evil.example"}, "foreign-host"), ({"Origin": "https://evil.example"}, "foreign-origin"),
        ({"Origin": "null"}, "foreign-origin"),
    ],
)  # fmt: skip
def test_a_foreign_host_or_origin_is_403_with_a_token_too(service, headers, reason):
    before = service.denied().get(reason, 0)
    method, path, body = service.good
    assert service.ask(method, path, body, headers)[0] == 403
    assert service.denied()[reason] == before + 1


def test_a_name_of_the_setting_is_no_foreign_host(service):
    assert service.ask("GET", "/readyz", headers={"Host": f"inside:{service.port}"})[0] == 200


# Row 25 ---------------------------------------------------------------------------------------------------------------


def test_tokens_that_do_not_count_are_401_counted_and_audited_and_never_kept(service):
    before, tokens = service.denied(), forged(service.product)
    method, path, body = service.good
    for made in tokens.values():
        for token in made:
            status, told, headers = service.ask(method, path, body, token=token)
            assert status == 401, token[:100]
            assert headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
            assert told["error"]["what"] == "the token does not count"
    for reason, made in tokens.items():
        assert service.denied()[reason] == before.get(reason, 0) + len(made)
    wait_for(lambda: set(tokens) <= set(service.audit()))
    kept = service.log.read_text() + service.settings.database_url
    for file in service.state.glob("ledger.db*"):
        kept += file.read_bytes().decode("latin-1")
    for made in tokens.values():
        assert not any(len(token) > 20 and token.split(".")[1] in kept for token in made)
    assert service.ask(method, path, body)[0] == 200


def test_the_key_before_counts_until_it_is_taken_out(service):
    assert service.ask("GET", "/readyz", token=Tokens(OLD).issue("ada", service.product))[0] == 200


def test_only_the_metrics_open_to_the_scrapers_token(service):
    assert service.ask("GET", "/metrics", token=SCRAPE)[0] == 200
    for method, path in (("GET", "/readyz"), ("POST", service.good[1]), ("POST", "/metrics")):
        assert service.ask(method, path, {}, token=SCRAPE)[0] == 401


def test_the_log_says_who_called_and_never_with_what(service):
    token = Tokens(KEY).issue("grace", service.product)
    method, path, body = service.good
    assert service.ask(method, path, body, {"X-Request-ID": "who-1"}, token=token)[0] == 200
    wait_for(lambda: any(line.get("request_id") == "who-1" for line in service.lines()))
    (line,) = [line for line in service.lines() if line.get("request_id") == "who-1"]
    assert line["caller"] == "grace"
    for secret in (token, KEY, OLD, SCRAPE):
        assert secret not in service.log.read_text()


def test_a_ledger_that_is_away_holds_up_no_request_and_gets_its_entries_later(tmp_path, free_port):
    service = start_flights(tmp_path, free_port()).wait_ready()
    method, path, body = service.good
    try:
        with sqlite3.connect(tmp_path / "ledger.db", isolation_level=None) as lock:
            lock.execute("BEGIN IMMEDIATE")
            took = []
            for _ in range(40):
                assert service.ask("GET", "/readyz", token="a.b.c")[0] == 401
                began = time.monotonic()
                assert service.ask(method, path, body)[0] == 200
                took.append(time.monotonic() - began)
                time.sleep(0.05)
            assert max(took) < 5, "nobody waited for the lock"
            lock.execute("ROLLBACK")
        lock.close()
    finally:
        service.stop()
    assert service.audit() == {"malformed": 40}


# Rows 21 and 22 -------------------------------------------------------------------------------------------------------


def test_more_than_it_can_answer_is_shed_and_strangers_take_no_place(tmp_path, free_port):
    service = start_answers(tmp_path, free_port()).wait_ready()
    method, path, body = service.good
    try:

        def call(number):
            try:
                return service.ask(method, path, body, token="a.b.c" if number % 2 else None)[0]
            except OSError as error:
                return repr(error)

        with ThreadPoolExecutor(200) as pool:
            said = list(pool.map(call, range(500)))
        assert set(said[1::2]) == {401}
        assert {200} <= set(said[::2]) <= {200, 429, 503}
        wait_for(lambda: service.ask(method, path, body)[0] == 200)
        assert service.ask("GET", "/readyz")[0] == 200
    finally:
        service.stop()


def test_a_stranger_who_sends_slowly_or_much_is_told_before_it_is_read(service):
    with socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE) as connection:
        connection.sendall(
            f"POST {service.good[1]} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            "Content-Length: 100000000\r\n\r\n{".encode()
        )
        assert connection.recv(1000).startswith(b"HTTP/1.1 401 ")


# Row 24 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed (apt-get install faketime)")
def test_a_service_whose_clock_is_two_hours_off_refuses_what_is_not_valid_by_it_and_takes_what_is(tmp_path, free_port):
    clock = tmp_path / "clock"
    clock.write_text("+0")
    state = tmp_path / "state"
    state.mkdir()
    service = start_flights(
        state, free_port(), LD_PRELOAD=str(FAKETIME), FAKETIME_TIMESTAMP_FILE=str(clock), FAKETIME_CACHE_DURATION="1",
        FAKETIME_DONT_FAKE_MONOTONIC="1",
    )  # fmt: skip
    try:
        service.wait_ready()
        now = int(time.time())
        short, long = (signed(claims("flight-delays", exp=now + seconds)) for seconds in (600, 4 * 3600))
        earlier = signed(claims("flight-delays", iat=now - 3 * 3600))
        assert [service.ask("GET", "/readyz", token=token)[0] for token in (short, long, earlier)] == [200, 200, 200]
        for offset, expected in (("+2h", [401, 200, 401]), ("-2h", [401, 401, 200]), ("+0", [200, 200, 200])):
            clock.write_text(offset)
            wait_for(
                lambda expected=expected: (
                    [service.ask("GET", "/readyz", token=token)[0] for token in (short, long, earlier)] == expected
                )
            )
        assert {"expired", "not-yet-valid"} <= set(service.denied())
    finally:
        service.stop(signal.SIGKILL)


# The platform's own programs ------------------------------------------------------------------------------------------


def plinth(service, *words, key=KEY):
    environment = {
        **os.environ, "PLINTH_STATE": str(service.state), "PLINTH_HOME": str(HOME), "PLINTH_TOKEN_KEY": key,
        "PLINTH_SERVICE_PORTS": json.dumps({service.product: service.port}),
    }  # fmt: skip
    command = [str(Path(sys.executable).with_name("plinth")), *words]
    done = subprocess.run(command, env=environment, cwd=HOME, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_the_commands_bring_a_token_and_say_what_to_do_without(service):
    words = (
        ["predict", "flight-delays", "--example"]
        if service.product == "flight-delays"
        else ["ask", question("harbour")]
    )
    code, out, err = plinth(service, *words)
    assert code == 0, err
    assert "release" in out
    code, _, err = plinth(service, *words, key="")
    assert code != 0
    assert "plinth token issue" in err
    code, token, _ = plinth(service, "token", "issue", service.product, "--actor", "scraper", "--for", "5m")
    assert service.ask("GET", "/readyz", token=token.strip())[0] == 200
    ledger = State(service.settings).platform.ledger
    (issued,) = [entry for entry in ledger.audit() if entry.action == "token.issued"]
    assert issued.payload == {"subject": "scraper", "seconds": 300}
    ledger.close()


def test_a_tenants_key_goes_beside_the_token_and_probes_bring_both(tmp_path, free_port):
    service = start_answers(tmp_path, free_port()).wait_ready()
    try:
        folder = service.settings.product_dir("docs-assistant")
        key = tenants.add(folder, "acme", [])
        method, path, body = service.good
        assert service.ask(method, path, body, {"X-Plinth-Key": key})[0] == 200
        assert service.ask(method, path, body, {"X-Plinth-Key": "nobody's"})[0] == 401
        assert service.anonymous(method, path, {"X-Plinth-Key": key})[0] == 401, "a key is no token"
        assert service.anonymous(method, path, {"Authorization": f"Bearer {key}"})[0] == 401
        url = f"http://127.0.0.1:{service.port}"
        probe = Probe(url, tenants.probe_key(folder), Credentials(KEY, "prober").headers("docs-assistant"))
        assert probe.answers()
        assert probe.find(question("harbour")), "answered: it raises unless the service says 200"
        probe.flush()
    finally:
        service.stop()


def test_a_controller_moves_a_rollout_of_a_service_that_asks_for_tokens(tmp_path, free_port, monkeypatch):
    spec = importlib.util.spec_from_file_location("test_controller", Path(__file__).with_name("test_controller.py"))
    controlling = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(controlling)
    monkeypatch.setenv("PLINTH_TOKEN_KEY", KEY)
    world = controlling.World(tmp_path / "state", free_port())
    headers = Credentials(KEY, "tester").headers("flight-delays")
    try:
        wait_for(lambda: controlling_ready(world, headers))
        world.controllers.env["PLINTH_TOKEN_KEY"] = KEY
        world.controllers.start()
        digest = world.release()
        traffic = world.traffic()
        traffic._headers = lambda: world.platform.service_headers("flight-delays")
        with traffic:
            rollout = world.roll_out(digest)
            ended = world.wait(rollout, "done", "rolled-back", "paused")
        assert ended.state.phase == "done", ended.reason
        assert all(answer.code == 200 for answer in traffic.answers())
        assert world.service.ask("GET", "/readyz", headers=headers)[1]["route"]["serving"] == digest
    finally:
        world.controllers.stop_all()
        world.service.stop(signal.SIGKILL)
        world.ledger.close()


def controlling_ready(world, headers):
    try:
        return world.service.ask("GET", "/readyz", headers=headers)[0] == 200
    except OSError:
        return False
