"""Two releases side by side in one real service: exact weights, sticky entities, and no request lost on any way."""

import importlib.util
import math
import signal
import sqlite3
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper, numpy_helper

from flight_delays import vector
from patience import PATIENCE
from plinth.core.digests import digest_bytes
from plinth.core.rollouts import State
from plinth.core.routes import Route
from plinth.settings import Settings, find_home

HOME = find_home(Path(__file__).parent)


def load_synthetic():
    spec = importlib.util.spec_from_file_location("synthetic_state", HOME / "tests" / "bench" / "synthetic_state.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


synthetic = load_synthetic()
ENTITIES = [
    {**synthetic.as_json(synthetic.flights(1)[0]), "carrier": carrier, "origin": origin, "flight": number}
    for carrier in ("UA", "AA", "DL", "B6", "EV")
    for origin in vector.ORIGINS
    for number in range(1, 900)
]


def entity(flight):
    when = flight["scheduled_departure"].replace("-", "").replace(":", "")[:13] + "Z"
    return f"{flight['carrier']}{flight['flight']}-{flight['origin']}-{when}"


def broken_model():
    """0.5 for a row of zeros, which loading tries, and no number for any other."""
    width = len(vector.FEATURES)
    nodes = [
        helper.make_node("Abs", ["input"], ["sizes"]),
        helper.make_node("MatMul", ["sizes", "minus"], ["below"]),
        helper.make_node("Sqrt", ["below"], ["root"]),
        helper.make_node("Sigmoid", ["root"], ["late"]),
        helper.make_node("Concat", ["late", "late"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes, "broken", [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, width])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 2])],
        [numpy_helper.from_array(np.full((width, 1), -1, np.float32), "minus")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


class Running:
    """The service, its ledger, two releases and the rollout that runs."""

    def __init__(self, state, port, models):
        self.settings = Settings(state=state)
        store = self.settings.product_dir(synthetic.PRODUCT) / "online" / "online.db"
        synthetic.write_online_store(store, synthetic.flights(20))
        self.serving = synthetic.release(self.settings, models[0])
        self.candidate = synthetic.register(self.settings, models[1], number=2)
        self.service = synthetic.ServiceProcess(state, port).wait_ready()
        self.rollout = None

    def ready(self):
        return self.service.ask("GET", "/readyz")[1]

    def wait_for(self, condition):
        deadline = time.monotonic() + PATIENCE
        while not condition(ready := self.ready()):
            assert time.monotonic() < deadline, ready
            time.sleep(0.03)

    def wait_for_route(self, generation, step):
        self.wait_for(lambda ready: (ready["route"]["generation"], ready["route"]["step"]) == (generation, step))

    def start(self, *percents, candidate=None):
        self.rollout = synthetic.start_rollout(self.settings, candidate or self.candidate, *percents)
        return self.rollout

    def start_and_wait(self, *percents, candidate=None):
        self.start(*percents, candidate=candidate)
        self.wait_for_route(self.rollout.generation, 1)

    def next_stage(self):
        self.rollout = synthetic.next_stage(self.settings, self.rollout)
        self.wait_for_route(self.rollout.generation, self.rollout.state.stage + 1)

    def end(self):
        """Abort what runs, and wait until it is applied."""
        state = State("aborting", self.rollout.state.stage)
        self.rollout = synthetic.move_rollout(self.settings, self.rollout, state)
        self.wait_for_route(self.rollout.generation + 1, 0)

    def predict(self, flights, **headers):
        return self.service.ask("POST", "/predict", {"flights": flights}, headers)

    def requests(self, generation):
        """The request log's rows of a generation."""
        assert self.service.ask("POST", "/inference-log/flush")[0] == 200
        folder = self.settings.product_dir(synthetic.PRODUCT) / "requests" / f"generation={generation}"
        return [row for file in folder.glob("*.parquet") for row in pq.read_table(file, partitioning=None).to_pylist()]


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def models():
    return [synthetic.make_model(12, seed=seed)[1] for seed in (1, 2)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory, free_port, models):
    made = Running(tmp_path_factory.mktemp("routing"), free_port(), models)
    yield made
    made.service.stop()


@pytest.fixture
def running(shared):
    """The service with nothing rolled out; every test leaves the same process alive and serving the first release."""
    pid = shared.service.process.pid
    yield shared
    if shared.rollout is not None and shared.rollout.active:
        shared.end()
    shared.rollout = None
    assert (shared.service.process.poll(), shared.service.process.pid) == (None, pid)
    assert shared.predict(ENTITIES[:1])[1]["release"] == shared.serving


def answered_by_candidate(running, flights):
    """Entity ids that the candidate answered, asked in the largest batches."""
    found = set()
    for i in range(0, len(flights), 512):
        status, answer, _ = running.predict(flights[i : i + 512])
        assert status == 200
        assert [row["flight_id"] for row in answer["predictions"]] == [entity(f) for f in flights[i : i + 512]]
        for row in answer["predictions"]:
            by = row.get("release", answer["release"])
            assert by in {running.serving, running.candidate}
            if by == running.candidate:
                found.add(row["flight_id"])
    return found


def chi_square_p(count, total, share):
    """Probability of a count at least this far from its share, one degree of freedom."""
    expected = total * share
    square = (count - expected) ** 2 / expected + (count - expected) ** 2 / (total - expected)
    return math.erfc(math.sqrt(square / 2))


def test_the_shares_are_exact_and_an_entity_that_came_to_the_candidate_stays(running):
    running.start_and_wait(10, 50, 100)
    ids = [entity(flight) for flight in ENTITIES]
    assert len(set(ids)) == len(ids) > 13_000
    before = set()
    for share in (0.1, 0.5, 1.0):
        route = running.rollout.route
        chosen = answered_by_candidate(running, ENTITIES)
        assert chosen == {name for name, ours in zip(ids, route.to_candidate(ids), strict=True) if ours}
        if share < 1:
            assert chi_square_p(len(chosen), len(ids), share) > 0.001, len(chosen)
            running.next_stage()
        assert before <= chosen
        before = chosen
    assert len(before) == len(ids)


def test_another_rollout_shuffles_the_entities_anew(running):
    chosen = []
    for _ in range(2):
        running.start_and_wait(10)
        chosen.append(answered_by_candidate(running, ENTITIES[:4000]))
        running.end()
    both = len(chosen[0] & chosen[1])
    assert 10 < both < 80, "10% of 10%, by chance"


@contextmanager
def load(running, threads=4):
    """Requests of single flights from several clients; gives what was answered: (start, end, id, release, score)."""
    seen, failures, stop = [], [], threading.Event()

    def ask(offset):
        i = offset
        while not stop.is_set():
            flight = ENTITIES[(i := i + 7) % 400]
            started = time.monotonic()
            try:
                status, answer, _ = running.predict([flight])
            except OSError as error:
                failures.append(repr(error))
                continue
            if status != 200:
                failures.append((status, answer))
                continue
            (row,) = answer["predictions"]
            seen.append((started, time.monotonic(), row["flight_id"], answer["release"], row["probability"]))

    workers = [threading.Thread(target=ask, args=(i,)) for i in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield seen
    finally:
        stop.set()
        for worker in workers:
            worker.join()
        assert failures == []


def test_a_candidate_comes_and_goes_under_load_without_losing_a_request(running):
    with load(running) as seen:
        for _ in range(3):
            running.start_and_wait(0, 50, 100)
            running.next_stage()
            time.sleep(0.3)
            running.next_stage()
            time.sleep(0.2)
            running.end()
    assert {release for _, _, _, release, _ in seen} == {running.serving, running.candidate}
    scores = {(name, release): set() for _, _, name, release, _ in seen}
    for _, _, name, release, score in seen:
        scores[name, release].add(score)
    assert all(len(found) == 1 for found in scores.values()), "a digest never answered with another release's score"


def test_a_rollback_reaches_the_last_request_within_two_seconds(running, record_property):
    longest = 0.0
    for i in range(5):
        running.start_and_wait(50)
        with load(running, threads=3) as seen:
            wait_until(lambda seen=seen: any(release == running.candidate for *_, release, _ in list(seen)))
            time.sleep(i / 10)  # the service looks twice a second: at every phase of that
            decided = time.monotonic()
            synthetic.promote(running.settings, running.serving, kind="rollback")
            running.wait_for_route(running.rollout.generation + 1, 0)
            time.sleep(0.3)  # for what it might answer yet
        bad = [(start, end) for start, end, _, release, _ in seen if release == running.candidate]
        assert bad
        assert all(end - decided <= 2.0 for _, end in bad)
        longest = max(longest, *(end - decided for _, end in bad))
        running.rollout = None
    print(f"from the decision to the last answer of the candidate: at most {longest:.2f} s")
    record_property("seconds_to_rollback", longest)


def test_a_shadow_scores_what_is_answered_and_never_answers(running):
    running.start_and_wait(0, 100)
    for i in range(0, 200, 4):
        status, answer, _ = running.predict(ENTITIES[i : i + 4])
        assert (status, answer["release"]) == (200, running.serving)
        assert not any("release" in row for row in answer["predictions"])
    deadline, found = time.monotonic() + PATIENCE, []
    while len(found) < 50 and time.monotonic() < deadline:
        rows = running.requests(running.rollout.generation)
        found = [row for row in rows if row["arm"] == "shadow"]
    answered = {row["request_id"]: row for row in rows if row["arm"] == "serving"}
    assert len(found) == len(answered) == 50
    for row in found:
        ours = answered[row["request_id"]]
        assert (row["release"], row["code"], row["step"], row["rows"]) == (running.candidate, 200, 1, 4)
        assert row["entity_ids"] == ours["entity_ids"]
        assert row["scores"] != ours["scores"]
    inference = running.settings.product_dir(synthetic.PRODUCT) / "inference"
    tables = [pq.read_table(file, partitioning=None) for file in inference.rglob("*.parquet")]
    shadowed = {row["request_id"] for row in found}
    logged = [row for table in tables for row in table.to_pylist() if row["request_id"] in shadowed]
    assert len(logged) == 200
    assert {row["release"] for row in logged} == {running.serving}


def test_a_candidate_that_answers_no_number_harms_its_share_only(running):
    broken = synthetic.register(running.settings, broken_model(), number=3)
    running.start_and_wait(10, candidate=broken)
    sample = ENTITIES[:300]
    ours = running.rollout.route.to_candidate([entity(flight) for flight in sample])
    statuses = [running.predict([flight])[0] for flight in sample]
    assert statuses == [500 if bad else 200 for bad in ours]
    rows = running.requests(running.rollout.generation)
    assert {(row["arm"], row["release"], row["code"]) for row in rows} == {
        ("serving", running.serving, 200), ("candidate", broken, 500),
    }  # fmt: skip
    assert sum(row["code"] == 500 for row in rows) == sum(ours)


def artifact(running, data):
    digest = digest_bytes(data)
    return running.settings.state_dir / "artifacts" / "sha256" / digest[:2] / digest


def test_a_corrupt_candidate_leaves_everything_to_what_serves_and_heals(running):
    model = synthetic.make_model(4, seed=9)[1]
    other = synthetic.register(running.settings, model, number=4)
    path = artifact(running, model)
    path.chmod(0o644)
    path.write_bytes(model[:-1] + b"\x00")
    running.start(50, candidate=other)
    running.wait_for(lambda ready: ready["warnings"])
    ready = running.ready()
    assert (ready["ready"], ready["release"], ready["loaded"]) == (True, running.serving, [running.serving])
    assert (ready["route"]["generation"], ready["route"]["step"]) == (running.rollout.generation, 0)
    assert "digest" in ready["warnings"][0]
    answers = [running.predict([flight]) for flight in ENTITIES[:50]]
    assert {(status, answer["release"]) for status, answer, _ in answers} == {(200, running.serving)}
    path.write_bytes(model)
    running.wait_for_route(running.rollout.generation, 1)
    assert running.ready()["warnings"] == []
    assert running.ready()["loaded"] == [running.serving, other]


def test_without_its_ledger_the_split_goes_on(running):
    running.start_and_wait(50)
    sample = [entity(flight) for flight in ENTITIES[:200]]
    expected = [name for name, ours in zip(sample, running.rollout.route.to_candidate(sample), strict=True) if ours]
    ledger = running.settings.state_dir / "ledger.db"
    files = [path for path in ledger.parent.glob("ledger.db*") if path.is_file()]
    held = [path.rename(path.with_name("held-" + path.name)) for path in files]
    try:
        deadline = time.monotonic() + 2.5
        while time.monotonic() < deadline:
            assert answered_by_candidate(running, ENTITIES[:200]) == set(expected)
    finally:
        assert not ledger.exists(), "the service has made itself no new ledger"
        for path in held:
            path.rename(path.with_name(path.name.removeprefix("held-")))


def test_a_locked_ledger_stops_no_answer_of_either_release(running):
    running.start_and_wait(50)
    connection = sqlite3.connect(running.settings.state_dir / "ledger.db", isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            assert len(answered_by_candidate(running, ENTITIES[:100])) > 20
    finally:
        connection.execute("ROLLBACK")
        connection.close()


def set_generation(running, change):
    with sqlite3.connect(running.settings.state_dir / "ledger.db") as connection:
        connection.execute("UPDATE serving SET generation = generation + ?", (change,))
    connection.close()


def test_an_older_route_is_refused(running):
    running.start_and_wait(50)
    applied = running.ready()["route"]
    set_generation(running, -1)
    try:
        running.wait_for(lambda ready: ready["warnings"])
        assert running.ready()["route"] == applied
        assert "older" in running.ready()["warnings"][0]
        assert running.predict(ENTITIES[:50])[0] == 200
    finally:
        set_generation(running, 1)
    running.wait_for(lambda ready: not ready["warnings"])


@pytest.mark.parametrize("place", ["route.before-load", "route.after-load"])
def test_a_kill_while_loading_leaves_nothing_that_a_restart_does_not_mend(tmp_path, free_port, models, place):
    port = free_port()
    running = Running(tmp_path, port, models)
    running.service.stop()
    running.start(50)
    killed = synthetic.ServiceProcess(tmp_path, port, PLINTH_FAILPOINT=f"{place}:kill")
    assert killed.process.wait(timeout=PATIENCE) == -signal.SIGKILL
    running.service = synthetic.ServiceProcess(tmp_path, port).wait_ready()
    running.wait_for_route(running.rollout.generation, 1)
    route = Route(running.rollout.generation, 1, running.serving, running.candidate, 5000)
    assert Route(**running.ready()["route"]) == route == running.rollout.route
    running.service.stop()
