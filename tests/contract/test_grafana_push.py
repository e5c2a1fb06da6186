"""Pushing dashboards into a Grafana, against a server that answers as Grafana's HTTP API documentation says.

No Grafana can be had here, so the bodies below are recorded from grafana.com/docs/grafana/latest/developers/http_api
(folder, dashboard, data_source). A real Grafana is asked the same by tests/compose on a machine that has its image.
"""

import base64
import copy
import io
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from plinth.cli.main import main
from plinth.errors import InvalidInput, NotFound, RefusedByPolicy, Unavailable
from plinth.settings import find_home
from plinth.telemetry.dashboards import render
from plinth.telemetry.dashboards.push import Credential, push
from plinth.wiring.platform import Products

PRODUCTS = [one.spec for one in Products(find_home() / "services").all()]
BOARDS = render.boards(PRODUCTS)
PASSWORD = "a-generated-password"
GOOD = Credential(password=PASSWORD)


class Grafana(BaseHTTPRequestHandler):
    """The documented answers. `server.kept` is what was written, `server.refuse` a (status, body) for every write."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if not self.allowed():
            return
        kept = self.server.kept
        if found := re.fullmatch(r"/api/folders/(.+)", self.path):
            uid = found.group(1)
            missing = {"message": "folder not found", "status": "not-found"}
            self.answer(200, kept["folders"][uid]) if uid in kept["folders"] else self.answer(404, missing)
        elif found := re.fullmatch(r"/api/dashboards/uid/(.+)", self.path):
            board = kept["boards"].get(found.group(1))
            self.answer(200, board) if board else self.answer(404, {"message": "Dashboard not found"})
        elif found := re.fullmatch(r"/api/datasources/uid/(.+)", self.path):
            source = kept["sources"].get(found.group(1))
            self.answer(200, source) if source else self.answer(404, {"message": "Data source not found"})
        else:
            self.answer(404, {"message": "Not found"})

    def do_POST(self):
        self.write()

    def do_PUT(self):
        self.write()

    def write(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.allowed():
            return
        self.server.writes.append((self.command, self.path, body))
        if self.server.refuse:
            return self.answer(*self.server.refuse)
        kept = self.server.kept
        if self.path == "/api/folders":
            folder = {"id": 1, "uid": body["uid"], "title": body["title"], "url": f"/dashboards/f/{body['uid']}/plinth",
                      "hasAcl": False, "canSave": True, "version": 1}  # fmt: skip
            kept["folders"][body["uid"]] = folder
            return self.answer(200, folder)
        if self.path == "/api/dashboards/db":
            board = {**body["dashboard"], "id": 7, "version": 3}
            meta = {"isStarred": False, "slug": "plinth", "folderUid": body["folderUid"], "provisioned": False}
            kept["boards"][board["uid"]] = {"dashboard": board, "meta": meta}
            told = {"id": 7, "uid": board["uid"], "url": f"/d/{board['uid']}/plinth", "status": "success", "version": 3}
            return self.answer(200, told)
        kept["sources"][body["uid"]] = {**body, "id": 1, "orgId": 1, "readOnly": False, "version": 1}
        return self.answer(200, {"datasource": kept["sources"][body["uid"]], "message": "Datasource added"})

    def allowed(self):
        basic = "Basic " + base64.b64encode(f"admin:{PASSWORD}".encode()).decode()
        if self.headers.get("Authorization") in (basic, "Bearer glsa_a-token"):
            return True
        self.answer(401, {"message": "Invalid username or password"})
        return False

    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def grafana():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Grafana)
    server.kept = {"folders": {}, "boards": {}, "sources": {}}
    server.writes, server.refuse = [], None
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_it_makes_a_folder_and_every_dashboard_under_its_own_identity(grafana):
    done = push(grafana.url, GOOD, BOARDS)
    assert [one.result for one in done] == ["created"] * (len(BOARDS) + 1)
    assert set(grafana.kept["boards"]) == {board.uid for board in BOARDS}
    assert {one["meta"]["folderUid"] for one in grafana.kept["boards"].values()} == {"plinth"}
    assert grafana.kept["sources"] == {}, "its data sources are its own"


def test_doing_it_twice_writes_nothing(grafana):
    push(grafana.url, GOOD, BOARDS, addresses={})
    before = copy.deepcopy(grafana.writes)
    done = push(grafana.url, GOOD, BOARDS, addresses={})
    assert {one.result for one in done} == {"unchanged"}
    assert grafana.writes == before


def test_what_somebody_changed_there_is_put_right(grafana):
    push(grafana.url, GOOD, BOARDS)
    grafana.kept["boards"][BOARDS[0].uid]["dashboard"]["title"] = "Mine"
    changed = [one for one in push(grafana.url, GOOD, BOARDS) if one.result != "unchanged"]
    assert [(one.uid, one.result) for one in changed] == [(BOARDS[0].uid, "updated")]


def test_data_sources_are_made_where_they_are_asked_for(grafana):
    push(grafana.url, GOOD, [], addresses={"prometheus": "http://elsewhere:9090"})
    assert set(grafana.kept["sources"]) == {"plinth-prometheus", "plinth-loki", "plinth-tempo"}
    assert grafana.kept["sources"]["plinth-prometheus"]["url"] == "http://elsewhere:9090"


def test_a_token_signs_in_too(grafana):
    assert push(grafana.url, Credential(token="glsa_a-token"), BOARDS[:1])[-1].result == "created"


def test_a_wrong_password_is_refused_and_shown_nowhere(grafana):
    wrong = Credential(password="not-this-one")
    with pytest.raises(RefusedByPolicy, match="GRAFANA_ADMIN_PASSWORD") as refused:
        push(grafana.url, wrong, BOARDS)
    assert "not-this-one" not in str(refused.value) + repr(wrong)
    assert grafana.writes == []


@pytest.mark.parametrize(
    ("refuse", "error"),
    [
        ((400, {"message": "bad request data"}), InvalidInput),
        ((403, {"message": "You'll need additional permissions to perform this action."}), RefusedByPolicy),
        ((404, {"message": "Not found"}), NotFound),
        (
            (412, {"message": "The dashboard has been changed by someone else", "status": "version-mismatch"}),
            InvalidInput,
        ),
        ((500, {"message": "Internal server error"}), Unavailable),
    ],
)
def test_what_grafana_says_comes_through_as_ours(grafana, refuse, error):
    grafana.refuse = refuse
    with pytest.raises(error) as raised:
        push(grafana.url, GOOD, BOARDS[:1])
    assert refuse[1]["message"] in str(raised.value)
    assert raised.value.where == grafana.url


def test_nothing_at_the_address_is_said_so():
    with pytest.raises(Unavailable, match="no Grafana answers"):
        push("http://127.0.0.1:9", GOOD, BOARDS)


def test_the_command_pushes_with_the_password_of_the_environment(grafana, monkeypatch, capsys):
    monkeypatch.setenv("GRAFANA_ADMIN_PASSWORD", PASSWORD)
    assert main(["dashboard", "push", "--url", grafana.url, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {one["result"] for one in told["pushed"]} == {"created"}
    assert main(["dashboard", "push", "--url", grafana.url]) == 0
    assert "0 of them changed" in capsys.readouterr().out


def test_the_command_takes_a_token_from_standard_input(grafana, monkeypatch):
    monkeypatch.delenv("GRAFANA_ADMIN_PASSWORD", raising=False)
    monkeypatch.setattr("sys.stdin", io.StringIO("glsa_a-token\n"))
    assert main(["dashboard", "push", "--url", grafana.url, "--token-stdin"]) == 0


def test_the_command_says_where_a_credential_is_looked_for(grafana, monkeypatch, capsys, tmp_path):
    for name in ("GRAFANA_ADMIN_PASSWORD", "GRAFANA_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "services").mkdir()
    monkeypatch.setenv("PLINTH_HOME", str(tmp_path))
    assert main(["dashboard", "push", "--url", grafana.url]) == 2
    assert "GRAFANA_ADMIN_PASSWORD" in capsys.readouterr().err
    (tmp_path / ".env").write_text(f"GRAFANA_ADMIN_PASSWORD={PASSWORD}\n")
    assert main(["dashboard", "push", "--url", grafana.url]) == 0
