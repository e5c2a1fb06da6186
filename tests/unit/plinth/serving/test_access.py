"""Who may call: asked on every path before anything is read; refused tokens are added up and never stop a request."""

import asyncio
import threading
import time

import pytest

from plinth.errors import InvalidInput, RefusedByPolicy, Unavailable
from plinth.serving import access as module
from plinth.serving.access import Access, guarded, host_names
from plinth.serving.refusals import Refusals
from plinth.serving.tokens import LEEWAY, Tokens
from plinth.serving.uvicorn import bind
from plinth.settings import Settings

KEY, SCRAPE = "k" * 40, "s" * 24
PRODUCT = "memory"
TOKENS = Tokens(KEY)
ROW = {"rows": [{"id": "a", "x": 1.0}]}


class Written:
    """An audit log that can be away."""

    def __init__(self):
        self.entries, self.away = [], False

    def __call__(self, payload):
        if self.away:
            raise Unavailable("the ledger cannot be used")
        self.entries.append(payload)

    def counts(self):
        found = {}
        for entry in self.entries:
            found[entry["reason"]] = found.get(entry["reason"], 0) + entry["count"]
        return found


@pytest.fixture
def audit():
    return Written()


@pytest.fixture
def guard(running, audit):
    """The running service, asking for tokens."""
    running.access = Access(PRODUCT, TOKENS, Refusals(audit), SCRAPE)
    running.service.app._access = running.access
    return running


def bearer(token):
    return {"authorization": f"Bearer {token}"}


def good():
    return bearer(TOKENS.issue("ada", PRODUCT))


PATHS = (
    "/", "/predict", "/inference-log/flush", "/readyz", "/metrics", "/healthz/", "//healthz", "/healthz/..;/predict",
    "/healthz%2f", "/%68ealthz", "/HEALTHZ", "/healthz.", "/..;/healthz", "/openapi.json", "/nothing",
    "/v1/models", "*",
)  # fmt: skip
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "CONNECT", "PROPFIND")


@pytest.mark.parametrize("path", PATHS)
def test_every_path_and_method_is_the_same_401_without_a_token(guard, path):
    for method in METHODS:
        answer = guard.call(method, path, ROW)
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        if method != "HEAD":
            assert answer.json["error"]["what"] == "a token is needed"
            assert path not in answer.text.decode() or path in ("/", "*")
    assert guard.observer.denials == ["no-token"] * len(METHODS)


def test_health_is_open_to_get_and_head_only(guard):
    for method in METHODS:
        assert guard.call(method, "/healthz").status == (200 if method in ("GET", "HEAD") else 401)
    assert guard.call("GET", "/healthz", headers=bearer("x.y.z")).status == 200


def test_a_token_opens_and_its_subject_is_told_to_the_observer(guard):
    assert guard.call("POST", "/predict", ROW, good()).status == 200
    assert guard.call("GET", "/nothing", headers=good()).status == 404
    assert {told["caller"] for told in guard.observer.requests} == {"ada"}


def test_scrapers_read_the_metrics_and_nothing_else(guard):
    assert guard.call("GET", "/metrics", headers=bearer(SCRAPE)).status == 200
    assert guard.call("HEAD", "/metrics", headers=bearer(SCRAPE)).status == 200
    assert guard.call("GET", "/metrics", headers=good()).status == 200
    assert guard.call("POST", "/metrics", headers=bearer(SCRAPE)).status == 401
    for path in ("/readyz", "/predict", "/metrics/", "//metrics"):
        assert guard.call("GET", path, headers=bearer(SCRAPE)).status == 401
    assert guard.call("GET", "/metrics", headers=bearer(SCRAPE[:-1])).status == 401
    assert guard.call("GET", "/metrics", headers={"authorization": "Bearer "}).status == 401


@pytest.mark.parametrize(
    "header",
    [
        "Basic YWRhOmFkYQ==", "Bearer", "Bearer ", "bearer", "Token {}", "{}", "Bearer  {}", "Bearer {} ",
        "Bearer {},x", "Bearer\t{}", "Bearer {}\x00", "Bearer null", "Bearer undefined", "Bearer é",
    ],
)  # fmt: skip
def test_what_is_no_bearer_token_is_401(guard, header):
    given = {"authorization": header.replace("{}", TOKENS.issue("ada", PRODUCT))}
    answer = guard.call("GET", "/readyz", headers=given)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert guard.observer.denials == ["malformed"]


def test_why_a_token_does_not_count_is_told_to_the_operator_only(guard, audit):
    shown = {
        "wrong-audience": TOKENS.issue("ada", "other"),
        "bad-signature": Tokens("o" * 40).issue("ada", PRODUCT),
        "malformed": "a.b.c",
    }
    texts = set()
    for token in shown.values():
        answer = guard.call("POST", "/predict", ROW, {**bearer(token), "x-request-id": "one"})
        texts.add(answer.text)
        assert token not in answer.text.decode()
    assert len(texts) == 1
    assert guard.observer.denials == list(shown)
    guard.access.refusals.flush()
    assert audit.counts() == dict.fromkeys(shown, 1)
    assert not any(token in str(audit.entries) for token in shown.values())


def test_the_body_of_a_stranger_is_never_read(guard):
    async def call():
        async def receive():
            pytest.fail("it was read")

        sent = []

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http", "method": "POST", "path": "/predict", "raw_path": b"/predict",
            "headers": [(b"host", b"127.0.0.1"), (b"content-length", b"1000000000")],
        }  # fmt: skip
        await guard.service.app(scope, receive, send)
        return sent[0]["status"]

    assert asyncio.run(call()) == 401


