"""One suite for the port of a rollout's signals, on the request log and on a real Prometheus server.

The server scrapes two services' worth of real /metrics four times a second.
"""

import http.server
import random
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from contextlib import contextmanager, suppress

import numpy as np
import pytest

from plinth.core.evidence import LATENCY_BOUNDS, SCORE_BOUNDS, bin_of
from plinth.core.routes import Route
from plinth.errors import Unavailable
from plinth.telemetry.duckdb import RequestLog
from plinth.telemetry.prometheus import Metrics
from plinth.telemetry.promql import PrometheusSignals
from request_files import Request, write

SERVING, CANDIDATE = "5" * 64, "c" * 64
SCRAPE = 0.25


def serving(*scores, **values):
    return Request(release=SERVING, scores=scores, **values)


def candidate(*scores, **values):
    return Request(arm="candidate", release=CANDIDATE, scores=scores, **values)


def shadow(*scores, **values):
    return Request(arm="shadow", release=CANDIDATE, scores=scores, **values)


class Endpoint:
    """A service's /metrics, without the service."""

    def __init__(self):
        self.metrics = Metrics("nobody")
        self.scrapes = threading.Semaphore(0)
        endpoint = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                endpoint.scrapes.release()
                body, content_type = endpoint.metrics.render()
                self.send_response(200)
                self.send_header("Content-Type", content_type)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def scraped(self):
        """Wait until what is counted now is in the server: the scrape after the next one has begun."""
        while self.scrapes.acquire(blocking=False):
            pass
        for _ in range(2):
            assert self.scrapes.acquire(timeout=20), "nobody scrapes"

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    """A server and the two endpoints it scrapes."""
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.skip("no Prometheus server: apt-get install prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    endpoints = [Endpoint(), Endpoint()]
    targets = ", ".join(f'"127.0.0.1:{endpoint.port}"' for endpoint in endpoints)
    config = folder / "prometheus.yml"
    config.write_text(
        f"global: {{scrape_interval: {SCRAPE * 1000:.0f}ms, scrape_timeout: {SCRAPE * 1000:.0f}ms}}\n"
        f"scrape_configs: [{{job_name: plinth, static_configs: [{{targets: [{targets}]}}]}}]\n"
    )
    url = f"http://127.0.0.1:{free_port()}"
    argv = [
        binary, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}", "--log.level=warn",
        f"--web.listen-address={url.removeprefix('http://')}",
    ]  # fmt: skip
    with (folder / "log").open("w") as log, subprocess.Popen(argv, stdout=log, stderr=log) as process:
        try:
            _wait_until_ready(url, process, folder / "log")
            yield url, endpoints
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
            for endpoint in endpoints:
                endpoint.close()


def _wait_until_ready(url, process, log):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{url}/-/ready", timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"Prometheus did not get ready: {log.read_text()}")


class Logged:
    """What services do, written to the request log."""

    def __init__(self, folder):
        self.folder = folder
        self.signals = RequestLog(lambda product: self.folder / product)

    def start(self, product):
        self.product = product

    def record(self, *requests, process=0):
        for generation in sorted({request.generation for request in requests}):
            write(self.folder / self.product, [r for r in requests if r.generation == generation])

    def restart(self):
        pass  # the log is on disk

    @contextmanager
    def broken(self):
        """A source that is there and cannot be read."""
        path = write(self.folder / "broken", [serving(0.1)])
        path.write_bytes(b"PAR1 and then nothing")
        yield self.signals, "broken"


class Scraped:
    """The same, counted by services that Prometheus scrapes."""

    def __init__(self, url, endpoints):
        self.endpoints = endpoints
        self.address = ("127.0.0.1", int(url.rpartition(":")[2]))
        self.signals = PrometheusSignals(url)

    def start(self, product):
        self.product = product
        for endpoint in self.endpoints:
            endpoint.metrics = Metrics(product)

    def record(self, *requests, process=0):
        endpoint = self.endpoints[process]
        for request in requests:
            route = Route(request.generation, request.step, SERVING, CANDIDATE, 1000)
            failed = request.code >= 500
            endpoint.metrics.rollout.add(
                route, request.arm, request.release, failed=failed, seconds=request.seconds,
                scores=np.array(() if failed else request.scores), defaulted=request.defaulted,
            )  # fmt: skip
        endpoint.scraped()

    def restart(self):
        self.endpoints[0].metrics = Metrics(self.product)
        self.endpoints[0].scraped()

    @contextmanager
    def broken(self):
        yield PrometheusSignals(f"http://127.0.0.1:{free_port()}"), "broken"


