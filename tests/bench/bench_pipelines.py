"""What a pipeline's step costs on top of a bare Prefect task: `python tests/bench/bench_pipelines.py`.

Target 4 of the performance page: 1,000 steps at most 1.05 times bare Prefect tasks, a chunked map at least 10 times
faster than a task an item, no lock error in 10 runs. One standing server (started as `plinth up` starts it), one
process; interleaved rounds of bare, ours and bare again, whose two medians are the noise (A against A). A side's cost
is the CPU time of this process and of the server, from the call of the flow until the server has recorded every task
of it. Wall-clock time is shown beside it and judges nothing: Prefect waits up to a second at the end of each flow run,
for its heartbeat's thread. The floor is the same work inline.
"""

import os
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

import httpx
import psutil

from plinth.pipelines.inline import InlineRunner
from plinth.pipelines.prefect import PrefectRunner, _deliver
from plinth.pipelines.prefect_client import prepare_environment
from plinth.pipelines.step import map_chunked, step
from plinth.runtime import embedded, prefect
from plinth.settings import Settings
from plinth.wiring import Platform

STEPS = 1000
ROUNDS = 3
CHUNK = 100


@step(version="1", cache=False)
def add_one(number: int) -> int:
    """The step of all three sides."""
    return number + 1


@step(version="1")
def add_one_cached(number: int) -> int:
    """The same, with the cache that steps have by default."""
    return number + 1


def one_by_one(context, steps: int) -> int:
    """A step an item."""
    return sum(add_one(number) for number in range(steps))


def with_cache(context, start: int, steps: int) -> int:
    """A step an item, each looked up in the cache and kept there."""
    return sum(add_one_cached(start + number) for number in range(steps)) - start * steps


def chunked(context, steps: int) -> int:
    """The same items, a step a chunk."""
    return sum(map_chunked(add_one, list(range(steps)), chunk=CHUNK))


def bare_flow():
    """What a Prefect user would write."""
    from prefect import flow, task

    bare_task = task(persist_result=False)(add_one.function)

    @flow(persist_result=False)
    def bare(steps: int) -> int:
        return sum(bare_task(number) for number in range(steps))

    return bare


class Server:
    """The server's process, to know what its side of the work costs and when it is done with it."""

    def __init__(self, api_url: str, pid: int) -> None:
        self._api_url = api_url
        self._process = psutil.Process(pid)

    def cpu_seconds(self) -> float:
        """CPU time so far."""
        times = self._process.cpu_times()
        return times.user + times.system

    def work_off(self) -> None:
        """Wait until the server has recorded every task run that it was sent."""
        count = -1
        while count != (count := httpx.post(f"{self._api_url}/task_runs/count", json={}, timeout=60).json()):
            time.sleep(2)


def cost(call, expected: int, server: Server) -> tuple[float, float]:
    """CPU seconds of both processes, and wall-clock seconds of the call. The answers have to be equal."""
    ours, theirs, started = time.process_time(), server.cpu_seconds(), time.perf_counter()
    answer = call()
    _deliver()
    seconds = time.perf_counter() - started
    server.work_off()
    assert getattr(answer, "output", answer) == expected, answer
    return time.process_time() - ours + server.cpu_seconds() - theirs, seconds


def measure(runner, inline, server: Server, steps: int, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """The cost of every side, by round. An uncounted call of each warms imports and connections."""
    bare = bare_flow()
    sides = {
        "bare": lambda _turn: bare(steps),
        "ours": lambda _turn: runner.run(one_by_one, {"steps": steps}),
        "bare again": lambda _turn: bare(steps),
        "ours, cached": lambda turn: runner.run(with_cache, {"start": turn * steps, "steps": steps}),
        "chunked": lambda _turn: runner.run(chunked, {"steps": steps}),
        "inline": lambda _turn: inline.run(one_by_one, {"steps": steps}),
    }
    costs: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    bare(5)
    runner.run(one_by_one, {"steps": 5})
    server.work_off()
    for turn in range(rounds):
        for name, side in sides.items():
            costs[name].append(cost(lambda side=side, turn=turn: side(turn), sum(range(1, steps + 1)), server))
    return costs


def run(steps: int = STEPS, rounds: int = ROUNDS) -> list[dict]:
    """The table of target 4: one line a target, with what was reached."""
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder).resolve()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        settings = Settings(home=state, state=state / "state", prefect_port=port)
        platform = Platform.from_settings(settings)
        try:
            status = embedded.up(platform, services=[prefect.server(settings)])
            server = Server(settings.prefect_api_url, status.services[0].pid)
            home = settings.state_dir / "prefect"
            prepare_environment(home, settings.prefect_api_url)
            given = {"product": "bench", "state": state / "product", "cache": state / "steps", "ports": None}
            runner = PrefectRunner(**given, api_url=settings.prefect_api_url, home=home)
            costs = measure(runner, InlineRunner(**given), server, steps, rounds)
            for _ in range(10):
                runner.run(one_by_one, {"steps": 20})
            log = embedded.log_file(platform, "prefect").read_text(errors="replace")
        finally:
            embedded.down(platform)
    return report(costs, steps, rounds, log.count("database is locked"))


def report(costs: dict[str, list[tuple[float, float]]], steps: int, rounds: int, locked: int) -> list[dict]:
    """Print what was measured, and judge it by CPU seconds."""
    cpu = {name: statistics.median(pair[0] for pair in pairs) for name, pairs in costs.items()}
    wall = {name: statistics.median(pair[1] for pair in pairs) for name, pairs in costs.items()}
    print(
        f"{steps} steps, medians of {rounds} rounds\n| side | CPU s | min to max | wall s |\n| --- | --- | --- | --- |"
    )
    for name, pairs in costs.items():
        spread = [pair[0] for pair in pairs]
        print(f"| {name} | {cpu[name]:.2f} | {min(spread):.2f} to {max(spread):.2f} | {wall[name]:.2f} |")
    bare = (cpu["bare"] + cpu["bare again"]) / 2
    note = (
        f"{rounds} rounds; A against A {cpu['bare again'] / cpu['bare']:.3f}x; "
        f"wall {wall['ours'] / wall['bare']:.2f}x; "
        f"with the step cache, which bare tasks have not, {cpu['ours, cached'] / bare:.3f}x"
    )
    line = {"target": 4, "unit": "CPU s", "floor": cpu["inline"]}
    return [
        {
            **line, "measure": f"{steps} pipeline steps against bare Prefect tasks", "peer": bare,
            "ours": cpu["ours"], "ratio": cpu["ours"] / bare, "bound": "<= 1.05x",
            "reached": cpu["ours"] / bare <= 1.05, "note": note,
        },
        {
            **line, "measure": f"map over {steps} items in chunks of {CHUNK} against a task an item",
            "peer": bare, "ours": cpu["chunked"], "ratio": bare / cpu["chunked"], "bound": ">= 10x",
            "reached": bare / cpu["chunked"] >= 10, "note": f"wall {wall['bare'] / wall['chunked']:.1f}x",
        },
        {
            **line, "measure": "lock errors in the server's log, over all runs and 10 more", "unit": "errors",
            "peer": 0, "ours": locked, "floor": 0, "ratio": float(locked), "bound": "0", "reached": not locked,
            "note": "",
        },
    ]  # fmt: skip


def main() -> None:
    """Print each target with what was reached."""
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    for line in run(*map(int, sys.argv[1:])):
        state = "reached" if line["reached"] else "missed"
        print(f"{line['measure']}: {line['ratio']:.3f}, target {line['bound']}: {state}. {line['note']}")


if __name__ == "__main__":
    main()
