"""One prediction over HTTP: `python tests/bench/bench_serving.py`. Targets 1 and 2 of the performance page.

Ours answers by entity keys: it reads seven feature views online, assembles the vector, scores, logs the prediction,
counts, writes a log line and samples traces (1%) towards an OTLP sink. The peers get the finished vector: the same ONNX
model behind bare BentoML (its own `@bentoml.api`, defaults), behind `mlflow models serve`, and behind Starlette with
nothing else, the floor. A second process of ours shows the noise (A/A). And ours against ours: what a rollout costs,
with the same model as serving release and as candidate that answers half of the entities, or scores as a shadow.

Interleaved rounds; servers pinned to one core, the load generator and the sink to another where there are two. Latency:
one connection, request after request. Throughput: eight connections. CPU: seconds of the server's processes over the
throughput phase, a request. Every answer is compared with ours before anything is timed.
"""

import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parent))
import synthetic_state as synthetic

from flight_delays import vector
from plinth.features.readplan import ReadPlan

HERE = Path(__file__).parent
ROUNDS = 7
WARM_UP = 150
LATENCY_REQUESTS = 250
THROUGHPUT_SECONDS = 1.2
CONNECTIONS = 8
FLIGHTS = 64
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # mlflow starts `uvicorn` by name
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


class Server:
    """A server's process and the requests it is asked."""

    def __init__(self, name, command, payloads, read, *, path="/predict", environment=None, core=0):
        self.name, self.path, self.read = name, path, read
        self.port = synthetic.free_port()
        command = [str(part).replace("{port}", str(self.port)) for part in command]
        environment = {name: value.replace("{port}", str(self.port)) for name, value in (environment or {}).items()}
        environment = {**os.environ, "PATH": PATH, **environment}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, env=environment, start_new_session=True, **quiet)
        pin(self.process.pid, core)
        self.requests = [self._bytes(payload) for payload in payloads]

    def _bytes(self, payload):
        body = json.dumps(payload).encode()
        head = f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nContent-Type: application/json\r\n"
        return head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body

    def processes(self):
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def cpu(self):
        return sum(sum(process.cpu_times()[:2]) for process in self.processes())

    def rss(self):
        return sum(process.memory_info().rss for process in self.processes()) / 2**20

    def stop(self):
        if self.process.poll() is None:
            for process in reversed(self.processes()):
                process.kill()
        self.process.wait()


def pin(pid, core):
    """On one of two cores; on a machine with one there is nothing to choose."""
    if len(CORES) >= 2:
        os.sched_setaffinity(pid, {CORES[core]})


async def ask(reader, writer, request):
    """One request on an open connection; the body of its answer."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"{head!r} {await reader.read(500)!r}")
    lower = head.lower()
    if b"transfer-encoding: chunked" in lower:
        body = b""
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)
        return body
    at = lower.index(b"content-length:") + 15
    return await reader.readexactly(int(lower[at : lower.index(b"\r\n", at)]))


async def answers(server):
    """The probability for every payload."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    found = [server.read(json.loads(await ask(reader, writer, request))) for request in server.requests]
    writer.close()
    return found


