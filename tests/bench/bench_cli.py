"""What `plinth --help` costs: `python tests/bench/bench_cli.py`.

Target 10 of the performance page: at most 0.15 of `prefect --help`, at most 3 times `python -c pass`. Interleaved
rounds of whole processes, one uncounted round first for the file caches. The ratios are of CPU seconds, which survive
a busy machine; wall-clock stands beside them.
"""

import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

BIN = Path(sys.executable).parent
COMMANDS = {
    "prefect --help": [str(BIN / "prefect"), "--help"],
    "plinth --help": [str(BIN / "plinth"), "--help"],
    "python -c pass": [sys.executable, "-c", "pass"],
}


def cost(command: list[str]) -> tuple[float, float]:
    """CPU and wall-clock seconds of one process."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "DO_NOT_TRACK": "1"})
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def measure(rounds: int = 11) -> dict:
    """By command: median CPU seconds (`seconds`), their smallest and largest, median wall-clock."""
    costs: dict[str, list[tuple[float, float]]] = {label: [] for label in COMMANDS}
    for turn in range(rounds + 1):
        for label, command in COMMANDS.items():
            spent = cost(command)
            if turn:
                costs[label].append(spent)
    lines = {}
    for label, spent in costs.items():
        cpu, wall = zip(*spent, strict=True)
        lines[label] = {
            "seconds": statistics.median(cpu), "spread": [min(cpu), max(cpu)], "wall": statistics.median(wall)
        }  # fmt: skip
    return lines


def run(rounds: int = 11) -> list[dict]:
    """The table of target 10: one line a target, with what was reached."""
    lines = measure(rounds)
    peer, ours, floor = (lines[label]["seconds"] for label in COMMANDS)
    print("| command | median CPU s | min to max | median wall s |\n| --- | --- | --- | --- |")
    for label, line in lines.items():
        low, high = line["spread"]
        print(f"| {label} | {line['seconds']:.3f} | {low:.3f} to {high:.3f} | {line['wall']:.3f} |")
    return [
        {
            "target": 10, "measure": f"plinth --help against {label}", "unit": "CPU s", "peer": other, "ours": ours,
            "floor": floor, "ratio": ours / other, "bound": f"<= {bound}x", "reached": ours / other <= bound,
            "note": "",
        }
        for label, other, bound in (("prefect --help", peer, 0.15), ("python -c pass", floor, 3))
    ]  # fmt: skip


def main() -> None:
    """Print each target with what was reached."""
    for line in run():
        state = "reached" if line["reached"] else "missed"
        print(f"{line['measure']}: {line['ratio']:.2f}x, target {line['bound']}: {state}")


if __name__ == "__main__":
    main()
