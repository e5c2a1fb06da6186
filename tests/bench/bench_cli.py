"""What `plinth --help` costs: `python tests/bench/bench_cli.py`.

Target 10 of the performance page: at most 0.15 of `prefect --help`, at most 3 times `python -c pass`. Interleaved
rounds of whole processes, wall-clock; file caches are warm on all sides after the first, uncounted round.
"""

import os
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


def measure(rounds: int = 11) -> dict:
    """Median, smallest and largest seconds of every command."""
    times: dict[str, list[float]] = {label: [] for label in COMMANDS}
    for turn in range(rounds + 1):
        for label, command in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, env={**os.environ, "DO_NOT_TRACK": "1"})
            if turn:
                times[label].append(time.perf_counter() - started)
    return {label: {"seconds": statistics.median(t), "spread": [min(t), max(t)]} for label, t in times.items()}


def run(rounds: int = 11) -> list[dict]:
    """The table of target 10: one line a target, with what was reached."""
    lines = measure(rounds)
    peer, ours, floor = (lines[label]["seconds"] for label in COMMANDS)
    print("| command | median s | min to max s |\n| --- | --- | --- |")
    for label, line in lines.items():
        print(f"| {label} | {line['seconds']:.3f} | {line['spread'][0]:.3f} to {line['spread'][1]:.3f} |")
    return [
        {
            "target": 10, "measure": "plinth --help against prefect --help", "unit": "s", "peer": peer, "ours": ours,
            "floor": floor, "ratio": ours / peer, "bound": "<= 0.15x", "reached": ours / peer <= 0.15, "note": "",
        },
        {
            "target": 10, "measure": "plinth --help against python -c pass", "unit": "s", "peer": floor, "ours": ours,
            "floor": floor, "ratio": ours / floor, "bound": "<= 3x", "reached": ours / floor <= 3, "note": "",
        },
    ]  # fmt: skip


def main() -> None:
    """Print each target with what was reached."""
    for line in run():
        state = "reached" if line["reached"] else "missed"
        print(f"{line['measure']}: {line['ratio']:.2f}x, target {line['bound']}: {state}")


if __name__ == "__main__":
    main()