async def latencies(server, count):
    """Seconds of each of `count` requests on one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    seconds = []
    for i in range(count):
        started = time.perf_counter()
        await ask(reader, writer, server.requests[i % FLIGHTS])
        seconds.append(time.perf_counter() - started)
    writer.close()
    return seconds


async def throughput(server, duration):
    """Requests a second over eight connections, and CPU seconds a request."""
    done = 0
    deadline = time.perf_counter() + duration

    async def one(offset):
        nonlocal done
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        i = offset
        while time.perf_counter() < deadline:
            await ask(reader, writer, server.requests[i % FLIGHTS])
            i, done = i + 1, done + 1
        writer.close()

    cpu, started = server.cpu(), time.perf_counter()
    await asyncio.gather(*(one(8 * i) for i in range(CONNECTIONS)))
    took = time.perf_counter() - started
    return done / took, (server.cpu() - cpu) / done


async def wait_until_up(server, seconds=120):
    deadline = time.monotonic() + seconds
    while True:
        try:
            return await answers(server)
        except (OSError, RuntimeError, asyncio.IncompleteReadError):
            if time.monotonic() > deadline or server.process.poll() is not None:
                raise RuntimeError(f"{server.name} does not come up") from None
            await asyncio.sleep(0.3)


def vectors(folder, flights):
    """What our service assembles for these flights."""
    store = folder / "products" / synthetic.PRODUCT / "online" / "online.db"
    reader = ReadPlan.from_dict(synthetic.read_plan()).open(store)
    block = reader.read(synthetic.join_keys(flights), np.array([flight.prediction_epoch for flight in flights]))
    return vector.assemble(flights, block.values)


def save_for_mlflow(folder):
    """The same ONNX file as an MLflow model."""
    import mlflow.onnx
    import onnx

    mlflow.onnx.save_model(onnx.load(folder / "model.onnx"), folder / "mlflow_model")


def our_environment(folder, sink):
    """What a service of ours is started with: everything on."""
    return {
        "PLINTH_STATE": str(folder), "PLINTH_HOME": str(synthetic.HOME), "PLINTH_TRACES": "true",
        "PLINTH_TRACE_SAMPLE": "0.01", "PLINTH_MLFLOW_PORT": str(sink.port),
    }  # fmt: skip


SERVE = [sys.executable, "-m", "flight_delays.service", "--port", "{port}"]


def read_ours(answer):
    """The probability in an answer of ours."""
    return answer["predictions"][0]["probability"]


def start_all(folder):
    """Every server, in the order of the rounds."""
    save_for_mlflow(folder)
    flights = synthetic.flights(FLIGHTS)
    rows = vectors(folder, flights)
    keyed = [{"flights": [synthetic.as_json(flight)]} for flight in flights]
    plain = [{"rows": [[float(x) for x in row]]} for row in rows]
    inputs = [{"inputs": [[float(x) for x in row]]} for row in rows]
    python, peers = sys.executable, HERE / "serving_peers.py"
    sink = Server("sink", [python, peers, "sink", "{port}"], [], None, core=1)
    ours = our_environment(folder, sink)
    model = folder / "model.onnx"
    mlflow = [Path(python).with_name("mlflow"), "models", "serve", "-m", folder / "mlflow_model", "-p", "{port}"]

    return sink, [
        Server("plinth", SERVE, keyed, read_ours, environment=ours),
        Server("plinth again", SERVE, keyed, read_ours, environment=ours),
        Server("bentoml", [python, peers, "bentoml", "{port}", model], plain, lambda answer: answer[0]),
        Server("floor", [python, peers, "floor", "{port}", model], plain, lambda answer: answer[0]),
        Server(
            "mlflow", [*mlflow, "--env-manager", "local"], inputs,
            lambda answer: answer["predictions"]["probabilities"][0][1], path="/invocations",
        ),
    ]  # fmt: skip


async def rounds(servers, count):
    """Medians over the rounds of every server: p50, p99, requests/s, CPU a request; and the rounds themselves."""
    expected = await wait_until_up(servers[0])
    for server in servers[1:]:
        np.testing.assert_allclose(await wait_until_up(server), expected, atol=1e-6, err_msg=server.name)
    samples = {server.name: [] for server in servers}
    for server in servers:
        await latencies(server, WARM_UP)
    for _ in range(count):
        for server in servers:
            seconds = np.array(await latencies(server, LATENCY_REQUESTS))
            rate, cpu = await throughput(server, THROUGHPUT_SECONDS)
            samples[server.name].append((*np.percentile(seconds, [50, 99]), rate, cpu))
    return {name: np.array(values) for name, values in samples.items()}


def start_rollouts(folder):
    """One release alone, twice, and the same model twice with a canary of 50% and with a shadow."""
    keyed = [{"flights": [synthetic.as_json(flight)]} for flight in synthetic.flights(FLIGHTS)]
    sink = Server("sink", [sys.executable, HERE / "serving_peers.py", "sink", "{port}"], [], None, core=1)
    servers = []
    for name, percent in (("plinth", None), ("plinth again", None), ("canary", 50), ("shadow", 0)):
        state = folder.parent / name
        shutil.copytree(folder, state)
        if percent is not None:
            settings = synthetic.Settings(state=state)
            candidate = synthetic.register(settings, (folder / "model.onnx").read_bytes(), number=2)
            synthetic.start_rollout(settings, candidate, percent)
        servers.append(Server(name, SERVE, keyed, read_ours, environment=our_environment(state, sink)))
    return sink, servers


def measure(start, count=ROUNDS):
    """Everything, from an empty folder: server name to its rounds [count, 4], and resident memory in MiB."""
    pin(0, 1)
    with tempfile.TemporaryDirectory(prefix="plinth-bench-") as name:
        folder = Path(name) / "state"
        folder.mkdir()
        synthetic.fill(folder)
        sink, servers = start(folder)
        try:
            found = asyncio.run(rounds(servers, count))
            memory = {server.name: server.rss() for server in servers}
        finally:
            for server in [*servers, sink]:
                server.stop()
    return found, memory


COLUMNS = (("p50", 1e6, "µs"), ("p99", 1e6, "µs"), ("requests/s", 1, "1/s"), ("CPU", 1e6, "µs"))
P50, P99, RATE, CPU = range(4)


def table(found, memory):
    """The rounds as Markdown: median and range."""
    lines = [
        "| server | " + " | ".join(f"{name} {unit}" for name, _, unit in COLUMNS) + " | RSS MiB |",
        "| --- |" + " --- |" * (len(COLUMNS) + 1),
    ]
    for name, values in found.items():
        scaled = values * [scale for _, scale, _ in COLUMNS]
        cells = [f"{np.median(column):.0f} ({column.min():.0f} to {column.max():.0f})" for column in scaled.T]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {memory[name]:.0f} |")
    return "\n".join(lines)


def run(count=ROUNDS):
    """Targets 1 and 2: one line a target, with what was reached. Ratios are medians of the rounds' ratios."""
    found, memory = measure(start_all, count)
    print(table(found, memory))

    def line(target, measure, column, peer, bound, reached, floor=None, why=""):
        ratio = statistics.median(found["plinth"][:, column] / found[peer][:, column])
        noise = statistics.median(found["plinth again"][:, column] / found["plinth"][:, column])
        scale, unit = COLUMNS[column][1:]
        return {
            "target": target, "measure": measure, "unit": unit,
            "peer": float(np.median(found[peer][:, column]) * scale),
            "ours": float(np.median(found["plinth"][:, column]) * scale),
            "floor": float(np.median(found[floor][:, column]) * scale) if floor else None,
            "ratio": float(ratio), "bound": bound, "reached": bool(reached(ratio)),
            "note": f"A/A {noise:.2f}x" + (f"; {why}" if why and not reached(ratio) else ""),
        }  # fmt: skip

    floor_does_less = (
        "the floor reads no features, logs nothing and checks nothing; ours checks the body, reads seven views and logs"
    )
    uses_more_cores = "per CPU second it is reached: MLflow's processes keep nearly two cores busy meanwhile, ours one"
    return [
        line(1, "predict p50 against bare BentoML", P50, "bentoml", "<= 1.15x", lambda r: r <= 1.15, "floor"),
        line(1, "predict p99 against bare BentoML", P99, "bentoml", "<= 1.3x", lambda r: r <= 1.3, "floor"),
        line(1, "guard: p50 against Starlette + ONNX", P50, "floor", "<= 2x", lambda r: r <= 2),
        line(
            1,
            "guard: CPU a request against Starlette + ONNX",
            CPU,
            "floor",
            "<= 2x",
            lambda r: r <= 2,
            why=floor_does_less,
        ),
        line(
            2,
            "throughput against mlflow models serve",
            RATE,
            "mlflow",
            ">= 3x",
            lambda r: r >= 3,
            "floor",
            why=uses_more_cores,
        ),
        line(2, "CPU a request against mlflow models serve", CPU, "mlflow", "<= 0.35x", lambda r: r <= 0.35, "floor"),
        run_rollouts(count),
    ]


