"""The gate before MLflow's application: what passes it, and that a flood of wrong passwords takes little memory."""

import asyncio
import threading
import time

import pytest

from plinth.runtime.mlflow_gate import CHECKS_AT_ONCE, Gate


async def inner(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"inside"})


def known(request):
    return {"name": "ana"} if request.headers.get("authorization") == "Basic right" else None


async def _ask(app, path="/", method="GET", headers=(), kind="http"):
    sent = []

    async def send(message):
        sent.append(message)

    await app({"type": kind, "path": path, "method": method, "headers": list(headers)}, None, send)
    return sent


def ask(*args, **options):
    return asyncio.run(_ask(Gate(inner, known), *args, **options))[0]


@pytest.mark.parametrize(
    "path", ["/", "/version", "/healthy", "/health/", "//health", "/static-files/x", "/favicon.ico"]
)
def test_a_request_that_shows_nothing_gets_nothing(path):
    answer = ask(path)
    assert answer["status"] == 401
    assert (b"www-authenticate", b'Basic realm="mlflow"') in answer["headers"]


def test_health_is_told_to_everybody_but_not_changed_by_them():
    assert ask("/health")["status"] == 200
    assert ask("/health", "POST")["status"] == 401


def test_the_right_password_passes_and_a_wrong_one_does_not():
    assert ask(headers=[(b"authorization", b"Basic right")])["status"] == 200
    assert ask(headers=[(b"authorization", b"Basic wrong")])["status"] == 401


def test_a_web_socket_is_closed_whatever_it_shows():
    answer = ask(kind="websocket", headers=[(b"authorization", b"Basic right")])
    assert answer == {"type": "websocket.close", "code": 1008}


def test_few_passwords_are_checked_at_once():
    lock, now, most = threading.Lock(), 0, 0

    def slow(_request):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.01)
        with lock:
            now -= 1

    async def flood():
        gate = Gate(inner, slow)
        await asyncio.gather(*(_ask(gate, headers=[(b"authorization", b"Basic wrong")]) for _ in range(20)))

    asyncio.run(flood())
    assert most <= CHECKS_AT_ONCE
