"""What the running service survives: rows 4, 5, 6, 7, 11 and 27 of the fault table, and its own death."""

import contextlib
import importlib.util
import json
import os
import pickle
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from patience import PATIENCE
from plinth.core.digests import digest_bytes
from plinth.settings import Settings, find_home

HOME = find_home(Path(__file__).parent)


def load_synthetic():
    spec = importlib.util.spec_from_file_location("synthetic_state", HOME / "tests" / "bench" / "synthetic_state.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


synthetic = load_synthetic()
GOOD = synthetic.as_json(synthetic.flights(1)[0])
ONE = {"flights": [GOOD]}


@pytest.fixture(scope="module")
def models():
    return [synthetic.make_model(8, seed=seed)[1] for seed in (1, 2)]


@pytest.fixture(scope="module")
def running(tmp_path_factory, models):
    """One service for all faults that leave it whole; every test ends by seeing it predict."""
    state = tmp_path_factory.mktemp("faults")
    settings = Settings(state=state)
    synthetic.write_online_store(store_of(state), synthetic.flights(5))
    synthetic.release(settings, models[0])
    service = synthetic.ServiceProcess(state, synthetic.free_port()).wait_ready()
    service.settings = settings
    yield service
    service.stop()


@pytest.fixture(autouse=True)
def still_alive(running):
    pid = running.process.pid
    yield
    assert running.process.poll() is None
    assert running.process.pid == pid
    assert running.ask("POST", "/predict", ONE)[0] == 200


def store_of(state):
    return state / "products" / "flight-delays" / "online" / "online.db"


def inference_rows(state):
    files = list((state / "products" / "flight-delays" / "inference").glob("date=*/*.parquet"))
    return sum(pq.read_metadata(file).num_rows for file in files)


def wait_for(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextlib.contextmanager
def locked(path):
    """Another process's exclusive lock: it refuses the readers of a rollback journal, and the writers of any."""
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        holder.execute("ROLLBACK")
        holder.close()


def test_row_5_a_locked_online_store_is_a_503_in_bounded_time_and_heals(running):
    before = running.ask("POST", "/inference-log/flush")[1]["written"]
    assert running.ask("POST", "/predict", ONE)[0] == 200
    with locked(store_of(running.state)):
        started = time.monotonic()
        status, answer, headers = running.ask("POST", "/predict", ONE)
        took = time.monotonic() - started
        assert (status, headers["Retry-After"]) == (503, "1")
        assert "locked" in answer["error"]["what"]
        assert took < 10
        status, answer, _ = running.ask("GET", "/readyz")
        assert status == 503
        assert "locked" in answer["reasons"][0]
    assert running.ask("POST", "/predict", ONE)[0] == 200
    assert running.ask("GET", "/readyz")[0] == 200
    assert running.ask("POST", "/inference-log/flush")[1]["written"] == before + 2, "nothing acknowledged is lost"


def test_a_materialization_that_was_killed_in_the_middle_leaves_a_store_that_answers(running):
    path = store_of(running.state)
    code = (
        "import os, sqlite3, sys\n"
        "store = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "store.execute('PRAGMA cache_size=10')\n"
        "store.execute('BEGIN IMMEDIATE')\n"
        "store.execute('CREATE TABLE half (value BLOB)')\n"
        "for _ in range(5):\n"
        "    store.execute('INSERT INTO half VALUES (randomblob(1000000))')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert path.with_name(path.name + "-journal").exists(), "nothing to roll back: the test shows nothing"
    assert running.ask("POST", "/predict", ONE)[0] == 200


def test_row_5_a_locked_ledger_stops_no_prediction(running):
    with locked(running.state / "ledger.db"):
        for _ in range(20):
            assert running.ask("POST", "/predict", ONE)[0] == 200
            time.sleep(0.05)


def promote(running, model, number):
    return synthetic.release(running.settings, model, number=number)


def artifact(running, data):
    digest = digest_bytes(data)
    return running.state / "artifacts" / "sha256" / digest[:2] / digest


@pytest.mark.parametrize(("damage", "seed"), [("truncated", 11), ("flipped", 12), ("deleted", 13)])
def test_row_6_a_damaged_artefact_is_refused_and_the_last_good_release_serves(running, damage, seed):
    good = running.ask("GET", "/readyz")[1]["release"]
    model = synthetic.make_model(4, seed=seed)[1]
    path = artifact(running, model)
    # The file is damaged before the release that names it is promoted.
    real = synthetic.ArtifactStore.put_bytes

    def damaged(store, data):
        digest = real(store, data)
        if data == model:
            path.chmod(0o644)
            if damage == "deleted":
                path.unlink()
            else:
                path.write_bytes(data[: len(data) // 2] if damage == "truncated" else data[:-1] + b"\x00")
        return digest

    synthetic.ArtifactStore.put_bytes = damaged
    try:
        new = promote(running, model, 100 + seed)
    finally:
        synthetic.ArtifactStore.put_bytes = real
    wait_for(lambda: running.ask("GET", "/readyz")[1]["warnings"])
    status, ready, _ = running.ask("GET", "/readyz")
    assert (status, ready["release"]) == (200, good)
    assert 'plinth_release_stale{product="flight-delays"} 1.0' in running.ask("GET", "/metrics")[1]
    assert running.ask("POST", "/predict", ONE)[1]["release"] == good
    path.unlink(missing_ok=True)
    path.write_bytes(model)
    wait_for(lambda: running.ask("GET", "/readyz")[1]["release"] == new)
    assert running.ask("GET", "/readyz")[1]["warnings"] == []


class Poison:
    """Runs a command when it is unpickled."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


def test_row_7_a_pickle_in_a_releases_place_is_never_loaded(running, tmp_path, models):
    canary = tmp_path / "canary"
    good = running.ask("GET", "/readyz")[1]["release"]
    promote(running, pickle.dumps(Poison(canary)), 900)
    wait_for(lambda: running.ask("GET", "/readyz")[1]["warnings"])
    _, ready, _ = running.ask("GET", "/readyz")
    assert ready["release"] == good
    assert "pickle" in ready["warnings"][0]
    assert not canary.exists()
    new = promote(running, models[1], 901)
    wait_for(lambda: running.ask("GET", "/readyz")[1]["release"] == new)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process are set with prlimit(2)")
def test_row_4_a_disk_that_takes_no_more_stops_no_prediction_and_the_log_heals(running):
    running.ask("POST", "/inference-log/flush")
    before = inference_rows(running.state)
    old = resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (0, old[1]))
    try:
        for _ in range(10):
            assert running.ask("POST", "/predict", ONE)[0] == 200
        status, answer, _ = running.ask("POST", "/inference-log/flush")
        assert status == 503
        assert "inference log" in answer["error"]["what"]
        assert "plinth_inference_log_write_errors_total" in running.ask("GET", "/metrics")[1]
    finally:
        resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, old)
    wait_for(lambda: running.ask("POST", "/inference-log/flush")[0] == 200)
    assert inference_rows(running.state) == before + 10


def raw(running, head, chunks, timeout=PATIENCE):
    """Send bytes as they are; the whole answer as text."""
    with socket.create_connection(("127.0.0.1", running.port), timeout=timeout) as connection:
        connection.sendall(head)
        try:
            for chunk in chunks:
                connection.sendall(chunk)
        except OSError:
            pass  # it has answered and closed: that is what we are after
        answer = b""
        try:
            while part := connection.recv(65536):
                answer += part
        except OSError:
            pass
        return answer.decode("latin-1")


HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def test_row_27_a_huge_body_is_a_413_and_memory_stays_flat(running):
    process = psutil.Process(running.process.pid)
    before = process.memory_info().rss
    answer = raw(running, HEAD + b"Content-Length: 300000000\r\n\r\n", [])
    assert answer.startswith("HTTP/1.1 413")
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    for _ in range(3):
        answer = raw(running, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", (chunk for _ in range(3200)))
        assert answer.startswith("HTTP/1.1 413") or answer == ""  # closed while we were still sending
    assert process.memory_info().rss - before < 40 << 20


def test_row_27_a_slow_body_is_a_408(running):
    def slowly():
        for _ in range(60):
            yield b" "
            time.sleep(0.25)

    started = time.monotonic()
    answer = raw(running, HEAD + b"Content-Length: 1000\r\n\r\n", slowly())
    assert answer.startswith("HTTP/1.1 408")
    assert 8 < time.monotonic() - started < 25


@pytest.mark.parametrize("opened", [b"[", b'{"a":'])
def test_row_27_deep_json_is_a_400_and_memory_stays_flat(running, opened):
    process = psutil.Process(running.process.pid)
    before = process.memory_info().rss
    status, answer, _ = running.ask("POST", "/predict", b'{"flights":' + opened * (900_000 // len(opened)))
    assert status == 400
    assert "nested" in answer["error"]["what"]
    assert process.memory_info().rss - before < 40 << 20


@pytest.mark.parametrize(
    ("literal", "field"),
    [
        (b"NaN", "flights[0].flight"), (b"-Infinity", "flights[0].flight"), (b'"\\u0000"', "flights[0].carrier"),
        (b'"\\ud800"', "flights[0].tailnum"), (b'"U\\u0000A"', "flights[0].origin"),
    ],
)  # fmt: skip
def test_row_11_what_json_cannot_carry_is_a_422_that_names_the_field(running, literal, field):
    name = field.rpartition(".")[2]
    body = json.dumps({"flights": [{**GOOD, name: "@"}]}).encode().replace(b'"@"', literal)
    status, answer, _ = running.ask("POST", "/predict", body)
    assert (status, answer["error"]["where"]) == (422, field)


def test_broken_http_and_hung_clients_stop_nobody(running):
    assert "400" in raw(running, b"\x16\x03\x01\x00garbage\r\n\r\n", [])
    hung = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(50)]
    for connection in hung:
        connection.sendall(HEAD + b"Content-Length: 10\r\n\r\n12")
    assert running.ask("POST", "/predict", ONE, timeout=5)[0] == 200
    for connection in hung:
        connection.close()


def test_a_kill_in_the_middle_of_writing_leaves_only_whole_files(tmp_path, models):
    settings = Settings(state=tmp_path)
    synthetic.write_online_store(store_of(tmp_path), synthetic.flights(5))
    synthetic.release(settings, models[0])
    service = synthetic.ServiceProcess(tmp_path, synthetic.free_port()).wait_ready()
    for _ in range(30):
        service.ask("POST", "/predict", {"flights": [GOOD] * 200})
    service.stop(signal.SIGKILL)
    for file in (tmp_path / "products").rglob("*.parquet"):
        pq.read_table(file, partitioning=None).validate(full=True)
