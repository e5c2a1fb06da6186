"""One suite for the backends that routes are applied on, and what is special to services looked at over HTTP."""

import contextlib
import json
import threading
import time
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from plinth.core.routes import Route
from plinth.errors import Conflict, NotFound
from plinth.serving.http import HttpBackend
from plinth.serving.memory_backend import MemoryBackend

A, B = "a" * 64, "b" * 64
FIRST = Route(1, 0, A)
CANARY = Route(2, 1, A, B, 1000)
SHADOW = Route(2, 2, A, B, 0, shadow=True)


class Copy:
    """A running copy of a service, as far as /readyz goes: it answers what `self.answer` writes to a connection."""

    def __init__(self):
        self.route, self.paths = None, []
        copy = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                copy.paths.append(self.path)
                copy.answer(self)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.answer = self.say_state
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def say_state(self, handler):
        ready = self.route is not None
        route = asdict(self.route) if ready else None
        self.say(
            handler,
            {
                "ready": ready, "reasons": [] if ready else ["no release has been promoted yet"], "warnings": [],
                "route": route, "loaded": list(self.route.releases) if ready else [],
            },
            200 if ready else 503,
        )  # fmt: skip

    def say(self, handler, value, code=200):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        handler.send_response(code)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def copies():
    made = []

    def make():
        made.append(Copy())
        return made[-1]

    yield make
    for copy in made:
        with contextlib.suppress(OSError):
            copy.close()


class Pulled:
    """Services that pull: what is applied is what the ledger says to the copy, unless that is older."""

    def __init__(self, copy):
        self.copy, self.backend = copy, HttpBackend(lambda product: [copy.url])

    def apply(self, route):
        self.backend.apply("p", route)
        if self.copy.route is None or route.order >= self.copy.route.order:  # as the service's own watcher does
            self.copy.route = route

    def go_down(self):
        self.copy.close()


class Pushed:
    def __init__(self):
        self.backend = MemoryBackend()

    def apply(self, route):
        with contextlib.suppress(Conflict):
            self.backend.apply("p", route)

    def go_down(self):
        self.backend.down = True


@pytest.fixture(params=["http", "memory"])
def world(request, copies):
    return Pulled(copies()) if request.param == "http" else Pushed()


def test_before_the_first_route_nothing_is_served(world):
    (seen,) = world.backend.observe("p")
    assert seen.route is None
    assert seen.loaded == ()


@pytest.mark.parametrize("route", [FIRST, CANARY, SHADOW])
def test_the_route_that_is_applied_is_the_route_that_is_seen(world, route):
    world.apply(route)
    (seen,) = world.backend.observe("p")
    assert seen.route == route
    assert seen.loaded == route.releases
    assert seen.problem == ""


def test_applying_a_route_twice_is_one_effect(world):
    world.apply(CANARY)
    world.apply(CANARY)
    assert [seen.route for seen in world.backend.observe("p")] == [CANARY]


@pytest.mark.parametrize("older", [FIRST, CANARY])
def test_an_older_route_changes_nothing(world, older):
    world.apply(SHADOW)
    world.apply(older)
    assert [seen.route for seen in world.backend.observe("p")] == [SHADOW]


def test_a_copy_that_does_not_answer_is_seen_as_such_and_raises_nothing(world):
    world.apply(CANARY)
    world.go_down()
    (seen,) = world.backend.observe("p")
    assert seen.route is None
    assert "does not answer" in seen.problem


# Over HTTP ------------------------------------------------------------------------------------------------------


def test_every_copy_is_asked_once_at_readyz_and_its_warnings_are_told(copies):
    one, two = copies(), copies()
    one.route = two.route = CANARY
    two.answer = lambda handler: two.say(
        handler, {"route": asdict(FIRST), "loaded": [A], "warnings": ["the ledger is away"], "reasons": []}
    )
    seen = HttpBackend(lambda product: [one.url, two.url + "/"]).observe("p")
    assert [item.where for item in seen] == [one.url, two.url + "/"]
    assert [item.route for item in seen] == [CANARY, FIRST]
    assert [item.problem for item in seen] == ["", "the ledger is away"]
    assert one.paths == two.paths == ["/readyz"]


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b"7", b"\xff\xfe", b'{"route": 7}', b'{"route": {"generation": 1}}', b'{"loaded": 5}'],
)
def test_what_is_no_state_of_a_service_is_a_problem(copies, body):
    copy = copies()
    copy.answer = lambda handler: copy.say(handler, body)
    (seen,) = HttpBackend(lambda product: [copy.url]).observe("p")
    assert seen.route is None
    assert "no state of a service" in seen.problem


def test_a_service_without_a_route_yet_serves_nothing(copies):
    copy = copies()
    copy.answer = lambda handler: copy.say(handler, {"ready": True, "reasons": [], "warnings": []})
    (seen,) = HttpBackend(lambda product: [copy.url]).observe("p")
    assert (seen.route, seen.problem) == (None, "")


def drip(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    with contextlib.suppress(OSError):
        for _ in range(1000):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)


@pytest.mark.parametrize("answer", [lambda handler: time.sleep(3), drip], ids=["silent", "dripping"])
def test_copies_that_hang_cost_the_deadline_once(copies, answer):
    hanging, well = [copies() for _ in range(4)], copies()
    for copy in hanging:
        copy.answer = answer
    well.route = CANARY
    backend = HttpBackend(lambda product: [*(copy.url for copy in hanging), well.url], timeout=0.5)
    began = time.monotonic()
    seen = backend.observe("p")
    assert time.monotonic() - began < 1.5
    assert [item.route for item in seen] == [None] * 4 + [CANARY]
    assert all("does not answer" in item.problem for item in seen[:4])


def test_an_endless_answer_is_cut_off(copies):
    copy = copies()
    copy.answer = lambda handler: copy.say(handler, b" " * 3_000_000)
    (seen,) = HttpBackend(lambda product: [copy.url]).observe("p")
    assert seen.route is None
    assert "too long" in seen.problem


def test_a_product_without_an_address_is_a_problem_and_no_error():
    def unknown(product):
        raise NotFound(f"no product {product!r}")

    (seen,) = HttpBackend(unknown).observe("p")
    assert seen.route is None
    assert "no product 'p'" in seen.problem