@pytest.fixture
def logged(tmp_path):
    logged = Logged(tmp_path)
    yield logged
    logged.signals.close()


@pytest.fixture
def scraped(prometheus):
    return Scraped(*prometheus)


@pytest.fixture(params=["logged", "scraped"])
def source(request):
    """One of the adapters, with a product of the test's own."""
    source = request.getfixturevalue(request.param)
    source.start(request.node.originalname)
    return source


def summary(cells):
    return [(c.step, c.arm, c.release, c.requests, c.errors, c.rows, c.defaulted) for c in cells]


def test_nothing_yet_is_empty(source):
    assert source.signals.cells(source.product, 7) == ()
    assert source.signals.cells("never-heard-of", 7, window=60) == ()
    assert not source.signals.outcomes(source.product, 7)


def test_counts_are_by_step_and_arm_with_their_release(source):
    source.record(serving(0.1), serving(0.2, 0.3, defaulted=1), candidate(0.5))
    source.record(candidate(code=500), candidate(0.5, 0.5, step=2), serving(0.5, step=2, code=503), shadow(0.4, 0.4))
    cells = source.signals.cells(source.product, 7)
    assert summary(cells) == [
        (1, "serving", SERVING, 2, 0, 3, 1),
        (1, "candidate", CANDIDATE, 2, 1, 1, 0),
        (1, "shadow", CANDIDATE, 1, 0, 2, 0),
        (2, "serving", SERVING, 1, 1, 0, 0),
        (2, "candidate", CANDIDATE, 1, 0, 2, 0),
    ]
    for cell in cells:
        assert sum(cell.latency) == cell.requests
        assert sum(cell.scores) == cell.rows
        assert cell.busy_seconds == pytest.approx(0.003 * cell.requests)


def test_processes_are_added_up(source):
    source.record(serving(0.1), candidate(0.2), process=0)
    source.record(serving(0.3), process=1)
    assert [cell.requests for cell in source.signals.cells(source.product, 7)] == [2, 1]


def test_bins_hold_what_is_at_most_their_bound(source):
    source.record(*(candidate(score, seconds=at) for score, at in zip(SCORE_BOUNDS, LATENCY_BOUNDS, strict=False)))
    (cell,) = source.signals.cells(source.product, 7)
    assert list(cell.latency) == [1] * len(SCORE_BOUNDS) + [0] * (len(cell.latency) - len(SCORE_BOUNDS))
    assert list(cell.scores) == [1] * len(SCORE_BOUNDS) + [0]


def test_generations_and_products_do_not_mix(source):
    source.record(serving(0.1))
    assert source.signals.cells(source.product, 8) == ()
    assert source.signals.cells(f"{source.product}-2", 7) == ()
    source.record(serving(0.1, generation=8), serving(0.1, generation=8))
    assert [cell.requests for cell in source.signals.cells(source.product, 8)] == [2]


def test_a_window_leaves_out_what_is_older(source):
    source.record(serving(0.1), candidate(0.1), candidate(code=500))
    time.sleep(1.5)
    middle = time.monotonic()
    time.sleep(1.5)
    source.record(candidate(0.9), candidate(0.9, step=2))
    inside = source.signals.cells(source.product, 7, window=time.monotonic() - middle)
    assert summary(inside) == [(1, "candidate", CANDIDATE, 1, 0, 1, 0), (2, "candidate", CANDIDATE, 1, 0, 1, 0)]
    assert [cell.scores[bin_of(0.9, SCORE_BOUNDS)] for cell in inside] == [1, 1]
    assert sum(cell.requests for cell in source.signals.cells(source.product, 7, window=3600)) == 5
    assert sum(cell.requests for cell in source.signals.cells(source.product, 7)) == 5


def test_a_restarted_service_gives_no_more_evidence_than_there_was(source):
    source.record(*[candidate(0.1)] * 5)
    source.restart()
    source.record(*[candidate(0.1)] * 2)
    for window in (None, 3600, 60):
        (cell,) = source.signals.cells(source.product, 7, window=window)
        assert 2 <= cell.requests <= 7


def test_names_with_quotes_are_names(source):
    odd = """we"ird'} \\ {x="y"""
    source.start(odd)
    source.record(serving(0.1))
    assert [cell.requests for cell in source.signals.cells(odd, 7)] == [1]
    assert source.signals.cells('we"ird', 7) == ()


def test_a_source_that_cannot_be_read_is_unavailable_and_not_empty(source):
    with source.broken() as (signals, product), pytest.raises(Unavailable) as said:
        signals.cells(product, 7)
    assert said.value.where
    assert said.value.hint