def test_a_foreign_host_or_origin_with_a_token_is_403_and_counted(guard):
    assert guard.call("GET", "/readyz", headers={**good(), "host": "evil.example"}).status == 403
    assert guard.call("GET", "/readyz", headers={**good(), "origin": "http://evil.example"}).status == 403
    assert guard.call("GET", "/healthz", headers={"host": "evil.example"}).status == 403
    assert guard.observer.denials == ["foreign-host", "foreign-origin", "foreign-host"]


def test_a_checked_token_is_not_checked_again_until_it_expires(guard, monkeypatch):
    token = good()
    assert guard.call("GET", "/readyz", headers=token).status == 200
    monkeypatch.setattr(TOKENS, "_jwt", None)
    assert guard.call("GET", "/readyz", headers=token).status == 200
    monkeypatch.undo()
    real = time.time
    for jump in (300 + LEEWAY + 1, -LEEWAY - 1):
        monkeypatch.setattr(module.time, "time", lambda jump=jump: real() + jump)
        guard.access.caller("GET", "/healthz", {b"authorization": token["authorization"].encode()})
        assert not guard.access._known, "it was taken out"
        monkeypatch.undo()
        assert guard.call("GET", "/readyz", headers=token).status == 200


def test_what_is_remembered_is_bounded_and_the_oldest_goes_first(guard, monkeypatch):
    monkeypatch.setattr(module, "KNOWN", 3)
    shown = [f"Bearer {TOKENS.issue(name, PRODUCT)}".encode() for name in "abcde"]
    for header in (*shown[:3], shown[0], *shown[3:]):
        guard.access.caller("GET", "/readyz", {b"authorization": header})
    assert list(guard.access._known) == [shown[0], shown[3], shown[4]]


def test_refused_tokens_are_never_remembered(guard):
    for _ in range(20):
        assert guard.call("GET", "/readyz", headers=bearer("a.b.c")).status == 401
    assert not guard.access._known


def test_without_a_key_this_machine_is_answered_and_no_other(running):
    async def call(client):
        sent = []

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http", "method": "GET", "path": "/healthz", "raw_path": b"/healthz", "client": client,
            "headers": [(b"host", b"127.0.0.1")],
        }  # fmt: skip
        await running.service.app(scope, None, send)
        return sent[0]["status"]

    for host, status in (("127.0.0.1", 200), ("127.9.9.9", 200), ("::1", 200), ("10.1.2.3", 403), ("::2", 403)):
        assert asyncio.run(call((host, 4711))) == status
    assert asyncio.run(call(None)) == 200, "a Unix socket has no address"
    assert running.observer.denials == ["foreign-address"] * 2


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.7", "example.com"])
def test_nothing_listens_for_others_without_asking_who_they_are(host):
    with pytest.raises(RefusedByPolicy, match="nobody would be asked") as caught:
        bind(host, 0, setting="PLINTH_SERVICE_PORTS")
    assert "PLINTH_TOKEN_KEY" in caught.value.hint


def test_a_key_that_is_too_short_is_found_before_anything_listens():
    assert not guarded(Settings())
    assert guarded(Settings(token_key=KEY))
    with pytest.raises(InvalidInput):
        guarded(Settings(token_key="short"))
    with pytest.raises(InvalidInput):
        Access(PRODUCT, TOKENS, Refusals(lambda _payload: None), "short")


def test_everywhere_is_no_name_of_a_host():
    assert host_names(Settings(host="0.0.0.0", allowed_hosts=("flight-delays",))) == ("flight-delays",)
    assert host_names(Settings(host="::", allowed_hosts=())) == ()
    assert host_names(Settings(host="::1")) == ("[::1]",)
    assert host_names(Settings(host="10.0.0.1")) == ("10.0.0.1",)


# Refusals ---------------------------------------------------------------------------------------------------------


def test_a_flood_is_one_entry_with_its_count_and_times(audit):
    refusals = Refusals(audit)
    for _ in range(10_000):
        refusals.add("expired")
    refusals.flush()
    (entry,) = audit.entries
    assert (entry["reason"], entry["count"]) == ("expired", 10_000)
    assert entry["first"] <= entry["last"]
    refusals.flush()
    assert len(audit.entries) == 1, "nothing new, nothing written"


def test_an_entry_of_a_reason_is_followed_by_the_next_after_the_interval_only(audit):
    refusals = Refusals(audit, interval=3600)
    refusals.add("expired")
    refusals._write_those(due_only=True)
    refusals.add("expired")
    refusals.add("malformed")
    refusals._write_those(due_only=True)
    assert [entry["reason"] for entry in audit.entries] == ["expired", "malformed"]
    refusals._interval = 0
    refusals._write_those(due_only=True)
    assert audit.counts() == {"expired": 2, "malformed": 1}


def test_nothing_is_lost_while_the_ledger_is_away_and_it_is_said_once(audit):
    said = []
    refusals = Refusals(audit, interval=0, on_event=lambda name, level, **fields: said.append(name))
    audit.away = True
    for reason in ("expired", "malformed", "expired"):
        refusals.add(reason)
        refusals.flush()
    assert len(said) == 1
    audit.away = False
    refusals.flush()
    assert audit.counts() == {"expired": 2, "malformed": 1}
    assert len(said) == 2


def test_closing_writes_what_is_left_and_a_writer_that_hangs_holds_up_no_request(audit):
    go = threading.Event()

    def write(payload):
        go.wait(10)
        audit(payload)

    refusals = Refusals(write)
    refusals.start()
    refusals.add("expired")
    time.sleep(1.2)
    for _ in range(100):
        refusals.add("expired")  # while the writer is at it
    go.set()
    refusals.close()
    assert audit.counts() == {"expired": 101}