def run_rollouts(count=ROUNDS):
    """What a rollout costs: one line, a canary's p50 against serving one release, with a shadow's in the note."""
    found, memory = measure(start_rollouts, count)
    print(table(found, memory))

    def ratio(name, column):
        return statistics.median(found[name][:, column] / found["plinth"][:, column])

    reached = ratio("canary", P50)
    scale, unit = COLUMNS[P50][1:]
    return {
        "target": 0, "measure": "router: predict p50 in a 50% canary against serving one release", "unit": unit,
        "peer": float(np.median(found["plinth"][:, P50]) * scale),
        "ours": float(np.median(found["canary"][:, P50]) * scale),
        "floor": None, "ratio": float(reached), "bound": "<= 1.05x", "reached": bool(reached <= 1.05),
        "note": (
            f"A/A {ratio('plinth again', P50):.2f}x; CPU a request {ratio('canary', CPU):.2f}x; in a shadow p50 "
            f"{ratio('shadow', P50):.2f}x, CPU a request {ratio('shadow', CPU):.2f}x"
        ),
    }  # fmt: skip


def main():
    """Print each target with what was reached."""
    for line in run():
        state = "reached" if line["reached"] else "missed"
        print(f"{line['measure']}: {line['ratio']:.2f}x, target {line['bound']}: {state} ({line['note']})")


if __name__ == "__main__":
    main()