def test_both_adapters_count_the_same_traffic_alike(logged, scraped):
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    rng = random.Random(seed)
    requests = [
        Request(
            arm=arm, release=SERVING if arm == "serving" else CANDIDATE, step=rng.choice([1, 2, 3]),
            code=500 if rng.random() < 0.1 else 200, seconds=rng.lognormvariate(-5, 2),
            scores=tuple(rng.random() if rng.random() > 0.05 else float("nan") for _ in range(rng.randint(1, 5))),
            defaulted=rng.choice([0, 0, 1]),
        )
        for arm in rng.choices(["serving", "candidate", "shadow"], [6, 3, 1], k=400)
    ]  # fmt: skip
    found = []
    for source in (logged, scraped):
        source.start("both")
        source.record(*requests[:200], process=0)
        source.record(*requests[200:], process=1)
        found.append(source.signals.cells("both", 7))
    ours, theirs = ([(*summary([c]), c.latency, c.scores) for c in cells] for cells in found)
    assert ours == theirs
    assert [c.busy_seconds for c in found[0]] == pytest.approx([c.busy_seconds for c in found[1]])


# Of Prometheus alone: a server that hangs, trickles or answers nonsense -----------------------------------------------


@contextmanager
def listener(answer, port=0):
    """A socket that accepts and does `answer(connection, stop)`."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", port)) as server:
        server.settimeout(0.1)

        def work():
            while not stop.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        def serve(connection):
            with connection, suppress(OSError):  # the other side gave up
                answer(connection, stop)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            stop.set()
            thread.join()


def hang(connection, stop):
    stop.wait()


def trickle_headers(connection, stop):
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while not stop.wait(0.05):
        connection.sendall(b"x")


def trickle_body(connection, stop):
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while not stop.wait(0.05):
        connection.sendall(b" ")


def saying(body, status="200 OK"):
    def answer(connection, stop):
        connection.recv(65536)
        connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())

    return answer


@pytest.mark.parametrize("answer", [hang, trickle_headers, trickle_body])
def test_a_server_that_hangs_costs_one_deadline_and_then_nothing(answer):
    now = [0.0]
    with listener(answer) as url:
        signals = PrometheusSignals(url, timeout=0.4, failures=2, cool_down=30.0, clock=lambda: now[0])
        for _ in range(2):
            started = time.monotonic()
            with pytest.raises(Unavailable, match=r"no whole answer|timed out"):
                signals.cells("p", 7)
            assert time.monotonic() - started < 1.5
        started = time.monotonic()
        for _ in range(100):
            with pytest.raises(Unavailable, match="in a row"):
                signals.cells("p", 7)
        assert time.monotonic() - started < 0.3
    assert not [thread for thread in _askers() if not _ends(thread)]


def _askers():
    return [thread for thread in threading.enumerate() if thread.name == "plinth-prometheus"]


def _ends(thread):
    thread.join(5)
    return not thread.is_alive()


def test_the_breaker_closes_when_the_server_is_back(scraped):
    scraped.start("breaker")
    scraped.record(serving(0.1))
    now, port = [0.0], free_port()
    signals = PrometheusSignals(f"http://127.0.0.1:{port}", failures=2, cool_down=30.0, clock=lambda: now[0])
    for _ in range(2):
        with pytest.raises(Unavailable, match="refused"):
            signals.cells("breaker", 7)

    def forward(connection, stop):
        with socket.create_connection(scraped.address) as upstream:
            upstream.sendall(connection.recv(65536))
            while part := upstream.recv(65536):
                connection.sendall(part)

    with listener(forward, port):
        with pytest.raises(Unavailable, match="in a row"):
            signals.cells("breaker", 7)
        now[0] = 31.0
        assert [cell.requests for cell in signals.cells("breaker", 7)] == [1]
        assert [cell.requests for cell in signals.cells("breaker", 7)] == [1]


@pytest.mark.parametrize(
    "answer",
    [
        saying("not json"),
        saying("[]"),
        saying('{"status": "success", "data": {"resultType": "matrix", "result": []}}'),
        saying('{"status": "error", "error": "parse error"}', "400 Bad Request"),
        saying("", "302 Found"),
        saying('{"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}}]}}'),
        lambda connection, stop: connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n"),
        lambda connection, stop: None,
    ],
)
def test_an_answer_that_is_none_is_unavailable(answer):
    with listener(answer) as url, pytest.raises(Unavailable):
        PrometheusSignals(url).cells("p", 7)
